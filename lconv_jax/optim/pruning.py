"""From dense to sparse while training: weights are removed by a score, and stay removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lconv_jax.optim.densities import GLOBAL, Density
from lconv_jax.optim.masks import (
    MaskState,
    Target,
    all_open,
    forget,
    map_masked,
    next_sizes,
    under_masks,
    with_masks,
)
from lconv_jax.optim.strengths import Labels, check_integer, working_dtype
from lconv_jax.optim.structures import Structure


def magnitude_pruning(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    begin: int,
    end: int | None = None,
    every: int = 1,
    distribution: str = "uniform",
    structure: Structure = None,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Removes the smallest weights, at once or gradually.

        dₜ = d + (1 − d) (1 − (t − begin) / (end − begin))³

    is the share of the weights that is left after the update t = begin, begin + every, …, end,
    where updates are numbered from 0. Without `end` there is one pruning, to the density d. The
    weights with the largest |θ| after the update stay; the others are 0.0 from then on.

    Args:
      inner: any optimizer, with its −η inside. Its state of a removed weight is set to zero.
      density: d, in (0, 1], of all labelled weights together; or a mapping from labels to the share
        in each layer.
      begin: the first update that prunes.
      end: the last one; None to prune once.
      every: updates from one pruning to the next.
      distribution: over layers: "global" ranks all weights together; others see `layer_densities`.
      structure: None, `NM`, `Blocks` or `Units`: which weights are kept or left out together; their
        score is the sum of their |θ|.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`.

    Raises:
      ValueError: naming the argument at fault; at `init`, if nothing is labelled or a kernel does
        not fit the structure.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import magnitude_pruning
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.5, 1.0]])}
      >>> tx = magnitude_pruning(optax.sgd(0.1), density=0.5, begin=0)
      >>> grads = optax.tree.zeros_like(params)
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[3.0, -2.0, 0.0, 0.0]]

    Reference:
      Zhu and Gupta, [To prune, or not to prune](https://arxiv.org/abs/1710.01878), 2017, Equation 1
    """
    target = Target(density, distribution, structure, labels)
    target.check(scored=True)
    due, now = _cubic(begin, end, every)

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        def prune(new: MaskState) -> MaskState:
            scores = next_sizes(updates, params, new.masks)
            return with_masks(inner, new, target.best(scores, params, now(state.count)))

        return updates, jax.lax.cond(due(state.count), prune, lambda new: new, new)

    return under_masks(inner, all_open(target), change)


