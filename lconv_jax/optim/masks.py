"""Weights outside a mask are exactly zero: masks in an optimizer's state, around any optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.densities import GLOBAL, Density, check_density, layer_densities
from lconv_jax.optim.strengths import (
    Labels,
    check_labels,
    check_params,
    common_dtype,
    is_gap,
    leaf_values,
)
from lconv_jax.optim.structures import (
    NM,
    Structure,
    best_in_windows,
    check_shape,
    check_structure,
    from_groups,
    group_size,
    to_groups,
)
from lconv_jax.optim.threshold import next_param
from lconv_jax.optim.top_k import top_k_mask


class MaskState(NamedTuple):
    """The state of an optimizer that trains under masks.

    Attributes:
      count: the number of updates so far.
      masks: bool arrays, with an `optax.MaskedNode` in place of parameters without a mask.
      inner_state: of the inner optimizer.
      extra: of the method, such as a key's bits or the sum of scores; None if it needs nothing.
    """

    count: jax.Array  # type: ignore[assignment]  # int32 scalar; tuple.count, as in optax
    masks: Any
    inner_state: Any
    extra: Any


class Target(NamedTuple):
    """How many weights each layer keeps.

    Attributes:
      density: of all labelled weights, or by label.
      distribution: over layers, one of `densities.DISTRIBUTIONS` or "global".
      structure: what is kept or left out together.
      labels: which leaf has which label.
    """

    density: Density
    distribution: str
    structure: Structure
    labels: Labels

    def check(self, *, scored: bool) -> None:
        """Raises a ValueError, naming the argument at fault."""
        check_structure(self.structure)
        if isinstance(self.structure, NM) and self.density != self.structure.n / self.structure.m:
            raise ValueError(
                f"{self.structure} has a density of {self.structure.n / self.structure.m:g}, and "
                f"density is {self.density}; make them equal"
            )
        check_density(self.density, self.distribution, scored=scored)

    def densities(self, params: Any) -> Any:
        """By layer, with gaps; where layers are ranked together, the same for each."""
        if self.distribution == GLOBAL:
            check_labels("density", self.density, self.labels, params)
            return leaf_values(self.density, self.labels, params)
        return layer_densities(params, self.density, self.distribution, self.labels)

    def check_shapes(self, params: Any) -> None:
        """Raises a ValueError if nothing is labelled or a kernel does not fit the structure."""
        if jax.tree.leaves(params):
            found = self.densities(params)
            map_masked(lambda _, param: check_shape(self.structure, param.shape), found, params)

    def counts(self, params: Any, now: Callable[[float], Any] = lambda final: final) -> Any:
        """The number of groups that each layer keeps, int32, at least one.

        `now` gives the present density for a final one; it may be traced.
        """

        def count(density: float, param: Any) -> jax.Array:
            groups = param.size // group_size(self.structure, param.shape)
            return jnp.maximum(jnp.round(jnp.asarray(now(density)) * groups), 1).astype(jnp.int32)

        return map_masked(count, self.densities(params), params)

    def best(
        self, scores: Any, params: Any, now: Callable[[float], Any] = lambda final: final
    ) -> Any:
        """The masks of the weights, or groups, with the largest scores.

        Args:
          scores: like the parameters, with gaps.
          params: the parameters, for their shapes.
          now: as in `counts`.
        """
        structure = self.structure
        if isinstance(structure, NM):
            keep = jnp.round(jnp.asarray(now(structure.n / structure.m)) * structure.m)
            return map_masked(lambda score: best_in_windows(structure, score, keep), scores)
        groups = map_masked(lambda score: to_groups(structure, score), scores)
        counts = self.counts(params, now)
        if self.distribution == GLOBAL:
            chosen = top_k_mask(groups, sum(jax.tree.leaves(counts)))
        else:
            chosen = map_masked(top_k_mask, groups, counts)
        return map_masked(
            lambda mask, score: from_groups(structure, mask, score.shape), chosen, scores
        )


def map_masked(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`fn` of the leaves of trees, where the first tree has no gap; there the result has one."""

    def on_leaf(leaf: Any, *others: Any) -> Any:
        return leaf if is_gap(leaf) else fn(leaf, *others)

    return jax.tree.map(on_leaf, tree, *rest, is_leaf=is_gap)


def masked_gradients(updates: Any, masks: Any) -> Any:
    """The gradients with zeros outside the masks."""

    def on_leaf(mask: Any, grad: Any) -> Any:
        if is_gap(mask) or grad is None:
            return grad
        return jnp.where(mask, grad, 0)

    return jax.tree.map(on_leaf, masks, updates, is_leaf=_is_leaf)


