"""Each operation of `augmentation.operations` on one image, by Pillow itself. No JAX is needed.

The tests compare with it, and `benchmarks.autoaugment` takes its time.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

FILL = 128


def apply(
    name: str,
    image: np.ndarray,
    level: float,
    place: tuple[float, float] = (0, 0),
    fill: int | tuple[int, ...] = FILL,
) -> np.ndarray:
    """The operation on one uint8 image [H, W, C], C = 1 or 3, of the same shape and type."""
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(on_picture(name, picture, level, place, fill)).reshape(image.shape)


def on_picture(
    name: str,
    picture: Image.Image,
    level: float,
    place: tuple[float, float] = (0, 0),
    fill: int | tuple[int, ...] = FILL,
) -> Image.Image:
    """The operation on one picture, grey or RGB; `place` is the centre of cutout's square.

    `fill` is what geometry brings in from outside, or the colour of cutout's square.
    """
    if picture.mode == "RGB" and isinstance(fill, int):
        fill = (fill,) * 3
    affine = {
        "shear_x": (1, level, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, level, 1, 0),
        "translate_x": (1, 0, level, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, level),
    }
    if name in affine:
        nearest = Image.Resampling.NEAREST
        how = Image.Transform.AFFINE
        return picture.transform(picture.size, how, affine[name], nearest, fillcolor=fill)
    if name == "rotate":
        return picture.rotate(level, Image.Resampling.NEAREST, fillcolor=fill)
    if name == "cutout":
        return _cutout(picture, level, place, fill)
    if name in ("contrast", "color", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(picture).enhance(level)
    if name == "posterize":
        return ImageOps.posterize(picture, int(level))
    if name == "solarize":
        return ImageOps.solarize(picture, level)  # type: ignore[arg-type]
    return getattr(ImageOps, name.replace("_", ""))(picture)


def _cutout(
    picture: Image.Image, level: float, place: tuple[float, float], fill: int | tuple[int, ...]
) -> Image.Image:
    """The rectangle that Fast AutoAugment draws."""
    if level <= 0:
        return picture
    width, height = picture.size
    left = int(max(0, place[0] * width - level / 2))
    top = int(max(0, place[1] * height - level / 2))
    corner = min(width, left + level), min(height, top + level)
    result = picture.copy()
    ImageDraw.Draw(result).rectangle((left, top, *corner), fill)
    return result
