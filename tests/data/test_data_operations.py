"""The operations of AutoAugment against Pillow's."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from lconv_jax.data import operations

SHAPES = [(28, 28, 1), (32, 32, 3), (13, 22, 3), (21, 10, 1), (2, 5, 1)]
BATCH = 6
LEVELS = {
    "shear_x": (-1, 1),
    "shear_y": (-1, 1),
    "translate_x": (-40, 40),
    "translate_y": (-40, 40),
    "rotate": (-400, 400),
    "solarize": (0, 256),
    "posterize": (1, 8.875),
    "contrast": (0, 3),
    "color": (0, 3),
    "brightness": (0, 3),
    "sharpness": (0, 3),
    "cutout": (0, 30),
}


def with_pillow(name, image, level, place=(0, 0)):
    """The operation on one image [H, W, C] by Pillow itself."""
    height, width, channels = image.shape
    pil = Image.fromarray(image[..., 0] if channels == 1 else image)
    fill = 128 if channels == 1 else (128,) * 3
    affine = {
        "shear_x": (1, level, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, level, 1, 0),
        "translate_x": (1, 0, level, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, level),
    }
    if name in affine:
        result = pil.transform(
            pil.size, Image.Transform.AFFINE, affine[name], Image.Resampling.NEAREST, fillcolor=fill
        )
    elif name == "rotate":
        result = pil.rotate(level, Image.Resampling.NEAREST, fillcolor=fill)
    elif name == "cutout":
        result = pil.copy()
        if level > 0:  # Fast AutoAugment's
            x, y = (
                int(max(0, at * side - level / 2))
                for at, side in zip(place, (width, height), strict=True)
            )
            corner = min(width, x + level), min(height, y + level)
            ImageDraw.Draw(result).rectangle((x, y, *corner), fill)
    elif name in ("contrast", "color", "brightness", "sharpness"):
        result = getattr(ImageEnhance, name.capitalize())(pil).enhance(level)
    elif name == "posterize":
        result = ImageOps.posterize(pil, int(level))
    elif name == "solarize":
        result = ImageOps.solarize(pil, level)
    else:
        result = getattr(ImageOps, name.replace("_", ""))(pil)
    return np.asarray(result).reshape(image.shape)


def make_images(shape, seed):
    """Noise over ranges of grey levels, blurred for some, and one image of a single level."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 200, (BATCH, 1, 1, shape[-1]))
    high = low + rng.integers(1, 257 - low)
    images = rng.integers(low, high, (BATCH, *shape))
    images[0] = images[0, 0, 0]
    images[1] = (images[1].cumsum(0) // (1 + np.arange(shape[0])[:, None, None])).clip(0, 255)
    return images.astype(np.uint8)


@pytest.mark.parametrize("name", operations.NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(draw=st.data(), shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**31))
def test_it_is_pillow_s(name, draw, shape, seed):
    images = make_images(shape, seed)
    low, high = LEVELS.get(name, (0, 1))
    level = st.floats(low, high, width=32) | st.integers(int(low), int(high)).map(np.float32)
    levels = np.asarray(draw.draw(st.lists(level, min_size=BATCH, max_size=BATCH)), np.float32)
    places = np.random.default_rng(seed).random((BATCH, 2), np.float32)
    arguments = {"cutout": (levels, places)}.get(name, (levels,))
    function = getattr(operations, name)
    results = np.asarray(function(jnp.asarray(images), *arguments[: name in LEVELS and 2]))
    assert results.dtype == np.uint8
    wrong = 0
    for image, result, level, place in zip(images, results, levels, places, strict=True):
        expected = with_pillow(name, image, float(level), place.astype(float))
        wrong += (abs(result.astype(int) - expected) > 1).mean() / BATCH
    assert wrong <= 0.01
