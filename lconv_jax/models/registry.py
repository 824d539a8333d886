"""The models by name."""

from __future__ import annotations

import difflib
from operator import index

import jax.numpy as jnp
from flax import linen as nn

from lconv_jax.models import layers
from lconv_jax.models.families import ConvFamily, d_convs, s_convs
from lconv_jax.models.resnet import ResNet18
from lconv_jax.models.three_fc import ThreeFC

NAMES = ("d_conv", "d_local", "d_fc", "s_conv", "s_local", "s_fc", "three_fc", "resnet18")


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest valid name, unless `name` is one of NAMES."""
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown model {name!r}; did you mean {near!r}? The models are {', '.join(NAMES)}"
        )


def _at_least(argument: str, value: int, low: int) -> int:
    try:
        valid = not isinstance(value, bool) and index(value) >= low
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"{argument} must be an integer ≥ {low}, got {value!r}")
    return index(value)


def create(
    name: str,
    *,
    alpha: int,
    num_classes: int,
    kernel_size: int = 3,
    dropout: float = 0.0,
    dtype: layers.Dtype = jnp.float32,
    bn_momentum: float = 0.9,
) -> nn.Module:
    """The model `name`, for images [B, H, W, C] or signals [B, L, C] of any size and channels.

    `model.init(key, x)` gives {"params", "batch_stats"}. Layers are `conv<i>` and `fc<i>`, each
    {"kernel"}, the last with a "bias"; the normalisation of a layer is `bn_<layer>`.
    `model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})`
    trains; without `train` the running statistics are used and nothing is random.

    Args:
        name: one of NAMES. `d_*` and `s_*` are the deep and the shallow family of Neyshabur,
            "Towards Learning Convolutions from Scratch", NeurIPS 2020, Section 2, Tables 3 and 4.
        alpha: base channels of a family or of `resnet18` (64 is the original); for `three_fc` the
            units of each of its two hidden layers.
        num_classes: number of logits.
        kernel_size: side of `resnet18`'s convolutions. The other models have no choice.
        dropout: rate before the last two dense layers (`resnet18` has one), in training mode only.
        dtype: of the matrix products. Parameters, normalisation and logits are float32, or float64
            if `dtype` is, which needs JAX's 64-bit mode.
        bn_momentum: weight of the past in the running statistics of batch normalisation; with 0
            they are those of the last batch.

    Raises:
        ValueError: an argument is unknown or out of range; the message names it.
    """
    check_name(name)
    alpha = _at_least("alpha", alpha, 1)
    num_classes = _at_least("num_classes", num_classes, 2)
    kernel_size = _at_least("kernel_size", kernel_size, 1)
    if name != "resnet18" and kernel_size != 3:
        raise ValueError(f"kernel_size is an argument of resnet18 only, {name} has its own")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
    if not 0 <= bn_momentum <= 1:
        raise ValueError(f"bn_momentum must be in [0, 1], got {bn_momentum!r}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating point type, got {dtype!r}")
    shared = {"dropout": dropout, "dtype": dtype, "bn_momentum": bn_momentum}
    if name == "three_fc":
        return ThreeFC(alpha, num_classes, **shared)
    if name == "resnet18":
        return ResNet18(alpha, num_classes, kernel_size, **shared)
    family, kind = name.split("_")
    convs, hidden = (d_convs, 64) if family == "d" else (s_convs, 24)
    return ConvFamily(kind, convs(alpha), hidden * alpha, num_classes, **shared)
