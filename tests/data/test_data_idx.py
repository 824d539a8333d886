"""IDX files: what is written is read; what is damaged is refused, with the file's name."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data.sources import idx


def encode_idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_fashion(folder, *, count=40, compressed=True, **changes):
    """Four small files of Fashion-MNIST's layout; `changes` replaces arrays by name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "t10k"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 10).astype(np.uint8)
    arrays |= changes
    for name, array in arrays.items():
        axes = 3 if name.endswith("images") else 1
        content = encode_idx(array)
        path = folder / f"{name.replace('_', '-')}-idx{axes}-ubyte{'.gz' * compressed}"
        path.write_bytes(gzip.compress(content) if compressed else content)
    return arrays


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    compressed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_round_trip(tmp_path_factory, shape, compressed, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    content = encode_idx(array)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(content) if compressed else content)
    read = idx.read_idx(path)
    assert read.dtype == np.uint8
    assert read.shape == array.shape
    np.testing.assert_array_equal(read, array)


@settings(max_examples=25, deadline=None)
@given(data_=st.data(), compressed=st.booleans())
def test_every_truncation_is_refused(tmp_path_factory, data_, compressed):
    content = encode_idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = gzip.compress(content) if compressed else content
    cut = data_.draw(st.integers(0, len(content) - 1))
    path = tmp_path_factory.mktemp("idx") / "train-images-idx3-ubyte"
    path.write_bytes(content[:cut])
    with pytest.raises(data.DataError, match=f"{path}.*Download it again"):
        idx.read_idx(path)


def test_truncation_says_how_much_is_missing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(encode_idx(np.zeros((10, 4, 4), np.uint8))[:-5])
    with pytest.raises(data.DataError, match=r"truncated: .* 160 values .* holds 155"):
        idx.read_idx(path)


def test_excess_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(encode_idx(np.zeros(3, np.uint8)) + b"x")
    with pytest.raises(data.DataError, match="too long"):
        idx.read_idx(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(data.DataError, match="not an IDX file"):
        idx.read_idx(path)
    with pytest.raises(data.DataError, match="cannot be read"):
        idx.read_idx(tmp_path / "absent")


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path, compressed):
    arrays = write_fashion(tmp_path, compressed=compressed)
    loaded = data.load("fashion_mnist", tmp_path)
    assert (loaded.name, loaded.num_classes, loaded.image_shape) == ("fashion_mnist", 10, (6, 5, 1))
    np.testing.assert_array_equal(loaded.train.images[..., 0], arrays["train_images"])
    np.testing.assert_array_equal(loaded.test.images[..., 0], arrays["t10k_images"])
    np.testing.assert_array_equal(loaded.train.labels, arrays["train_labels"])
    assert loaded.train.labels.dtype == np.int32


def test_names_with_a_dot_are_found(tmp_path):
    write_fashion(tmp_path, compressed=False)
    expected = data.digest(data.load("fashion_mnist", tmp_path))
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert data.digest(data.load("fashion_mnist", tmp_path)) == expected


@pytest.mark.parametrize("compressed", [True, False])
def test_a_header_cannot_ask_for_more_than_there_is(tmp_path, compressed):
    content = struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(10)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(data.DataError, match=r"file: the shape .* of its header would take"):
        idx.read_idx(path)
    content = struct.pack(">BBBB1I", 0, 0, 8, 1, 2**30) + bytes(10)
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(data.DataError, match=r"truncated.* holds 10"):
        idx.read_idx(path)


def test_a_missing_file_is_named(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.DataError, match=f"{tmp_path}: no file t10k-labels-idx1-ubyte"):
        data.load("fashion_mnist", tmp_path)


def test_label_out_of_range_names_file_and_example(tmp_path):
    labels = (np.arange(40) % 10).astype(np.uint8)
    labels[17] = 10
    write_fashion(tmp_path, t10k_labels=labels)
    with pytest.raises(
        data.DataError, match=r"t10k-labels-idx1-ubyte.gz: label 10 of example 17 .* 0 … 9"
    ):
        data.load("fashion_mnist", tmp_path)


def test_images_and_labels_must_be_pairs(tmp_path):
    write_fashion(tmp_path, train_labels=np.zeros(39, np.uint8))
    with pytest.raises(data.DataError, match=r"has 40 images, but .* 39 labels"):
        data.load("fashion_mnist", tmp_path)


def test_exchanged_files_are_noticed(tmp_path):
    write_fashion(tmp_path, train_images=np.zeros(40, np.uint8))
    with pytest.raises(data.DataError, match="1 axes where 3 are expected"):
        data.load("fashion_mnist", tmp_path)


def test_splits_of_different_sizes_are_refused(tmp_path):
    write_fashion(tmp_path, t10k_images=np.zeros((40, 6, 6), np.uint8))
    with pytest.raises(data.DataError, match=r"\(6, 6, 1\).*\(6, 5, 1\).*Resize"):
        data.load("fashion_mnist", tmp_path)


def test_a_folder_without_the_set_gets_every_remedy(tmp_path):
    with pytest.raises(data.DataError) as error:
        data.load("fashion_mnist", tmp_path)
    for part in (str(tmp_path), idx.URL, "dataset-fashion-mnist", "lconv_jax.data.prepare"):
        assert part in str(error.value)
