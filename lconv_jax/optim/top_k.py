"""The k largest of many numbers as a mask, without sorting them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def top_k_mask(scores: Any, k: ArrayLike) -> Any:
    """Which k entries are the largest, of an array or of a pytree of arrays ranked together.

    Exactly k entries are True: of equal scores those that come first, in the order of the leaves
    and of the places in each. The k-th largest score is found by bisection on the bits of float32,
    and among its equals the last place, by bisection too. That takes 32 and 31 passes over the
    scores whatever they are, no memory beside a copy of them, and works under `jax.vmap` and on
    arrays that are split over devices. Sorting a million numbers takes longer on a CPU.

    Args:
      scores: an array or a pytree of arrays, compared in float32; NaN counts as larger than all.
      k: how many, an integer that may be traced, at most the number of scores.

    Returns:
      bool arrays of the same shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lconv_jax.optim import top_k_mask
      >>> top_k_mask(jnp.array([0.5, 2.0, 1.0, 1.0, -3.0]), 2).tolist()
      [False, True, True, False, False]
    """
    keys = jax.tree.map(_ordered, scores)
    k = jnp.asarray(k, jnp.int32)

    def count(test: Any) -> jax.Array:
        sums = [jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(test)]
        return jnp.sum(jnp.stack(sums))

    def raise_threshold(bit: Any, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1) << jnp.uint32(31 - bit))
        enough = count(jax.tree.map(lambda key: key >= higher, keys)) >= k
        return jnp.where(enough, higher, threshold)

    threshold = jax.lax.fori_loop(0, 32, raise_threshold, jnp.uint32(0))
    above = jax.tree.map(lambda key: key > threshold, keys)
    places, start = [], 0
    for key in jax.tree.leaves(keys):
        places.append(start + jnp.arange(key.size, dtype=jnp.int32).reshape(key.shape))
        start += key.size
    places = jax.tree.unflatten(jax.tree.structure(keys), places)
    ties = jax.tree.map(lambda key, place: jnp.where(key == threshold, place, start), keys, places)
    wanted = k - count(above)

    # The largest end with at most `wanted` ties before it.
    def raise_end(bit: Any, end: jax.Array) -> jax.Array:
        higher = end | (jnp.int32(1) << (30 - bit))
        fits = count(jax.tree.map(lambda tie: (tie < higher) & (tie < start), ties)) <= wanted
        return jnp.where(fits, higher, end)

    end = jax.lax.fori_loop(0, 31, raise_end, jnp.int32(0))
    first = jax.tree.map(lambda tie: (tie < end) & (tie < start), ties)
    return jax.tree.map(jnp.logical_or, above, first)


def _ordered(score: jax.Array) -> jax.Array:
    """uint32 that are ordered as the scores are."""
    score = jnp.asarray(score, jnp.float32)
    score = jnp.where(score == 0, 0.0, score)  # zeros of both signs are one number
    bits = jax.lax.bitcast_convert_type(score, jnp.uint32)
    flipped = jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))
    return jnp.where(jnp.isnan(score), jnp.uint32(2**32 - 1), flipped)
