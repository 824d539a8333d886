"""Thresholds on the parameters that an update leads to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from lconv_jax.optim.strengths import Labels, Values, common_dtype, elementwise, working_dtype


def hard_threshold(threshold: Values, labels: Labels = None) -> optax.GradientTransformation:
    """Makes parameters zero that the update would leave below a threshold.

        u ← −θ  where |θ + u| < t,  else u

    θ + u is the parameter after `optax.apply_updates`, rounded to its own type; it
    is compared in float32 (float64 for parameters of that type). So no regularised parameter has
    0 < |θ| < t after a step, under `jax.jit` as without it, and those made zero are
    exactly 0.0. A zero stays zero until a single update reaches the threshold. Parameters that are
    NaN or infinite are not below any threshold, and so stay visible.

    It is the last transformation of a chain that changes updates, and updates are applied as they
    are: other code that changes parameters (averages, look-ahead) may leave values between zero
    and the threshold.

    Args:
      threshold: t, a number or a schedule (a function of the number of updates so far), or a
        mapping from labels to these. Zero leaves all updates as they are.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformation`. Its state is empty, or counts updates if there is a
      schedule. Where a parameter's type is wider than its update's, so is that of the result.

    Raises:
      ValueError: if t is negative or not finite (numbers that are traced are not checked); at
        `init` if no leaf is regularised or a key of the mapping is no leaf's label; at
        `update` if the parameters are not given.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import hard_threshold
      >>> params = {"kernel": jnp.array([[1.0, -1.0, 0.25, 0.0]])}
      >>> grads = {"kernel": jnp.array([[0.5, -0.75, -0.5, 0.25]])}
      >>> tx = optax.chain(optax.scale_by_learning_rate(1.0), hard_threshold(0.5))
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.5, 0.0, 0.75, 0.0]]

    Reference:
      Neyshabur, [Towards Learning Convolutions from
      Scratch](https://arxiv.org/abs/2007.13657), NeurIPS 2020, Algorithm 1
    """

    def cut(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
        moved, update = next_param(update, param)
        return jnp.where(jnp.abs(moved) < jnp.asarray(value, moved.dtype), -param, update)

    return elementwise("threshold", threshold, labels, cut)


def soft_threshold(threshold: Values, labels: Labels = None) -> optax.GradientTransformation:
    """Moves parameters towards zero by a threshold, and not past it.

        u ← −θ  where |θ + u| ≤ t,  else u − t sign(θ + u)

    This is the proximal step of t‖θ‖₁ at θ + u. With
    t = ηλ after a gradient step of size η it makes iterative soft thresholding
    (ISTA) for f(θ) + λ‖θ‖₁. Parameters with
    |θ + u| ≤ t become exactly 0.0. Like `hard_threshold` it goes last.

    Args:
      threshold: t, a number or a schedule (a function of the number of updates so far), or a
        mapping from labels to these. If the learning rate is a schedule, so is the threshold.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformation`, as that of `hard_threshold`.

    Raises:
      ValueError: as `hard_threshold`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import soft_threshold
      >>> learning_rate, l1 = 0.5, 1.0
      >>> params = {"kernel": jnp.array([[1.0, -1.0, 0.25]])}
      >>> grads = {"kernel": jnp.array([[0.0, -0.5, 1.0]])}
      >>> tx = optax.chain(
      ...     optax.scale_by_learning_rate(learning_rate), soft_threshold(learning_rate * l1)
      ... )
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.5, -0.25, 0.0]]

    Reference:
      Daubechies, Defrise and De Mol, [An iterative thresholding algorithm for linear
      inverse problems with a sparsity constraint](https://arxiv.org/abs/math/0307152), 2004
    """

    return elementwise("threshold", threshold, labels, shrink)


def shrink(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
    """The update of `soft_threshold`, where the threshold is a number or one for each weight."""
    moved, update = next_param(update, param)
    wide, limit = working_dtype(update, param), jnp.asarray(value, moved.dtype)
    shrunk = update.astype(wide) - limit.astype(wide) * jnp.sign(moved).astype(wide)
    shrunk = shrunk.astype(common_dtype(update, param))
    return jnp.where(jnp.abs(moved) <= limit, -param, shrunk)


def next_param(update: jax.Array, param: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The parameter that `optax.apply_updates` arrives at, and the update that leads there.

    The parameter is rounded to its own type but held in float32 at least, as a Python number that
    is compared with a bfloat16 array would be rounded to bfloat16.

    Left to itself, XLA may compute θ + (−η·s) as one fused multiply-add that never rounds the
    product, or drop a rounding to bfloat16 that is followed by a widening. It may do so where the
    threshold is tested and not where the update is applied: the test would be that of another
    parameter, and now and then one would end up between zero and the threshold.
    """
    wide = working_dtype(update, param)
    stored = _round(update.astype(wide), update.dtype)
    # A select between the product and the sum keeps them apart, and no compiler may drop it: it
    # turns −inf to inf. It costs nothing, as the loop waits for memory. (XLA removes a
    # `reduce_precision` to the type's own precision, and an `optimization_barrier` would make two
    # passes over memory of one.)
    stored = jnp.where(jnp.abs(stored) < jnp.inf, stored, jnp.abs(stored))
    moved = _round(_round(param.astype(wide), param.dtype) + stored, param.dtype)
    return moved.astype(jnp.promote_types(param.dtype, jnp.float32)), stored.astype(update.dtype)


def _round(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`x` rounded to `dtype` in a way that the compiler keeps, without changing its type."""
    kept, wanted = jnp.finfo(x.dtype), jnp.finfo(dtype)
    if wanted.nmant == kept.nmant:
        return x
    return jax.lax.reduce_precision(x, wanted.nexp, wanted.nmant)
