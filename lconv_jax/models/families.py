"""The d- and s-families: a convolutional network and its local and fully connected twins."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lconv_jax.models import layers

KINDS = ("conv", "local", "fc")


class ConvShape(NamedTuple):
    """One convolution: output channels, stride, and the side of its window."""

    channels: int
    stride: int
    kernel_size: int

    def output(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(*sides, C) of the input → (*sides, channels) of the output."""
        return (*layers.output_sides(shape[:-1], self.stride), self.channels)


class ConvFamily(nn.Module):
    """Convolutions, then two dense layers, with the convolutions in one of three forms.

    Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Section 2. Every
    layer but the last is followed by batch normalisation and ReLU.

    Attributes:
        kind: "conv" shares weights between positions. "local" has the same connections, each
            with its own weight. "fc" is a dense layer with as many units as the convolution has
            outputs; inputs and units are numbered in row-major [*sides, channel] order.
        convs: the convolutions. Layer i is named `conv<i>` whatever the kind, so that twins find
            each other's weights under the same name.
        hidden: units of `fc1`; `fc2` gives the logits.
        num_classes: number of logits.
        dropout: rate before `fc1` and before `fc2`, in training mode only.
        dtype: of the matrix products. Parameters and batch normalisation stay in float32 (float64
            if `dtype` is).
        bn_momentum: weight of the past in the running statistics of batch normalisation.
        kept: pairs of a dense hidden layer and the units of it that are there, ascending, by their
            number among all; a layer that is not named has all. See `training.hidden_units`.
    """

    kind: str
    convs: tuple[ConvShape, ...]
    hidden: int
    num_classes: int
    dropout: float = 0.0
    dtype: layers.Dtype = jnp.float32
    bn_momentum: float = 0.9
    kept: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images [B, H, W, C] or signals [B, L, C] → logits [B, num_classes].

        Raises:
            ValueError: x has no spatial axis or is not floating point.
        """
        layers.check_input(x)

        def bn_relu(x: jax.Array, layer: str) -> jax.Array:
            bn = layers.batch_norm(layer, train=train, momentum=self.bn_momentum, dtype=self.dtype)
            return nn.relu(bn(x))

        def flat(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], -1)

        def dense(x: jax.Array, name: str, units: int) -> jax.Array:
            there = len(kept[name]) if name in kept else units
            return layers.dense(there, name=name, dtype=self.dtype)(flat(x))

        shape, kept, name = x.shape[1:], dict(self.kept), ""
        for number, conv in enumerate(self.convs, 1):
            name, shape = f"conv{number}", conv.output(shape)
            if self.kind == "fc":
                x = dense(x, name, math.prod(shape))
            else:
                x = layers.Conv(
                    *(conv.channels, conv.kernel_size, conv.stride),
                    shared=self.kind == "conv",
                    dtype=self.dtype,
                    name=name,
                )(x)
            x = bn_relu(x, name)
        drop = partial(layers.dropout, rate=self.dropout, train=train)
        x = drop(flat(x), of=math.prod(shape), kept=kept.get(name))
        x = bn_relu(dense(x, "fc1", self.hidden), "fc1")
        x = drop(x, of=self.hidden, kept=kept.get("fc1"))
        x = layers.dense(self.num_classes, name="fc2", dtype=self.dtype, use_bias=True)(x)
        return x.astype(layers.param_dtype(self.dtype))


def d_convs(alpha: int) -> tuple[ConvShape, ...]:
    """The eight 3-wide convolutions of the d-family (Table 3)."""
    plan = ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2))
    return tuple(ConvShape(width * alpha, stride, 3) for width, stride in plan)


def s_convs(alpha: int) -> tuple[ConvShape, ...]:
    """The one 9-wide convolution of the s-family (Table 4)."""
    return (ConvShape(alpha, 2, 9),)
