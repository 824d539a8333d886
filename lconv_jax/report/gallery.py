"""First-layer filters as small pictures that a page holds in itself."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lconv_jax import analysis
from lconv_jax.analysis import filter_key
from lconv_jax.analysis.colours import BLUE, RED, diverging, tints

# Units of a signal's picture: a position is so wide, the drawing so high.
_WIDE, _HIGH = 4, 70


class Filter(NamedTuple):
    """A first-layer filter.

    Attributes:
      unit: its number in the layer.
      picture: data URI of an image.
      parts: of a colour filter, name and picture of the weights of each colour.
      width, height: of the pictures; a weight of an image is a pixel.
      nonzeros: weights that are not zero.
      largest: magnitude of its largest weight.
      share: of its non-zeros in its best window; None where that is not defined.
    """

    unit: int
    picture: str
    parts: list[tuple[str, str]]
    width: int
    height: int
    nonzeros: int
    largest: float
    share: float | None


class Gallery(NamedTuple):
    """Some filters of a layer, how many it has, and what their colours mean."""

    filters: list[Filter]
    units: int
    live: int
    rule: str
    window: int | None


def make(
    kernel: NDArray[Any], image_shape: tuple[int, ...], *, most: int, window: int | None
) -> Gallery:
    """The filters that `analysis.choose_units` chooses, in the order of their numbers.

    Args:
      kernel: of the first layer (see `analysis.first_layer_filters`).
      image_shape: [*spatial, channels] of an example.
      most: filters that are shown.
      window: side of the windows that shares are of, for a dense layer; None for no shares.
    """
    filters = analysis.first_layer_filters(kernel, image_shape)
    flat = filters.reshape(len(filters), -1)
    nonzeros = np.count_nonzero(flat, axis=1)
    chosen = np.sort(analysis.choose_units(filters, most))
    found: Any
    shares: list[float | None] = [None] * len(chosen)
    if window is not None and len(chosen):
        support = flat[chosen].T != 0
        some = support.any(0)  # a filter without weights has no share
        found = analysis.window_share(support[:, some], image_shape, window) if some.any() else ()
        for place, share in zip(np.flatnonzero(some), found, strict=True):
            shares[place] = float(share)
    signal = filters.shape[1] == 1
    shown = []
    for unit, share in zip(chosen.tolist(), shares, strict=True):
        one = filters[unit]
        peak = float(np.abs(one).max())
        picture, size, parts = (_signal if signal else _image)(one / peak if peak else one)
        shown.append(Filter(unit, picture, parts, *size, int(nonzeros[unit]), peak, share))
    kind = filter_key.SIGNAL if signal else filter_key.IMAGE
    rule = filter_key.rule(kind, filters.shape[3])
    return Gallery(shown, len(filters), int(np.count_nonzero(nonzeros)), rule, window)


def _image(weights: NDArray[Any]) -> tuple[str, tuple[int, int], list[tuple[str, str]]]:
    """Picture, size and parts of weights in −1 … 1, [height, width, channels]."""
    height, width, channels = weights.shape
    if channels == 3:
        parts = [
            (name, _png(diverging(weights[..., channel, None])))
            for channel, name in enumerate(("red", "green", "blue"))
        ]
        return _png(tints(weights)), (width, height), parts
    summed = np.clip(weights.sum(-1, keepdims=True), -1, 1)
    return _png(diverging(summed)), (width, height), []


def _signal(weights: NDArray[Any]) -> tuple[str, tuple[int, int], list[tuple[str, str]]]:
    """The same of [1, length, channels]: bars, or of several channels a row of pixels each."""
    _, length, channels = weights.shape
    if channels > 1:
        return _png(diverging(weights[0].T[..., None])), (length, channels), []
    width = _WIDE * length
    bars = [
        f'<rect x="{_WIDE * at + 0.5:g}" y="{(1 - max(weight, 0)) * _HIGH / 2:.2f}" '
        f'width="{_WIDE - 1}" height="{abs(weight) * _HIGH / 2:.2f}" fill="{_hex(weight)}"/>'
        for at, weight in enumerate(weights[0, :, 0].tolist())
        if weight
    ]
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HIGH}" '
        f'width="{width}" height="{_HIGH}" preserveAspectRatio="none">'
        f'<path d="M0 {_HIGH / 2}H{width}" stroke="#999" stroke-width="0.5"/>{"".join(bars)}</svg>'
    )
    return _uri(drawing.encode(), "image/svg+xml"), (width, _HIGH), []


def _hex(weight: float) -> str:
    return "#" + bytes((255 * (RED if weight > 0 else BLUE)).astype(np.uint8)).hex()


def _png(rgb: NDArray[Any]) -> str:
    """Fractions [height, width, 3] as a PNG with a pixel each."""
    pixels = (255 * rgb).astype(np.uint8)
    image = Image.fromarray(pixels)
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) <= 256:  # half as many bytes
        image = Image.fromarray(index.astype(np.uint8).reshape(pixels.shape[:2])).convert("P")
        image.putpalette(colours.tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return _uri(stream.getvalue(), "image/png")


def _uri(contents: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"
