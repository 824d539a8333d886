"""IDX, the file format of MNIST and its successors, and Fashion-MNIST's four files.

A file is two zero bytes, a type code (8: unsigned byte), the number of axes, the size of each
axis as a big-endian 32-bit integer, and then the values. Source: http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import math
import os
import pathlib
import struct

import numpy as np

from lconv_jax.data import dataset, files, limits

URL = "https://github.com/zalandoresearch/fashion-mnist"
# Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_DIR = pathlib.Path("/usr/share/datasets/fashion-mnist")

# Of Fashion-MNIST, as its authors give them.
CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

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
    with files.opened(path, again) as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTE or not start[3]:
            raise dataset.DataError(
                f"{path}: not an IDX file of unsigned bytes (starts with "
                f"{start.hex() or 'nothing'}, should with 000008 and the number of axes). {again}"
            )
        header = file.read(4 * start[3])
        if len(header) < 4 * start[3]:
            raise dataset.DataError(
                f"{path}: truncated IDX header ({4 + len(header)} bytes). {again}"
            )
        shape = struct.unpack(f">{start[3]}I", header)
        expected = math.prod(shape)
        limits.require(f"{path}: the shape {shape} of its header", expected, again)
        data = files.read_most(file, expected + 1)
    if len(data) != expected:
        state, holds = "truncated", str(len(data))
        if len(data) > expected:
            state, holds = "too long", "more"
        raise dataset.DataError(
            f"{path}: {state}: its header announces {expected} values (shape "
            f"{shape}), the file holds {holds}. {again}"
        )
    with files.reading(path, again):
        return np.frombuffer(data, np.uint8).reshape(shape)


def holds_idx(folder: pathlib.Path) -> bool:
    """Whether the folder has at least one of the four files, so that IDX is what was meant."""
    return any(os.path.lexists(_find(folder, name)) for name in _FILES)


def read_fashion_mnist(folder: str | os.PathLike[str]) -> dataset.Source:
    """Fashion-MNIST from a folder of its four IDX files, each gzip-compressed or not.

    Raises:
      DataError: a file is missing or damaged, or images and labels do not match.
    """
    folder = pathlib.Path(folder)
    paths = [_find(folder, name) for name in _FILES]
    missing = [name for name, path in zip(_FILES, paths, strict=True) if not os.path.lexists(path)]
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
        class_names=CLASS_NAMES,
    )


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of that name, as it is published, or as some programs unpack it; packed or not."""
    dotted = name.replace("-idx", ".idx")
    names = (name, f"{name}.gz", dotted, f"{dotted}.gz")
    return next((folder / each for each in names if os.path.lexists(folder / each)), folder / name)


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
    if 0 in images.shape[1:]:
        raise dataset.DataError(
            f"{images_path}: images of {images.shape[1]} × {images.shape[2]} pixels are empty. "
            f"Take the file from a download of {URL}"
        )
    if len(images) != len(labels):
        raise dataset.DataError(
            f"{images_path} has {len(images)} images, but {labels_path} {len(labels)} labels. "
            f"Take both from one download of {URL}"
        )
    return dataset.Split(images[..., None], labels.astype(np.int32))
