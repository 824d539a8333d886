"""Random networks and examples of every kind that a file can hold."""

import math
import zlib

import numpy as np
from hypothesis import strategies as st

from lconv_jax.mdl import Layer, Network, Term, codes
from lconv_jax.mdl.coder import Encoder, natural
from lconv_jax.mdl.language import CODES, code_header
from lconv_jax.mdl.network import layer_output, output_sides

INPUT_CODES = ("centred", "black", "fixed")
DENSITIES = (0.0, 0.1, 0.4, 1.0)
LARGEST = (1, 3, 200, 2**40)


def make_array(random, shape, density, largest, dtype=np.int64):
    """Integers −largest … largest, each not zero with probability `density` at most."""
    values = random.integers(-largest, largest, shape, dtype, endpoint=True)
    return np.where(random.random(shape) < density, values, 0)


@st.composite
def arrays(draw, shape):
    """Integers, with whole slices of zeros along the first or the last axis now and then."""
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    density, largest = draw(st.sampled_from(DENSITIES)), draw(st.sampled_from(LARGEST))
    dtype = np.int8 if largest < 100 and draw(st.booleans()) else np.int64
    values = make_array(random, shape, density, largest, dtype)
    if len(shape) > 1 and draw(st.booleans()):
        values[random.random(shape[0]) < 0.3] = 0
        values[..., random.random(shape[-1]) < 0.3] = 0
    return values


@st.composite
def terms(draw, shapes, kind, source, stride, units):
    """A term of `units` units that reads array `source` of those of these shapes."""
    *sides, channels = shapes[source]
    if kind == "dense":
        return Term(kind, source, 1, draw(arrays((math.prod(shapes[source]), units))))
    window = tuple(draw(st.integers(1, 3)) for _ in sides)
    positions = output_sides(tuple(sides), stride) if kind == "local" else ()
    kernel = draw(arrays((*positions, *window, channels, units)))
    return Term(kind, source, stride, kernel)


@st.composite
def networks(draw, kinds=("dense", "conv", "local"), most_hidden=3, codes=INPUT_CODES):
    """A network of up to `most_hidden` hidden layers, of one or two terms, pooled or not."""
    sides = draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    shapes = [(*sides, draw(st.integers(1, 3)))]
    layers = []
    for _ in range(draw(st.integers(0, most_hidden))):
        spatial = [kind for kind in kinds if kind != "dense" and len(shapes[-1]) > 1]
        kind = draw(st.sampled_from([*spatial, "dense"]))
        units, stride = draw(st.integers(1, 5)), draw(st.integers(1, 2)) if spatial else 1
        source = len(shapes) - 1
        found = [draw(terms(shapes, kind, source, stride, units))]
        if draw(st.booleans()):
            alike = [
                number
                for number, shape in enumerate(shapes)
                if kind == "dense" or shape[:-1] == shapes[source][:-1]
            ]
            second = kind if kind == "dense" else draw(st.sampled_from(spatial))
            found.append(draw(terms(shapes, second, draw(st.sampled_from(alike)), stride, units)))
        pool = kind != "dense" and draw(st.integers(0, 3)) == 0
        layer = Layer(tuple(found), draw(arrays((units,))), draw(st.integers(0, 4)), pool)
        layers.append(layer)
        shapes.append(layer_output(layer, shapes))
    classes = draw(st.integers(1, 4))
    last = [draw(terms(shapes, "dense", len(shapes) - 1, 1, classes))]
    if draw(st.integers(0, 3)) == 0:
        last.append(draw(terms(shapes, "dense", 0, 1, classes)))
    layers.append(Layer(tuple(last), draw(arrays((classes,)))))
    return Network(shapes[0], draw(st.sampled_from(codes)), tuple(layers))


def make_examples(network, seed=0, count=8):
    """Stored examples of a network's kind, the extremes among them."""
    random = np.random.default_rng(seed)
    shape = (count, *network.input_shape)
    if network.input_code == "fixed":
        signals = random.normal(0, 30, shape)
        signals[0] = 1e9
        return signals
    images = random.integers(0, 256, shape, np.uint8)
    images[0], images[1] = 0, 255
    return images


def dense_network(*kernels, biases=None, code="black"):
    """A network of dense layers on a line of inputs."""
    biases = biases or [np.zeros(kernel.shape[1], np.int64) for kernel in kernels]
    layers = tuple(
        Layer((Term("dense", number, 1, np.asarray(kernel)),), np.asarray(bias))
        for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
    )
    return Network((len(kernels[0]), 1), code, layers)


def same_network(first, second):
    """Whether two networks are equal, array by array."""
    if first[:2] != second[:2] or len(first.layers) != len(second.layers):
        return False
    for one, two in zip(first.layers, second.layers, strict=True):
        if one[2:] != two[2:] or not np.array_equal(one.bias, two.bias):
            return False
        if [term[:3] for term in one.terms] != [term[:3] for term in two.terms]:
            return False
        pairs = zip(one.terms, two.terms, strict=True)
        if not all(np.array_equal(a.kernel, b.kernel) for a, b in pairs):
            return False
    return True


def crafted(code, *numbers, shape=(8, 8, 1), units=10, tail=0):
    """The file of one dense layer whose weights begin with these numbers; then bytes at random."""
    encoder = Encoder()
    code_header(encoder, Network(shape, "black", (None,)))
    natural(encoder, units)
    for digit, size in ((1, 2), (0, 3), (0, 2), (CODES.index(code), len(CODES))):
        encoder.digit(digit, size)
    for number in numbers:
        natural(encoder, number)
    for number in np.random.default_rng(0).integers(0, 2**16, tail // 2).tolist():
        encoder.digit(number, 2**16)
    payload = encoder.getvalue()
    body = bytes([codes.VERSION]) + codes._varint(len(payload)) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")
