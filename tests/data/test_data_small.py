"""The embedded set is the part of Fashion-MNIST it says it is."""

import hashlib

import numpy as np
import pytest

from lconv_jax import data
from lconv_jax.data import make_small
from lconv_jax.data.sources import idx, registry

# Of the arrays, not of the file, whose bytes depend on the version of zlib.
DIGEST = "4fb890bc4c8efaaf9c6ef918665d27cdd83e87412054aa7d3b0b7caab57d8caa"

needs_full_set = pytest.mark.skipif(
    not idx.holds_idx(idx.DEBIAN_DIR), reason=f"no Fashion-MNIST in {idx.DEBIAN_DIR}"
)


def test_contents():
    small = data.load("fashion_mnist_small")
    assert small.image_shape == (28, 28, 1)
    assert small.num_classes == 10
    assert np.bincount(small.train.labels).tolist() == [1000] * 10
    assert np.bincount(small.test.labels).tolist() == [200] * 10
    assert len(small.validation.labels) == 0
    assert small.train.images.dtype == np.uint8
    assert data.digest(small) == DIGEST


def test_no_image_is_there_twice():
    small = data.load("fashion_mnist_small")
    images = [*small.train.images, *small.test.images]
    hashes = {hashlib.sha256(image.tobytes()).digest() for image in images}
    assert len(hashes) == 12_000


def test_licence_and_source_are_beside_it():
    text = registry.SMALL_PATH.with_name("FASHION_MNIST_LICENSE").read_text()
    assert "MIT License" in text
    assert "Copyright (c) 2017 Zalando SE" in text
    assert idx.URL in text
    assert registry.SMALL_PATH.stat().st_size < 6e6


@needs_full_set
def test_it_is_the_head_of_each_class_of_the_full_set():
    small = data.load("fashion_mnist_small")
    full = data.load("fashion_mnist", examples=10_000)
    np.testing.assert_array_equal(small.train.images, full.train.images)
    np.testing.assert_array_equal(small.train.labels, full.train.labels)
    seen = [0] * 10
    heads = []
    for index, label in enumerate(full.test.labels):
        seen[label] += 1
        if seen[label] <= 200:
            heads.append(index)
    np.testing.assert_array_equal(small.test.images, full.test.images[heads])
    np.testing.assert_array_equal(small.test.labels, full.test.labels[heads])


@needs_full_set
def test_it_can_be_made_again(tmp_path):
    for name in ("a.npz", "b.npz"):
        make_small.make_small(idx.DEBIAN_DIR, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as made, np.load(registry.SMALL_PATH) as shipped:
        assert set(made.files) == set(shipped.files)
        for name in made.files:
            np.testing.assert_array_equal(made[name], shipped[name])
