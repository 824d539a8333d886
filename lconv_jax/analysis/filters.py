"""The first layer's filters as pictures."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray


def first_layer_filters(kernel: Any, image_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weights of each unit of a first layer, laid out as images.

    Args:
      kernel: dense [inputs, units], convolutional [*window, channels, units] or local
        [*positions, *window, channels, units], with a unit for each position and channel.
      image_shape: [*spatial, channels] of the input.

    Returns:
      [units, height, width, channels]; a signal's height is 1. Local filters are shown as their
      windows, position by position.
    """
    weights = np.asarray(kernel, np.float32)
    rank = len(image_shape) - 1
    if weights.ndim == 2:
        weights = weights.reshape(*image_shape, -1)
    positions = weights.ndim - rank - 2
    window = weights.shape[positions:-1]
    filters = np.moveaxis(weights, -1, positions).reshape(-1, *window)
    return filters if rank == 2 else filters[:, None]


def choose_filters(
    filters: NDArray[np.float32], count: int, *, min_nonzeros: int = 20, seed: int = 0
) -> NDArray[np.float32]:
    """`count` filters at random among those with at least `min_nonzeros` non-zeros.

    The paper draws its filters so (Figure 4). If there are fewer, the fullest others follow.
    """
    nonzeros = np.count_nonzero(filters.reshape(len(filters), -1), axis=1)
    order = np.random.default_rng(seed).permutation(len(filters))
    enough = order[nonzeros[order] >= min_nonzeros]
    others = order[nonzeros[order] < min_nonzeros]
    fullest = others[np.argsort(-nonzeros[others], kind="stable")]
    return filters[np.concatenate([enough, fullest])[:count]]


def tile(filters: NDArray[np.float32], *, scale: int = 2, gap: int = 2) -> NDArray[np.uint8]:
    """Filters side by side in a near-square grid, as an RGB image [H, W, 3].

    Each filter is divided by its largest magnitude. One channel: blue is negative, white zero, red
    positive. Three channels: grey is zero. Other numbers of channels are summed to one.
    """
    count, height, width, channels = filters.shape
    peak = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = filters / np.where(peak > 0, peak, 1)
    if channels == 3:
        rgb = 0.5 + 0.5 * scaled
    else:
        value = np.clip(scaled.sum(-1, keepdims=True), -1, 1)
        red, blue = np.array([0.70, 0.02, 0.15]), np.array([0.02, 0.19, 0.58])
        ink = np.where(value > 0, red, blue)
        rgb = 1 - np.abs(value) * (1 - ink)
    pixels = np.kron((255 * rgb).astype(np.uint8), np.ones((1, scale, scale, 1), np.uint8))
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell = np.array([height, width]) * scale + gap
    image = np.full((rows * cell[0] + gap, columns * cell[1] + gap, 3), 128, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = np.array(divmod(index, columns)) * cell + gap
        image[top : top + height * scale, left : left + width * scale] = picture
    return image


def save_filters(filters: NDArray[np.float32], path: str | os.PathLike[str]) -> None:
    """Writes `tile(filters)` as a PNG."""
    from matplotlib import image  # here, so that importing the analysis loads no plotting

    image.imsave(path, tile(filters, scale=max(1, 84 // max(filters.shape[1:3]))))
