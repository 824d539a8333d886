"""The subgradient of an L1 penalty, added to the updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.strengths import Labels, Values, common_dtype, elementwise, working_dtype


def add_l1_subgradient(l1: Values, labels: Labels = None) -> optax.GradientTransformation:
    """Adds the subgradient of an L1 penalty to the updates.

        u ← u + λ sign(θ),  sign(0) = 0

    On gradients this is a subgradient of f(θ) + λ‖θ‖₁. It
    goes before the learning rate is applied, and after transformations that should see the
    gradient of the loss alone, such as `optax.scale_by_adam` or clipping. It shrinks weights but
    hardly ever makes one exactly zero: see `hard_threshold` and `soft_threshold`.

    Args:
      l1: λ, a number or a schedule (a function of the number of updates so far), or a mapping from
        labels to these.
      labels: which leaf has which label: a pytree of strings that is a prefix of the parameters,
        or a function from the parameters to one. It is evaluated when the update is traced and
        never stored in the state. Leaves labelled "none", or with a label that the mapping lacks,
        are left alone. By default, for a number, all weights are regularised, and biases and
        normalisation are not, by their names; for a mapping, the labels are those of
        `layer_labels`.

    Returns:
      An `optax.GradientTransformation`. Its state is empty, or counts updates if there is a
      schedule. Where a parameter's type is wider than its update's, so is that of the result.

    Raises:
      ValueError: if λ is negative or not finite (numbers that are traced are not checked); at
        `init` if no leaf is regularised or a key of the mapping is no leaf's label; at
        `update` if the parameters are not given.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lconv_jax import add_l1_subgradient
      >>> params = {"kernel": jnp.array([[2.0, -3.0, 0.0]]), "bias": jnp.array([1.0])}
      >>> grads = {"kernel": jnp.array([[1.0, 1.0, 1.0]]), "bias": jnp.array([1.0])}
      >>> tx = add_l1_subgradient(0.25)
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> updates["kernel"].tolist(), updates["bias"].tolist()
      ([[1.25, 0.75, 1.0]], [1.0])

    Reference:
      Neyshabur, [Towards Learning Convolutions from
      Scratch](https://arxiv.org/abs/2007.13657), NeurIPS 2020, Algorithm 1
    """

    def add(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
        wide = working_dtype(update, param)
        penalty = jnp.asarray(value, wide) * jnp.sign(param).astype(wide)
        return (update.astype(wide) + penalty).astype(common_dtype(update, param))

    return elementwise("l1", l1, labels, add)
