"""L1 as weight decay on the two factors of each weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from lconv_jax.optim.reparameterised import reparameterised
from lconv_jax.optim.strengths import Labels, Values


def spred(
    inner: optax.GradientTransformation, weight_decay: Values, *, labels: Labels = None
) -> optax.GradientTransformationExtraArgs:
    """Trains weights as products of two factors, with weight decay on both: an L1 penalty.

        θ = u ⊙ v,  trained for f(u ⊙ v) + λ/2 (‖u‖² + ‖v‖²)

    Among all factors of a weight the smallest have |u| = |v| = √|θ|, and cost λ|θ|. So the minima
    are those of f(θ) + λ‖θ‖₁, and nothing in between is not differentiable: any optimizer will do.

    This never reaches zero. Weights that the lasso would remove shrink by a factor at each step,
    about (1 − η(λ − |g|))², and have to be cut off afterwards, as by `hard_threshold`.

    The loss and its gradient are those of the weights, as without this wrapper. The factors are in
    the state. They begin with v² − u² = 1. So u is close to θ and v to 1 where θ is small, and the
    first step is close to that of `inner` alone. Factors of one size, |u| = |v|, could never change
    the sign of a weight, or leave zero: their gradients would keep them so.

    Args:
      inner: a whole optimizer, as `optax.sgd(0.1)`. It updates the factors, and as usual all other
        parameters. What it sees is `{"u": …, "v": …}`, two trees like the parameters: u has the
        other parameters, too, and v has an `optax.MaskedNode` in their place. The gradient includes
        that of the weight decay.
      weight_decay: λ, a number or a schedule (a function of the number of updates so far), or a
        mapping from labels to these. It is not multiplied by the learning rate.
      labels: which leaf has which label, see `add_l1_subgradient`. Leaves without a value are
        trained by `inner`, without factors.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its state is a `ReparameterisedState` with the
      factors, in float32 at least, also for parameters of 16 bits. It must be the last
      transformation that changes updates. Where a parameter's type is wider than its gradient's, so
      is that of its update.

    Raises:
      ValueError: as `hard_threshold`.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import spred
      >>> target = jnp.array([[2.0, -1.0, 0.25]])
      >>> tx = spred(optax.sgd(0.1), weight_decay=0.5)
      >>> params = {"kernel": jnp.full((1, 3), 0.1)}
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     grads = {"kernel": params["kernel"] - target}
      ...     updates, state = tx.update(grads, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> for _ in range(200):
      ...     params, state = step(params, state)
      >>> params["kernel"].round(2).tolist(), bool(params["kernel"].all())
      ([[1.5, -0.5, 0.0]], True)

    Reference:
      Ziyin and Wang, [spred: Solving L1 Penalty with SGD](https://arxiv.org/abs/2210.01212), ICML
      2023
    """

    def split(param: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = jnp.sqrt((1 + jnp.hypot(1, 2 * param)) / 2)
        return param / v, v

    def half_squares(u: jax.Array, v: jax.Array) -> jax.Array:
        return (jnp.vdot(u, u) + jnp.vdot(v, v)) / 2

    return reparameterised(
        inner,
        "weight_decay",
        weight_decay,
        labels,
        ("u", "v"),
        split=split,
        weight=lambda u, v, key, count: u * v,
        penalty=half_squares,
    )
