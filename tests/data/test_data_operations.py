"""The operations of AutoAugment against Pillow's."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import pillow_operations
from lconv_jax.data.augmentation import operations
from lconv_jax.errors import DataError

SHAPES = [(28, 28, 1), (13, 22, 3), (21, 10, 3), (2, 5, 1)]
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


def make_images(shape, seed):
    """Noise over ranges of grey levels, blurred for some, and one image of a single level."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 200, (BATCH, 1, 1, shape[-1]))
    high = low + rng.integers(1, 257 - low)
    images = rng.integers(low, high, (BATCH, *shape))
    images[0] = images[0, 0, 0]
    images[1] = (images[1].cumsum(0) // (1 + np.arange(shape[0])[:, None, None])).clip(0, 255)
    return images.astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", operations.NAMES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(draw=st.data(), shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**31))
def test_it_is_pillow_s(name, draw, shape, seed):
    images = make_images(shape, seed)
    low, high = LEVELS.get(name, (0, 1))
    level = st.floats(low, high, width=32) | st.integers(int(low), int(high)).map(np.float32)
    levels = np.asarray(draw.draw(st.lists(level, min_size=BATCH, max_size=BATCH)), np.float32)
    places = np.random.default_rng(seed).random((BATCH, 2), np.float32)
    arguments = {"cutout": (levels, places)}.get(name, (levels,))
    arguments = arguments[: name in LEVELS and 2]
    results = np.asarray(operations.operate(name, jnp.asarray(images), *arguments))
    assert results.dtype == np.uint8
    wrong = 0
    for image, result, level, place in zip(images, results, levels, places, strict=True):
        expected = pillow_operations.apply(name, image, float(level), tuple(place.tolist()))
        wrong += (abs(result.astype(int) - expected) > 1).mean() / BATCH
    assert wrong <= 0.01


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shear", (), "'shear' is no operation; there are shear_x,"),
        ("rotate", (), "rotate needs a level for each image"),
        ("cutout", (3.0,), "cutout needs a level and a place"),
    ],
)
def test_what_an_operation_lacks_is_named(name, arguments, said):
    with pytest.raises(DataError, match=said):
        operations.operate(name, jnp.zeros((1, 4, 4, 3), jnp.uint8), *arguments)
