"""Integer networks against JAX, against loops over Python's integers, and by hand."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.compression.folding import apply
from lconv_jax.mdl.network import (
    INPUTS,
    Layer,
    Network,
    Term,
    count_errors,
    count_weights,
    evaluate,
    output_shapes,
    peaks,
    predict,
)


def draw_integers(random, shape, largest=9):
    return random.integers(-largest, largest + 1, shape, np.int64)


def draw_term(random, shapes, kind, source, stride, units, window=None, largest=9):
    """A random term on array `source` of those of these shapes."""
    *sides, channels = shapes[source]
    if kind == "dense":
        return Term(kind, source, 1, draw_integers(random, (np.prod(shapes[source]), units)))
    window = tuple(random.integers(1, 5, len(sides))) if window is None else window
    positions = tuple(-(-side // stride) for side in sides) if kind == "local" else ()
    kernel = draw_integers(random, (*positions, *window, channels, units), largest)
    return Term(kind, source, stride, kernel)


def draw_network(seed, shift=0, code="centred", nonnegative=False):
    """A random network of up to three layers with windows and one or two dense ones."""
    random = np.random.default_rng(seed)
    rank = random.integers(1, 3)
    shapes = [(*random.integers(1, 6, rank).tolist(), int(random.integers(1, 4)))]
    layers = []

    def add(terms, pool=False):
        bias = draw_integers(random, terms[0].kernel.shape[-1], 500)
        layers.append(Layer(tuple(terms), bias, int(random.integers(shift + 1)), pool))
        if terms[0].kind == "dense":
            shapes.append(bias.shape)
        else:
            sides = tuple(-(-side // terms[0].stride) for side in shapes[terms[0].source][:-1])
            shapes.append(bias.shape if pool else (*sides, *bias.shape))

    for _ in range(random.integers(4)):
        source, stride = len(shapes) - 1, int(random.integers(1, 4))
        kinds = random.choice(["conv", "local"], 2)
        units = int(random.integers(1, 4))
        terms = [draw_term(random, shapes, kinds[0], source, stride, units)]
        same = [i for i, shape in enumerate(shapes) if shape[:-1] == shapes[source][:-1]]
        if random.random() < 0.5:
            other = int(random.choice(same))
            terms.append(draw_term(random, shapes, kinds[1], other, stride, units))
        add(terms, pool=random.random() < 0.2)
        if layers[-1].pool:
            break
    if random.random() < 0.5:
        add([draw_term(random, shapes, "dense", len(shapes) - 1, 1, 5)])
    terms = [draw_term(random, shapes, "dense", len(shapes) - 1, 1, 4)]
    if random.random() < 0.5:
        terms.append(draw_term(random, shapes, "dense", 0, 1, 4))
    add(terms, pool=random.random() < 0.2)
    layers[-1] = layers[-1]._replace(shift=0)
    network = Network(shapes[0], code, tuple(layers))
    return map_weights(np.abs, network) if nonnegative else network


def map_weights(change, network):
    layers = []
    for layer in network.layers:
        terms = tuple(term._replace(kernel=change(term.kernel)) for term in layer.terms)
        layers.append(layer._replace(terms=terms, bias=change(layer.bias)))
    return network._replace(layers=tuple(layers))


def draw_bytes(shape, seed=0, count=6):
    """Images of any bytes, and of nothing but the two extremes."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *shape), np.uint8)
    images[count // 2 :] = np.where(images[count // 2 :] < 128, 0, 255)
    images[-1] = 255
    return images


def loop_sums(term, x):
    """{position: [units]} of a term on one array, in Python's integers."""
    kernel = term.kernel.tolist()
    if term.kind == "dense":
        flat = [int(value) for value in np.asarray(x, object).reshape(-1)]
        return {(): [sum(map(int.__mul__, flat, unit)) for unit in zip(*kernel, strict=True)]}
    x = np.asarray(x, object)
    rank, channels = x.ndim - 1, x.shape[-1]
    window, units = term.kernel.shape[-2 - rank : -2], term.kernel.shape[-1]
    outs = [-(-side // term.stride) for side in x.shape[:-1]]
    before = [
        max((out - 1) * term.stride + size - side, 0) // 2
        for out, size, side in zip(outs, window, x.shape, strict=False)
    ]
    sums = {}
    for position in itertools.product(*map(range, outs)):
        sums[position] = [0] * units
        for tap in itertools.product(*map(range, window)):
            at = [p * term.stride + t - b for p, t, b in zip(position, tap, before, strict=True)]
            if not all(0 <= a < side for a, side in zip(at, x.shape, strict=False)):
                continue
            index = (*position, *tap) if term.kind == "local" else tap
            for channel, unit in itertools.product(range(channels), range(units)):
                weight = int(term.kernel[(*index, channel, unit)])
                sums[position][unit] += int(x[(*at, channel)]) * weight
    return sums


def loop_evaluate(network, example):
    """The outputs for one example, and the largest magnitude of a sum in each layer."""
    arrays, largest = [INPUTS[network.input_code](example)], []
    for number, layer in enumerate(network.layers, 1):
        terms = [loop_sums(term, arrays[term.source]) for term in layer.terms]
        total = {
            position: [
                int(bias) + sum(term[position][unit] for term in terms)
                for unit, bias in enumerate(layer.bias)
            ]
            for position in terms[0]
        }
        sums = [abs(value) for units in total.values() for value in units]
        if number < len(network.layers):
            total = {p: [max(value, 0) >> layer.shift for value in u] for p, u in total.items()}
        if layer.pool:
            total = {(): [sum(unit) for unit in zip(*total.values(), strict=True)]}
            sums += map(abs, total[()])
        sides = tuple(last + 1 for last in max(total))
        values = np.empty((*sides, len(layer.bias)), object)
        for position, units in total.items():
            values[position] = units
        arrays.append(values)
        largest.append(max(sums))
    return arrays[-1].tolist(), largest


def one_term(shape, *term, pool=True, shift=0, code="centred"):
    """A network of this term and, after it, a dense layer."""
    random = np.random.default_rng(1)
    first = Layer((draw_term(random, [shape], *term),), draw_integers(random, 3, 99), shift, pool)
    middle = output_shapes(Network(shape, code, (first._replace(pool=True),)))
    if not pool:
        sides = tuple(-(-side // first.terms[0].stride) for side in shape[:-1])
        middle[-1] = middle[-1] if term[0] == "dense" else (*sides, 3)
    last = Layer((draw_term(random, middle, "dense", 1, 1, 4),), draw_integers(random, 4))
    return Network(shape, code, (first, last))


KINDS = {
    "dense": one_term((3, 5, 2), "dense", 0, 1, 3),
    "dense, signal": one_term((7, 2), "dense", 0, 1, 3, code="black"),
    "conv": one_term((5, 4, 2), "conv", 0, 1, 3, (3, 3), pool=False),
    "conv, even window, stride": one_term((7, 4, 2), "conv", 0, 2, 3, (4, 2), code="black"),
    "conv, window wider than side": one_term((3, 1, 1), "conv", 0, 2, 3, (9, 9), pool=False),
    "conv, stride wider than window": one_term((7, 5, 1), "conv", 0, 3, 3, (1, 2), pool=False),
    "conv, signal": one_term((9, 2), "conv", 0, 2, 3, (4,), pool=False),
    "local": one_term((5, 4, 2), "local", 0, 1, 3, (3, 3)),
    "local, even window, stride": one_term((7, 4, 2), "local", 0, 2, 3, (2, 4), pool=False),
    "local, signal": one_term((9, 2), "local", 0, 3, 3, (4,), pool=False, code="black"),
}


def assert_agrees_with_jax(network, images):
    with jax.enable_x64(True):
        expected = apply(network, INPUTS[network.input_code](images))
    outputs = evaluate(network, images)
    assert outputs.dtype == np.int64
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_term_agrees_with_jax_and_with_a_loop(name):
    network = KINDS[name]
    images = draw_bytes(network.input_shape)
    assert_agrees_with_jax(network, images)
    looped = [loop_evaluate(network, image)[0] for image in images]
    assert evaluate(network, images).tolist() == looped
    assert np.ptp(looped, axis=0).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_networks_agree_with_jax(seed):
    network = draw_network(seed)
    assert_agrees_with_jax(network, draw_bytes(network.input_shape, seed))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 9), st.sampled_from(["centred", "black"]))
def test_random_networks_agree_with_a_loop_and_stay_below_their_peaks(seed, shift, code):
    network = draw_network(seed, shift, code, nonnegative=seed % 2 == 0)
    images = draw_bytes(network.input_shape, seed)
    looped, largest = zip(*(loop_evaluate(network, image) for image in images), strict=True)
    assert evaluate(network, images).tolist() == list(looped)
    for bound, *reached in zip(peaks(network), *largest, strict=True):
        assert max(reached) <= bound


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
def test_batches_do_not_change_the_outputs(batch_size):
    network = KINDS["local"]
    images = draw_bytes(network.input_shape)
    whole = evaluate(network, images)
    np.testing.assert_array_equal(evaluate(network, images, batch_size), whole)
    assert evaluate(network, images[:0], batch_size).shape == (0, 4)


def test_shifts_round_down():
    first = Layer((dense([[1, 1]]),), np.array([3, -200]), shift=2)
    network = Network((1, 1), "black", (first, Layer((dense([[1], [1]], 1),), np.array([0]))))
    # (x + 3) // 4 and, for x = 207 only, (x − 200) // 4.
    assert evaluate(network, as_bytes([0, 1, 4, 207])).tolist() == [[0], [1], [1], [53]]
    # Two to the power of the shift is beyond float64.
    assert evaluate(changed(network, shift=2000), as_bytes([255])).tolist() == [[0]]


def test_fixed_inputs_are_rounded_to_the_nearest_256th_and_clipped():
    network = Network((1, 1), "fixed", (Layer((dense([[1]]),), np.array([0])),))
    signals = np.array([0.5, 1 / 512, 0.99 / 512, -1 / 512, -1.1 / 512, 1e9, -np.inf], np.float32)
    expected = [128, 1, 0, 0, -1, 32767 * 256, -(2**23)]
    assert evaluate(network, signals[:, None, None])[:, 0].tolist() == expected
    assert peaks(network) == [2**23]


def dense(rows, source=0):
    return Term("dense", source, 1, np.array(rows))


def as_bytes(values):
    return np.array(values, np.uint8).reshape(-1, 1, 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [2**44 + 1, 2**54 - 1])
def test_sums_beyond_float64_are_exact(seed, scale):
    network = map_weights(lambda array: array * scale, draw_network(seed, code="black"))
    images = draw_bytes(network.input_shape, seed)
    assert max(peaks(network)) >= 2**53
    outputs = evaluate(network, images)
    assert outputs.tolist() == [loop_evaluate(network, image)[0] for image in images]
    assert predict(network, images).tolist() == [row.index(max(row)) for row in outputs.tolist()]


@pytest.mark.parametrize("kernel", [2**63 - 1, -(2**63)])
def test_the_largest_weights_of_int64_are_exact(kernel):
    layers = (
        Layer((dense([[kernel, kernel]]),), np.array([1, kernel])),
        Layer((dense([[kernel], [-1]], 1),), np.array([kernel])),
    )
    network = Network((1, 1), "centred", layers)
    x = [-255, 255]
    hidden = [(max(kernel * v + 1, 0), max(kernel * v + kernel, 0)) for v in x]
    expected = [[a * kernel - b + kernel] for a, b in hidden]
    assert evaluate(network, as_bytes([0, 255])).tolist() == expected


def test_the_last_bit_below_and_beyond_float64():
    for weight, dtype in ((2**53 - 1, np.int64), (2**53, object)):
        network = Network((1, 1), "black", (Layer((dense([[0, 0]]),), np.array([weight, 1])),))
        outputs = evaluate(network, as_bytes([9]))
        assert outputs.dtype == dtype
        assert outputs.tolist() == [[weight, 1]]
    # 255 · w + 1 is odd and needs 54 bits: float64 would round it to an even number.
    weight = 2**46 + 2
    network = Network((1, 1), "black", (Layer((dense([[weight]]),), np.array([1])),))
    assert evaluate(network, as_bytes([255])).tolist() == [[255 * weight + 1]]


@pytest.mark.parametrize("scale", [1, 2**60])
def test_ties_go_to_the_lowest_class(scale):
    kernel = np.array([[-1, 1, 0, 1]]) * scale
    network = Network((1, 1), "centred", (Layer((dense(kernel),), np.array([5, 5, 5, 5])),))
    # 2x − 255 is never 0; it is negative for x ≤ 127.
    assert predict(network, as_bytes([127, 128, 255])).tolist() == [0, 1, 1]
    flat = map_weights(lambda array: array * 0, network)
    biased = flat._replace(layers=(flat.layers[0]._replace(bias=np.array([1, 2, 2, 2]) * scale),))
    assert predict(flat, as_bytes([3])).tolist() == [0]
    assert predict(biased, as_bytes([3])).tolist() == [1]
    assert count_errors(network, as_bytes([127, 128, 255]), np.array([0, 3, 1])) == 1


def test_peaks_by_hand():
    kernel = np.array([[3, -1], [-2, 0]])[:, None, None]  # local, two positions of one tap
    first = Layer((Term("local", 0, 1, kernel),), np.array([-7, 4]), shift=1, pool=True)
    last = Layer((dense([[1], [-1]], 1), dense([[2], [-5]])), np.array([-9]))
    network = Network((2, 1), "centred", (first, last))
    # 3 · 255 + 7 = 772 in the first layer; two positions of 772 / 2 leave it, which is as much.
    assert peaks(network) == [772, 2 * 772 + 7 * 255 + 9]


def test_peaks_of_sums_beyond_int64():
    kernel = np.array([[2**62], [2**62], [-(2**63)], [2**62]])
    network = Network((2, 2), "black", (Layer((dense(kernel),), np.array([-(2**63)])),))
    assert peaks(network) == [255 * 5 * 2**62 + 2**63]


@pytest.mark.parametrize("sides", [(4,), (3, 2)])
@pytest.mark.parametrize("pool", [False, True])
def test_peaks_are_reached_by_white_images_and_equal_weights(sides, pool):
    # Windows of one tap, so that every position sees all of its window.
    window, positions = (1,) * len(sides), np.prod(sides)
    local = Term("local", 1, 1, np.full((*sides, *window, 3, 2), 5))
    shortcut = Term("conv", 0, 1, np.full((*window, 2, 2), 7))
    layers = (
        Layer((Term("conv", 0, 1, np.full((*window, 2, 3), 2)),), np.full(3, 4), 3),
        Layer((local, shortcut), np.full(2, 9), 1, pool),
        Layer((dense([[3, 3]] * (2 if pool else 2 * positions), 2),), np.array([1, 0])),
    )
    network = Network((*sides, 2), "black", layers)
    _, largest = loop_evaluate(network, np.full(network.input_shape, 255, np.uint8))
    assert peaks(network) == largest


def test_a_last_layer_is_not_shifted_and_may_be_pooled():
    kernel = np.full((1, 1, 1), 3)
    layer = Layer((Term("conv", 0, 1, kernel),), np.array([-1000]), shift=4, pool=True)
    network = Network((5, 1), "black", (layer,))
    white = np.full((1, 5, 1), 255, np.uint8)
    assert evaluate(network, white).tolist() == [[5 * (3 * 255 - 1000)]]
    assert evaluate(network, 0 * white).tolist() == [[-5000]]
    assert peaks(network) == [5 * (3 * 255 + 1000)]


def test_weights_are_counted_without_biases():
    layers = (
        Layer((Term("conv", 0, 1, np.array([[[0, 2]], [[-2, 2]]])),), np.array([7, 8])),
        Layer((dense([[5, 0], [0, 0]] * 3, 1), dense([[1, 1]] * 3)), np.array([0, 0])),
    )
    network = Network((3, 1), "black", layers)
    assert output_shapes(network) == [(3, 1), (3, 2), (2,)]
    # 0, 2, −2, 5 and 1; zero counts as a value even if no weight is zero.
    assert count_weights(network) == (4 + 12 + 6, 3 + 3 + 6, 5)
    nonzero = Network((1, 1), "black", (Layer((dense([[4]]),), np.array([0])),))
    assert count_weights(nonzero) == (1, 1, 2)


CONV = KINDS["conv"]


def changed(network=CONV, number=0, term=None, **layer):
    layers = list(network.layers)
    if term:
        layer["terms"] = (layers[number].terms[0]._replace(**term),)
    layers[number] = layers[number]._replace(**layer)
    return network._replace(layers=tuple(layers))


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (CONV._replace(layers=()), "at least one layer"),
        (CONV._replace(input_code="grey"), "input_code = 'grey'"),
        (changed(term={"source": 1}), "layer 1: source 1"),
        (changed(term={"source": -1}), "layer 1: source -1"),
        (changed(term={"kind": "pool"}), "layer 1: a pool kernel"),
        (changed(term={"stride": 0}), "layer 1: stride = 0"),
        (changed(term={"stride": -1}), "layer 1: stride = -1"),
        (changed(term={"kernel": np.ones((3, 3, 1, 3), int)}), r"layer 1: a conv.*\(3, 3, 1, 3\)"),
        (changed(term={"kernel": np.ones((3, 2, 3), int)}), r"layer 1: a conv.*\(3, 2, 3\)"),
        (changed(KINDS["local"], term={"stride": 2}), "layer 1: a local kernel.*stride 2"),
        (changed(number=1, term={"kernel": np.ones((59, 4), int)}), r"layer 2: a dense.*\(59, 4\)"),
        (changed(number=1, term={"kernel": np.ones(60, int)}), r"layer 2: a dense.*\(60,\)"),
        (changed(number=1, term={"kind": "conv", "source": 0}), "layer 2: a conv kernel"),
        (changed(terms=()), "layer 1: its terms"),
        (changed(terms=(CONV.layers[0].terms[0], dense([[1] * 3] * 40))), "layer 1: its terms"),
        (changed(bias=np.zeros(2, int)), r"layer 1: bias of shape \(2,\) for 3"),
        (changed(bias=np.int64(2)), r"layer 1: bias of shape \(\) for 3"),
        (changed(shift=-1), "layer 1: shift = -1"),
        (CONV._replace(layers=CONV.layers[:1]), r"last layer's output has shape \(5, 4, 3\)"),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(network, named):
    with pytest.raises(ValueError, match=named):
        output_shapes(network)
    with pytest.raises(ValueError, match=named):
        evaluate(network, draw_bytes(network.input_shape))


def test_peaks_of_the_first_layers_alone_are_those_of_the_whole():
    assert peaks(CONV._replace(layers=CONV.layers[:1])) == peaks(CONV)[:1]
    with pytest.raises(ValueError, match="layer 1: bias of shape"):
        peaks(changed(bias=np.zeros(2, int)))


@pytest.mark.parametrize(
    "network",
    [
        changed(bias=np.zeros(3)),
        changed(number=1, term={"kernel": np.ones((60, 4), np.float32)}),
        changed(bias=np.array([1, 2, 3], object)),
    ],
)
def test_weights_that_are_not_integers_are_refused(network):
    with pytest.raises(ValueError, match=r"weights of (float64|float32|object); quantise"):
        evaluate(network, draw_bytes(network.input_shape))


@pytest.mark.parametrize(
    ("code", "examples", "named"),
    [
        ("centred", np.zeros((2, 4, 5, 2), np.uint8), r"\(4, 5, 2\); this network takes \(5, 4, 2"),
        ("centred", np.zeros((5, 4, 2), np.uint8), r"\(4, 2\); this network takes \(5, 4, 2\)"),
        ("centred", np.zeros((2, 5, 4, 2), np.float32), "float32; this network takes uint8"),
        ("black", np.zeros((2, 5, 4, 2), np.int64), "int64; this network takes uint8"),
        ("fixed", np.zeros((2, 5, 4, 2), np.uint8), "uint8; this network takes floating-point"),
        ("fixed", np.full((2, 5, 4, 2), np.nan), "NaN"),
    ],
)
def test_examples_that_do_not_fit_are_refused(code, examples, named):
    with pytest.raises(ValueError, match=named):
        evaluate(CONV._replace(input_code=code), examples)
