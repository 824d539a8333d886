"""Quantising: how close the integers come, and how few they are."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.compression.folding import apply
from lconv_jax.mdl import decode, encode
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS, Layer, evaluate, peaks, predict
from lconv_jax.mdl.quantize import equalize, quantize, round_bias
from tests.mdl.networks_made import dense_network, make_examples, networks

some = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 2**20)


def with_floats(network, seed, density=0.7):
    """The network with normal weights, some units and taps of them zero, and no shifts."""
    random = np.random.default_rng(seed)

    def draw(array):
        values = random.normal(size=array.shape) * 10.0 ** random.integers(-2, 2)
        return np.where(random.random(array.shape) < density, values, 0.0)

    layers = [
        Layer(
            tuple(term._replace(kernel=draw(term.kernel)) for term in layer.terms),
            draw(layer.bias),
            0,
            layer.pool,
        )
        for layer in network.layers
    ]
    return network._replace(layers=tuple(layers))


def float_outputs(network, examples):
    inputs = INPUTS[network.input_code](examples) / INPUT_SCALE[network.input_code]
    with jax.enable_x64(True):
        return np.asarray(apply(network, inputs))


@pytest.mark.slow
@some
@given(networks(most_hidden=2), seeds)
def test_many_levels_predict_what_the_floats_predict(network, seed):
    # Terms of one layer share a step, which is as fine as the coarsest of their inputs.
    layers = tuple(layer._replace(terms=layer.terms[:1]) for layer in network.layers)
    network = with_floats(network._replace(layers=layers), seed)
    examples = make_examples(network, seed, count=20)[2:]
    expected = float_outputs(network, examples)
    found = quantize(network, 2**15, bias_bits=40)
    scale = np.abs(expected).max() or 1.0
    best = np.sort(expected, 1)
    # Outputs as close as the levels are may change places.
    clear = best[:, -1] - best[:, -2] > 2e-3 * scale if best.shape[1] > 1 else np.ones(18, bool)
    np.testing.assert_array_equal(predict(found, examples)[clear], expected.argmax(1)[clear])
    outputs = evaluate(found, examples).astype(float)
    # One factor, the step of the last layer, turns the integers into the floats.
    factor = (outputs * expected).sum() / max((outputs**2).sum(), 1e-300)
    assert np.abs(outputs * factor - expected).max() <= 1e-3 * scale


@pytest.mark.parametrize("tiny", [1e-2, 1e-9, 1e-14, 1e-18, 1e-30])
def test_weights_may_be_tiny_beside_a_bias(tiny):
    random = np.random.default_rng(0)
    kernels = random.normal(size=(4, 3)), tiny * random.normal(size=(3, 4))
    biases = random.normal(size=3), np.array([3.0, 1.0, 2.0, -1.0])
    network = dense_network(*kernels, biases=biases)
    found = quantize(network, 40, bias_bits=40)
    examples = make_examples(network)
    expected = float_outputs(network, examples)
    outputs = evaluate(found, examples).astype(float)
    factor = (outputs * expected).sum() / (outputs**2).sum()
    np.testing.assert_allclose(outputs * factor, expected, atol=2 * tiny)
    np.testing.assert_array_equal(
        evaluate(decode(encode(found)), examples), evaluate(found, examples)
    )


@some
@given(networks(), seeds, st.integers(1, 40))
def test_weights_are_integers_of_the_depth_and_zeros_stay(network, seed, depth):
    network = equalize(with_floats(network, seed))
    found = quantize(network, depth)
    for layer, floats in zip(found.layers, network.layers, strict=True):
        assert layer.bias.dtype == np.int64
        for term, before in zip(layer.terms, floats.terms, strict=True):
            assert term.kernel.dtype == np.int64
            assert np.abs(term.kernel).max(initial=0) <= depth
            assert not term.kernel[before.kernel == 0].any()
            assert (term.kernel * before.kernel >= 0).all()
    # Hidden sums stay where float64 is exact, of one layer at least.
    for peak, layer in zip(peaks(found)[:-1], found.layers[:-1], strict=True):
        assert layer.shift >= 0
        assert peak >> layer.shift <= 2**36


def test_each_layer_has_its_depth():
    random = np.random.default_rng(0)
    network = dense_network(*(random.normal(size=shape) for shape in [(30, 20), (20, 20), (20, 5)]))
    found = quantize(network, (1, 3, 100))
    largest = [int(np.abs(layer.terms[0].kernel).max()) for layer in found.layers]
    assert largest == [1, 3, 100]
    same = quantize(network, 3).layers[1].terms[0].kernel
    np.testing.assert_array_equal(found.layers[1].terms[0].kernel, same)


def test_weights_on_a_lattice_are_found_exactly():
    kernel = np.random.default_rng(0).integers(-5, 6, (20, 10))
    kernel[0, 0] = 5
    found = quantize(dense_network(kernel * 0.037), 5)
    np.testing.assert_array_equal(found.layers[0].terms[0].kernel, kernel)


def test_one_large_weight_does_not_set_the_step():
    kernel = np.ones((100, 10))
    kernel[0, 0] = 3.1
    # Rounded to multiples of 3.1, all others would be zero.
    found = quantize(dense_network(kernel), 1).layers[0].terms[0].kernel
    assert (found == 1).all()


@pytest.mark.slow
@some
@given(networks(), seeds)
def test_equalizing_keeps_the_function(network, seed):
    network = with_floats(network, seed)
    examples = make_examples(network, seed)
    found = equalize(network)
    expected = float_outputs(network, examples)
    outputs = float_outputs(found, examples)
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    for layer in found.layers[:-1]:
        if len(layer.terms) == 1:
            largest = np.abs(layer.terms[0].kernel).reshape(-1, len(layer.bias)).max(0)
            np.testing.assert_allclose(largest[largest > 0], 1)
    for before, after in zip(network.layers, found.layers, strict=True):
        for one, two in zip(before.terms, after.terms, strict=True):
            np.testing.assert_array_equal(one.kernel == 0, two.kernel == 0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.floats(-40, 40), max_size=8),
    st.integers(1, 12),
)
def test_biases_are_multiples_of_a_power_of_two_with_these_digits(values, bits):
    values = np.array(values)
    found = round_bias(values, bits)
    assert found.dtype == np.int64
    together = int(np.bitwise_or.reduce(found)) if len(found) else 0
    step = together & -together or 1
    assert max(map(abs, found.tolist()), default=0) // step < 2**bits
    # Rounded to the nearest multiple of a step that is no larger than needed.
    largest = np.abs(values).max(initial=0)
    coarse = max(1, 2.0 ** np.ceil(np.log2((largest + 1) / (2**bits - 1))))
    assert np.abs(found - values).max(initial=0) <= coarse / 2
    if largest < 2**bits - 1:
        np.testing.assert_array_equal(found, np.rint(values))


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        ([127, 2], 6, [128, 0]),  # 64 · 2 would have seven digits; 2 is half of the next step, 4
        ([126, 2], 6, [126, 2]),
        ([100, 3], 1, [128, 0]),
        ([5, -3], 6, [5, -3]),
        ([0, 0], 6, [0, 0]),
        ([], 6, []),
    ],
)
def test_biases_by_hand(values, bits, expected):
    assert round_bias(np.array(values, float), bits).tolist() == expected


def test_layers_without_weights_keep_the_order_of_their_biases():
    network = dense_network(
        np.zeros((3, 2)), np.zeros((2, 4)), biases=[np.zeros(2), np.array([0.1, 0.3, -0.2, 0.25])]
    )
    found = quantize(network, 4)
    examples = make_examples(network)
    assert predict(found, examples).tolist() == [1] * 8
    assert np.argsort(found.layers[1].bias).tolist() == [2, 0, 3, 1]
    silent = network.layers[1]._replace(bias=np.zeros(4))
    found = quantize(network._replace(layers=(network.layers[0], silent)), 4)
    assert evaluate(found, examples).tolist() == [[0] * 4] * 8


@pytest.mark.parametrize(
    ("depths", "named"),
    [
        (0, "depths = 0"),
        (-3, "depths = -3"),
        ([2], r"depths = \[2\]"),
        ((2, 0), r"depths = \(2, 0\)"),
        ([1, 2, 3], r"depths = \[1, 2, 3\]"),
    ],
)
def test_bad_arguments_are_refused(depths, named):
    network = dense_network(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match=named):
        quantize(network, depths)