def _in_common_types(updates: Any, params: Any, masks: Any) -> Any:
    """The updates in types that hold −θ exactly, where there is a mask."""

    def on_leaf(mask: Any, update: Any, param: Any) -> Any:
        if is_gap(mask) or update is None:
            return update
        update = jnp.asarray(update)
        return update.astype(common_dtype(update, jnp.asarray(param)))

    return jax.tree.map(on_leaf, masks, updates, params, is_leaf=_is_leaf)


def _masked_updates(updates: Any, params: Any, masks: Any) -> Any:
    """The updates that keep parameters under masks: −θ outside of them."""

    def on_leaf(mask: Any, update: Any, param: Any) -> Any:
        if is_gap(mask) or update is None:
            return update
        return jnp.where(mask, update, -jnp.asarray(param, update.dtype))

    return jax.tree.map(on_leaf, masks, updates, params, is_leaf=_is_leaf)


def next_sizes(updates: Any, params: Any, masks: Any) -> Any:
    """|θ + u| of the weights in masks, −1 outside of them, with gaps."""

    def on_leaf(mask: Any, update: Any, param: Any) -> Any:
        param = jnp.asarray(param)
        moved = param if update is None else next_param(jnp.asarray(update), param)[0]
        return jnp.where(mask, jnp.abs(moved), -1.0)

    return map_masked(on_leaf, masks, updates, params)


def forget(inner: Any, inner_state: Any, old: Any, new: Any) -> Any:
    """The inner optimizer's state with zeros where a weight is not in both masks."""
    kept = jax.tree.map(lambda a, b: True if is_gap(a) else a & b, old, new, is_leaf=is_gap)

    def on_leaf(leaf: Any, keep: Any) -> Any:
        return leaf if is_gap(leaf) else jnp.where(keep, leaf, jnp.zeros_like(leaf))

    return optax.tree.map_params(inner, on_leaf, inner_state, kept, is_leaf=is_gap)


def with_masks(inner: Any, state: MaskState, masks: Any) -> MaskState:
    """A state with other masks, and with nothing of the weights that left or entered."""
    inner_state = forget(inner, state.inner_state, state.masks, masks)
    return state._replace(masks=masks, inner_state=inner_state)


