"""The first layer's filters as pictures."""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis import filter_key
from lconv_jax.analysis.colours import BLUE, RED, diverging, tints
from lconv_jax.host.files import write_atomically


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


def unpermuted_rows(
    kernel: Any, order: NDArray[np.integer[Any]], image_shape: tuple[int, ...]
) -> NDArray[Any]:
    """A dense first layer's weights [inputs, units] for images whose pixels were not permuted.

    Args:
      kernel: of a network that saw pixel order[i] of each image as pixel i; channels stay together.
      order: [pixels].
      image_shape: [*spatial, channels] of the input.
    """
    weights = np.asarray(kernel)
    by_pixel = weights.reshape(-1, image_shape[-1], weights.shape[-1])
    return by_pixel[np.argsort(order)].reshape(weights.shape)


def choose_filters(
    filters: NDArray[np.float32], count: int, *, min_nonzeros: int = 20, seed: int = 0
) -> NDArray[np.float32]:
    """`count` filters at random among those with at least `min_nonzeros` non-zeros.

    The paper draws its filters so (Figure 4). If there are fewer, the fullest others follow.
    """
    return filters[choose_units(filters, count, min_nonzeros=min_nonzeros, seed=seed)]


def choose_units(
    filters: NDArray[np.float32], count: int, *, min_nonzeros: int = 20, seed: int = 0
) -> NDArray[np.int64]:
    """The indices of the filters that `choose_filters` chooses, in its order."""
    nonzeros = np.count_nonzero(filters.reshape(len(filters), -1), axis=1)
    order = np.random.default_rng(seed).permutation(len(filters))
    enough = order[nonzeros[order] >= min_nonzeros]
    others = order[nonzeros[order] < min_nonzeros]
    fullest = others[np.argsort(-nonzeros[others], kind="stable")]
    return np.concatenate([enough, fullest])[:count]


def tile(filters: NDArray[np.float32], *, scale: int = 2, gap: int = 2) -> NDArray[np.uint8]:
    """Filters side by side in a near-square grid, as an RGB image [H, W, 3].

    Each filter is divided by its largest magnitude. One channel: blue is negative, white zero, red
    positive. Three channels: grey is zero, and a weight adds to its colour or takes from it; white
    lines are between the filters. Other numbers of channels are summed to one.
    """
    count, height, width, channels = filters.shape
    peak = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = filters / np.where(peak > 0, peak, 1)
    if channels == 3:
        rgb: NDArray[Any] = tints(scaled)
    else:
        value = np.clip(scaled.sum(-1, keepdims=True), -1, 1)
        rgb = diverging(value)
    pixels = np.kron((255 * rgb).astype(np.uint8), np.ones((1, scale, scale, 1), np.uint8))
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell = np.array([height, width]) * scale + gap
    image = np.full(
        (rows * cell[0] + gap, columns * cell[1] + gap, 3), 255 if channels == 3 else 128, np.uint8
    )
    for index, picture in enumerate(pixels):
        top, left = np.array(divmod(index, columns)) * cell + gap
        image[top : top + height * scale, left : left + width * scale] = picture
    return image


def picture(filters: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Filters as a picture to look at: `tile` for images, `draw_signals` for signals.

    Below them a key says what the colours are. The shorter side of an image takes at least 40
    pixels, the longer one at least 96.
    """
    if filters.shape[1] == 1:
        return filter_key.below(draw_signals(filters), filter_key.SIGNAL, filters.shape[3])
    shortest, longest = sorted(filters.shape[1:3])
    scale = max(math.ceil(96 / longest), math.ceil(40 / shortest))
    return filter_key.below(tile(filters, scale=scale), filter_key.IMAGE, filters.shape[3])


def draw_signals(filters: NDArray[np.float32], *, scale: int = 1) -> NDArray[np.uint8]:
    """Filters of signals in a grid, as an RGB image [H, W, 3].

    Each filter is divided by its largest magnitude. One channel: a bar for each weight, upwards and
    red if positive, downwards and blue if negative, against its position; a weight that is zero has
    none. Several channels: a heat map, a row for each channel and a column for each position, in
    the colours of `tile`. The first cell's axes are labelled and hold for all.

    Args:
      filters: [units, 1, length, channels].
      scale: of the whole drawing, for print.
    """
    # Here, so that importing the analysis loads no plotting.
    from matplotlib import collections, figure
    from matplotlib.backends import backend_agg

    count, _, length, channels = filters.shape
    # In pixels: the cell, and what is left of and above the first for its labels.
    wide, high, gap, left, top = max(150, 2 * length), max(70, 6 * channels), 10, 46, 30
    columns = max(1, min(math.ceil(math.sqrt(count)), 1600 // (wide + gap)))
    rows = math.ceil(count / columns)
    width, height = left + columns * (wide + gap), top + rows * (high + gap)
    drawn = figure.Figure(figsize=(width / 100, height / 100), dpi=100 * scale)
    canvas = backend_agg.FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    bars, inks, baselines, boxes = [], [], [], []
    peak = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = (filters / np.where(peak > 0, peak, 1))[:, 0]
    centres = (np.arange(length) + 0.5) * wide / length
    for index, weights in enumerate(scaled):
        x, y = left + index % columns * (wide + gap), top + index // columns * (high + gap)
        boxes.append([(x, y), (x + wide, y), (x + wide, y + high), (x, y + high), (x, y)])
        if channels > 1:
            axes.imshow(
                diverging(weights.T[..., None]),
                extent=(x, x + wide, y + high, y),
                aspect="auto",
                interpolation="nearest",
            )
            continue
        zero = y + high / 2
        baselines.append([(x, zero), (x + wide, zero)])
        for at, weight in zip(x + centres, weights[:, 0], strict=True):
            if weight:
                bars.append([(at, zero), (at, zero - 0.47 * high * weight)])
                inks.append(RED if weight > 0 else BLUE)
    # Lines are in points, 72 to the 100 pixels of an inch.
    bar_width = 0.72 * max(0.75 * wide / length, 1)
    axes.add_collection(collections.LineCollection(baselines, colors="0.6", linewidths=0.5))
    axes.add_collection(
        collections.LineCollection(bars, colors=inks, linewidths=bar_width, capstyle="butt")
    )
    axes.add_collection(collections.LineCollection(boxes, colors="0.6", linewidths=0.7))
    axes.set(xlim=(0, width), ylim=(height, 0))
    middle, upper, lower = ("weight", "+1", "−1")
    if channels > 1:
        middle, upper, lower = ("channel", "0", f"{channels - 1}")
    for x, y, label, across, along in (
        (left, top - 4, "0", "left", "baseline"),
        (left + wide / 2, top - 4, "position", "center", "baseline"),
        (left + wide, top - 4, f"{length - 1}", "right", "baseline"),
        (left - 5, top, upper, "right", "top"),
        (left - 5, top + high, lower, "right", "bottom"),
        (left - 24, top + high / 2, middle, "center", "center"),
    ):
        turn = 90 if label == middle else 0
        axes.text(x, y, label, ha=across, va=along, rotation=turn, fontsize=8, color="0.2")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_filters(filters: NDArray[np.float32], path: str | os.PathLike[str]) -> None:
    """Writes `picture(filters)` as a PNG."""
    from matplotlib import image  # here, so that importing the analysis loads no plotting

    drawn = io.BytesIO()
    image.imsave(drawn, picture(filters), format="png")
    write_atomically(path, drawn.getvalue())
