"""The three families are nested: shared ⊂ local ⊂ dense, as linear maps between kernels and back.

A convolution is a local layer that repeats its kernel at every position, and a local layer is a
dense layer that is zero outside its windows. `embed` walks up this ladder without changing what the
network computes; `project` walks down it, to the nearest layer of the smaller family in the least
squares sense. One table, `window_taps`, says which input each tap of each window reads, and
drives all of it.

Kernels: shared [*window, C, C_out], local [*outputs, *window, C, C_out], dense
[prod(sides) · C, prod(outputs) · C_out] in row-major order.

Source: the twins are those of Section 2 of Neyshabur, "Towards Learning Convolutions from Scratch",
NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lconv_jax.models.families import KINDS, ConvFamily
from lconv_jax.models.layers import output_sides


def window_taps(sides: tuple[int, ...], window: tuple[int, ...], stride: int) -> np.ndarray:
    """Which input each tap of a SAME convolution reads.

    Args:
        sides: spatial sides of the input.
        window: side of the window along each of them.
        stride: the same along each of them.

    Returns:
        [output positions, taps]: the input's position, row-major, or −1 on the padding.
    """
    pads = lax.padtype_to_pads(sides, window, (stride,) * len(sides), "SAME")
    taps, inside = np.zeros((1, 1), int), np.ones((1, 1), bool)
    for side, size, (low, _) in zip(sides, window, pads, strict=True):
        at = stride * np.arange(-(-side // stride))[:, None] - low + np.arange(size)
        at = at[None, :, None, :]
        shape = taps.shape[0] * at.shape[1], taps.shape[1] * size
        taps = (taps[:, None, :, None] * side + at).reshape(shape)
        inside = (inside[:, None, :, None] & (at >= 0) & (at < side)).reshape(shape)
    return np.where(inside, taps, -1)


def local_from_shared(kernel: jax.Array, sides: tuple[int, ...], stride: int) -> jax.Array:
    """The local kernel that repeats a shared one, with zeros at the taps on the padding."""
    window, (_, features) = kernel.shape[:-2], kernel.shape[-2:]
    taps = window_taps(sides, window, stride)
    flat = kernel.reshape(1, taps.shape[1], -1, features)
    local = jnp.where((taps >= 0)[:, :, None, None], flat, 0)
    return local.reshape(*output_sides(sides, stride), *kernel.shape)


def shared_from_local(kernel: jax.Array, sides: tuple[int, ...], stride: int) -> jax.Array:
    """The shared kernel nearest to a local one: each tap's mean over the positions that have it.

    A tap that falls on the padding at every position is 0.
    """
    shape = kernel.shape[len(sides) :]
    taps = window_taps(sides, shape[:-2], stride)
    inside = (taps >= 0)[:, :, None, None]
    total = jnp.where(inside, kernel.reshape(*taps.shape, *shape[-2:]), 0).sum(0)
    return (total / np.maximum(inside.sum(0), 1).astype(kernel.dtype)).reshape(shape)


def dense_from_local(kernel: jax.Array, sides: tuple[int, ...], stride: int) -> jax.Array:
    """The dense kernel of a local one: zero outside the windows. Taps on the padding are lost."""
    window, (channels, features) = kernel.shape[len(sides) : -2], kernel.shape[-2:]
    taps = window_taps(sides, window, stride)
    inputs, (outputs, _) = math.prod(sides), taps.shape
    # Scattering to row `inputs`, which does not exist, drops a tap; −1 would mean the last row.
    rows = np.where(taps < 0, inputs, taps)
    dense = jnp.zeros((inputs, channels, outputs, features), kernel.dtype)
    values = kernel.reshape(*taps.shape, channels, features)
    dense = dense.at[rows, :, np.arange(outputs)[:, None], :].set(values, mode="drop")
    return dense.reshape(inputs * channels, outputs * features)


def local_from_dense(
    kernel: jax.Array, sides: tuple[int, ...], window: tuple[int, ...], stride: int
) -> jax.Array:
    """The local kernel nearest to a dense one: its entries inside the windows.

    Taps on the padding are 0.
    """
    taps = window_taps(sides, window, stride)
    inputs, (outputs, _) = math.prod(sides), taps.shape
    dense = jnp.asarray(kernel).reshape(inputs, kernel.shape[0] // inputs, outputs, -1)
    rows = np.where(taps < 0, inputs, taps)
    local = dense.at[rows, :, np.arange(outputs)[:, None], :].get(mode="fill", fill_value=0)
    return local.reshape(*output_sides(sides, stride), *window, *local.shape[-2:])


def embed(
    variables: Mapping[str, Any],
    source: ConvFamily,
    target: ConvFamily,
    image_shape: tuple[int, ...],
) -> dict[str, Any]:
    """The variables with which `target`, a larger twin, computes what `source` does.

    Convolution → local → dense. Logits are equal in evaluation mode for all three, and in training
    mode for a convolution and its local twin, which normalise the same axes; a dense twin
    normalises each unit by itself. Parameters and running statistics of normalisation are repeated
    from channels to units.

    Args:
        variables: {"params"} of `source`, and "batch_stats" if there.
        source, target: two of `<family>_conv`, `<family>_local`, `<family>_fc`, as made by
            `create` with the same α.
        image_shape: (H, W, C) of the images or (L, C) of the signals.

    Raises:
        ValueError: the models are not twins in this order, or the variables are not of `source`.
    """
    _check(variables, source, target, image_shape, KINDS)
    widen = target.kind == "fc" != source.kind

    def kernel(kernel: jax.Array, sides: tuple[int, ...], window: tuple[int, ...], stride: int):
        if source.kind == "conv" != target.kind:
            kernel = local_from_shared(kernel, sides, stride)
        return dense_from_local(kernel, sides, stride) if widen else kernel

    def norm(norm: Mapping[str, jax.Array], outputs: int) -> dict[str, jax.Array]:
        return {key: jnp.tile(value, outputs) if widen else value for key, value in norm.items()}

    return _map_convs(variables, source, image_shape, kernel, norm)


def project(
    variables: Mapping[str, Any],
    source: ConvFamily,
    target: ConvFamily,
    image_shape: tuple[int, ...],
) -> dict[str, Any]:
    """The variables of `target`, a smaller twin, nearest to those of `source`.

    Dense → local → convolution: each kernel is projected orthogonally on the kernels that `embed`
    reaches, so `project` undoes `embed`, up to local taps on the padding, which become 0. For
    normalisation, units are averaged to channels, and running variances are pooled: the mean of
    the variances plus the variance of the means.

    Args:
        variables, source, target, image_shape: as in `embed`, from the larger twin to the smaller.

    Raises:
        ValueError: the models are not twins in this order, or the variables are not of `source`.
    """
    _check(variables, source, target, image_shape, KINDS[::-1])
    narrow = source.kind == "fc" != target.kind

    def kernel(kernel: jax.Array, sides: tuple[int, ...], window: tuple[int, ...], stride: int):
        if narrow:
            kernel = local_from_dense(kernel, sides, window, stride)
        return shared_from_local(kernel, sides, stride) if target.kind == "conv" else kernel

    def norm(norm: Mapping[str, jax.Array], outputs: int) -> dict[str, jax.Array]:
        if not narrow:
            return dict(norm)
        units = {key: value.reshape(outputs, -1) for key, value in norm.items()}
        channels = {key: value.mean(0) for key, value in units.items()}
        if "var" in channels:
            channels["var"] = channels["var"] + units["mean"].var(0)
        return channels

    return _map_convs(variables, source, image_shape, kernel, norm)


def _map_convs(
    variables: Mapping[str, Any],
    model: ConvFamily,
    image_shape: tuple[int, ...],
    kernel: Callable[..., jax.Array],
    norm: Callable[[Mapping[str, jax.Array], int], dict[str, jax.Array]],
) -> dict[str, Any]:
    """`variables` with every convolution's kernel and normalisation mapped, the rest as it is."""
    result = {collection: dict(tree) for collection, tree in variables.items()}
    shape = image_shape
    for number, conv in enumerate(model.convs, 1):
        sides, shape = shape[:-1], conv.output(shape)
        window = (conv.kernel_size,) * len(sides)
        weights = result["params"][f"conv{number}"]["kernel"]
        result["params"][f"conv{number}"] = {"kernel": kernel(weights, sides, window, conv.stride)}
        for tree in result.values():
            if f"bn_conv{number}" in tree:
                outputs = math.prod(shape[:-1])
                tree[f"bn_conv{number}"] = norm(tree[f"bn_conv{number}"], outputs)
    return result


def _check(
    variables: Mapping[str, Any],
    source: ConvFamily,
    target: ConvFamily,
    image_shape: tuple[int, ...],
    order: tuple[str, ...],
) -> None:
    for model in (source, target):
        if not isinstance(model, ConvFamily):
            raise ValueError(f"only the d- and s-families have twins, got {type(model).__name__}")
    if source.convs != target.convs or source.hidden != target.hidden:
        raise ValueError("source and target must be of one family with the same alpha")
    if order.index(source.kind) > order.index(target.kind):
        raise ValueError(
            f"source must come before target in {' → '.join(order)}, "
            f"got {source.kind} → {target.kind}"
        )
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    expected = jax.eval_shape(source.init, jax.random.key(0), x)
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": variables["params"]}):
        node: Any = expected
        for key in path:
            node = node.get(key.key) if isinstance(node, Mapping) else None
        if node is None or node.shape != leaf.shape:
            raise ValueError(
                f"the variables do not fit the source model for images {image_shape}: "
                f"{jax.tree_util.keystr(path)} is {leaf.shape}, "
                f"expected {None if node is None else node.shape}"
            )
