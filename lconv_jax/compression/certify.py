"""From a trained state to a file and the bounds that it proves.

The bound holds for every file of the language at once, so networks may be searched on the training
set as one likes: how the levels are chosen here is free, and only the file's length is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lconv_jax import data, mdl
from lconv_jax.mdl.quantize import quantize

# Largest levels that are tried for all layers at once, before layers are tried one by one.
DEPTHS = (1, 2, 3, 5, 7, 11, 15, 31, 63, 127)
_BIAS_BITS = 6
# A network of more weights than this takes a while to encode: these alone are tried, and the first
# alone if its bound says nothing.
_MANY, _FEW_DEPTHS = 10_000, (7, 3, 15)
# Of more weights than this a description is long and its bound near 1.
_DENSE = 50_000
# A larger bound says as good as nothing.
SAYS_NOTHING = 0.99


class Certificate(NamedTuple):
    """The numbers that a file proves about the data its network was trained on.

    bits: 8 times the file's bytes.
    errors: of the decoded network, among all training examples as they are stored.
    num_examples: m.
    delta: the probability that the bounds fail.
    """

    bits: int
    errors: int
    num_examples: int
    delta: float

    @property
    def error(self) -> float:
        """The training error, L_S."""
        return self.errors / self.num_examples

    def bounds(self) -> dict[str, float]:
        """Bounds on the error L_D, by name: see `mdl.bounds`."""
        given = self.error, self.bits, self.num_examples, self.delta
        return {
            "occam": float(mdl.occam_bound(*given)),
            "kraft": float(mdl.kraft_bound(*given)),
            "kl": float(mdl.kl_bound(*given)),
        }

    def metrics(self) -> dict[str, float]:
        """The certificate under the names of metrics.jsonl."""
        bounds = self.bounds()
        return {
            "mdl/bits": self.bits,
            "mdl/train_error": self.error,
            "mdl/occam_bound": bounds["occam"],
            "mdl/kl_bound": bounds["kl"],
        }


def count_nonzeros(network: mdl.Network) -> int:
    """The number of weights that are not zero, without biases."""
    terms = [term for layer in network.layers for term in layer.terms]
    return sum(int(np.count_nonzero(term.kernel)) for term in terms)


def is_dense(network: mdl.Network) -> bool:
    """Whether a network has too many weights for a short description."""
    return count_nonzeros(network) > _DENSE


def is_slow(network: mdl.Network) -> bool:
    """Whether a network has so many weights that each description takes seconds to write."""
    return count_nonzeros(network) > _MANY


def certify(file: bytes, train: data.Split, delta: float) -> Certificate:
    """Decodes a file and counts its network's errors on all training examples, unaugmented."""
    network = mdl.decode(file)
    errors = count_errors(network, train)
    return Certificate(8 * len(file), errors, len(train.labels), delta)


def count_errors(network: mdl.Network, split: data.Split) -> int:
    """The number of examples that an integer network gets wrong; streamed ones are read for it."""
    return sum(mdl.count_errors(network, *block) for block in data.blocks(split))


def shortest_description(
    network: mdl.Network,
    train: data.Split,
    delta: float,
    *,
    depths: Sequence[int] = DEPTHS,
    refine: bool = True,
) -> tuple[bytes, Certificate]:
    """The file with the smallest kl bound among several roundings of a network.

    Every depth is tried for all layers; then, if `refine`, the next smaller and larger one for each
    layer in turn, for as long as the bound falls. Of networks with more than 10 000 weights only
    three depths are tried, and one where the bound is near 1.

    Args:
      network: floating-point weights.
      train: all training examples, as stored.
      delta: the probability that the bound fails.
      depths: largest levels, ascending.
    """
    slow = is_slow(network)
    if slow:
        depths, refine = [depth for depth in _FEW_DEPTHS if depth in depths] or depths, False
    tried: dict[tuple[int, ...], tuple[bytes, Certificate]] = {}

    def bound(choice: tuple[int, ...]) -> float:
        if choice not in tried:
            file = mdl.encode(quantize(network, [depths[i] for i in choice], bias_bits=_BIAS_BITS))
            tried[choice] = file, certify(file, train, delta)
        return tried[choice][1].bounds()["kl"]

    layers = len(network.layers)
    starts = [(index,) * layers for index in range(len(depths))]
    best = starts[0] if slow and bound(starts[0]) > SAYS_NOTHING else min(starts, key=bound)
    improved = refine
    while improved:
        near = [
            (*best[:layer], best[layer] + step, *best[layer + 1 :])
            for layer in range(layers)
            for step in (-1, 1)
            if 0 <= best[layer] + step < len(depths)
        ]
        found = min(near, key=bound, default=best)
        improved = bound(found) < bound(best)
        best = found if improved else best
    return tried[best]
