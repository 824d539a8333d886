"""Training that starts from another run's network: transfer, fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax import models
from lconv_jax.errors import ConfigError
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, check_is_run

_FIELDS = ("params", "batch_stats")


def read(directory: str, shapes: Any) -> dict[str, np.ndarray]:
    """What a network takes over from the newest checkpoint of a run.

    Args:
      directory: of the other run, finished or not.
      shapes: of the network's own state, with `params` and `batch_stats`.

    Returns:
      Parameters and BN statistics by the names of `names`. A layer is taken over if its kernel has
      the same name and shape in both, with its bias and its normalisation, and else drawn as ever:
      the last layer, say, where the numbers of classes differ.

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
    stored = checkpoints.arrays(steps[-1], _FIELDS)
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
        name: np.asarray(leaf)
        for name, leaf in names({field: stored[field] for field in _FIELDS}).items()
        if layer_of(name) in fits
    }


def take_over(params: Any, batch_stats: Any, start: Mapping[str, Any]) -> tuple[Any, Any]:
    """Parameters and BN statistics with the arrays of `read` in their places."""
    tree = {"params": params, "batch_stats": batch_stats}
    leaves = [start.get(name, leaf) for name, leaf in names(tree).items()]
    taken = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return taken["params"], taken["batch_stats"]


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
    leaves = [
        jnp.zeros_like(leaf) if layer_of(name) in frozen else leaf
        for name, leaf in names({"params": updates}).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(updates), leaves)


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a nested dictionary by their paths, as params/conv1/kernel, in its order."""
    return {
        "/".join(str(key.key) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def layer_of(name: str) -> str:
    """The layer, as `models.kernels` names it, that a leaf belongs to or normalises."""
    *block, layer = name.split("/")[1:-1]
    return "/".join([*block, layer.removeprefix("bn_")])
