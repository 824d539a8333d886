"""The image operations of AutoAugment as Pillow does them: compiled, for a batch, uint8.

Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", 2019, Table 6, are Pillow's
operations of these names. Levels are in Pillow's own units. Geometry takes the nearest pixel, in
Pillow's 16.16 fixed-point arithmetic, and fills pixels that come from outside with a constant.

`apply` does one operation on each image, a different one if need be, in one pass whatever they are:
a gather with each image's affine map; a blend b + α (x − o), which color, brightness, contrast,
sharpness and auto_contrast are; a threshold and a mask; and a table of 256 values for equalize.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax.errors import DataError


class Fill(NamedTuple):
    """Grey levels, one for each channel or one for all, of what an image does not have."""

    outside: tuple[int, ...] = (128,)  # what geometry brings in from outside
    cutout: tuple[int, ...] = (128,)  # the square of cutout


GREY = Fill()
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "cutout")
NAMES = (
    *GEOMETRIC,
    *("auto_contrast", "invert", "equalize", "solarize", "posterize"),
    *("contrast", "color", "brightness", "sharpness"),
)
_MOVED = frozenset(GEOMETRIC)
_BLENDED = frozenset(NAMES) - _MOVED - {"equalize"}
NO_LEVEL = frozenset({"auto_contrast", "invert", "equalize"})
# Pillow's, of ITU-R 601-2, in units of 2⁻¹⁶.
_LUMA = (19595, 38470, 7471)
_ONE = 1 << 16
# In the place of a pixel's index.
_OUTSIDE, _CUT = -1, -2


def operate(
    name: str, images: jax.Array, level: jax.Array | None = None, place: jax.Array | None = None
) -> jax.Array:
    """Does one operation on a batch of images, each with its own level.

    | name | what it does, and its level ℓ | Pillow |
    | --- | --- | --- |
    | shear_x | row y comes from ℓ · y pixels further right | `transform(AFFINE, …)` |
    | shear_y | column x comes from ℓ · x pixels further down | |
    | translate_x, translate_y | comes from ℓ pixels, perhaps not whole, further right or down | |
    | rotate | ℓ degrees counterclockwise about the centre | `Image.rotate` |
    | auto_contrast | each channel stretched to 0 … 255 | `ImageOps.autocontrast` |
    | invert | 255 − x | `ImageOps.invert` |
    | equalize | each channel's grey levels made about equally frequent | `ImageOps.equalize` |
    | solarize | 255 − x where x ≥ ℓ | `ImageOps.solarize` |
    | posterize | the upper ℓ bits, 1 … 8, a fraction cut off | `ImageOps.posterize` |
    | contrast | m + ℓ (x − m), m the mean of the grey image | `ImageEnhance.Contrast` |
    | color | g + ℓ (x − g), g the grey image; grey images stay | `ImageEnhance.Color` |
    | brightness | ℓ x | `ImageEnhance.Brightness` |
    | sharpness | s + ℓ (x − s), s the image smoothed 3 × 3 | `ImageEnhance.Sharpness` |
    | cutout | a square about ℓ pixels wide, clipped at the border, set to 128 | |

    The square of cutout is the one that Fast AutoAugment draws by `ImageDraw.rectangle`: from
    ⌊c − ℓ / 2⌋, at least 0, through ⌊that + ℓ⌋; a level of 0 leaves the image as it is.

    Args:
      name: one of `NAMES`.
      images: uint8 [B, H, W, C], C = 1 or 3.
      level: [B], or one for all; not for operations in `NO_LEVEL`.
      place: for cutout, [B, 2] in [0, 1): its centre c, (x / W, y / H).

    Returns:
      An array of the same shape and type.

    Raises:
      DataError: an unknown name; no level or place where one is needed; signals, images of another
        type, or of other than 1 or 3 channels.
    """
    if name not in NAMES:
        raise DataError(f"{name!r} is no operation; there are {', '.join(NAMES)}")
    if (level is None and name not in NO_LEVEL) or (place is None and name == "cutout"):
        wanted = "a level and a place" if name == "cutout" else "a level"
        raise DataError(f"{name} needs {wanted} for each image")
    check(images.shape, images.dtype, name)
    B = images.shape[0]
    level = jnp.zeros(B) if level is None else jnp.asarray(level, jnp.float32)
    place = jnp.zeros((B, 2)) if place is None else jnp.asarray(place, jnp.float32)
    return _jitted(name, images, jnp.broadcast_to(level, (B,)), place)


def check(shape: tuple[int, ...], dtype: Any, wanted: str = "the operations") -> None:
    """Raises DataError, about what is `wanted`, unless images are uint8 [B, H, W, 1 or 3]."""
    if len(shape) != 4:
        raise DataError(
            f"{wanted}: made for images [B, H, W, C], and these are signals of shape "
            f"{tuple(shape[1:])}; leave data.augment empty"
        )
    if dtype != jnp.uint8:
        raise DataError(
            f"{wanted}: made for uint8 images, and these are {jnp.dtype(dtype).name}; store them "
            "as uint8, or leave data.augment empty"
        )
    if shape[-1] not in (1, 3):
        raise DataError(
            f"{wanted}: made for images of 1 or 3 channels, and these have {shape[-1]}; leave "
            "data.augment empty"
        )


def to_planes(images_BxHxWxC: jax.Array) -> jax.Array:
    """[B, C, H, W]: numbers of an image or a channel are then spread over long rows."""
    return jnp.moveaxis(images_BxHxWxC, -1, 1)


def from_planes(planes_BxCxHxW: jax.Array) -> jax.Array:
    """The inverse of `to_planes`."""
    return jnp.moveaxis(planes_BxCxHxW, 1, -1)


def apply(
    planes_BxCxHxW: jax.Array,
    operation_TxB: jax.Array,
    level_TxB: jax.Array,
    place_TxBx2: jax.Array,
    names: Collection[str] = NAMES,
    fill: Fill = GREY,
) -> jax.Array:
    """T operations on each image, one after the other.

    Args:
      planes_BxCxHxW: uint8, of `to_planes`.
      operation_TxB: int32, an index into NAMES, or −1 for none.
      level_TxB: float32, as the operation takes it.
      place_TxBx2: float32 in [0, 1), of which cutout takes its centre.
      names: the operations that occur; what only others need is left out of the program.
      fill: grey levels of what comes from outside, and of cutout's square.

    Returns:
      The planes of the same shape.
    """
    move = functools.partial(_move, fill=fill)
    stages = [
        functools.partial(stage, names=frozenset(names) & group)
        for stage, group in ((move, _MOVED), (_blend, _BLENDED), (_equalize, {"equalize"}))
        if not group.isdisjoint(names)
    ]
    drawn = operation_TxB, level_TxB, place_TxBx2
    if not stages:
        return planes_BxCxHxW

    # Each stage reads its input several times at each pixel. XLA would fuse the stages, and do
    # each one's work anew for each of these reads; what a loop carries, it has to write down.
    def body(at: jax.Array, planes: jax.Array) -> jax.Array:
        time, stage = jnp.divmod(at, len(stages))
        return jax.lax.switch(stage, stages, planes, *(each[time] for each in drawn))

    return jax.lax.fori_loop(0, len(operation_TxB) * len(stages), body, planes_BxCxHxW)


def _among(operation: jax.Array, names: Collection[str], *wanted: str) -> jax.Array:
    """bool [B, 1, 1, 1]: whether the operation of an image is among those wanted."""
    masks = [operation == NAMES.index(name) for name in wanted if name in names]
    mask = functools.reduce(jnp.logical_or, masks, jnp.zeros(operation.shape, bool))
    return mask[:, None, None, None]


@functools.partial(jax.jit, static_argnums=0)
def _jitted(name: str, images: jax.Array, level: jax.Array, place: jax.Array) -> jax.Array:
    operation = jnp.full(level.shape, NAMES.index(name), jnp.int32)
    planes = to_planes(images)
    return from_planes(apply(planes, operation[None], level[None], place[None], {name}))


def _move(
    planes: jax.Array,
    operation: jax.Array,
    level: jax.Array,
    place: jax.Array,
    names: frozenset,
    fill: Fill,
) -> jax.Array:
    """The geometric operations: one gather through each image's affine map, and the fill."""
    B, C, H, W = planes.shape

    def level_of(name: str) -> jax.Array:
        return jnp.where(_among(operation, names, name).reshape(B), level, 0.0)

    # (x, y) comes from (xx x + xy y + x0, yx x + yy y + y0), all in units of 2⁻¹⁶ pixels.
    angle = level_of("rotate") * (math.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    right, down = level_of("shear_x"), level_of("shear_y")
    xx, xy = _fixed(cos), _fixed(right - sin)
    yx, yy = _fixed(down + sin), _fixed(cos)
    # Pillow rounds where the centre of the first pixel, (½, ½), comes from, once.
    x0 = _fixed((1 - cos) * (W / 2) + sin * (H / 2) + (cos + right - sin) / 2)
    y0 = _fixed((1 - cos) * (H / 2) - sin * (W / 2) + (cos + down + sin) / 2)
    # It moves by fractions of a pixel in floating point: half of one and more is a whole one.
    x0 += _ONE * _nearest(level_of("translate_x"))
    y0 += _ONE * _nearest(level_of("translate_y"))

    y, x = (part.reshape(1, -1) for part in np.indices((H, W), np.int32))
    xx, xy, x0, yx, yy, y0 = (each[:, None] for each in (xx, xy, x0, yx, yy, y0))
    from_x = (x0 + xx * x + xy * y) >> 16
    from_y = (y0 + yx * x + yy * y) >> 16
    inside = (from_x >= 0) & (from_x < W) & (from_y >= 0) & (from_y < H)
    index = jnp.where(inside, from_y * W + from_x, _OUTSIDE)
    if "cutout" in names:
        size = level_of("cutout")[:, None]
        left, top = (
            jnp.floor(jnp.maximum(0, place[:, axis, None] * side - size / 2))
            for axis, side in ((0, W), (1, H))
        )
        cut = (x >= left) & (x <= jnp.floor(left + size)) & (size > 0)
        index = jnp.where(cut & (y >= top) & (y <= jnp.floor(top + size)), _CUT, index)
    index = index[:, None]
    moved = jnp.take_along_axis(planes.reshape(B, C, -1), index, axis=2, mode="clip")
    moved = jnp.where(index == _OUTSIDE, _levels(fill.outside, C), moved)
    if "cutout" in names:
        moved = jnp.where(index == _CUT, _levels(fill.cutout, C), moved)
    return moved.reshape(planes.shape)


def _levels(colour: tuple[int, ...], channels: int) -> np.ndarray:
    """Grey levels uint8 [channels, 1]; a colour for one channel becomes grey as Pillow does it."""
    if channels == 1 and len(colour) == 3:
        colour = ((np.dot(colour, _LUMA) + _ONE // 2) >> 16,)
    return np.broadcast_to(np.asarray(colour, np.uint8)[:, None], (channels, 1))


def _fixed(value: jax.Array) -> jax.Array:
    return jnp.floor(value * _ONE + 0.5).astype(jnp.int32)


def _nearest(value: jax.Array) -> jax.Array:
    """⌊value + ½⌋; the sum, rounded, might be the next integer."""
    whole = jnp.floor(value)
    return (whole + (value - whole >= 0.5)).astype(jnp.int32)


def _blend(
    planes: jax.Array, operation: jax.Array, level: jax.Array, place: jax.Array, names: frozenset
) -> jax.Array:
    """The operations on pixel values but equalize: b + α (x − o), a threshold, a mask of bits."""
    chosen = functools.partial(_among, operation, names)
    level = level[:, None, None, None]
    alpha = jnp.where(chosen("contrast", "color", "brightness", "sharpness"), level, 1.0)
    origin = jnp.zeros_like(alpha)
    if names & {"contrast", "color"}:
        grey = _grey(planes)
        mean = jnp.floor(jnp.mean(grey, (1, 2, 3), dtype=jnp.float32, keepdims=True) + 0.5)
        origin = jnp.where(chosen("contrast"), mean, origin)
        origin = jnp.where(chosen("color"), grey.astype(jnp.float32), origin)
    if "sharpness" in names:
        origin = jnp.where(chosen("sharpness"), _smooth(planes), origin)
    base = origin
    if "auto_contrast" in names:
        low, high = (
            limit(planes, (2, 3), keepdims=True).astype(jnp.float32) for limit in (jnp.min, jnp.max)
        )
        stretch = chosen("auto_contrast") & (high > low)
        alpha = jnp.where(stretch, 255 / jnp.maximum(high - low, 1), alpha)
        origin = jnp.where(stretch, low, origin)
        # A whole number is not to fall short of itself by rounding; others are 1 / 255 apart.
        base = jnp.where(stretch, 1e-3, base)
    # Pillow cuts the fraction off.
    blended = jnp.clip(base + alpha * (planes.astype(jnp.float32) - origin), 0, 255)
    values = blended.astype(jnp.uint8)
    if names & {"solarize", "invert"}:
        threshold = jnp.where(chosen("solarize"), level, jnp.where(chosen("invert"), 0.0, 256.0))
        # The least integer at or above the threshold decides alike.
        threshold = jnp.clip(jnp.ceil(threshold), 0, 256).astype(jnp.int16)
        values = jnp.where(values.astype(jnp.int16) >= threshold, ~values, values)
    if "posterize" in names:
        bits = jnp.where(chosen("posterize"), jnp.clip(level, 0, 8), 8).astype(jnp.uint32)
        values &= (jnp.uint32(0xFF00) >> bits).astype(jnp.uint8)
    return values


def _grey(planes: jax.Array) -> jax.Array:
    """`convert("L")`, int32 [B, 1, H, W]."""
    if planes.shape[1] == 1:
        return planes.astype(jnp.int32)
    red, green, blue = (
        planes[:, channel : channel + 1].astype(jnp.int32) * weight
        for channel, weight in enumerate(_LUMA)
    )
    return (red + green + blue + _ONE // 2) >> 16


def _smooth(planes: jax.Array) -> jax.Array:
    """`filter(SMOOTH)`: 3 × 3 ones with 5 in the centre, by 13; the border stays. float32."""
    wide = planes.astype(jnp.int16)
    H, W = planes.shape[2:]
    if H < 3 or W < 3:
        return wide.astype(jnp.float32)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    # The total is at most 13 · 255, and what is rounded are multiples of 1 / 13.
    inner = jnp.floor(total.astype(jnp.float32) / 13 + 0.5)
    return wide.astype(jnp.float32).at[:, :, 1:-1, 1:-1].set(inner)


def _equalize(
    planes: jax.Array, operation: jax.Array, level: jax.Array, place: jax.Array, names: frozenset
) -> jax.Array:
    """ImageOps.equalize: x becomes ⌊(⌊step / 2⌋ + pixels below x) / step⌋."""
    B, C, H, W = planes.shape
    flat = planes.reshape(B * C, H * W)
    if jax.device_count() > 1:
        # By row, so that a batch that is split over devices is counted where it is.
        counts = jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1))(flat)
    else:  # The same in half the time.
        cells = flat.astype(jnp.int32) + 256 * jnp.arange(B * C)[:, None]
        counts = jnp.zeros(B * C * 256, jnp.int32).at[cells].add(1, mode="promise_in_bounds")
    counts = counts.reshape(-1, 16, 16).astype(jnp.float32)
    # Sums over what is before in two rounds of 16: float32 holds integers up to 2²⁴ pixels.
    before = np.triu(np.ones((16, 16), np.float32), 1)
    high = jax.lax.Precision.HIGHEST
    below = jnp.matmul(counts, before, precision=high)
    below += jnp.matmul(counts.sum(2), before, precision=high)[..., None]
    last = jnp.max(flat, 1).astype(jnp.int32)
    below = below.reshape(-1, 256)
    step = jnp.floor(jnp.take_along_axis(below, last[:, None], axis=1) / 255)
    found = jnp.take_along_axis(below, flat.astype(jnp.int32), axis=1, mode="promise_in_bounds")
    found = jnp.floor((jnp.floor(step / 2) + found) / jnp.maximum(step, 1))
    found = jnp.minimum(found, 255).astype(jnp.uint8)
    found = jnp.where(step > 0, found, flat).reshape(planes.shape)
    return jnp.where(_among(operation, names, "equalize"), found, planes)
