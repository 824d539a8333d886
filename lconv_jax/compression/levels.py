"""A network's weights in levels: the integers of a file, before and after they are rounded."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax import mdl
from lconv_jax.compression import folding
from lconv_jax.mdl.canonical import reorder
from lconv_jax.mdl.network import INPUT_SCALE
from lconv_jax.mdl.quantize import choose_shift


class Scales(NamedTuple):
    """The floating-point value of one level of each kernel and of one step of each layer's bias."""

    kernels: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    bias_shift: tuple[int, ...]
    shift: tuple[int, ...]  # bits that each layer drops after ReLU, of sums of many digits


def choose_scales(network: mdl.Network, depth: int, bias_bits: int) -> Scales:
    """Levels that span 0.7 of each layer's largest weight, and biases of `bias_bits` digits."""
    units = [1 / INPUT_SCALE[network.input_code]]
    kernels, biases, bias_shifts, shifts = [], [], [], []
    integers: list[mdl.Layer] = []
    for layer in network.layers:
        peaks = [np.abs(t.kernel).max(initial=0) * units[t.source] for t in layer.terms]
        unit = 0.7 * max([*peaks, 1e-9]) / depth
        largest = float(np.abs(layer.bias).max(initial=0)) / unit
        bias_shift = max(0, int(np.ceil(np.log2(max(largest, 1)))) - bias_bits)
        kernels.append(tuple(unit / units[term.source] for term in layer.terms))
        biases.append(unit * 2.0**bias_shift)
        bias_shifts.append(bias_shift)
        terms = tuple(
            term._replace(kernel=np.rint(term.kernel / scale).astype(np.int64))
            for term, scale in zip(layer.terms, kernels[-1], strict=True)
        )
        bias = np.rint(layer.bias / unit).astype(np.int64)
        integers.append(layer._replace(terms=terms, bias=bias, shift=0))
        last = len(integers) == len(network.layers)
        shift = 0 if last else choose_shift(network._replace(layers=tuple(integers)))
        integers[-1] = integers[-1]._replace(shift=shift)
        shifts.append(shift)
        units.append(unit * 2.0**shift)
    return Scales(tuple(kernels), tuple(biases), tuple(bias_shifts), tuple(shifts))


def in_levels(network: mdl.Network, scales: Scales) -> mdl.Network:
    """The network's weights in levels and its biases in steps, not yet rounded."""
    tree = [
        {
            "kernels": [k / scale for k, scale in zip(layer["kernels"], row, strict=True)],
            "bias": layer["bias"] / bias,
        }
        for layer, row, bias in zip(
            folding.weights(network), scales.kernels, scales.bias, strict=True
        )
    ]
    return folding.with_weights(network, tree)


def round_straight_through(x: jax.Array) -> jax.Array:
    """The nearest integers, with the gradient of x itself (Bengio et al. 2013)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def rounded(levels: mdl.Network, scales: Scales, masks: Any) -> mdl.Network:
    """The floating-point network that the levels, rounded, stand for; masked ones are zero."""
    tree = [
        {
            "kernels": [
                round_straight_through(kernel) * mask * scale
                for kernel, mask, scale in zip(layer["kernels"], *rest, strict=True)
            ],
            "bias": round_straight_through(layer["bias"]) * bias,
        }
        for layer, bias, *rest in zip(
            folding.weights(levels), scales.bias, masks, scales.kernels, strict=True
        )
    ]
    return folding.with_weights(levels, tree)


def integer_network(levels: mdl.Network, scales: Scales) -> mdl.Network:
    """The integer network of the levels, rounded.

    A layer that drops bits rounds its outputs down, by less than 2⁻²⁰ of the largest, which the
    floating-point network of `rounded` does not.
    """
    tree = [
        {
            "kernels": [np.rint(kernel).astype(np.int64) for kernel in layer["kernels"]],
            "bias": np.rint(layer["bias"]).astype(np.int64) << shift,
        }
        for layer, shift in zip(folding.weights(levels), scales.bias_shift, strict=True)
    ]
    plain = folding.with_weights(levels, tree)
    layers = zip(plain.layers, scales.shift, strict=True)
    return plain._replace(layers=tuple(layer._replace(shift=shift) for layer, shift in layers))


def drop_dead_units(network: mdl.Network) -> mdl.Network:
    """A floating-point network without hidden units that have no weights in, or none out.

    A unit that is constant for want of inputs goes, too: training makes up for it. Layers of two
    terms keep their units.
    """
    for _ in network.layers:
        for index in range(1, len(network.layers)):
            layer = network.layers[index - 1]
            count = len(layer.bias)
            readers = [t for later in network.layers for t in later.terms if t.source == index]
            if len(layer.terms) > 1 or any(t.kind == "local" for t in readers):
                continue
            has_inputs = (layer.terms[0].kernel != 0).reshape(-1, count).any(0)
            has_readers = np.zeros(count, bool)
            for term in readers:
                by_unit = (term.kernel != 0).reshape(-1, count, term.kernel.shape[-1])
                has_readers |= by_unit.any((0, 2))
            alive = np.flatnonzero(has_inputs & has_readers)
            if 0 < len(alive) < count:
                network = reorder(network, index, alive)
    return network


def count_levels(levels: mdl.Network) -> int:
    """The number of weights that are not zero once rounded."""
    return sum(
        int(np.count_nonzero(np.rint(term.kernel)))
        for layer in levels.layers
        for term in layer.terms
    )


def remove(levels: mdl.Network, second_moments: Any, keep: float) -> mdl.Network:
    """The levels with a share `keep` of those that do not round to zero, the best per bit.

    At least one goes.
    """
    tree = folding.weights(levels)
    scores: list[list[np.ndarray]] = []
    for layer, moments in zip(tree, second_moments, strict=True):
        scores.append([])
        for kernel, moment in zip(layer["kernels"], moments["kernels"], strict=True):
            value = np.rint(kernel)
            # The bits of one more place, and about three bits for the value.
            bits = np.log2(max(2.0, value.size / max(1, np.count_nonzero(value)))) + 3
            scores[-1].append(np.where(value != 0, moment * value**2 / bits, -1.0))
    flat = np.concatenate([score.ravel() for row in scores for score in row])
    places = np.flatnonzero(flat >= 0)
    # By rank: of weights that score the same, zero say, some go and some stay.
    gone = places[
        np.argsort(flat[places], kind="stable")[: max(1, round((1 - keep) * len(places)))]
    ]
    stays = flat >= 0
    stays[gone] = False
    for layer, row in zip(tree, scores, strict=True):
        parts = []
        for kernel, score in zip(layer["kernels"], row, strict=True):
            mine, stays = np.split(stays, [score.size])
            parts.append(np.where(mine.reshape(kernel.shape), kernel, 0))
        layer["kernels"] = parts
    return folding.with_weights(levels, tree)
