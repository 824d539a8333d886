"""What evaluating a network costs, and its predictions in bounded memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl import network as network_lib
from lconv_jax.mdl.network import Network, Term

# Arrays of a slice of the examples take about as many bytes as this.
_SLICE_BYTES = 2**28
_MOST_EXAMPLES = 2000
# A product of Python's integers takes as long as this many of float64's, about.
_PYTHON_WORK = 100
_PYTHON_BYTES = 64


def example_work(network: Network) -> float:
    """Multiply-adds that an example takes, in units of those of float64."""
    shapes = network_lib.output_shapes(network)
    work = 0.0
    for layer in network.layers:
        for term in layer.terms:
            positions = 1
            if term.kind == "conv":
                positions = math.prod(network_lib.term_output(term, shapes)[:-1])
            work += float(term.kernel.size) * positions
    return work * (1 if _is_exact_in_float(network) else _PYTHON_WORK)


def example_bytes(network: Network) -> int:
    """Bytes of the arrays that an example takes at once, about."""
    shapes = network_lib.output_shapes(network)
    kept = sum(math.prod(shape) for shape in shapes)
    unfolded = max(_unfolded(term, shapes) for layer in network.layers for term in layer.terms)
    return (kept + unfolded) * (8 if _is_exact_in_float(network) else _PYTHON_BYTES)


def predict(network: Network, examples: NDArray[np.generic]) -> NDArray[np.int64]:
    """The class of each example, as `network.predict` gives it, some examples at a time.

    Raises:
      ValueError: the network is not made of integers, or the examples do not fit it.
    """
    network_lib.check_integers(network)
    size = max(1, min(_MOST_EXAMPLES, _SLICE_BYTES // max(1, example_bytes(network))))
    slices = range(0, max(1, len(examples)), size)
    parts = [network_lib.predict(network, examples[at : at + size]) for at in slices]
    return np.concatenate(parts)


def count_errors(
    network: Network, examples: NDArray[np.generic], labels: NDArray[np.generic]
) -> int:
    """The number of examples that the network gets wrong."""
    return int(np.count_nonzero(predict(network, examples) != labels))


def _is_exact_in_float(network: Network) -> bool:
    return max(network_lib.peaks(network)) < 2**53


def _unfolded(term: Term, shapes: list[tuple[int, ...]]) -> int:
    """Numbers of an example's padded input and of the windows of it, twice."""
    if term.kind == "dense":
        return 0
    sides, channels = shapes[term.source][:-1], shapes[term.source][-1]
    window = term.kernel.shape[-2 - len(sides) : -2]
    positions = network_lib.output_sides(sides, term.stride)
    padded = [
        max(side, (out - 1) * term.stride + size)
        for side, size, out in zip(sides, window, positions, strict=True)
    ]
    return channels * (math.prod(padded) + 2 * math.prod(positions) * math.prod(window))
