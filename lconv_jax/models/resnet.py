"""ResNet-18 for small images, with convolutions of any size."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from lconv_jax.models import layers


def _conv_bn(
    x: jax.Array,
    name: str,
    features: int,
    kernel_size: int,
    stride: int,
    *,
    train: bool,
    bn_momentum: float,
    dtype: layers.Dtype,
) -> jax.Array:
    x = layers.Conv(features, kernel_size, stride, dtype=dtype, name=name)(x)
    return layers.batch_norm(name, train=train, momentum=bn_momentum, dtype=dtype)(x)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut: a 1×1 convolution where the shape changes.

    The original block of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
    with batch normalisation after each convolution and ReLU after the sum.

    Attributes:
        features: output channels.
        kernel_size: side of the two convolutions; the shortcut's stays 1.
        stride: of the first convolution and of the shortcut.
        train, bn_momentum, dtype: as in `ResNet18`.
    """

    features: int
    kernel_size: int
    stride: int
    train: bool
    bn_momentum: float
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *sides, C] → [B, *output sides, features]."""
        conv_bn = partial(
            _conv_bn, train=self.train, bn_momentum=self.bn_momentum, dtype=self.dtype
        )
        y = nn.relu(conv_bn(x, "conv1", self.features, self.kernel_size, self.stride))
        y = conv_bn(y, "conv2", self.features, self.kernel_size, 1)
        if x.shape != y.shape:
            x = conv_bn(x, "conv_shortcut", self.features, 1, self.stride)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 with a stem of stride 1 and no max-pool, as is usual for 32×32 images.

    Eight basic blocks, two each with `alpha` · (1, 2, 4, 8) channels, the first of each pair but
    the first with stride 2; global average pooling; one dense layer.

    Source: He et al., CVPR 2016, with the kernel size of Figure 5 of Neyshabur, "Towards Learning
    Convolutions from Scratch", NeurIPS 2020.

    Attributes:
        alpha: channels of the stem; 64 is the original.
        num_classes: number of logits.
        kernel_size: side of every convolution but the 1×1 shortcuts.
        dropout: rate before the dense layer, the only one there is, in training mode only.
        dtype: of the convolutions and the matrix product. Parameters and batch normalisation stay
            in float32 (float64 if `dtype` is).
        bn_momentum: weight of the past in the running statistics of batch normalisation.
    """

    alpha: int
    num_classes: int
    kernel_size: int = 3
    dropout: float = 0.0
    dtype: layers.Dtype = jnp.float32
    bn_momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images [B, H, W, C] or signals [B, L, C] → logits [B, num_classes].

        Raises:
            ValueError: x has no spatial axis or is not floating point.
        """
        layers.check_input(x)
        settings = {"train": train, "bn_momentum": self.bn_momentum, "dtype": self.dtype}
        x = nn.relu(_conv_bn(x, "conv1", self.alpha, self.kernel_size, 1, **settings))
        for block in range(8):
            width = self.alpha * 2 ** (block // 2)
            stride = 2 if block in (2, 4, 6) else 1
            x = BasicBlock(width, self.kernel_size, stride, **settings, name=f"block{block + 1}")(x)
        x = x.mean(tuple(range(1, x.ndim - 1)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = layers.dense(self.num_classes, name="fc1", dtype=self.dtype, use_bias=True)(x)
        return x.astype(layers.param_dtype(self.dtype))
