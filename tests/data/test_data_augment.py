"""Augmentation against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data

SHAPES = [(7, 6, 1), (6, 7, 3), (9, 2)]


def make_images(shape, batch=8, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 256, (batch, *shape)).astype(dtype)


def shifted(image, rows, columns):
    """`image` [H, W, C] with its pixel (rows, columns) at the origin, and zeros come in."""
    height, width, _ = image.shape
    pad = max(height, width)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[pad + rows :, pad + columns :][:height, :width]


@functools.partial(jax.jit, static_argnames=("crop", "flip", "cutout"))
def augment(key, images, crop=0, flip=False, cutout=0):
    return data.augment(key, images, crop=crop, flip=flip, cutout=cutout)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_asked_nothing_done(shape):
    images = make_images(shape)
    np.testing.assert_array_equal(augment(jax.random.key(0), images), images)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from(SHAPES[:2]),
    crop_flip_dtype=st.sampled_from(
        [(0, True, np.uint8), (1, False, np.float32), (5, True, np.uint8)]
    ),
    seed=st.integers(0, 2**31),
)
def test_each_image_is_one_of_the_shifts(shape, crop_flip_dtype, seed):
    crop, flip, dtype = crop_flip_dtype
    images = make_images(shape, dtype=dtype)
    augmented = np.asarray(augment(jax.random.key(seed), images, crop, flip))
    assert augmented.dtype == dtype
    steps = range(-crop, crop + 1)
    for image, result in zip(images, augmented, strict=True):
        sources = [image, image[:, ::-1]] if flip else [image]
        assert any(
            np.array_equal(result, shifted(source, rows, columns))
            for source in sources
            for rows in steps
            for columns in steps
        )


def test_all_shifts_and_mirrors_are_equally_likely():
    image = make_images((5, 5, 1), batch=1)[0]
    batch = np.repeat(image[None], 18_000, 0)
    results = np.asarray(augment(jax.random.key(1), batch, 1, True))
    found, counts = np.unique(results.reshape(len(batch), -1), axis=0, return_counts=True)
    expected = {
        shifted(source, rows, columns).tobytes()
        for source in (image, image[:, ::-1])
        for rows in (-1, 0, 1)
        for columns in (-1, 0, 1)
    }
    assert {row.tobytes() for row in found} == expected
    assert len(expected) == 18
    assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all()


@settings(max_examples=5, deadline=None)
@given(crop=st.sampled_from([1, 8]), seed=st.integers(0, 2**31))
def test_signals_are_shifted(crop, seed):
    signals = make_images((9, 2))
    augmented = np.asarray(augment(jax.random.key(seed), signals, crop))
    for signal, result in zip(signals, augmented, strict=True):
        candidates = [shifted(signal[None], 0, step)[0] for step in range(-crop, crop + 1)]
        assert any(np.array_equal(result, candidate) for candidate in candidates)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(shape=st.sampled_from(SHAPES), cutout=st.sampled_from([1, 5]), seed=st.integers(0, 2**31))
def test_cutout_is_a_square_clipped_at_the_border(shape, cutout, seed):
    images = make_images(shape, batch=64)
    augmented = np.asarray(augment(jax.random.key(seed), images, cutout=cutout))
    for image, result in zip(images, augmented, strict=True):
        cut = result == 0
        np.testing.assert_array_equal(result[~cut], image[~cut])
        assert (cut == cut[..., :1]).all()  # all channels alike
        for axis in range(len(shape) - 1):
            others = tuple(other for other in range(len(shape)) if other != axis)
            marked = np.flatnonzero(cut.any(others))
            assert (np.diff(marked) == 1).all()
            # It is whole, unless it touches a border, where at least half of it stays.
            touches = marked[0] == 0 or marked[-1] == shape[axis] - 1
            assert len(marked) == cutout or (touches and cutout // 2 <= len(marked) < cutout)
        assert cut[..., 0].sum() == np.prod(
            [
                cut.any(tuple(other for other in range(len(shape)) if other != axis)).sum()
                for axis in range(len(shape) - 1)
            ]
        )


def test_cutout_centres_are_uniform():
    images = np.ones((20_000, 4, 5, 1), np.uint8)
    cut = np.asarray(augment(jax.random.key(2), images, cutout=1)) == 0
    assert (cut.sum((1, 2, 3)) == 1).all()
    counts = cut.sum((0, 3))
    assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all()


def test_cutout_is_where_the_centre_is_not_what_was_shifted_in():
    images = np.full((500, 8, 8, 1), 7, np.uint8)
    results = np.asarray(augment(jax.random.key(3), images, cutout=8))
    # Centres 0 … 7 and a square of 8: between 4 and 8 rows stay in the image.
    sides = (results == 0).any((2, 3)).sum(1)
    assert (sides.min(), sides.max()) == (4, 8)


@pytest.mark.slow
def test_the_same_key_the_same_result_inside_scan():
    images = make_images((8, 8, 3))
    keys = jax.random.split(jax.random.key(0), 3)

    def body(carry, key):
        return carry, data.augment(key, images, crop=2, flip=True, cutout=3)

    _, scanned = jax.jit(lambda: jax.lax.scan(body, None, keys))()
    for key, result in zip(keys, scanned, strict=True):
        np.testing.assert_array_equal(
            result, data.augment(key, jnp.asarray(images), crop=2, flip=True, cutout=3)
        )
    assert len({np.asarray(result).tobytes() for result in scanned}) == 3


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((8, 8, 1), {"crop": -1}, r"data\.crop = -1: accepts 0 … 7"),
        ((8, 5, 1), {"crop": 5}, r"data\.crop = 5: accepts 0 … 4"),
        ((8, 5, 1), {"cutout": 6}, r"data\.cutout = 6: accepts 0 … 5"),
        ((8, 5, 1), {"cutout": -1}, r"data\.cutout"),
        ((8, 2), {"flip": True}, r"data\.flip = True: signals"),
        ((8,), {}, r"shape \(4, 8\)"),
    ],
)
def test_refusals(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.augment(jax.random.key(0), jnp.zeros((4, *shape)), **arguments)


def test_normalize_is_a_constant_scale():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = (images.astype(np.float64) / 255 - 0.5) / 0.25
    scaled = data.normalize(jnp.asarray(images))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-6)
    as_float = np.random.default_rng(0).normal(size=(2, 3, 3, 1)).astype(np.float32)
    np.testing.assert_array_equal(data.normalize(jnp.asarray(as_float)), as_float)


@pytest.mark.slow
def test_cutout_is_filled_with_its_grey_level_and_nothing_else_is():
    images = np.full((64, 9, 9, 1), 200, np.uint8)
    key = jax.random.key(0)
    results = np.asarray(data.augment(key, images, crop=2, cutout=3, cutout_fill=128))
    black = np.asarray(data.augment(key, images, crop=2, cutout=3))
    assert set(np.unique(results)) == {0, 128, 200}
    assert (np.where(results == 128, 0, results) == black).all()
    assert {int((image == 128).sum()) for image in results} <= {4, 6, 9}
    with pytest.raises(data.DataError, match=r"data\.cutout_fill = 128: .* these are float32"):
        data.augment(key, images.astype(np.float32), cutout=3, cutout_fill=128)
