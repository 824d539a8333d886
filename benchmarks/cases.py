"""The models that benchmarks measure, and the matrix products that each is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax import config as config_lib
from lconv_jax import data, models
from lconv_jax.training.setup import Setup, prepare

CLASSES = 10
SMALL, COLOUR = (28, 28, 1), (32, 32, 3)


class Case(NamedTuple):
    """A model at one size, and how many of its steps one call of the compiled loop takes.

    With `weights` in place of `alpha`, α is that of the network nearest to so many weights in the
    family's fully connected form.
    """

    model: str
    image_shape: tuple[int, ...]
    steps: int
    alpha: int = 0
    weights: float = 0
    batch: int = 512
    gpu_only: bool = False

    def channels(self) -> int:
        """α."""
        if self.alpha:
            return self.alpha
        return models.base_channels(self.model, self.weights, self.image_shape, CLASSES)

    def toy(self) -> Case:
        """The same model at a size that takes no time."""
        side = 16 if self.model.startswith("d_") else 12
        shape = (side, side, self.image_shape[-1])
        return self._replace(image_shape=shape, steps=2, alpha=2, weights=0, batch=16)


CASES = {
    "s_fc_8": Case("s_fc", SMALL, 10, alpha=8),
    "s_fc_16": Case("s_fc", SMALL, 5, alpha=16),
    "s_fc_16m": Case("s_fc", COLOUR, 2, weights=16e6),
    "s_fc_256m": Case("s_fc", COLOUR, 10, weights=256e6, gpu_only=True),
    "s_conv": Case("s_conv", COLOUR, 2, weights=16e6),
    "s_local": Case("s_local", COLOUR, 2, weights=16e6),
    "d_conv": Case("d_conv", COLOUR, 1, weights=64e6),
    "d_local": Case("d_local", COLOUR, 1, weights=64e6),
    "resnet18": Case("resnet18", COLOUR, 1, weights=0.7e6),
}


def make_experiment(
    case: Case,
    *,
    dtype: str = "float32",
    augment: bool = True,
    changes: Mapping[str, Any] | None = None,
) -> Setup:
    """The case on random images, with all that a training step can contain.

    The labels are random too: there is nothing to learn, and what a step costs does not depend on
    it. `changes` are of the configuration.
    """
    config: Any = config_lib.base_config()
    config.data.name = "random"
    config.data.crop, config.data.flip = (4, True) if augment else (0, False)
    config.model.name, config.model.alpha, config.model.dtype = case.model, case.channels(), dtype
    config.optimizer.learning_rate = 0.05
    config.optimizer.l1.conv = config.optimizer.l1.fc = 1e-5
    config.train.batch_size = case.batch
    config = config_lib.with_overrides(config, changes or {})
    return prepare(config, random_images(case))


def random_images(case: Case) -> data.Dataset:
    """As many random images as the steps of one call need."""
    rng, count = np.random.default_rng(0), case.batch * case.steps
    images = rng.integers(0, 256, (count, *case.image_shape), np.uint8)
    split = data.Split(images, rng.integers(0, CLASSES, count, np.int32))
    return data.Dataset("random", CLASSES, split, data.Split(images[:0], split.labels[:0]), split)


class Product(NamedTuple):
    """`groups` products [rows, inner] @ [inner, columns]: what a layer's forward pass is."""

    groups: int
    rows: int
    inner: int
    columns: int
    backward: int  # products of the same arithmetic in the backward pass

    @property
    def flops(self) -> int:
        """Multiplications and additions of the forward and backward products."""
        return 2 * (1 + self.backward) * math.prod(self[:4])


def products(model: Any, image_shape: tuple[int, ...], batch: int) -> list[Product]:
    """The matrix products of one training step, by layer.

    A convolution counts as the product of its unfolded input [batch · positions, taps · channels]
    with its kernel, a local layer as one product [batch, taps · channels] for each position. There
    are two more in the backward pass, to the weights and to the input; the first layer, whose
    input is the image, has one.
    """
    x = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    def forward(x: jax.Array) -> Any:
        _, state = model.init_with_output(
            jax.random.key(0), x, train=True, capture_intermediates=True
        )
        return state["params"], state["intermediates"]

    params, seen = jax.eval_shape(forward, x)
    layers = models.kernels(params)
    first = "conv1" if "conv1" in layers else "fc1"
    found = []
    for name, kernel in layers.items():
        node = seen
        for part in name.split("/"):
            node = node[part]
        output = node["__call__"][0].shape
        positions, inner = math.prod(output[1:-1]), kernel.size // kernel.shape[-1]
        backward = 1 if name == first else 2
        rank = len(output) - 2
        if rank and kernel.ndim == 2 * rank + 2:  # local: a kernel for each position
            sizes = (positions, batch, inner // positions)
        else:
            sizes = (1, batch * positions, inner)
        found.append(Product(*sizes, kernel.shape[-1], backward))
    return found
