"""The canonical form: the same function, and nothing in it that no prediction depends on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.mdl.canonical import canonical, reorder
from lconv_jax.mdl.network import Layer, Network, Term, evaluate, output_shapes
from tests.mdl.networks_made import dense_network, make_examples, networks, same_network

some = settings(deadline=None, max_examples=100)


def weights_in(network, number, unit):
    """All weights into a unit of layer `number`, counted from 1."""
    terms = network.layers[number - 1].terms
    return np.concatenate([term.kernel[..., unit].reshape(-1) for term in terms])


def weights_out(network, number, unit):
    """All weights of later layers on a unit, and the kinds of the terms that read its layer."""
    channels, kinds, found = len(network.layers[number - 1].bias), [], [np.zeros(0, int)]
    for later in network.layers[number:]:
        for term in later.terms:
            if term.source != number:
                continue
            kinds.append(term.kind)
            # A dense layer reads position after position, all channels of each.
            rows = term.kernel[unit::channels] if term.kind == "dense" else None
            found.append((term.kernel[..., unit, :] if rows is None else rows).reshape(-1))
    return np.concatenate(found), kinds


def dead_units(network):
    """(layer, unit) of every hidden unit that is not read, is zero, or could move into biases."""
    for number in range(1, len(network.layers)):
        kinds = [term.kind for term in network.layers[number - 1].terms]
        for unit, bias in enumerate(network.layers[number - 1].bias):
            out, readers = weights_out(network, number, unit)
            local = "local" in (*kinds, *readers)
            if len(network.layers[number - 1].bias) == 1 and local:
                continue  # the one unit that such a layer keeps
            constant = not weights_in(network, number, unit).any()
            movable = set(readers) == {"dense"} and max(map(abs, out.tolist()), default=0) < 2**20
            if not out.any() or (constant and (bias <= 0 or (movable and bias < 2**20))):
                yield number, unit


@pytest.mark.slow
@some
@given(networks())
def test_the_outputs_are_the_same(network):
    examples = make_examples(network)
    found = canonical(network)
    np.testing.assert_array_equal(evaluate(found, examples), evaluate(network, examples))
    sizes = zip(found.layers, network.layers, strict=True)
    assert all(len(small.bias) <= len(large.bias) for small, large in sizes)
    assert output_shapes(found)[-1] == output_shapes(network)[-1]


@pytest.mark.slow
@some
@given(networks())
def test_no_dead_units_are_left_and_there_is_nothing_more_to_do(network):
    found = canonical(network)
    assert list(dead_units(found)) == []
    assert same_network(canonical(found), found)


def test_dead_units_go_and_constants_move_into_biases():
    #   live, unread, zero, constant, constant and unread, live, negative
    first = np.array([[1, 3, 0, 0, 0, -1, 0], [2, 1, 0, 0, 0, 4, 0]])
    second = np.array([[1, 2], [0, 0], [5, 6], [7, -8], [0, 0], [0, 3], [9, 9]])
    network = dense_network(
        first, second, biases=[np.array([1, 2, 0, 10, 11, -3, -5]), np.array([100, 200])]
    )
    found = canonical(network)
    np.testing.assert_array_equal(found.layers[0].terms[0].kernel, [[1, -1], [2, 4]])
    np.testing.assert_array_equal(found.layers[0].bias, [1, -3])
    np.testing.assert_array_equal(found.layers[1].terms[0].kernel, [[1, 2], [0, 3]])
    np.testing.assert_array_equal(found.layers[1].bias, [100 + 7 * 10, 200 - 8 * 10])


def test_death_spreads_in_both_directions():
    first = np.array([[1, 0]])
    second = np.array([[0, 5, 0], [1, 1, 0]])  # the first unit of layer 1 is read by one that dies
    third = np.array([[0], [0], [1]])
    network = dense_network(
        *(first, second, third), biases=[np.array([0, -1]), np.array([2, 3, 4]), np.array([7])]
    )
    found = canonical(network)
    # All of it is a constant, 4 · 1 + 7.
    assert [len(layer.bias) for layer in found.layers] == [0, 0, 1]
    assert found.layers[-1].bias.tolist() == [11]


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_constants_pass_shifts_and_pools(pool, dtype):
    kernel = np.zeros((2, 2, 1, 2), dtype)
    kernel[0, 0, 0, 1] = 1
    readers = np.arange(1, 5) if pool else np.arange(1, 25)
    shift = 2
    layers = (
        Layer((Term("conv", 0, 1, kernel),), np.array([103, 0], dtype), shift, pool),
        Layer((Term("dense", 1, 1, readers.reshape(-1, 2).astype(dtype)),), np.zeros(2, dtype)),
    )
    found = canonical(Network((3, 2, 1), "black", layers))
    assert len(found.layers[0].bias) == 1
    # The constant is 103 // 4 = 25 at each of six positions, channel 0.
    rows = readers.reshape(-1, 2)[::2]
    expected = rows[0] * 25 * 6 if pool else rows.sum(0) * 25
    assert found.layers[1].bias.tolist() == expected.tolist()


@pytest.mark.parametrize("shift", [63, 64, 200, 2**70])
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_constants_that_are_shifted_away_go(shift, dtype):
    network = dense_network(np.array([[0, 1]], dtype), np.array([[3], [4]], dtype))
    first = network.layers[0]._replace(bias=np.array([100, 1], dtype), shift=shift)
    found = canonical(network._replace(layers=(first, network.layers[1])))
    assert len(found.layers[0].bias) == 1
    assert found.layers[1].bias.tolist() == [0]


def test_a_constant_that_a_convolution_reads_stays():
    # Its padding is zero, so that the reader's sums differ at the border.
    layers = (
        Layer((Term("conv", 0, 1, np.zeros((1, 1, 1), int)),), np.array([5])),
        Layer((Term("conv", 1, 1, np.ones((3, 1, 1), int)),), np.array([0])),
        Layer((Term("dense", 2, 1, np.arange(4).reshape(4, 1)),), np.array([0])),
    )
    network = Network((4, 1), "black", layers)
    assert same_network(canonical(network), network)
    # Also if a dense layer reads it too.
    both = (layers[2].terms[0], Term("dense", 1, 1, np.ones((4, 1), int)))
    network = network._replace(layers=(*layers[:2], layers[2]._replace(terms=both)))
    assert same_network(canonical(network), network)


def test_a_constant_too_large_to_move_stays():
    large = 2**62
    network = dense_network(
        np.array([[0, 1]]), np.array([[large], [1]]), biases=[np.array([4, 0]), np.array([0])]
    )
    assert same_network(canonical(network), network)
    network.layers[0].bias[0] = 1
    assert canonical(network).layers[1].bias.tolist() == [large]


def test_a_unit_of_a_block_lives_if_one_of_its_terms_does():
    branch, shortcut = np.zeros((1, 1, 1, 3), int), np.zeros((1, 1, 1, 3), int)
    branch[..., 0], shortcut[..., 1] = 2, 3
    layers = (
        Layer((Term("conv", 0, 1, branch), Term("conv", 0, 1, shortcut)), np.array([0, 0, 9])),
        Layer((Term("dense", 1, 1, np.ones((12, 1), int)),), np.array([0])),
    )
    found = canonical(Network((2, 2, 1), "black", layers))
    assert [term.kernel.reshape(-1).tolist() for term in found.layers[0].terms] == [[2, 0], [0, 3]]
    assert found.layers[1].bias.tolist() == [4 * 9]


def test_taps_of_local_layers_on_the_padding_become_zero():
    kernel = np.ones((3, 2, 3, 2, 1, 2), int)
    layers = (
        Layer((Term("local", 0, 1, kernel),), np.array([0, 1])),
        Layer((Term("dense", 1, 1, np.ones((12, 2), int)),), np.array([0, 1])),
    )
    found = canonical(Network((3, 2, 1), "black", layers)).layers[0].terms[0].kernel
    # Three rows are padded by one above and below, two columns of a window of two by one after.
    for row, column in itertools.product(range(3), range(2)):
        for down, across in itertools.product(range(3), range(2)):
            inside = 0 <= row + down - 1 < 3 and column + across < 2
            assert (found[row, column, down, across] == inside).all()


def test_a_local_layer_keeps_one_unit_and_can_be_evaluated():
    first = np.zeros((4, 2, 1, 3), int)
    layers = (
        Layer((Term("local", 0, 1, first),), np.array([-1, 0, 0])),
        Layer((Term("conv", 1, 1, np.ones((2, 3, 2), int)),), np.array([0, 0])),
        Layer((Term("local", 2, 1, np.ones((4, 1, 2, 1), int)),), np.array([0])),
        Layer((Term("dense", 3, 1, np.zeros((4, 2), int)),), np.array([3, 4])),
    )
    network = Network((4, 1), "black", layers)
    found = canonical(network)
    assert evaluate(found, make_examples(network)).tolist() == [[3, 4]] * 8
    assert len(found.layers[0].bias) == 1


@pytest.mark.slow
@some
@given(networks(), st.integers(0, 2**20))
def test_hidden_units_in_another_order_compute_the_same(network, seed):
    random, shuffled = np.random.default_rng(seed), network
    for number in range(1, len(network.layers)):
        order = random.permutation(len(network.layers[number - 1].bias))
        shuffled = reorder(shuffled, number, order)
    examples = make_examples(network)
    np.testing.assert_array_equal(evaluate(shuffled, examples), evaluate(network, examples))


def test_floating_point_networks_and_shapes_that_do_not_fit_are_refused():
    network = dense_network(np.array([[1, 2]]), np.array([[1], [2]]))
    halves = network.layers[1]._replace(bias=np.array([0.5]))
    with pytest.raises(ValueError, match="float64; quantise"):
        canonical(network._replace(layers=(network.layers[0], halves)))
    with pytest.raises(ValueError, match="layer 1: a dense kernel"):
        canonical(network._replace(input_shape=(2, 1)))