def under_masks(
    inner: optax.GradientTransformation,
    init_masks: Callable[[Any], tuple[Any, Any]],
    change: Callable[..., Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that trains under masks, which may change at each step.

    Args:
      inner: a whole optimizer, with the −η inside.
      init_masks: parameters to masks and `extra`.
      change: (gradients, inner's updates, the state before, the state after, parameters) ->
        (updates, state), of which the updates are masked afterwards; None if masks stay.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> MaskState:
        masks, extra = init_masks(params)
        return MaskState(jnp.zeros([], jnp.int32), masks, inner.init(params), extra)

    def update_fn(grads: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        check_params(params)
        updates, inner_state = inner.update(
            masked_gradients(grads, state.masks), state.inner_state, params, **extra_args
        )
        new = state._replace(inner_state=inner_state)
        updates = _in_common_types(updates, params, state.masks)
        if change is not None:
            updates, new = change(grads, updates, state, new, params)
        updates = _masked_updates(updates, params, new.masks)
        return updates, new._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def all_open(target: Target) -> Callable[[Any], tuple[Any, Any]]:
    """Masks that hold nothing back, for `under_masks`."""

    def init_masks(params: Any) -> tuple[Any, Any]:
        target.check_shapes(params)
        found = target.densities(params) if jax.tree.leaves(params) else params
        return map_masked(lambda _, param: jnp.ones(param.shape, bool), found, params), None

    return init_masks


def at_random(target: Target, seed: ArrayLike) -> Callable[[Any], tuple[Any, Any]]:
    """Random masks, and the key that they came from, for `under_masks`."""

    def init_masks(params: Any) -> tuple[Any, Any]:
        target.check_shapes(params)
        key = jax.random.PRNGKey(seed)
        if not jax.tree.leaves(params):
            return params, key
        return target.best(random_like(key, target.densities(params), params), params), key

    return init_masks


def random_like(key: jax.Array, tree: Any, params: Any) -> Any:
    """Uniform numbers in [0, 1), like the parameters, with the gaps of `tree`."""
    keys = optax.tree.split_key_like(key, params)
    return map_masked(
        lambda _, param, key: jax.random.uniform(key, param.shape), tree, params, keys
    )


def fixed_masks(
    inner: optax.GradientTransformation, masks: Any
) -> optax.GradientTransformationExtraArgs:
    """Trains the weights in given masks, and holds the others at exactly zero.

    Args:
      inner: any optimizer, with its −η inside.
      masks: like the parameters: bool arrays of the same shapes, or None for parameters without a
        mask; or a function from the parameters to them.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`.

    Raises:
      ValueError: at `init` if a mask has another shape than its parameter.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import apply_masks, fixed_masks
      >>> params = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)}
      >>> tx = fixed_masks(optax.sgd(0.5), {"kernel": jnp.array([[True, False]]), "bias": None})
      >>> state = tx.init(params)
      >>> params = apply_masks(params, state)
      >>> grads = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
      >>> updates, state = tx.update(grads, state, params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.5, 0.0]]
    """

    def init_masks(params: Any) -> tuple[Any, Any]:
        found = masks(params) if callable(masks) else masks
        if not jax.tree.leaves(params):
            return params, None

        def on_leaf(param: Any, mask: Any) -> Any:
            if mask is None or is_gap(mask):
                return optax.MaskedNode()
            if jnp.shape(mask) != jnp.shape(param):
                raise ValueError(
                    f"a mask of shape {jnp.shape(mask)} stands for a parameter of shape "
                    f"{jnp.shape(param)}"
                )
            return jnp.asarray(mask, bool)

        def is_leaf(node: Any) -> bool:
            return node is None or is_gap(node)

        gaps = jax.tree.map(
            lambda mask: optax.MaskedNode() if mask is None else mask, found, is_leaf=is_leaf
        )
        return jax.tree.map(
            lambda mask, param: on_leaf(param, mask), gaps, params, is_leaf=is_gap
        ), None

    return under_masks(inner, init_masks)


def random_masks(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    distribution: str = "erdos_renyi_kernel",
    structure: Structure = None,
    seed: ArrayLike = 0,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains a random part of the weights, which stays the same.

    Args:
      inner: any optimizer, with its −η inside.
      density: share of the weights, in (0, 1], of all labelled weights together; or a mapping from
        labels to the share in each layer.
      distribution: over layers, see `layer_densities`.
      structure: None, `NM`, `Blocks` or `Units`: which weights are kept or left out together.
      seed: an integer that may be traced: lanes of `jax.vmap` may have masks of their own.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`. Parameters outside the masks
      are 0.0 after each update. Before the first, `apply_masks` makes them so.

    Raises:
      ValueError: naming the argument at fault; at `init`, if nothing is labelled or a kernel does
        not fit the structure.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import apply_masks, random_masks
      >>> params = {"kernel": jnp.ones((8, 4))}
      >>> tx = random_masks(optax.adam(1e-3), density=0.25)
      >>> state = tx.init(params)
      >>> int(jnp.count_nonzero(apply_masks(params, state)["kernel"]))
      8
    """
    target = Target(density, distribution, structure, labels)
    target.check(scored=False)
    return under_masks(inner, at_random(target, seed))


def masks_of(opt_state: Any) -> Any:
    """The masks in an optimizer's state, however deep in chains and wrappers.

    Returns:
      A pytree like the parameters, with an `optax.MaskedNode` in place of those without a mask.

    Raises:
      ValueError: if there are none.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import masks_of, random_masks
      >>> tx = optax.chain(optax.clip(1.0), random_masks(optax.sgd(0.1), density=0.5))
      >>> masks = masks_of(tx.init({"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}))
      >>> int(masks["kernel"].sum()), masks["bias"]
      (8, MaskedNode())
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, MaskState))
    found = [node.masks for node in nodes if isinstance(node, MaskState)]
    if not found:
        raise ValueError("opt_state has no masks: no method of sparse training is in it")
    # There are several if `optax.partition` gives each some of the parameters.
    return functools.reduce(_either, found)


def _either(one: Any, other: Any) -> Any:
    """Of two trees, the nodes that are no gap."""
    if is_gap(one) or is_gap(other):
        return other if is_gap(one) else one
    if jax.tree_util.all_leaves([one]):
        return one
    return jax.tree.map(_either, one, other, is_leaf=lambda node: node is not one)


def apply_masks(params: Any, opt_state: Any) -> Any:
    """The parameters with exact zeros outside the masks of an optimizer's state.

    To be called once before training: `init` cannot change parameters. Without it the first
    gradient is that of the dense network, and the first update makes the zeros.

    Raises:
      ValueError: if there are no masks.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import apply_masks, random_masks
      >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
      >>> params = apply_masks(params, random_masks(optax.sgd(0.1), density=0.5).init(params))
      >>> float(params["kernel"].sum()), float(params["bias"].sum())
      (8.0, 4.0)
    """

    def on_leaf(mask: Any, param: Any) -> Any:
        return param if is_gap(mask) else jnp.where(mask, param, jnp.zeros_like(param))

    return jax.tree.map(on_leaf, masks_of(opt_state), params, is_leaf=is_gap)


def _is_leaf(node: Any) -> bool:
    return node is None or is_gap(node)
