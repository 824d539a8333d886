"""L0: a gate for each weight, which is often exactly zero and learned by gradients."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.reparameterised import ReparameterisedState, reparameterised
from lconv_jax.optim.strengths import Labels, Values, check_between, is_gap

# The paper's temperature and stretch.
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
NAMES = ("raw", "log_alpha")


def hard_concrete(
    inner: optax.GradientTransformation,
    l0: Values,
    *,
    drop_rate: ArrayLike = 0.5,
    seed: ArrayLike = 0,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains weights with random gates, for a penalty on the expected number of open ones.

        θ = w z,    z = min(1, max(0, s (ζ − γ) + γ)),    s = σ((log u − log(1 − u) + log α) / β)

    with u uniform in (0, 1), β = 2/3, γ = −0.1 and ζ = 1.1, trained for f(θ) + λ Σ P(z ≠ 0). A gate
    is exactly 0 or 1 with positive probability, and differentiable between.

    After each update the parameters are the weights wz of a new sample, so that model, loss and
    gradient are as without this wrapper: closed gates are parameters of exactly 0.0. The raw
    weights w and log α are in the state. For a test, `hard_concrete_eval_params` computes the
    weights without randomness. Before the first update all gates count as 1, since the parameters
    are the user's.

    Args:
      inner: a whole optimizer, as `optax.adam(1e-3)`. It updates w and log α, and as usual all
        other parameters. What it sees is `{"raw": …, "log_alpha": …}`, two trees like the
        parameters: "raw" has the other parameters, too, and "log_alpha" has an `optax.MaskedNode`
        in their place. To give the gates an optimizer of their own, use `optax.partition` as in
        the example.
      l0: λ, the cost of an open gate: a number or a schedule (a function of the number of updates
        so far), or a mapping from labels to these.
      drop_rate: δ, with which log α = log(1 − δ) − log δ in the beginning.
      seed: of the gates, an integer that may be traced. Lanes of `jax.vmap` have the same gates
        unless their seeds differ.
      labels: which leaf has which label, see `add_l1_subgradient`. Leaves without a value are
        trained by `inner`, without gates.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its state is a `ReparameterisedState` with w and
      log α, in float32 at least, also for parameters of 16 bits. It must be the last transformation
      that changes updates. Where a parameter's type is wider than its gradient's, so is that of its
      update. The sample of a gradient is drawn again from its key, rather than kept: on a CPU,
      random numbers are most of the cost. Inside `jax.shard_map`, parts of one weight matrix would
      have the same gates.

    Raises:
      ValueError: as `hard_threshold`, and if δ is not between 0 and 1.

    Examples:
      Gates whose learning rate is ten times that of the weights:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import expected_l0, hard_concrete, hard_concrete_eval_params
      >>> target = jnp.array([[2.0, -1.0, 0.05, 0.0]])
      >>> inner = optax.partition(
      ...     {"weights": optax.sgd(0.1), "gates": optax.sgd(1.0)},
      ...     {"raw": "weights", "log_alpha": "gates"},
      ... )
      >>> tx = hard_concrete(inner, l0=0.1)
      >>> params = {"kernel": jnp.full((1, 4), 0.1)}
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     grads = {"kernel": params["kernel"] - target}
      ...     updates, state = tx.update(grads, state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> for _ in range(500):
      ...     params, state = step(params, state)
      >>> (hard_concrete_eval_params(state, params)["kernel"] != 0).tolist()
      [[True, True, False, False]]
      >>> round(float(expected_l0(state.factors["log_alpha"])))
      2

    Reference:
      Louizos, Welling and Kingma, [Learning Sparse Neural Networks through L0
      Regularization](https://arxiv.org/abs/1712.01312), ICLR 2018, Section 2.2
    """
    check_between("drop_rate", drop_rate, 0, 1)

    def split(param: jax.Array) -> tuple[jax.Array, jax.Array]:
        odds = jnp.log1p(-jnp.asarray(drop_rate)) - jnp.log(drop_rate)
        return param, jnp.full_like(param, odds)

    def weight(raw: jax.Array, log_alpha: jax.Array, key: Any, count: jax.Array) -> jax.Array:
        noise = jax.random.logistic(key, raw.shape, raw.dtype)  # log u − log(1 − u)
        gates = _stretched(jax.nn.sigmoid((noise + log_alpha) / BETA))
        return raw * jnp.where(count == 0, 1, gates)

    return reparameterised(
        inner,
        "l0",
        l0,
        labels,
        NAMES,
        split=split,
        weight=weight,
        penalty=lambda raw, log_alpha: expected_l0(log_alpha),
        key=lambda: jax.random.PRNGKey(seed),
    )


def hard_concrete_eval_params(opt_state: Any, params: Any) -> Any:
    """The weights of `hard_concrete` for a test, without randomness.

        θ = w min(1, max(0, σ(log α) (ζ − γ) + γ))

    Args:
      opt_state: the state of `hard_concrete`, or of a chain or another wrapper around it.
      params: the parameters. Those without gates are returned as they are. The variables of
        `nnx.Optimizer` and its model differ in type; give `nnx.as_pure` of both.

    Returns:
      Parameters of the same structure and types.

    Raises:
      ValueError: if no `hard_concrete` is in the state.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import hard_concrete, hard_concrete_eval_params
      >>> params = {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.ones(2)}
      >>> state = hard_concrete(optax.sgd(0.1), 1e-3, drop_rate=0.5).init(params)
      >>> hard_concrete_eval_params(state, params)["kernel"].tolist()
      [[1.0, -2.0]]

    Reference:
      Louizos, Welling and Kingma, [Learning Sparse Neural Networks through L0
      Regularization](https://arxiv.org/abs/1712.01312), ICLR 2018, Section 2.2
    """

    def on_leaf(raw: Any, log_alpha: Any, param: Any) -> Any:
        if is_gap(raw):
            return param
        return (raw * _stretched(jax.nn.sigmoid(log_alpha))).astype(jnp.asarray(param).dtype)

    def is_state(node: Any) -> bool:
        return isinstance(node, ReparameterisedState) and set(node.factors) == set(NAMES)

    # There are several if `optax.partition` gives each some of the parameters.
    states = [node for node in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(node)]
    if not states:
        raise ValueError("opt_state has no state of hard_concrete, so no gates")
    for state in states:
        factors = (state.factors[name] for name in NAMES)
        params = jax.tree.map(on_leaf, *factors, params, is_leaf=is_gap)
    return params


def expected_l0(log_alpha: Any) -> jax.Array:
    """The expected number of gates that are not zero.

        Σ P(z ≠ 0) = Σ σ(log α − β log(−γ / ζ))

    Args:
      log_alpha: an array or a pytree of arrays, as `state.factors["log_alpha"]` of `hard_concrete`.

    Returns:
      A scalar, zero for a tree without leaves.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lconv_jax import expected_l0
      >>> round(float(expected_l0({"kernel": jnp.array([[0.0, 100.0, -100.0]])})), 3)
      1.832

    Reference:
      Louizos, Welling and Kingma, [Learning Sparse Neural Networks through L0
      Regularization](https://arxiv.org/abs/1712.01312), ICLR 2018, Section 2.2
    """
    shift = BETA * math.log(-GAMMA / ZETA)
    return jnp.asarray(
        optax.tree.sum(jax.tree.map(lambda leaf: jax.nn.sigmoid(leaf - shift), log_alpha))
    )


def _stretched(s: jax.Array) -> jax.Array:
    """s of (0, 1), stretched to (γ, ζ) and cut off at 0 and 1."""
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)
