"""Data sets in .npz files: what is accepted, and what is refused with which words."""

import gzip
import io
import os
import warnings
import zipfile

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
    np.testing.assert_array_equal(loaded.validation.images, arrays["x_test"])
    assert loaded.validation.labels.tolist() == arrays["y_test"].tolist()
    held_out = data.load("set.npz", tmp_path, validation=6)
    assert (len(held_out.validation.labels), len(held_out.train.labels)) == (6, 24)


def test_half_a_validation_split_is_refused(tmp_path):
    arrays = make_arrays()
    with pytest.raises(
        data.DataError, match=r"validation split has the arrays x_val; .*x_val y_val"
    ):
        save(tmp_path, arrays | {"x_val": arrays["x_test"]})
    with pytest.raises(data.DataError, match=r"set.npz \(x_valid, y_valid\): label 3 of example 3"):
        save(tmp_path, arrays | {"x_valid": arrays["x_test"], "y_valid": np.arange(9) % 4})


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
        ({"y_train": np.arange(30) / 2}, r"y_train has type float64.*integers.*astype\(int\)"),
        ({"y_train": np.arange(30) % 2 > 0}, r"y_train has type bool.*astype\(int\)"),
        ({"y_train": np.array(["cat", "dog"] * 15)}, r"y_train has type <U3.*numpy\.unique"),
        (
            {"x_train": np.zeros((30, 3, 8, 8), np.uint8)},
            r"3 rows high.*last.*moveaxis\(x_train, 1",
        ),
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


def test_signals_with_channels_first_are_refused(tmp_path):
    arrays = make_arrays((2, 50), np.float32)
    names = ("train_signals", "train_labels", "test_signals", "test_labels")
    with pytest.raises(data.DataError, match=r"2 places long.* 50 channels.*\[N, C, L\]"):
        save(tmp_path, dict(zip(names, arrays.values(), strict=True)))


def with_member(path, content, name="x_train.npy", **how):
    """A good file but for one member."""
    np.savez(path, **make_arrays(x_train=None))
    with zipfile.ZipFile(path, "a", **how) as archive:
        archive.writestr(name, content)


def header(shape, descr="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12, 6, 5)), r"damaged: the header of x_train announces 30000000000000 bytes"),
        (header((10**30, 6, 5)), r"damaged: the header of x_train announces 3\d+ bytes"),
        (header((30, 6, 5)) + bytes(899), r"announces 900 bytes .* holds 899"),
        (header((30, 6, 5)) + bytes(901), r"announces 900 bytes .* holds 901"),
        (header((-30, 6, -5)) + bytes(900), r"damaged: the header of x_train"),
        (header((10**30, 6, 5), "|V0"), r"x_train has type"),
        (b"these are words", r"damaged: x_train is no whole array"),
        (b"\x93NUMPY\x09\0" + bytes(99), r"x_train"),
        (b"\x93NUMPY\x01\0\xff\xff{'descr':", r"damaged: x_train is no whole array"),
    ],
)
def test_a_member_that_is_not_what_its_header_says(tmp_path, content, message):
    with_member(tmp_path / "set.npz", content)
    with pytest.raises(data.DataError, match=message):
        data.load("set.npz", tmp_path)


def test_compression_that_numpy_does_not_use(tmp_path):
    with_member(tmp_path / "set.npz", b"", compression=zipfile.ZIP_BZIP2)
    with pytest.raises(data.DataError, match=r"x_train is encrypted, or compressed.*number 12"):
        data.load("set.npz", tmp_path)


def test_more_than_could_have_been_packed(tmp_path):
    """A directory entry that states a terabyte, as the header does, for a file of a kilobyte."""
    path = tmp_path / "set.npz"
    with_member(path, header((10**12,)))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"x_train.npy") - 46  # the last directory entry
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"damaged: .*x_train"):
        data.load("set.npz", tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "set.npz")
    with pytest.raises(data.DataError, match=r"set\.npz: is no regular file, but a FIFO"):
        data.load("set.npz", tmp_path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(data.DataError, match=r"folder\.npz: is a folder"):
        data.load("folder.npz", tmp_path)


def test_links_and_suffixes_in_capitals(tmp_path):
    loaded = save(tmp_path, make_arrays())
    (tmp_path / "OTHER.NPZ").symlink_to(tmp_path / "set.npz")
    np.testing.assert_array_equal(
        data.load("OTHER.NPZ", tmp_path).train.images, loaded.train.images
    )


def test_other_files_are_named_as_what_is_not_read(tmp_path):
    (tmp_path / "set.csv").write_text("1,2\n")
    with pytest.raises(data.DataError, match=r"set\.csv: of single files only \.npz"):
        data.load("set.csv", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(data.DataError, match=r"set\.npz: damaged or not an \.npz file"):
        data.load("set.npz", tmp_path)


def test_what_is_packed_as_a_whole_or_holds_a_name_twice_is_named(tmp_path):
    save(tmp_path, make_arrays())
    path = tmp_path / "set.npz"
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says so too
        archive.writestr("y_test.npy", archive.read("y_test.npy"))
    with pytest.raises(data.DataError, match=r"set\.npz: holds two arrays of one name"):
        data.load("set.npz", tmp_path)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(data.DataError, match=r"set\.npz: is compressed by gzip.*gunzip"):
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
