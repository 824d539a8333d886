"""IDX, the file format of MNIST and its successors, and Fashion-MNIST's four files.

A file is two zero bytes, a type code (8: unsigned byte), the number of axes, the size of each
axis as a big-endian 32-bit integer, and then the values. Source: http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from lconv_jax.data import dataset

URL = "https://github.com/zalandoresearch/fashion-mnist"
# Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_DIR = pathlib.Path("/usr/share/datasets/fashion-mnist")

_UNSIGNED_BYTE = 8
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The uint8 array of an IDX file, gzip-compressed or not.

    Raises:
      DataError: the file is missing, truncated, too long, or not IDX of unsigned bytes.
    """
    path = pathlib.Path(path)
    again = f"Download it again, for Fashion-MNIST from {URL}"
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise dataset.DataError(f"{path}: truncated or damaged gzip file. {again}") from error
    except OSError as error:
        raise dataset.DataError(
            f"{path}: cannot be read ({error.strerror}). Check the path and its permissions"
        ) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or not data[3]:
        raise dataset.DataError(
            f"{path}: not an IDX file of unsigned bytes (starts with {data[:4].hex() or 'nothing'},"
            f" should with 000008 and the number of axes). {again}"
        )
    offset = 4 + 4 * data[3]
    if len(data) < offset:
        raise dataset.DataError(f"{path}: truncated IDX header ({len(data)} bytes). {again}")
    shape = struct.unpack(f">{data[3]}I", data[4:offset])
    expected, found = math.prod(shape), len(data) - offset
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise dataset.DataError(
            f"{path}: {state}: its header announces {expected} values (shape "
            f"{shape}), the file holds {found}. {again}"
        )
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def holds_idx(folder: pathlib.Path) -> bool:
    """Whether the folder has at least one of the four files, so that IDX is what was meant."""
    return any(_find(folder, name).exists() for name in _FILES)


def read_fashion_mnist(folder: str | os.PathLike[str]) -> dataset.Source:
    """Fashion-MNIST from a folder of its four IDX files, each gzip-compressed or not.

    Raises:
      DataError: a file is missing or damaged, or images and labels do not match.
    """
    folder = pathlib.Path(folder)
    paths = [_find(folder, name) for name in _FILES]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise dataset.DataError(
            f"{folder}: no file {' or '.join(missing)} (with or without .gz). Put the four "
            f"IDX files of {URL} there"
        )
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in paths)
    return dataset.Source(
        name="fashion_mnist",
        num_classes=10,
        train=_split(paths[0], train_images, paths[1], train_labels),
        test=_split(paths[2], test_images, paths[3], test_labels),
        train_file=str(paths[1]),
        test_file=str(paths[3]),
    )


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _split(
    images_path: pathlib.Path,
    images: np.ndarray,
    labels_path: pathlib.Path,
    labels: np.ndarray,
) -> dataset.Split:
    if images.ndim != 3 or labels.ndim != 1:
        path, axes, found = (
            (images_path, 3, images.ndim) if images.ndim != 3 else (labels_path, 1, labels.ndim)
        )
        raise dataset.DataError(
            f"{path}: {found} axes where {axes} are expected. The files may have been exchanged: "
            f"compare them with those of {URL}"
        )
    if len(images) != len(labels):
        raise dataset.DataError(
            f"{images_path} has {len(images)} images, but {labels_path} {len(labels)} labels. "
            f"Take both from one download of {URL}"
        )
    return dataset.Split(images[..., None], labels.astype(np.int32))
