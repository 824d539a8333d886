"""Training that starts from another run's network: transfer, fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lconv_jax import models
from lconv_jax.errors import ConfigError
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, check_is_run


def read(directory: str, shapes: Any) -> dict[str, dict[str, Any]]:
    """What a network takes over from the newest checkpoint of a run.

    Args:
      directory: of the other run, finished or not.
      shapes: of the network's own state, with `params` and `batch_stats`.

    Returns:
      Parameters and BN statistics, each by the path of the leaf. A layer is taken over if its
      kernel has the same name and shape in both, with its bias and its normalisation, and else
      drawn as ever: the last layer, say, where the numbers of classes differ.

    Raises:
      ConfigError: there is no such run or no checkpoint, or no layer fits.
    """
    try:
        check_is_run(directory)
    except ConfigError as error:
        raise ConfigError(f"config.train.start: {error}") from None
    checkpoints = Checkpoints(os.path.join(directory, CHECKPOINTS))
    steps = checkpoints.steps()
    if not steps:
        raise ConfigError(
            f"config.train.start = {directory!r}: the run has no checkpoint yet; let it save one"
        )
    stored = checkpoints.arrays(steps[-1], ("params", "batch_stats"))
    theirs, own = models.kernels(stored["params"]), models.kernels(shapes.params)
    fits = {name for name in own if name in theirs and theirs[name].shape == own[name].shape}
    if not fits:
        there = ", ".join(f"{name} {tuple(kernel.shape)}" for name, kernel in theirs.items())
        needed = ", ".join(f"{name} {tuple(kernel.shape)}" for name, kernel in own.items())
        raise ConfigError(
            f"config.train.start = {directory!r}: its network has the layers {there}, and none "
            f"fits this one's: {needed}. Start from a run of the same model, α and image shape"
        )
    return {
        field: {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if models.layer_of(path) in fits
        }
        for field, tree in stored.items()
    }


def take_over(tree: Any, taken: Mapping[str, Any]) -> Any:
    """Parameters or BN statistics with what `read` found of them in its place."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: taken.get(jax.tree_util.keystr(path), leaf), tree
    )


def check_freeze(freeze: str, params: Any) -> frozenset[str]:
    """The layers that `train.freeze` names.

    Raises:
      ConfigError: the network has no such layer, or no other.
    """
    there, named = list(models.kernels(params)), [name for name in freeze.split(",") if name]
    for name in named:
        if name not in there:
            raise ConfigError(
                f"config.train.freeze = {freeze!r}: there is no layer {name!r}; the layers are "
                + ", ".join(there)
            )
    if set(named) == set(there):
        raise ConfigError(
            f"config.train.freeze = {freeze!r} leaves nothing to train; name fewer layers"
        )
    return frozenset(named)


def freeze_updates(updates: Any, frozen: frozenset[str]) -> Any:
    """The updates of parameters, with zeros for those of frozen layers and of what normalises them.

    Statistics are no parameters, and still follow the data.
    """
    if not frozen:
        return updates
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if models.layer_of(path) in frozen else leaf,
        updates,
    )
