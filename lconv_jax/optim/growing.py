"""Sparse from the beginning: weights are dropped, and as many others grow in their place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.densities import Density
from lconv_jax.optim.masks import (
    MaskState,
    Target,
    at_random,
    map_masked,
    next_sizes,
    random_like,
    under_masks,
    with_masks,
)
from lconv_jax.optim.strengths import Labels, check_between, check_integer
from lconv_jax.optim.structures import NM, Structure, from_groups, to_groups
from lconv_jax.optim.top_k import top_k_mask


def rigl(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    end: int,
    every: int = 100,
    drop_fraction: float = 0.3,
    distribution: str = "erdos_renyi_kernel",
    structure: Structure = None,
    seed: ArrayLike = 0,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """RigL: drops the smallest weights, and grows those with the largest gradients.

    Masks are random in the beginning. At the updates t = every, 2 · every, … before `end`, numbered
    from 0, each layer drops the share

        f(t) = α / 2 (1 + cos(π t / end))

    of its weights, those with the smallest |θ|, and grows as many where |g| is largest among all
    places that are then free, so that the number of weights of each layer stays exactly the same.
    New weights begin at 0. A weight that is dropped and grown at once keeps its value. At these
    updates nothing else changes: the gradient goes into the inner optimizer's state alone.

    Args:
      inner: any optimizer, with its −η inside. It sees gradients of the weights in the mask only;
        its state of weights that leave or enter is set to zero.
      density: share of the weights, in (0, 1], of all labelled weights together; or a mapping from
        labels to the share in each layer.
      end: the update from which on masks stay; the paper's is three quarters of the training.
      every: ΔT, updates from one change of the masks to the next.
      drop_fraction: α, in (0, 1).
      distribution: over layers, see `layer_densities`.
      structure: None, `Blocks` or `Units`: which weights are dropped and grown together.
      seed: of the first masks, an integer that may be traced.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`. Gradients must be those of all
      weights, as `jax.grad` gives them: those of zeros are what growth looks at. Before the first
      update, `apply_masks` makes parameters outside the masks 0.0.

    Raises:
      ValueError: naming the argument at fault; at `init`, if nothing is labelled or a kernel does
        not fit the structure.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import apply_masks, masks_of, rigl
      >>> params = {"kernel": jnp.ones((100, 10))}
      >>> tx = rigl(optax.sgd(0.1, momentum=0.9), density=0.1, end=750)
      >>> state = tx.init(params)
      >>> params = apply_masks(params, state)
      >>> int(masks_of(state)["kernel"].sum())
      100

    Reference:
      Evci et al., [Rigging the Lottery: Making All Tickets
      Winners](https://arxiv.org/abs/1911.11134), ICML 2020, Algorithm 1
    """
    check_integer("end", end, 0)
    target = _target(density, distribution, structure, labels, every, drop_fraction)

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        count = state.count
        due = (count > 0) & (count % every == 0) & (count < end)
        fraction = drop_fraction / 2 * (1 + jnp.cos(jnp.pi * count / max(1, end)))

        def exchange(updates: Any) -> Any:
            sizes = map_masked(lambda _, param: jnp.abs(param), state.masks, params)
            slopes = map_masked(lambda _, grad: jnp.abs(grad), state.masks, grads)
            masks = _exchange(target, state.masks, sizes, slopes, fraction, params)
            return jax.tree.map(jnp.zeros_like, updates), with_masks(inner, new, masks)

        return jax.lax.cond(due, exchange, lambda updates: (updates, new), updates)

    return under_masks(inner, at_random(target, seed), change)


def sparse_evolution(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    end: int | None = None,
    every: int = 100,
    drop_fraction: float = 0.3,
    distribution: str = "erdos_renyi",
    structure: Structure = None,
    seed: ArrayLike = 0,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """SET, sparse evolutionary training: drops the smallest weights, and grows others at random.

    As `rigl`, but after the updates t = every, 2 · every, …, which train as all others do, each
    layer drops the share `drop_fraction` of its weights, always the same, and as many others grow
    at random, all free places being equally likely.

    Args:
      inner: as in `rigl`.
      density: as in `rigl`.
      end: the update from which on masks stay; None: they change to the end.
      every: as in `rigl`.
      drop_fraction: ζ, in (0, 1).
      distribution: as in `rigl`.
      structure: as in `rigl`.
      seed: of all masks, an integer that may be traced.
      labels: as in `rigl`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`.

    Raises:
      ValueError: as `rigl`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import apply_masks, masks_of, sparse_evolution
      >>> params = {"kernel": jnp.ones((100, 10))}
      >>> tx = sparse_evolution(optax.sgd(0.1), density=0.1, every=1, drop_fraction=0.5)
      >>> first = tx.init(params)
      >>> params = apply_masks(params, first)
      >>> grads, state = optax.tree.zeros_like(params), first
      >>> for _ in range(2):
      ...     _, state = tx.update(grads, state, params)
      >>> old, new = (masks_of(each)["kernel"] for each in (first, state))
      >>> int(new.sum()), bool((old & new).sum() < 70)
      (100, True)

    Reference:
      Mocanu et al., [Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science](https://doi.org/10.1038/s41467-018-04316-3), Nature
      Communications 2018
    """
    if end is not None:
        check_integer("end", end, 0)
    target = _target(density, distribution, structure, labels, every, drop_fraction)

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        count = state.count
        due = (count > 0) & (count % every == 0)
        if end is not None:
            due &= count < end

        def exchange(new: MaskState) -> MaskState:
            sizes = next_sizes(updates, params, state.masks)
            luck = random_like(jax.random.fold_in(state.extra, count + 1), state.masks, params)
            masks = _exchange(target, state.masks, sizes, luck, drop_fraction, params)
            return with_masks(inner, new, masks)

        return updates, jax.lax.cond(due, exchange, lambda new: new, new)

    return under_masks(inner, at_random(target, seed), change)


def _target(
    density: Density,
    distribution: str,
    structure: Structure,
    labels: Labels,
    every: int,
    drop_fraction: float,
) -> Target:
    if isinstance(structure, NM):
        raise ValueError(f"structure must be None, Blocks or Units here, got {structure}")
    check_integer("every", every, 1)
    check_between("drop_fraction", drop_fraction, 0, 1)
    target = Target(density, distribution, structure, labels)
    target.check(scored=False)
    return target


def _exchange(
    target: Target, masks: Any, drop_scores: Any, grow_scores: Any, fraction: Any, params: Any
) -> Any:
    """Masks without the smallest by the first scores, and with the largest by the second."""

    def on_leaf(mask: Any, drop: Any, grow: Any, count: Any) -> Any:
        there = to_groups(target.structure, mask.astype(jnp.float32)) > 0
        dropped = jnp.floor(fraction * count).astype(jnp.int32)
        stay = jnp.where(there, to_groups(target.structure, drop), -jnp.inf)
        stay = top_k_mask(stay, count - dropped)
        grown = jnp.where(stay, -jnp.inf, to_groups(target.structure, grow))
        return from_groups(target.structure, stay | top_k_mask(grown, dropped), mask.shape)

    return map_masked(on_leaf, masks, drop_scores, grow_scores, target.counts(params))
