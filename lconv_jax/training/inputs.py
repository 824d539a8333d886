"""From stored images to a model's input: augmentation, scaling, and a permutation of the pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax import data
from lconv_jax.data.augmentation import policies
from lconv_jax.training import rng

# Keys of a policy and of the noise, which follow from that of the shifts; its draws count from 0.
_POLICY, _NOISE = 1, 2**32 - 1


class Inputs(NamedTuple):
    """The two functions between the stored images of a run and its model.

    Attributes:
      augment: see `make_augment`.
      preprocess: see `make_preprocess`.
    """

    augment: Callable[[jax.Array, jax.Array], jax.Array]
    preprocess: Callable[[jax.Array], jax.Array]


def make_inputs(config: Any, image_shape: tuple[int, ...], order: Any = None) -> Inputs:
    """Both functions of a configuration; `order` as in each."""
    return Inputs(make_augment(config, order), make_preprocess(config, image_shape, order))


def permutation_seed(config: Any) -> int | None:
    """The seed of the permutation that `data.permute` asks for, or None where it asks for none."""
    permute = config.data.permute
    return None if permute == 0 else config.seed if permute == 1 else permute


def pixel_order(config: Any, image_shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixel of a stored image that the model sees as its i-th; None without `data.permute`.

    Pixels are numbered in row-major order, and channels stay together.
    """
    seed = permutation_seed(config)
    return None if seed is None else permutation(seed, image_shape)


def permutation(seed: int, image_shape: tuple[int, ...]) -> np.ndarray:
    """The `pixel_order` of a seed."""
    pixels = math.prod(image_shape[:-1])
    with jax.ensure_compile_time_eval():  # also where a program is being traced
        return np.asarray(jax.random.permutation(rng.key_for(seed, rng.PERMUTATION), pixels))


def make_preprocess(
    config: Any, image_shape: tuple[int, ...], order: Any = None
) -> Callable[[jax.Array], jax.Array]:
    """The function from stored images [B, *image_shape] to the model's input: scale, permute.

    The permutation comes after augmentation, so that shifts and flips are those of real images;
    with `data.permute_first` see `make_augment`. `order`, which may be traced, takes the place of
    the configuration's own permutation.
    """
    order = pixel_order(config, image_shape) if order is None else order
    if order is None:
        return data.normalize
    return lambda images: _permuted(data.normalize(images), order)


def make_augment(config: Any, order: Any = None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (key, stored images) -> images of the configuration's augmentation.

    The policy of `data.augment`, then shift, flip and cutout, then noise; with noise the images
    are normalised, which `make_preprocess` leaves as they are. With `data.permute_first`
    the permuted images are augmented and then put back in order. A later step permutes them again,
    so the model sees augmented permuted images.

    Args:
      config: of the run.
      order: takes the place of the configuration's own permutation, and may be traced.
    """
    shift = functools.partial(
        data.augment,
        crop=config.data.crop,
        flip=config.data.flip,
        cutout=config.data.cutout,
        cutout_fill=config.data.cutout_fill,
    )
    policy = policies.load(config.data.augment) if config.data.augment else None
    noise = config.data.noise
    permuted_first = config.data.permute and config.data.permute_first
    if policy is None and not permuted_first and not noise:
        return shift

    def change(key: jax.Array, images: jax.Array) -> jax.Array:
        if policy is not None:
            images = policies.augment(jax.random.fold_in(key, _POLICY), images, policy)
        return shift(key, images)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if permuted_first:
            there = pixel_order(config, images.shape[1:]) if order is None else order
            changed = change(key, _permuted(images, there))
            images = _permuted(changed, jnp.argsort(jnp.asarray(there)))
        else:
            images = change(key, images)
        if not noise:
            return images
        draws = jax.random.normal(jax.random.fold_in(key, _NOISE), images.shape)
        return data.normalize(images) + noise * draws

    return augment


def _permuted(images: jax.Array, order: Any) -> jax.Array:
    """Images [B, *spatial, C] whose pixel i is pixel order[i] of the given ones."""
    flat = images.reshape(images.shape[0], -1, images.shape[-1])
    return flat[:, order].reshape(images.shape)
