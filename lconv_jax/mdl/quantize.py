"""From floating-point weights to the integers of a file.

ReLU lets a positive factor pass, so each hidden unit may be scaled freely if its readers make up
for it, and the step of a layer need not be stored. The choices are the number of levels of a
layer's weights, and the precision of its biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.network import INPUT_SCALE, Layer, Network, Term, peaks

# Sums beyond this are shifted down, so that a deep network's stay exact in float64.
_MOST_PEAK = 36
# Binary digits of a bias at most, which is a 64-bit integer: beside a larger one weights count for
# nothing.
_MOST_BIAS = 62


def quantize(
    network: Network,
    depths: int | Sequence[int],
    *,
    bias_bits: int = 6,
) -> Network:
    """The integer network nearest to a floating-point one, layer by layer.

    Args:
      network: floating-point weights, on the inputs of the models (`lconv_jax.export`).
      depths: for all layers or for each, the largest level q: weights become −q … q, equidistant
        levels with the step of least squared error.
      bias_bits: binary digits of a layer's largest bias; all its biases are multiples of one power
        of two.

    Raises:
      ValueError: a depth below 1, or another number of depths than layers.
    """
    each = [depths] * len(network.layers) if isinstance(depths, int) else list(depths)
    if len(each) != len(network.layers) or min(each) < 1:
        raise ValueError(f"depths = {depths!r} must be ≥ 1, one for each layer or one for all")
    network = equalize(network)
    units = [1 / INPUT_SCALE[network.input_code]]  # what 1 means in each array
    layers: list[Layer] = []
    for layer, depth in zip(network.layers, each, strict=True):
        # The terms of a layer add up, so their integers must have one unit.
        kernels = [term.kernel * units[term.source] for term in layer.terms]
        largest = float(np.abs(layer.bias).max(initial=0))
        step, found = _levels(kernels, depth, largest / 2**_MOST_BIAS)
        # A layer of biases alone is measured by the largest of them.
        step = step or largest / 2**bias_bits or 1.0
        terms = tuple(
            term._replace(kernel=kernel) for term, kernel in zip(layer.terms, found, strict=True)
        )
        layers.append(Layer(terms, round_bias(layer.bias / step, bias_bits), 0, layer.pool))
        shift = (
            choose_shift(network._replace(layers=tuple(layers))) if len(layers) < len(each) else 0
        )
        layers[-1] = layers[-1]._replace(shift=shift)
        units.append(step * 2.0**shift)
    return network._replace(layers=tuple(layers))


def choose_shift(network: Network) -> int:
    """Bits that the last of a network's integer hidden layers drops, so that later sums stay exact.

    None where its sums have no more than 36 binary digits.
    """
    return max(0, peaks(network)[-1].bit_length() - _MOST_PEAK)


def equalize(network: Network) -> Network:
    """The same function with each hidden unit's largest weight 1, and its readers scaled instead.

    Layers of two terms, whose units are shared with a shortcut, are left as they are.
    """
    layers = list(network.layers)
    for index in range(1, len(layers)):
        layer = layers[index - 1]
        if len(layer.terms) > 1:
            continue
        kernel = layer.terms[0].kernel
        scale = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), initial=0)
        scale = np.where(scale > 0, scale, 1.0)
        scaled = layer.terms[0]._replace(kernel=kernel / scale)
        layers[index - 1] = layer._replace(terms=(scaled,), bias=layer.bias / scale)
        for later in range(index, len(layers)):
            terms = tuple(
                _scale_inputs(term, scale) if term.source == index else term
                for term in layers[later].terms
            )
            layers[later] = layers[later]._replace(terms=terms)
    return network._replace(layers=tuple(layers))


def round_bias(bias: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """Integers that are multiples of one power of two, the largest with at most `bits` digits."""
    peak = int(np.abs(np.rint(bias)).max(initial=0))
    step = 2.0 ** max(0, peak.bit_length() - bits)
    if peak and np.rint(peak / step) >= 2**bits:  # rounded up to one digit more
        step *= 2
    return (np.rint(bias / step) * step).astype(np.int64)


def _scale_inputs(term: Term, scale: NDArray[Any]) -> Term:
    kernel = term.kernel
    if term.kind != "dense":
        return term._replace(kernel=kernel * scale[:, None])
    by_channel = kernel.reshape(len(kernel) // len(scale), len(scale), -1) * scale[:, None]
    return term._replace(kernel=by_channel.reshape(kernel.shape))


def _levels(
    kernels: list[NDArray[Any]], depth: int, finest: float
) -> tuple[float, list[NDArray[np.int64]]]:
    """A step ≥ `finest` and integer kernels, kernel ≈ step · integers.

    The step is 0 if all weights are.
    """
    weights = np.concatenate([kernel.reshape(-1) for kernel in kernels])
    weights = weights[weights != 0]
    peak = float(np.abs(weights).max(initial=0))
    if peak == 0:
        return 0.0, [kernel.astype(np.int64) for kernel in kernels]
    candidates = [max(finest, peak / depth * share) for share in np.linspace(0.3, 1.0, 29)]

    def error(step: float) -> float:
        rounded = np.clip(np.rint(weights / step), -depth, depth)
        return float(((weights - step * rounded) ** 2).sum())

    step = min(candidates, key=error)
    rounded = [np.clip(np.rint(kernel / step), -depth, depth) for kernel in kernels]
    return step, [kernel.astype(np.int64) for kernel in rounded]
