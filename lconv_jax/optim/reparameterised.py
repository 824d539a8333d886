"""Weights that are functions of other arrays, which an inner optimizer trains in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lconv_jax.optim.strengths import (
    Labels,
    Values,
    at_state,
    check_labels,
    check_params,
    check_values,
    common_dtype,
    is_gap,
    leaf_values,
    working_dtype,
)


class ReparameterisedState(NamedTuple):
    """The state of `reparameterised`.

    Attributes:
      count: the number of updates so far.
      key: what random numbers follow from, with the count; None if there are none. It is a key's
        bits, which every format of checkpoints holds.
      factors: by name, trees with an array in place of each weight, and an `optax.MaskedNode` in
        place of each parameter that is left alone.
      inner_state: of the inner optimizer.
    """

    count: jax.Array  # type: ignore[assignment]  # int32 scalar; tuple.count, as in optax
    key: jax.Array | None
    factors: dict[str, Any]
    inner_state: Any


def reparameterised(
    inner: optax.GradientTransformation,
    name: str,
    values: Values,
    labels: Labels,
    names: tuple[str, str],
    *,
    split: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    weight: Callable[..., jax.Array],
    penalty: Callable[..., jax.Array],
    key: Callable[[], jax.Array | None] = lambda: None,
) -> optax.GradientTransformationExtraArgs:
    """Trains factors of weights, for a loss of the weights.

        (a, b) ← (a, b) + inner(∂(f(w(a, b)) + value · penalty(a, b)) / ∂(a, b)),   u = w(a, b) − θ

    From the gradient by the weights, which is all that a loss gives, those by the factors follow
    by the chain rule. The inner optimizer sees a dictionary of two trees: the parameters, with a in
    place of each weight that has a value, and b. It updates other parameters as it would alone.

    θ + (w − θ) differs from w by a rounding, but where w is zero. Nothing is computed from θ, so
    these roundings do not add up. Factors are float32 at least.

    Args:
      inner: a whole optimizer, with the −η inside.
      name: of the values, in error messages.
      values: the strength of the penalty: a number or schedule, or a mapping from labels to these.
      labels: prefix, function or None, see `labels.resolve_labels`.
      names: of a and b, in the state and in what the inner optimizer sees.
      split: the pair (a, b) for a weight.
      weight: function w of a, b, a key (or None) and the count, of which every update has another.
        At a count of zero it must be the weight that was split.
      penalty: function of a and b to a scalar.
      key: makes the bits of a key, at `init`.

    Raises:
      ValueError: here for a value that is no strength; at `init` if no leaf is regularised or a
        key of the mapping is no leaf's label; at `update` if the parameters are missing.
    """
    check_values(name, values)
    inner = optax.with_extra_args_support(inner)

    def for_inner(params: Any, a: Any, b: Any) -> Any:
        """What the inner optimizer takes for its parameters."""
        weights = jax.tree.map(lambda param, a: param if is_gap(a) else a, params, a)
        return named(weights, b)

    def named(a: Any, b: Any) -> dict[str, Any]:
        return dict(zip(names, (a, b), strict=True))

    def init_fn(params: Any) -> ReparameterisedState:
        check_labels(name, values, labels, params)
        # Without leaves, as in `optax.tree.map_params`, labels may not fit.
        by_leaf = leaf_values(values, labels, params) if jax.tree.leaves(params) else params

        def on_leaf(param: Any, value: Any) -> Any:
            if is_gap(value):
                return value, value
            # A copy, so that parameters and state may both be donated.
            return split(jnp.array(param, working_dtype(jnp.asarray(param))))

        factors = _unzip(params, jax.tree.map(on_leaf, params, by_leaf))
        inner_state = inner.init(for_inner(params, *factors))
        return ReparameterisedState(jnp.zeros([], jnp.int32), key(), named(*factors), inner_state)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        check_params(params)
        by_leaf = leaf_values(at_state(values, state), labels, params)
        factors = [state.factors[name] for name in names]
        count = optax.safe_increment(state.count)

        def gradient(_: Any, grad: Any, value: Any, a: Any, b: Any, key: Any) -> Any:
            if is_gap(value) or grad is None:
                return grad, b if is_gap(value) else None
            (theta, cost), pull = jax.vjp(
                lambda a, b: (weight(a, b, key, state.count), penalty(a, b)), a, b
            )
            return pull((jnp.asarray(grad, theta.dtype), jnp.asarray(value, cost.dtype)))

        def step(_: Any, factor: Any, update: Any) -> Any:
            fixed = is_gap(factor) or update is None
            return factor if fixed else (factor + update).astype(factor.dtype)

        def change(param: Any, grad: Any, moved: Any, a: Any, b: Any, key: Any) -> Any:
            if is_gap(a) or grad is None:
                return moved
            param, grad = jnp.asarray(param), jnp.asarray(grad)
            wide = working_dtype(grad, param)
            new = weight(a, b, key, count).astype(param.dtype).astype(wide)
            return (new - param.astype(wide)).astype(common_dtype(grad, param))

        keys = _keys(state.key, state.count, params)
        grads = _unzip(params, jax.tree.map(gradient, params, updates, by_leaf, *factors, keys))
        moved, inner_state = inner.update(
            named(*grads), state.inner_state, for_inner(params, *factors), **extra_args
        )
        factors = [
            jax.tree.map(step, params, factor, moved[name])
            for name, factor in zip(names, factors, strict=True)
        ]
        keys = _keys(state.key, count, params)
        updates = jax.tree.map(change, params, updates, moved[names[0]], *factors, keys)
        return updates, ReparameterisedState(count, state.key, named(*factors), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _unzip(params: Any, pairs: Any) -> tuple[Any, Any]:
    """A pair of trees from a tree that has a pair at each leaf of `params`."""
    first = jax.tree.map(lambda _, pair: pair[0], params, pairs)
    return first, jax.tree.map(lambda _, pair: pair[1], params, pairs)


def _keys(key: jax.Array | None, count: jax.Array, params: Any) -> Any:
    """A key for each leaf."""
    if key is None:
        return jax.tree.map(lambda _: None, params)
    return optax.tree.split_key_like(jax.random.fold_in(key, count), params)
