"""Strengths that may differ by label and by step, and transformations that apply them.

A strength (λ, or a threshold) is a number, a schedule, or a mapping from labels to numbers and
schedules. Its value for one leaf at one step is computed here, for all transformations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lconv_jax.optim import labels as labels_lib

Value: TypeAlias = ArrayLike | Callable[[Any], Any]
Values: TypeAlias = Value | Mapping[str, Value]
Labels: TypeAlias = Any  # a pytree prefix of strings, a function of the parameters, or None


_HOW_TO_LABEL = {
    True: "Without `labels`, weights of layers whose names start with conv or fc are labelled so; "
    "give `labels` for layers of other names",
    False: "Give the label to a parameter in `labels`, or leave out the key",
}


class CountState(NamedTuple):
    """The number of updates so far, kept where a strength is a schedule."""

    count: jax.Array  # type: ignore[assignment]  # int32 scalar; tuple.count, as in optax


def check_values(name: str, values: Any) -> None:
    """Raises a ValueError unless `values` can be strengths.

    A concrete number must be finite and not negative. Schedules and traced numbers, as under
    `optax.inject_hyperparams`, have no value yet and are not looked at.
    """
    if isinstance(values, Mapping):
        if not values:
            raise ValueError(f"{name} is an empty mapping; it must have at least one label")
        for label, value in values.items():
            if not isinstance(label, str):
                raise ValueError(f"{name} has the key {label!r}; labels are strings")
            if label == labels_lib.NONE:
                raise ValueError(
                    f"{name} has the key {label!r}, the label of parameters that are left alone"
                )
            if isinstance(value, Mapping):
                raise ValueError(f"{name}[{label!r}] must be a number or a schedule, got {value}")
            check_values(f"{name}[{label!r}]", value)
    elif not callable(values):
        _check_number(name, values)


def _check_number(name: str, value: Any) -> None:
    accepted = "a finite number that is not negative, or a schedule"
    if isinstance(value, jax.core.Tracer):
        array: Any = value
    else:
        try:
            array = np.asarray(None if isinstance(value, str) else value, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} must be {accepted}, got {value!r}") from None
        if not array.ndim and not (math.isfinite(array) and array >= 0):
            raise ValueError(f"{name} must be {accepted}, got {value!r}")
    if array.ndim:
        raise ValueError(f"{name} must be {accepted}, got an array of shape {array.shape}")


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Raises a ValueError unless `value` is a number between two others, or traced."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        fits = not isinstance(value, str) and low < float(value) < high
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        upper = "finite number" if math.isinf(high) else f"number below {high} and"
        raise ValueError(f"{name} must be a {upper} above {low}, got {value!r}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises a ValueError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_params(params: Any) -> None:
    """Raises a ValueError if an update came without parameters."""
    if params is None:
        raise ValueError(
            "params is None, but this transformation needs the current parameters: call "
            "update(grads, state, params)"
        )


def map_values(fn: Callable[..., Any], values: Values) -> Any:
    """`fn` of the one value, or of each value of a mapping."""
    if isinstance(values, Mapping):
        return {label: fn(value) for label, value in values.items()}
    return fn(values)


def is_scheduled(values: Values) -> bool:
    """Whether any of the values depends on the step."""
    return any(map(callable, values.values() if isinstance(values, Mapping) else [values]))


def at_state(values: Values, state: Any) -> Any:
    """The values, with each schedule replaced by its value at the state's count."""
    return map_values(lambda value: value(state.count) if callable(value) else value, values)


def leaf_values(values: Any, labels: Labels, params: Any) -> Any:
    """The value of each parameter, and an `optax.MaskedNode` for those that are left alone.

    Args:
      values: number or mapping from labels to numbers. A plain number is that of every label but
        "none".
      labels: prefix, function or None, see `labels.resolve_labels`.
      params: the parameters.
    """

    def of(label: str) -> Any:
        if label == labels_lib.NONE or (isinstance(values, Mapping) and label not in values):
            return optax.MaskedNode()
        return values[label] if isinstance(values, Mapping) else values

    return jax.tree.map(of, labels_lib.resolve_labels(labels, values, params))


