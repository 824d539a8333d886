"""Which weights of a kernel are kept or left out together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from lconv_jax.optim.densities import is_local


class NM(NamedTuple):
    """n of each m consecutive inputs of a unit, as 2:4.

    The density is n / m in every layer.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import NM, apply_masks, random_masks
      >>> params = {"kernel": jnp.ones((8, 3))}
      >>> state = random_masks(optax.sgd(0.1), 0.5, structure=NM(2, 4)).init(params)
      >>> apply_masks(params, state)["kernel"].reshape(2, 4, 3).sum(1).tolist()
      [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """

    n: int
    m: int


class Blocks(NamedTuple):
    """Blocks of this many inputs and outputs.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import Blocks, apply_masks, random_masks
      >>> params = {"kernel": jnp.ones((4, 4))}
      >>> state = random_masks(optax.sgd(0.1), 0.25, structure=Blocks(2, 2)).init(params)
      >>> kernel = apply_masks(params, state)["kernel"]
      >>> sorted(kernel.reshape(2, 2, 2, 2).sum((1, 3)).ravel().tolist())
      [0.0, 0.0, 0.0, 4.0]
    """

    inputs: int
    outputs: int


class Units(NamedTuple):
    """Whole output units: all weights that enter one.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax.optim import Units, apply_masks, random_masks
      >>> params = {"kernel": jnp.ones((3, 4))}
      >>> state = random_masks(optax.sgd(0.1), 0.25, structure=Units()).init(params)
      >>> sorted(apply_masks(params, state)["kernel"].sum(0).tolist())
      [0.0, 0.0, 0.0, 3.0]
    """


Structure: TypeAlias = NM | Blocks | Units | None


def check_structure(structure: Any) -> None:
    """Raises a ValueError for anything else than a structure."""
    if not isinstance(structure, (NM, Blocks, Units, type(None))):
        raise ValueError(f"structure must be None, NM, Blocks or Units, got {structure!r}")
    if not all(type(number) is int and number >= 1 for number in structure or ()):
        raise ValueError(f"the numbers of {structure} must be integers of at least 1")
    if isinstance(structure, NM) and structure.n > structure.m:
        raise ValueError(f"{structure}: n must be at most m")


def check_shape(structure: Structure, shape: tuple[int, ...]) -> None:
    """Raises a ValueError if a kernel of this shape cannot be divided so."""
    if structure is None:
        return
    if len(shape) < 2:
        raise ValueError(f"{structure} needs kernels [..., in, out], and one has shape {shape}")
    inputs, outputs = shape[-2:]
    if isinstance(structure, NM) and inputs % structure.m:
        raise ValueError(f"{structure}: {inputs} inputs of a kernel {shape} are no multiple of m")
    if isinstance(structure, Blocks) and (inputs % structure.inputs or outputs % structure.outputs):
        raise ValueError(f"{structure} does not divide a kernel {shape}")


def to_groups(structure: Structure, scores: jax.Array) -> jax.Array:
    """The score of each group: the sum of its weights'. For NM and None that of each weight."""
    if isinstance(structure, Units):
        return scores.sum(_unit_axes(scores.ndim))
    if isinstance(structure, Blocks):
        return _blocks(structure, scores).sum((-3, -1))
    return scores


def from_groups(structure: Structure, mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The mask of all weights from that of their groups."""
    if isinstance(structure, Units):
        return jnp.broadcast_to(jnp.expand_dims(mask, _unit_axes(len(shape))), shape)
    if isinstance(structure, Blocks):
        return mask.repeat(structure.inputs, -2).repeat(structure.outputs, -1)
    return mask


def group_size(structure: Structure, shape: tuple[int, ...]) -> int:
    """The number of weights in a group."""
    if isinstance(structure, Units):
        return math.prod(shape[axis] for axis in _unit_axes(len(shape)))
    return structure.inputs * structure.outputs if isinstance(structure, Blocks) else 1


def best_in_windows(structure: NM, scores: jax.Array, keep: Any) -> jax.Array:
    """Which `keep` of each m consecutive inputs have the largest scores, the first of equals."""
    *front, inputs, outputs = scores.shape
    windows = scores.reshape(*front, inputs // structure.m, structure.m, outputs)
    order = jnp.argsort(-windows, axis=-2, stable=True)
    ranks = jnp.argsort(order, axis=-2)
    return (ranks < keep).reshape(scores.shape)


def _unit_axes(ndim: int) -> tuple[int, ...]:
    positions = (ndim - 2) // 2 if is_local((1,) * ndim) else 0
    return tuple(range(positions, ndim - 1))


def _blocks(structure: Blocks, scores: jax.Array) -> jax.Array:
    *front, inputs, outputs = scores.shape
    rows, columns = structure
    return scores.reshape(*front, inputs // rows, rows, outputs // columns, columns)
