"""β-lasso: stochastic gradient descent that learns which weights to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.strengths import (
    Labels,
    Value,
    Values,
    at_state,
    check_params,
    check_values,
    common_dtype,
    map_regularised,
    map_values,
)
from lconv_jax.optim.subgradient import add_l1_subgradient
from lconv_jax.optim.threshold import hard_threshold


def beta_lasso(
    learning_rate: optax.ScalarOrSchedule,
    l1: Values,
    beta: Value = 50.0,
    *,
    labels: Labels = None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """β-lasso: an L1 subgradient step, then a hard threshold.

        θ ← θ − η (g + λ sign(θ))
        θᵢ ← 0  where |θᵢ| < βλ

    where g is the gradient of the loss. β = 0 is the subgradient method for the lasso,
    which hardly ever makes a weight zero; β = 50 is the choice of the paper. After each step a
    regularised weight is exactly 0.0 or at least βλ in size, and a zero comes back only if a single
    step takes it there: if η |g| ≥ βλ.

    Like `optax.sgd` this is a whole optimizer, with the −η inside. What comes before
    it in a chain changes the gradient alone: `chain(clip_by_global_norm(1.0), beta_lasso(...))`,
    `chain(scale_by_adam(), beta_lasso(...))`. Another whole optimizer must not stand before it:
    `chain(adam(lr), beta_lasso(...))` would change the sign twice and climb. It is the same as

        chain(
            add_l1_subgradient(l1, labels),
            scale_by_learning_rate(learning_rate),
            hard_threshold(beta * l1, labels),
        )

    With `momentum` μ, which the paper does not use, a trace of the loss's gradients
    m ← g + μm takes the place of g (with `nesterov`,
    g + μm does). The L1 step stays outside, so that it is λη at each step whatever μ is;
    and where a weight is made zero, so is m, so that it does not come back by a momentum
    that it gained before.

    Args:
      learning_rate: η, a number or a schedule (a function of the number of updates so far).
      l1: λ, a number or a schedule, or a mapping from labels to these.
      beta: β, a number or a schedule. The threshold is the product of the numbers as they are
        given, rounded to float32.
      labels: which leaf has which label: a pytree of strings that is a prefix of the parameters,
        or a function from the parameters to one. It is evaluated when the update is traced and
        never stored in the state. Leaves labelled "none", or with a label that the mapping lacks,
        take plain gradient steps. By default, for a number, all weights are regularised, and
        biases and normalisation are not, by their names; for a mapping, the labels are those of
        `layer_labels`.
      momentum: μ; None for none.
      nesterov: whether the momentum is Nesterov's.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its state is that of the parts, after an
      `optax.TraceState` if there is momentum. Where a parameter's type is wider than its
      gradient's, so is that of its update.

    Raises:
      ValueError: if λ or β is negative or not finite (numbers that are traced, as under
        `optax.inject_hyperparams`, are not checked); at `init` if no leaf is regularised or a
        key of the mapping is no leaf's label; at `update` if the parameters are not given.

    Examples:
      Of ten features, three matter:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import beta_lasso
      >>> inputs = jax.random.normal(jax.random.key(0), (100, 10))
      >>> truth = jnp.zeros((10, 1)).at[:3, 0].set(jnp.array([1.0, -2.0, 0.5]))
      >>> def loss(params):
      ...     return jnp.mean((inputs @ (params["kernel"] - truth)) ** 2)
      >>> tx = beta_lasso(learning_rate=0.1, l1=0.002, beta=50.0)
      >>> params = {"kernel": jnp.full((10, 1), 0.3)}
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     return optax.apply_updates(params, updates), state
      >>> for _ in range(50):
      ...     params, state = step(params, state)
      >>> [f"{weight:.2f}" for weight in params["kernel"][:, 0]]
      ['1.00', '-2.00', '0.50', '0.00', '0.00', '0.00', '0.00', '0.00', '0.00', '0.00']
      >>> int(jnp.count_nonzero(params["kernel"]))
      3

      A λ for each kind of layer, by the layers' names:

      >>> params = {"conv1": {"kernel": jnp.ones((27, 8))}, "fc1": {"kernel": jnp.ones((8, 2))}}
      >>> tx = beta_lasso(optax.cosine_decay_schedule(0.1, 1000), {"conv": 2e-5, "fc": 1e-6})
      >>> state = tx.init(params)

    Reference:
      Neyshabur, [Towards Learning Convolutions from
      Scratch](https://arxiv.org/abs/2007.13657), NeurIPS 2020, Algorithm 1
    """
    check_values("l1", l1)
    if isinstance(beta, Mapping):
        raise ValueError(f"beta must be a number or a schedule, got {beta}; l1 may be a mapping")
    check_values("beta", beta)
    threshold = map_values(lambda value: _product(beta, value), l1)
    return lasso(learning_rate, l1, threshold, labels=labels, momentum=momentum, nesterov=nesterov)


def lasso(
    learning_rate: optax.ScalarOrSchedule,
    l1: Values,
    threshold: Values,
    *,
    labels: Labels = None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`beta_lasso` with its threshold given in place of β.

    For numbers that are traced: a product βλ of float32 numbers is rounded more than once.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lconv_jax.optim import lasso
      >>> params = {"kernel": jnp.array([[1.0, 0.25]])}
      >>> tx = lasso(0.5, l1=0.5, threshold=0.5)
      >>> updates, _ = tx.update({"kernel": jnp.zeros((1, 2))}, tx.init(params), params)
      >>> (params["kernel"] + updates["kernel"]).tolist()
      [[0.75, 0.0]]
    """
    step = optax.chain(
        add_l1_subgradient(l1, labels),
        optax.scale_by_learning_rate(learning_rate),
        hard_threshold(threshold, labels),
    )
    if momentum is None:
        return step
    return _with_momentum(step, optax.trace(momentum, nesterov), threshold, labels)


def _product(beta: Value, l1: Value) -> Value:
    if not callable(beta) and not callable(l1):
        return beta * l1
    factors = [beta, l1]

    def scheduled(count: ArrayLike) -> ArrayLike:
        beta, l1 = (factor(count) if callable(factor) else factor for factor in factors)
        return beta * l1

    return scheduled


def _with_momentum(
    step: optax.GradientTransformationExtraArgs,
    trace: optax.GradientTransformation,
    threshold: Values,
    labels: Labels,
) -> optax.GradientTransformationExtraArgs:
    """`trace` and then `step`, which ends in `hard_threshold(threshold, labels)`."""

    def init_fn(params: Any) -> Any:
        return trace.init(params), step.init(params)

    def cast(tree: Any, like: Any, dtype: Callable[..., Any]) -> Any:
        def on_leaf(leaf: Any, other: Any) -> Any:
            if leaf is None or other is None:
                return leaf
            return leaf.astype(dtype(leaf, jnp.asarray(other)))

        return jax.tree.map(on_leaf, tree, like, is_leaf=lambda leaf: leaf is None)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        check_params(params)
        trace_state, step_state = state
        # μm in the wider type; but the state keeps the types that it began with, as
        # `jax.lax.scan` and `jax.lax.cond` need it.
        wide = cast(trace_state.trace, updates, common_dtype)
        updates, wide_state = trace.update(updates, optax.TraceState(wide), params)
        updates, new_step_state = step.update(updates, step_state, params, **extra_args)

        # An update of exactly −θ is the threshold's: had the step led to zero by itself, the
        # threshold would have acted too. Only with a threshold of 0 it never does.
        def clear(moment: jax.Array, param: jax.Array, value: Any, update: jax.Array) -> Any:
            return jnp.where((update == -param) & (value > 0), 0, moment)

        thresholds = at_state(threshold, step_state[-1])
        moments = cast(wide_state.trace, trace_state.trace, lambda _, old: old.dtype)
        cleared = map_regularised(clear, thresholds, labels, moments, params, updates)
        return updates, (optax.TraceState(cleared), new_step_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
