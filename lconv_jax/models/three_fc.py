"""The three-layer fully connected network, which owes nothing to a convolution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from lconv_jax.models import layers


class ThreeFC(nn.Module):
    """Two hidden dense layers of equal width, each with batch normalisation and ReLU, then logits.

    Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Section 2, 3-FC.

    Attributes:
        width: units of `fc1` and of `fc2`; `fc3` gives the logits.
        num_classes: number of logits.
        dropout: rate before `fc2` and before `fc3`, in training mode only.
        dtype: of the matrix products. Parameters and batch normalisation stay in float32 (float64
            if `dtype` is).
        bn_momentum: weight of the past in the running statistics of batch normalisation.
        kept: as in `ConvFamily`, of `fc1` and `fc2`.
    """

    width: int
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
        x, kept = x.reshape(x.shape[0], -1), dict(self.kept)
        for name in ("fc1", "fc2"):
            units = kept.get(name)
            there = self.width if units is None else len(units)
            x = layers.dense(there, name=name, dtype=self.dtype)(x)
            bn = layers.batch_norm(name, train=train, momentum=self.bn_momentum, dtype=self.dtype)
            x = layers.dropout(nn.relu(bn(x)), self.dropout, train=train, of=self.width, kept=units)
        x = layers.dense(self.num_classes, name="fc3", dtype=self.dtype, use_bias=True)(x)
        return x.astype(layers.param_dtype(self.dtype))