def is_gap(node: Any) -> bool:
    """Whether optax has left out what belongs here, as `optax.masked` does."""
    return isinstance(node, optax.MaskedNode)


def map_regularised(
    fn: Callable[..., Any], values: Any, labels: Labels, tree: Any, params: Any, *rest: Any
) -> Any:
    """`fn(leaf, param, value, *others)` on leaves whose label has a value; others stay as they are.

    Args:
      fn: function of one leaf of `tree`, of `params`, the value, and the leaves of `rest`.
      values, labels: see `leaf_values`.
      tree: what is mapped; where it has None, the result has.
      params: the parameters.
      *rest: trees of the same structure.
    """

    def on_leaf(leaf: Any, param: Any, value: Any, *others: Any) -> Any:
        if leaf is None or is_gap(value):
            return leaf
        return fn(jnp.asarray(leaf), jnp.asarray(param), value, *others)

    by_leaf = leaf_values(values, labels, params)
    return jax.tree.map(on_leaf, tree, params, by_leaf, *rest, is_leaf=lambda leaf: leaf is None)


def elementwise(
    name: str,
    values: Values,
    labels: Labels,
    fn: Callable[[jax.Array, jax.Array, ArrayLike], jax.Array],
) -> optax.GradientTransformation:
    """The transformation u ← fn(u, θ, value) of the leaves that have a value.

    Args:
      name: of the values, in error messages.
      values: number or schedule, or a mapping from labels to these.
      labels: prefix, function or None, see `labels.resolve_labels`.
      fn: function of an update, its parameter and a number: elementwise, but where groups of
        weights share a threshold.

    Raises:
      ValueError: here for a value that is no strength; at `init` if no leaf is regularised or a
        key of the mapping is no leaf's label; at `update` if the parameters are missing.
    """
    check_values(name, values)

    def init_fn(params: Any) -> Any:
        check_labels(name, values, labels, params)
        return CountState(jnp.zeros([], jnp.int32)) if is_scheduled(values) else optax.EmptyState()

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        check_params(params)
        updates = map_regularised(fn, at_state(values, state), labels, updates, params)
        if is_scheduled(values):
            state = CountState(optax.safe_increment(state.count))
        return updates, state

    return optax.GradientTransformation(init_fn, update_fn)


def common_dtype(*arrays: jax.Array) -> Any:
    """The type that represents the values of all the arrays, as an update and its parameter.

    Updates are returned in it: in a narrower one neither −θ nor a small λ beside a large gradient
    would be exact.
    """
    return functools.reduce(jnp.promote_types, (array.dtype for array in arrays))


def working_dtype(*arrays: jax.Array) -> Any:
    """The type to compute in, float32 at least: in float16 a λ of 1e-6 is rounded by a tenth."""
    return jnp.promote_types(common_dtype(*arrays), jnp.float32)


def check_labels(name: str, values: Values, labels: Labels, params: Any) -> None:
    """Raises a ValueError if no leaf has a value, or a key of a mapping is no leaf's label."""
    # No leaves: a group of `optax.partition` that is empty, or the placeholder with which
    # `optax.tree.map_params` asks for the state's structure.
    if not jax.tree.leaves(params):
        return
    present = set(jax.tree.leaves(labels_lib.resolve_labels(labels, values, params)))
    if isinstance(values, Mapping):
        for label in values:
            if label not in present:
                raise ValueError(
                    f"{name} has the key {label!r}, which is the label of no parameter; the "
                    f"labels are {sorted(present)}. {_HOW_TO_LABEL[labels is None]}"
                )
    elif present <= {labels_lib.NONE}:
        raise ValueError(
            f"{name} has nothing to act on: every parameter is labelled 'none'. Without `labels`, "
            "the label 'none' goes to biases and normalisation, by their names, and to other "
            "arrays with fewer than two dimensions. Give `labels` that name the weights"
        )
