"""The rate of a network in levels: the bits that its file will take, differentiable in the weights.

A file's codes learn the frequencies of a layer's symbols on the way, so a weight costs about −log₂
of the share that its level has in the layer. These shares are taken from the layer as it is,
rounded. Between two levels a weight's rate is interpolated: it is the mean code length when a
weight is rounded up or down at random, without bias. The gradient is thus the bits that one level
more would cost. Source: entropy-constrained quantisation, Chou, Lookabaugh and Gray (1989).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax import mdl

# Binary digits of a bias that are told apart; there are fewer, since steps are coarse.
_MOST_DIGITS = 16


def network_bits(levels: mdl.Network, depth: int) -> jax.Array:
    """The rate in bits, without shapes and framing, of a network with levels −depth … depth.

    Args:
      levels: weights in levels and biases in steps, rounded or not, NumPy's or JAX's.
      depth: largest level.
    """
    total = jnp.zeros(())
    for layer in levels.layers:
        for term in layer.terms:
            total += kernel_bits(as_matrix(term.kind, jnp.asarray(term.kernel)), depth)
        total += bias_bits(jnp.asarray(layer.bias))
    return total


def kernel_bits(kernel: jax.Array, depth: int) -> jax.Array:
    """The rate of the weights [inputs, units] of one term: places and values."""
    kernel = jnp.asarray(kernel, jnp.float32)
    found = jax.lax.stop_gradient(_kernel_lengths(jnp.round(kernel), depth))
    zero, place, value, inputs = found

    def length(level: jax.Array) -> jax.Array:
        index = jnp.clip(level + depth, 0, 2 * depth).astype(int)
        return jnp.where(level == 0, zero, place + value[index])

    return inputs + _interpolated(kernel, length)


def bias_bits(bias: jax.Array) -> jax.Array:
    """The rate of a layer's biases [units] in steps: binary digits, their number, and a sign."""
    bias = jnp.asarray(bias, jnp.float32)

    def digits(step: jax.Array) -> jax.Array:
        return jnp.where(step == 0, 0, jnp.floor(jnp.log2(jnp.maximum(abs(step), 1))) + 1)

    counts = _histogram(digits(jnp.round(bias)), _MOST_DIGITS + 1)
    # The file names the largest number of digits first, so those that do not occur are no symbols.
    symbols = 1 + jnp.max(jnp.arange(_MOST_DIGITS + 1) * (counts > 0))
    number = jax.lax.stop_gradient(_adaptive(counts, counts.sum(), symbols))

    def length(step: jax.Array) -> jax.Array:
        # A sign and all digits but the first, which is 1, are as many as the digits.
        return number[jnp.clip(digits(step), 0, _MOST_DIGITS).astype(int)] + digits(step)

    return _interpolated(bias, length)


def as_matrix(kind: str, kernel: jax.Array) -> jax.Array:
    """The weights of a term as [inputs of a unit, units], as in `mdl.language`."""
    if kind != "local":
        return kernel.reshape(-1, kernel.shape[-1])
    rank = (kernel.ndim - 2) // 2
    positions, units = int(np.prod(kernel.shape[:rank])), kernel.shape[-1]
    by_position = kernel.reshape(positions, -1, units).transpose(1, 0, 2)
    return by_position.reshape(-1, positions * units)


def _kernel_lengths(levels: jax.Array, depth: int) -> tuple[jax.Array, ...]:
    """Code lengths in bits: of zeros, of places, [2 depth + 1] of values, and of the inputs used.

    The first two are [inputs, units]. They follow the cheaper of two codes of a file: `layer`,
    which knows the share of weights in the layer; and `unit`, which knows it for each unit, among
    the inputs that any unit has.
    """
    support = levels != 0
    inputs, units = support.shape
    count, cells = support.sum(), inputs * units
    by_layer = jnp.stack([_adaptive(cells - count, cells, 2), _adaptive(count, cells, 2)])
    by_layer = by_layer[:, None, None] * jnp.ones((2, inputs, units))

    users, counts = support.sum(1, keepdims=True), support.sum(0)
    number = (users > 0).sum()
    # An input that no other unit has is one of the inputs used for the sake of this weight alone.
    shared = users - support > 0
    new = _adaptive(number, inputs, 2) - _adaptive(inputs - number, inputs, 2)
    zero = jnp.where(shared, _adaptive(number - counts, number, 2), 0)
    place = _adaptive(counts, number, 2) + jnp.where(shared, 0, new)
    by_unit = jnp.stack([zero, place])

    def total(lengths: jax.Array) -> jax.Array:
        return jnp.where(support, lengths[1], lengths[0]).sum()

    mask = number * _adaptive(number, inputs, 2)
    mask += (inputs - number) * _adaptive(inputs - number, inputs, 2)
    mask -= new * (users == 1).sum()  # these are charged with their weight
    cheaper = total(by_unit) + mask < total(by_layer)
    lengths = jnp.where(cheaper, by_unit, by_layer)
    histogram = _histogram(levels + depth, 2 * depth + 1).at[depth].set(0)
    values = _adaptive(histogram, count, 2 * depth)
    return lengths[0], lengths[1], values, jnp.where(cheaper, mask, 0)


def _adaptive(count: Any, total: Any, symbols: Any) -> jax.Array:
    """Bits of a symbol seen `count` times of `total`, each counted half a time to begin with.

    That is the estimate of Krichevsky and Trofimov, as in `mdl.coder`.
    """
    return -jnp.log2((count + 0.5) / (total + 0.5 * symbols))


def _histogram(values: jax.Array, size: int) -> jax.Array:
    index = jnp.clip(values, 0, size - 1).astype(int).ravel()
    return jnp.zeros(size).at[index].add(1.0)


def _interpolated(x: jax.Array, length: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The sum of the code lengths, linear in x between integers."""
    low = jax.lax.stop_gradient(jnp.floor(x))
    share = x - low
    return ((1 - share) * length(low) + share * length(low + 1)).sum()
