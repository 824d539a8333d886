"""Removes hidden units that can never come back; the smaller network computes and learns the same.

docs/shrinking.md proves which units these are. Only dense hidden layers whose units are normalised
each on its own are considered. A state is *restricted* to the remaining units for training. It is
*expanded* to its original shape when it is saved, exported or described.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.typing import ArrayLike
from numpy.typing import NDArray

from lconv_jax import models
from lconv_jax.models import layers
from lconv_jax.models.families import ConvFamily
from lconv_jax.models.three_fc import ThreeFC
from lconv_jax.optim.strengths import CountState
from lconv_jax.parallel import distributed
from lconv_jax.training.state import TrainState

# Sizes are multiples of this, filled up with dead units: matrix products are fast at such sizes.
MULTIPLE = 64
# A smaller network has to be compiled, so it must have at most this share of the weights.
WORTHWHILE = 2 / 3
# How far below the threshold the rounding of a sum that is zero must stay.
_MARGIN = 10.0

# States that a zero with a zero gradient passes through unchanged.
_STATES = (
    optax.EmptyState,
    optax.MaskedState,
    optax.ScaleByScheduleState,
    optax.TraceState,
    CountState,
)


class Hidden(NamedTuple):
    """A dense hidden layer: its name, its units, and what reads it."""

    name: str
    units: int
    reader: str
    normalised: bool  # whether a batch normalisation follows the reader
    dropout: float  # rate at which its outputs are dropped


def hidden_layers(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[Hidden, ...]:
    """The dense hidden layers of a model at its original size, first to last.

    Raises:
        ValueError: the model has none.
    """
    rate = getattr(model, "dropout", 0.0)
    if isinstance(model, ThreeFC):
        sizes = [("fc1", model.width), ("fc2", model.width)]
        dropped, last = {"fc1", "fc2"}, "fc3"
    elif isinstance(model, ConvFamily):
        shape, sizes = image_shape, []
        for number, conv in enumerate(model.convs, 1):
            shape = conv.output(shape)
            if model.kind == "fc":
                sizes.append((f"conv{number}", math.prod(shape)))
        dropped, last = {f"conv{len(model.convs)}", "fc1"}, "fc2"
        sizes.append(("fc1", model.hidden))
    else:
        raise ValueError(
            f"{type(model).__name__} has no dense hidden layer, and channels of a convolution with "
            "SAME padding cannot be removed. Set config.train.shrink to none"
        )
    readers = [name for name, _ in sizes[1:]] + [last]
    return tuple(
        Hidden(name, units, reader, reader != last, rate if name in dropped else 0.0)
        for (name, units), reader in zip(sizes, readers, strict=True)
    )


def check_optimizer(opt_state: Any) -> None:
    """Raises ValueError unless a zero weight with a zero gradient is known to stay zero."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "_fields"))
    for node in nodes:
        if not isinstance(node, _STATES):
            raise ValueError(
                f"the optimizer keeps a {type(node).__name__}, which may move a zero weight "
                "although its gradient is zero. Shrinking is proved only for SGD, with or without "
                "momentum, followed by β-lasso's threshold"
            )


def dead_units(
    hidden: tuple[Hidden, ...],
    state: TrainState,
    *,
    limits: Mapping[str, float],
    frozen: bool = False,
) -> dict[str, NDArray[np.bool_]]:
    """Which hidden units of a state can be left out, for each layer, [units] of the state's own.

    A unit is dead if it is *silent*: no incoming weight, and a BN bias ≤ 0 that momentum does not
    raise; or *cut off*: no weight in or out, no dropout, no momentum, and a BN after the layer
    that reads it. Layers are gone through first to last, and weights of units that were found dead
    count as none.

    Args:
        hidden: as `hidden_layers` gives.
        state: parameters and optimizer state, restricted or not.
        limits: for each layer that reads, the largest output of a cut-off unit at which rounding
            cannot revive its weights, as `output_limits` gives; a layer without one allows none.
        frozen: also units without incoming weights whose BN bias is positive: constant until
            their weights regrow, which they then no longer can.
    """
    limits = {layer.reader: limits.get(layer.reader, -1.0) for layer in hidden}
    found = _dead_units(
        hidden, state.params, optax.tree.get(state.opt_state, "trace"), limits, frozen
    )
    return {name: np.asarray(dead) for name, dead in distributed.fetch(found).items()}


