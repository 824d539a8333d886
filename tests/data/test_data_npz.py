"""Data sets in .npz files: what is accepted, and what is refused with which words."""

import numpy as np
import pytest

from lconv_jax import data


def make_arrays(shape=(6, 5), dtype=np.uint8, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (30, *shape)).astype(dtype),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (9, *shape)).astype(dtype),
        "y_test": np.arange(9) % 3,
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def save(tmp_path, arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return data.load("set.npz", tmp_path)


@pytest.mark.parametrize(
    ("shape", "loaded_shape"),
    [((6, 5), (6, 5, 1)), ((6, 5, 1), (6, 5, 1)), ((6, 5, 3), (6, 5, 3))],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
def test_images(tmp_path, shape, loaded_shape, dtype):
    arrays = make_arrays(shape, dtype)
    loaded = save(tmp_path, arrays)
    assert (loaded.name, loaded.num_classes, loaded.image_shape) == ("set", 3, loaded_shape)
    assert loaded.train.images.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(
        loaded.test.images, arrays["x_test"].reshape(-1, *loaded_shape).astype(np.float32)
    )
    np.testing.assert_array_equal(loaded.train.labels, arrays["y_train"])
    assert loaded.train.labels.dtype == np.int32


@pytest.mark.parametrize(("shape", "loaded_shape"), [((7,), (7, 1)), ((7, 2), (7, 2))])
def test_signals(tmp_path, shape, loaded_shape):
    names = {"x_train": "train_signals", "x_test": "test_signals"}
    names |= {"y_train": "train_labels", "y_test": "test_labels"}
    arrays = {names[name]: array for name, array in make_arrays(shape, np.float32).items()}
    loaded = save(tmp_path, arrays)
    assert loaded.image_shape == loaded_shape
    np.testing.assert_array_equal(
        loaded.train.images.reshape(30, -1), arrays["train_signals"].reshape(30, -1)
    )


def test_medmnist_layout(tmp_path):
    arrays = make_arrays((6, 5, 3))
    loaded = save(
        tmp_path,
        {
            "train_images": arrays["x_train"],
            "train_labels": arrays["y_train"][:, None].astype(np.uint8),
            "val_images": arrays["x_test"],
            "val_labels": arrays["y_test"][:, None],
            "test_images": arrays["x_test"],
            "test_labels": arrays["y_test"][:, None].astype(np.uint8),
        },
    )
    assert loaded.train.labels.tolist() == arrays["y_train"].tolist()
    assert len(loaded.validation.labels) == 0


def test_a_path_stands_alone_or_under_data_dir(tmp_path):
    save(tmp_path, make_arrays())
    alone = data.load(str(tmp_path / "set.npz"))
    assert data.digest(alone) == data.digest(data.load("set.npz", tmp_path))


def nan_at(index):
    images = np.zeros((30, 6, 5), np.float32)
    images[index, 2, 3] = np.nan
    return images


MIXED = np.empty(30, object)
MIXED[:] = [np.zeros((4 + i % 2, 4), np.uint8) for i in range(30)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "holds the arrays x_train y_test y_train; it must hold x_train y_train"),
        ({"x_train": MIXED}, "x_train is an array of Python objects.*mixed size.*one size"),
        ({"x_train": np.zeros((30, 6, 5), np.int64)}, r"x_train has type int64.*astype"),
        ({"x_train": np.zeros((30, 6), np.uint8)}, r"shape \(30, 6\).*train_signals"),
        ({"x_train": np.zeros((30, 6, 5, 1, 1), np.uint8)}, r"x_train has shape"),
        ({"x_train": np.zeros((30, 6, 0), np.uint8)}, "no axis empty"),
        ({"x_train": nan_at(4)}, "x_train has NaN or infinity.* 1 examples, first in example 4"),
        ({"x_test": np.full((9, 6, 5), np.inf)}, "x_test has NaN or infinity.* 9 examples"),
        ({"x_test": np.zeros((9, 6, 6), np.uint8)}, r"x_test.*\(6, 6, 1\).*Resize"),
        ({"x_test": np.zeros((9, 6, 5), np.float32)}, r"x_test.*float32.*uint8.*Convert"),
        ({"y_train": np.arange(30) / 2}, "y_train has type float64.*integers"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(30) % 3]}, r"\(30, 3\).*argmax"),
        ({"y_train": np.arange(30) % 3 - 1}, "y_train: label -1 of example 0 is out of range"),
        ({"y_train": np.arange(30) % 3 + 1}, "largest label is 3, but class 0 has no example"),
        ({"y_train": np.arange(30) % 2 * 2}, "largest label is 2, but class 1 has no example"),
        ({"y_train": np.zeros(30, int)}, "every label is 0"),
        ({"y_train": np.arange(29) % 3}, "30 images but 29 labels"),
        ({"y_test": np.arange(9) % 4}, r"y_test\): label 3 of example 3 is out of range.*0 … 2"),
        ({"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)}, "no example"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8), "y_train": np.zeros(0, int)}, "no example"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(data.DataError, match=f"set.npz.*{message}"):
        save(tmp_path, make_arrays(**changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"set\.npz: damaged or not an \.npz file"):
        data.load("set.npz", tmp_path)


def test_truncated_file(tmp_path):
    save(tmp_path, make_arrays())
    content = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DataError, match=r"set\.npz: damaged"):
        data.load("set.npz", tmp_path)


def test_flipped_bits(tmp_path):
    save(tmp_path, make_arrays())
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[400] ^= 255
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"set\.npz: damaged"):
        data.load("set.npz", tmp_path)


def test_a_single_array_is_no_data_set(tmp_path):
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(data.DataError, match=r"not an \.npz file.*numpy\.savez"):
        data.load("set.npz", tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(data.DataError, match=r"set\.npz: no such file"):
        data.load("set.npz", tmp_path)