def saliency_pruning(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    begin: int,
    end: int | None = None,
    every: int = 1,
    distribution: str = GLOBAL,
    structure: Structure = None,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Removes the weights whose removal would change the loss least, to first order.

    The score of a weight is (g θ)², averaged over the updates since the pruning before, with g the
    gradient of each update's batch; that of a group is the sum. Arguments, schedule and state are
    those of `magnitude_pruning`, but for the first pruning there must be updates to average over:
    with begin=0 it sees one batch.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import saliency_pruning
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.5, 1.0]])}
      >>> tx = saliency_pruning(optax.sgd(0.0), density=0.5, begin=0)
      >>> grads = {"kernel": jnp.array([[0.1, 0.0, 2.0, 1.0]])}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.0, 0.0, 0.5, 1.0]]

    Reference:
      Molchanov et al., [Importance estimation for neural network
      pruning](https://arxiv.org/abs/1906.10771), CVPR 2019, Equation 8
    """
    target = Target(density, distribution, structure, labels)
    target.check(scored=True)
    due, now = _cubic(begin, end, every)
    open_masks = all_open(target)

    def init_masks(params: Any) -> tuple[Any, Any]:
        masks, _ = open_masks(params)
        return masks, map_masked(lambda mask: jnp.zeros(mask.shape, jnp.float32), masks)

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        sums = map_masked(
            lambda old, grad, param: old + _squared_product(grad, param), state.extra, grads, params
        )
        new = new._replace(extra=sums)

        def prune(new: MaskState) -> MaskState:
            scores = map_masked(
                lambda mask, total: jnp.where(mask, total, -1.0), new.masks, new.extra
            )
            new = new._replace(extra=map_masked(jnp.zeros_like, new.extra))
            return with_masks(inner, new, target.best(scores, params, now(state.count)))

        return updates, jax.lax.cond(due(state.count), prune, lambda new: new, new)

    return under_masks(inner, init_masks, change)


def snip(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    distribution: str = GLOBAL,
    structure: Structure = None,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Removes weights once, before training, by the first gradient.

    The score of a weight is |g θ|: the derivative of the loss by a factor on the weight, at 1. The
    first update removes weights and does nothing else; all later ones train the rest.

    Args:
      inner: any optimizer, with its −η inside. It does not see the first gradient.
      density: share of the weights that is left, in (0, 1], of all labelled weights together; or a
        mapping from labels to the share in each layer.
      distribution: over layers: "global", as in the paper, ranks all weights together; others see
        `layer_densities`.
      structure: as in `magnitude_pruning`.
      labels: as in `magnitude_pruning`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`.

    Raises:
      ValueError: as `magnitude_pruning`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import snip
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.5, 1.0]])}
      >>> tx = snip(optax.sgd(0.1), density=0.5)
      >>> grads = {"kernel": jnp.array([[0.1, 0.0, 2.0, 1.0]])}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.0, 0.0, 0.5, 1.0]]

    Reference:
      Lee, Ajanthan and Torr, [SNIP: Single-shot network pruning based on connection
      sensitivity](https://arxiv.org/abs/1810.02340), ICLR 2019, Equations 5 and 6
    """
    target = Target(density, distribution, structure, labels)
    target.check(scored=True)

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        def prune(updates: Any) -> Any:
            scores = map_masked(
                lambda _, grad, param: jnp.sqrt(_squared_product(grad, param)),
                *(state.masks, grads, params),
            )
            masks = target.best(scores, params)
            still = jax.tree.map(jnp.zeros_like, updates)
            return still, state._replace(masks=masks)

        return jax.lax.cond(state.count == 0, prune, lambda updates: (updates, new), updates)

    return under_masks(inner, all_open(target), change)


def lottery_ticket(
    inner: optax.GradientTransformation,
    density: Density,
    *,
    rounds: int,
    steps_per_round: int,
    rewind_step: int = 0,
    distribution: str = GLOBAL,
    structure: Structure = None,
    labels: Labels = None,
) -> optax.GradientTransformationExtraArgs:
    """Iterative magnitude pruning: train, remove the smallest weights, go back, and again.

    The first round is `steps_per_round` updates. At its end the weights with the largest |θ| stay,
    a share of d^(1 / rounds). These and the inner optimizer's state, with its counts and so its
    schedules, are set back to those after `rewind_step` updates, and trained to the end of the
    schedule again, `steps_per_round` − `rewind_step` updates. After `rounds` prunings a share d is
    left, and is trained once more: in all steps_per_round + rounds · (steps_per_round −
    rewind_step) updates.

    θ + (w − θ) is not w in floating point: a weight that is set back differs from w by the rounding
    of the larger of θ and w, 2⁻²⁴ of it in float32. Zeros are exact.

    Args:
      inner: any optimizer, with its −η inside. Its schedules are those of one round.
      density: d, in (0, 1], of all labelled weights together; or a mapping from labels to the share
        in each layer.
      rounds: prunings.
      steps_per_round: updates of the whole schedule.
      rewind_step: 0, as in the first paper, or later, as in the second.
      distribution: over layers: "global" ranks all weights together; others see `layer_densities`.
      structure: as in `magnitude_pruning`.
      labels: as in `magnitude_pruning`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MaskState`, whose `extra` holds parameters
      and inner state of `rewind_step`.

    Raises:
      ValueError: as `magnitude_pruning`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import lottery_ticket
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.5, 1.0]])}
      >>> tx = lottery_ticket(optax.sgd(1.0), density=0.5, rounds=1, steps_per_round=2)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     grads = {"kernel": jnp.array([[1.0, 0.0, 0.0, 0.5]])}
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["kernel"].tolist()
      [[3.0, -2.0, 0.0, 0.0]]

    Reference:
      Frankle and Carbin, [The lottery ticket hypothesis](https://arxiv.org/abs/1803.03635), ICLR
      2019; Frankle et al., [Linear mode connectivity and the lottery ticket
      hypothesis](https://arxiv.org/abs/1912.05671), ICML 2020
    """
    target = Target(density, distribution, structure, labels)
    target.check(scored=True)
    check_integer("rounds", rounds, 1)
    check_integer("steps_per_round", steps_per_round, 1)
    check_integer("rewind_step", rewind_step, 0)
    if rewind_step >= steps_per_round:
        raise ValueError(
            f"rewind_step must be below steps_per_round = {steps_per_round}, got {rewind_step}"
        )
    length = steps_per_round - rewind_step
    inner = optax.with_extra_args_support(inner)
    open_masks = all_open(target)

    def init_masks(params: Any) -> tuple[Any, Any]:
        # A copy, so that parameters and state may both be donated.
        return open_masks(params)[0], (jax.tree.map(jnp.array, params), inner.init(params))

    def change(grads: Any, updates: Any, state: Any, new: Any, params: Any) -> Any:
        extra = jax.lax.cond(
            state.count == rewind_step,
            lambda extra: (jax.tree.map(jnp.asarray, params), state.inner_state),
            lambda extra: extra,
            state.extra,
        )
        new = new._replace(extra=extra)
        done = state.count + 1 - steps_per_round  # updates after the first round
        share = (done // length + 1) / rounds
        due = (done >= 0) & (done % length == 0) & (done // length < rounds)

        def rewind(updates: Any) -> Any:
            scores = next_sizes(updates, params, state.masks)
            masks = target.best(scores, params, lambda final: jnp.asarray(final) ** share)
            back, inner_state = extra
            updates = jax.tree.map(lambda u, p, q: (q - p).astype(u.dtype), updates, params, back)
            inner_state = forget(inner, inner_state, masks, masks)
            return updates, new._replace(masks=masks, inner_state=inner_state)

        return jax.lax.cond(due, rewind, lambda updates: (updates, new), updates)

    return under_masks(inner, init_masks, change)


def _squared_product(grad: Any, param: Any) -> jax.Array:
    wide = working_dtype(jnp.asarray(grad), jnp.asarray(param))
    return jnp.square(jnp.asarray(grad, wide) * jnp.asarray(param, wide)).astype(jnp.float32)


def _cubic(
    begin: int, end: int | None, every: int
) -> tuple[Callable[[Any], Any], Callable[[Any], Callable[[Any], Any]]]:
    """When to prune, and how the present density follows from the final one, by the count."""
    check_integer("begin", begin, 0)
    check_integer("every", every, 1)
    if end is not None:
        check_integer("end", end, 0)
        if end < begin:
            raise ValueError(f"end must not be before begin = {begin}, got {end}")
    last = begin if end is None else end

    def due(count: Any) -> Any:
        regular = (count - begin) % every == 0
        return (count >= begin) & (count <= last) & (regular | (count == last))

    def now(count: Any) -> Callable[[Any], Any]:
        left = 1 - jnp.clip((count - begin) / max(1, last - begin), 0, 1)
        left = jnp.where(count >= last, 0, left)
        return lambda final: final + (1 - final) * left**3

    return due, now