@functools.partial(jax.jit, static_argnames=("hidden", "frozen"))
def _dead_units(
    hidden: tuple[Hidden, ...], params: Any, trace: Any, limits: Any, frozen: bool
) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = {}
    alive: Any = True
    for layer in hidden:
        bias = params[f"bn_{layer.name}"]["bias"]
        no_input = _no_entry(params[layer.name]["kernel"], alive)
        silent, cut_off = no_input & (bias <= 0), jnp.zeros_like(no_input)
        if trace is not None:
            silent &= _no_entry(trace[layer.name]["kernel"], alive)
            silent &= trace[f"bn_{layer.name}"]["bias"] >= 0
        elif layer.normalised and not layer.dropout:
            no_output = ~jnp.any(params[layer.reader]["kernel"] != 0, axis=1)
            cut_off = no_input & no_output & (bias <= limits[layer.reader])
        constant = no_input if frozen and not layer.dropout else jnp.zeros_like(no_input)
        found[layer.name] = silent | cut_off | constant
        alive = ~found[layer.name][:, None]
    return found


def _no_entry(matrix: jax.Array, alive: Any) -> jax.Array:
    return ~jnp.any((matrix != 0) & alive, axis=0)


def output_limits(
    model: nn.Module,
    state: TrainState,
    inputs: jax.Array,
    labels: jax.Array,
    thresholds: Mapping[str, float],
    learning_rate: float,
) -> dict[str, float]:
    """For each normalised layer, how large an output may be for its zero weights to stay zero.

    The gradient of a weight from a constant output c is c · Σ_b δ_b, and Σ_b δ_b is zero but for
    rounding. Rounding leaves about (B · u · s + 4 · v) · R of it, where u and v are the unit
    roundoffs of statistics and of matrix products; R = |γ| / √(var + ε) · Σ_b |g_b| is made of the
    terms that cancel, and s = 1 + max_b |x_b − mean| · |mean| / (var + ε) is what a mean that is
    far from zero adds; both are measured on one batch. The output may be as large as keeps η · c
    times that, and a margin of 10, below the threshold.

    Args:
        model: of the state, with or without units left out.
        state: the state.
        inputs, labels: a batch [B, …] and [B].
        thresholds: β·λ of each layer.
        learning_rate: η; later ones must not be larger.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    plain = model.clone(dropout=0.0)

    def loss_fn(shifts: Any) -> Any:
        scales: dict[str, jax.Array] = {}

        def shifted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y, name = call(*args, **kwargs), context.module.name
            if isinstance(context.module, layers.BatchNorm) and name in shifts:
                x = args[0].astype(y.dtype)
                u, v = (jnp.finfo(t).eps / 2 for t in (y.dtype, getattr(model, "dtype", y.dtype)))
                mean, var = jnp.mean(x, axis=0), jnp.var(x, axis=0) + context.module.epsilon
                far = 1 + jnp.max(jnp.abs(x - mean), axis=0) * jnp.abs(mean) / var
                scales[name] = (len(labels) * u * far + 4 * v) / jnp.sqrt(var)
                return y + shifts[name]
            return y

        with nn.intercept_methods(shifted):
            logits, _ = plain.apply(variables, inputs, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), scales

    names = [layer for layer in thresholds if f"bn_{layer}" in state.params]
    names = [layer for layer in names if state.params[layer]["kernel"].ndim == 2]
    shifts = {}
    for layer in names:
        scale = state.params[f"bn_{layer}"]["scale"]
        shifts[f"bn_{layer}"] = jnp.zeros((len(labels), *scale.shape), scale.dtype)
    gradients, scales = jax.grad(loss_fn, has_aux=True)(shifts)
    limits = {}
    for layer in names:
        bn = f"bn_{layer}"
        terms = jnp.abs(state.params[bn]["scale"]) * jnp.sum(jnp.abs(gradients[bn]), axis=0)
        residual = float(jnp.max(scales[bn] * terms)) * learning_rate * _MARGIN
        limits[layer] = thresholds[layer] / residual if residual else math.inf
    return {layer: limit for layer, limit in limits.items() if thresholds[layer] > 0}


def choose(
    hidden: tuple[Hidden, ...],
    params: Any,
    dead: Mapping[str, NDArray[np.bool_]],
    multiple: int = MULTIPLE,
) -> dict[str, NDArray[np.int64]] | None:
    """The units to keep, for each layer, or None if removing the others would save too little.

    Dead units fill a layer up to a multiple of `multiple` units. The matrices around the hidden
    layers must shrink to the share `WORTHWHILE` of their size, or below.
    """
    keep = {}
    for layer in hidden:
        gone = dead[layer.name]
        size = min(len(gone), max(1, -(-int((~gone).sum()) // multiple)) * multiple)
        # The living first, then the dead, each in order.
        keep[layer.name] = np.sort(np.argsort(gone, kind="stable")[:size])
    matrices = {name for layer in hidden for name in (layer.name, layer.reader)}
    places = _places({name: params[name] for name in matrices}, hidden, keep)
    kernels = models.kernels({name: params[name] for name in matrices})
    before = sum(kernel.size for kernel in kernels.values())
    after = sum(
        math.prod(place.shape(kernels[name].shape))
        for name, place in models.kernels(places).items()
    )
    return keep if after <= WORTHWHILE * before else None


def restrict(
    hidden: tuple[Hidden, ...],
    tx: optax.GradientTransformation,
    state: TrainState,
    keep: Mapping[str, NDArray[np.int64]],
) -> TrainState:
    """The state of the network that has the units `keep` only.

    A removed unit contributes relu(its BN bias) times its weight to the next layer. This constant
    is subtracted from the running mean of the next layer's BN, or added to its bias where it has no
    BN. It is 0 for silent and for cut-off units.
    """
    params, stats = dict(state.params), dict(state.batch_stats)
    for layer in hidden:
        bias = params[f"bn_{layer.name}"]["bias"]
        gone = jnp.ones(bias.shape, bool).at[keep[layer.name]].set(False)
        constant = jnp.where(gone, jnp.maximum(bias, 0), 0) @ params[layer.reader]["kernel"]
        bn = f"bn_{layer.reader}"
        if layer.normalised:
            stats[bn] = {**stats[bn], "mean": stats[bn]["mean"] - constant}
        else:
            reader = params[layer.reader]
            params[layer.reader] = {**reader, "bias": reader["bias"] + constant}

    def take(leaf: jax.Array, place: _Place) -> jax.Array:
        return place.take(leaf)

    places = _places(params, hidden, keep)
    return TrainState(
        state.step,
        jax.tree.map(take, params, places),
        jax.tree.map(take, stats, _places(stats, hidden, keep)),
        optax.tree.map_params(tx, take, state.opt_state, places),
    )


def expand(
    hidden: tuple[Hidden, ...],
    tx: optax.GradientTransformation,
    state: TrainState,
    like: TrainState,
    kept: Mapping[str, NDArray[np.int64]],
) -> TrainState:
    """The state at the original shapes `like`, of which it has the units `kept`.

    The others have no weights, scale 1 and bias 0 in their BN, mean 0 and variance 1. The result's
    `kept` says which are there, so that a run can go on at the size it had.
    """

    def put(leaf: jax.Array, place: _Place, whole: Any) -> jax.Array:
        return place.put(leaf, whole.shape, 0.0)

    def put_norm(path: Any, leaf: jax.Array, place: _Place, whole: Any) -> jax.Array:
        return place.put(leaf, whole.shape, float(path[-1].key in ("scale", "var")))

    places = _places(like.params, hidden, kept)
    stats = _places(like.batch_stats, hidden, kept)
    return TrainState(
        state.step,
        jax.tree_util.tree_map_with_path(put_norm, state.params, places, like.params),
        jax.tree_util.tree_map_with_path(put_norm, state.batch_stats, stats, like.batch_stats),
        optax.tree.map_params(tx, put, state.opt_state, places, like.params),
        masks(hidden, kept),
    )


def masks(
    hidden: tuple[Hidden, ...], kept: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.bool_]]:
    """For each layer, [units], which of all its units are there."""
    return {layer.name: np.isin(np.arange(layer.units), kept[layer.name]) for layer in hidden}


@dataclasses.dataclass(frozen=True)
class _Place:
    """The indices of kept units along each axis of an array; None keeps the whole axis."""

    axes: tuple[NDArray[np.int64] | None, ...]

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        pairs = zip(self.axes, whole, strict=True)
        return tuple(size if index is None else len(index) for index, size in pairs)

    def take(self, array: jax.Array) -> jax.Array:
        for axis, index in enumerate(self.axes):
            if index is not None:
                array = jnp.take(array, index, axis)
        return array

    def put(self, array: jax.Array, whole: tuple[int, ...], fill: float) -> jax.Array:
        if all(index is None for index in self.axes):
            return array
        pairs = zip(self.axes, whole, strict=True)
        grid = np.ix_(*(np.arange(size) if index is None else index for index, size in pairs))
        return jnp.full(whole, fill, array.dtype).at[grid].set(array)


def _places(tree: Any, hidden: tuple[Hidden, ...], keep: Mapping[str, NDArray[np.int64]]) -> Any:
    """The `_Place` of each leaf of parameters or statistics."""
    rows = {layer.reader: keep[layer.name] for layer in hidden}

    def place(path: Any, leaf: Any) -> _Place:
        layer, name = path[0].key, path[-1].key
        units = keep.get(layer.removeprefix("bn_"))
        if name == "kernel" and leaf.ndim == 2:
            return _Place((rows.get(layer), units))
        return _Place((*(None,) * (leaf.ndim - 1), units if leaf.ndim == 1 else None))

    return jax.tree_util.tree_map_with_path(place, tree)
