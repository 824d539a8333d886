"""How many weights a network has, how often each is used, and how wide a budget makes it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lconv_jax.models.layers import Conv
from lconv_jax.models.registry import check_name, create


def first_layer(layers: Mapping[str, Any]) -> str:
    """The name of the layer that sees the image, among parameters or kernels by layer."""
    return "conv1" if "conv1" in layers else "fc1"


def layer_name(path: Any) -> str:
    """The name in `kernels` of the layer that has a parameter at this path."""
    return "/".join(key.key for key in path[:-1])


def layer_of(path: Any) -> str:
    """The layer, as `kernels` names it, that the leaf at this path belongs to or normalises."""
    *block, layer = (key.key for key in path[:-1])
    return "/".join([*block, layer.removeprefix("bn_")])


def kernels(params: Any) -> dict[str, Any]:
    """The weights of each layer, by the layer's name, with "/" inside a block ("block1/conv1").

    Args:
        params: a model's parameters, or a tree like them (of shapes, of gradients).
    """
    return {
        layer_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    }


def count_weights(
    name: str,
    alpha: int,
    image_shape: tuple[int, ...],
    num_classes: int,
    kernel_size: int = 3,
) -> dict[str, int]:
    """The number of weights of each layer: its kernel's size, without biases and normalisation.

    Read off the model's own parameter tree by abstract evaluation, so nothing is allocated. The
    keys are layers, with "/" inside a block, as in "block1/conv1".

    For d-conv, d-fc and the s-family this is Table 3 and Table 4 of Neyshabur, "Towards Learning
    Convolutions from Scratch", NeurIPS 2020, at every side that 16 (2 for the s-family) divides.
    The paper's d-local column is not the weights of that network: it prints 9s²α²/2, /4, …, /128
    for conv2 … conv8, where a local layer has 9 · C_in · C_out at each of its own output
    positions, 9s²α² · (½, 1, ½, 1, ½, 1, ½). The true figure is returned here.

    A SAME local layer has taps that fall on the padding. They are in its kernel, and are counted;
    its dense twin has no weight in their place.

    Args:
        name: one of NAMES.
        alpha: base channels (three_fc: hidden units).
        image_shape: (H, W, C) of an image or (L, C) of a signal.
        num_classes: number of logits.
        kernel_size: side of resnet18's convolutions.

    Raises:
        ValueError: as `create`, or `image_shape` is not two or more integers ≥ 1.
    """
    _check_shape(image_shape)
    model = create(name, alpha=alpha, num_classes=num_classes, kernel_size=kernel_size)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return {layer: math.prod(kernel.shape) for layer, kernel in kernels(params).items()}


def count_uses(
    name: str,
    alpha: int,
    image_shape: tuple[int, ...],
    num_classes: int,
    kernel_size: int = 3,
) -> dict[str, int]:
    """How many multiplications each weight of a layer takes part in, for one example.

    A weight of a convolution is used at each output position; at the border its products with the
    padding count too. A weight of a local or a dense layer is used once.

    Args and raises: as `count_weights`.
    """
    _check_shape(image_shape)
    model = create(name, alpha=alpha, num_classes=num_classes, kernel_size=kernel_size)
    uses: dict[str, int] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y, layer = call(*args, **kwargs), context.module
        if isinstance(layer, (Conv, nn.Dense)):
            shared = isinstance(layer, Conv) and layer.shared
            uses["/".join(layer.path)] = math.prod(y.shape[1:-1]) if shared else 1
        return y

    with nn.intercept_methods(record):
        x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), x)
    return uses


def _check_shape(image_shape: Any) -> None:
    if len(image_shape) < 2 or not all(isinstance(n, int) and n >= 1 for n in image_shape):
        raise ValueError(
            "image_shape must be integers ≥ 1, (H, W, C) for images or (L, C) for signals, "
            f"got {image_shape!r}"
        )


def base_channels(
    name: str, fc_weights: float, image_shape: tuple[int, ...], num_classes: int
) -> int:
    """The α whose fully connected embedding has the number of weights nearest to `fc_weights`.

    A whole family is sized by its fully connected member, so that twins share their α: `d_fc` for
    `d_*`, `s_fc` for `s_*`. `three_fc` and `resnet18` are sized by themselves.

    For 32×32×3 images, 10 classes and the paper's 256 M weights this gives its α = 150 for the
    s-family. For the d-family it gives 14, with 249 M weights; the paper has 15, with 282 M.

    Args:
        name: one of NAMES.
        fc_weights: the budget, > 0. Below the size of α = 1, α = 1 is returned.
        image_shape: as in `count_weights`.
        num_classes: as in `count_weights`.

    Raises:
        ValueError: as `count_weights`, or `fc_weights` is not a positive number.
    """
    check_name(name)
    if not 0 < fc_weights < math.inf:
        raise ValueError(f"fc_weights must be a positive number, got {fc_weights!r}")
    sized = name.partition("_")[0] + "_fc" if name[:2] in ("d_", "s_") else name

    def total(alpha: int) -> int:
        return sum(count_weights(sized, alpha, image_shape, num_classes).values())

    high = 1
    while total(high) < fc_weights:
        high *= 2
    above = bisect_left(range(high), fc_weights, lo=1, key=total)
    return min(max(above - 1, 1), above, key=lambda alpha: abs(total(alpha) - fc_weights))
