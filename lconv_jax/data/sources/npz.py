"""Any data set in one .npz file.

The file holds four arrays, under one of these sets of names:

    x_train y_train x_test y_test                                   Keras's names; images
    train_images train_labels test_images test_labels               MedMNIST's names; images
    train_signals train_labels test_signals test_labels             one-dimensional signals

Images are [N, H, W] or [N, H, W, C], signals [N, L] or [N, L, C]; where C is missing there is one
channel. They are uint8, or floating-point numbers that need no further scaling. Labels are
integers 0 … classes − 1, [N] or [N, 1].

Two arrays more, with val, valid or validation in the place of test, are its validation split. An
array class_names of text names the classes. Other arrays in the file are not read.
"""

from __future__ import annotations

import math
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lconv_jax.data import dataset, files, limits

# The names of a split's two arrays, and the number of axes of one example with channels.
_NAMES = (
    ("x_{}", "y_{}", 3),
    ("{}_images", "{}_labels", 3),
    ("{}_signals", "{}_labels", 2),
)
_VALIDATION = ("val", "valid", "validation")
# Channels that an image or signal usually has, and places that it usually has not.
_FEW = 4
# What `numpy.savez` and `numpy.savez_compressed` write, and how much smaller deflate can make data.
_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_WRITE = "Write it with numpy.savez"


class _Names(NamedTuple):
    images: str
    labels: str
    axes: int

    def of(self, split: str) -> tuple[str, str]:
        return self.images.format(split), self.labels.format(split)


def read_npz(path: str | os.PathLike[str]) -> dataset.Source:
    """The data set of an .npz file laid out as this module's docstring says.

    Raises:
      DataError: the file is missing or damaged, or an array is missing or not as described.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        raise dataset.DataError(
            f"{path}: no such file. data.name is relative to data.data_dir, if that is given"
        )
    with (
        files.opened(path, unpack=False) as file,
        files.reading(path, files.AGAIN, "damaged or not an .npz file"),
    ):
        begins = file.read(6)
        if begins.startswith(files.GZIP):
            raise dataset.DataError(f"{path}: is compressed by gzip as a whole. Unpack it (gunzip)")
        if begins == np.lib.format.MAGIC_PREFIX:
            raise dataset.DataError(
                f"{path}: not an .npz file, but a single array. Write all arrays with numpy.savez"
            )
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(found) < len(archive.infolist()):
                raise dataset.DataError(f"{path}: holds two arrays of one name. {_WRITE}")
            names = _names(path, found)
            splits = {
                split: _split(path, archive, found, names, split)
                for split in ("train", "test", *_validation(path, found, names))
            }
            class_names = _class_names(path, archive, found)
    train, test = splits.pop("train"), splits.pop("test")
    num_classes = int(train.labels.max(initial=-1)) + 1
    check_classes(path, names.of("train")[1], train.labels, num_classes)
    check_class_names(path, class_names, num_classes)
    where = {split: f"{path} ({', '.join(names.of(split))})" for split in ("train", "test")}
    source = dataset.Source(path.stem, num_classes, train, test, where["train"], where["test"])
    source = source._replace(class_names=class_names)
    for split, own in splits.items():
        source = source._replace(
            validation=own, validation_file=f"{path} ({', '.join(names.of(split))})"
        )
    return source


def _names(path: pathlib.Path, found: dict[str, Any]) -> _Names:
    every = [_Names(*names) for names in _NAMES]
    wanted = [(*names.of("train"), *names.of("test")) for names in every]
    for names, needed in zip(every, wanted, strict=True):
        if found.keys() >= set(needed):
            return names
    choices = ", or ".join(map(" ".join, wanted))
    raise dataset.DataError(
        f"{path}: holds the arrays {' '.join(sorted(found)) or '(none)'}; it must hold {choices}"
    )


def _validation(path: pathlib.Path, found: dict[str, Any], names: _Names) -> list[str]:
    """What the file calls its validation split, if it has one."""
    there = [split for split in _VALIDATION if found.keys() & set(names.of(split))]
    half = [split for split in there if not found.keys() >= set(names.of(split))]
    if half or len(there) > 1:
        held = sorted(found.keys() & {name for split in there for name in names.of(split)})
        raise dataset.DataError(
            f"{path}: of a validation split it holds {' '.join(held)}; two arrays, such as "
            f"{' '.join(names.of('val'))}, or none are needed"
        )
    return there


def _class_names(
    path: pathlib.Path, archive: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo]
) -> tuple[str, ...]:
    """The names of the classes, if the file has any."""
    if "class_names" not in found:
        return ()
    member = _Member(path, archive, found["class_names"], "class_names")
    if member.dtype.kind != "U" or len(member.shape) != 1:
        raise dataset.DataError(
            f"{path}: class_names has type {member.dtype} and shape {member.shape}; it must be "
            "text, one for each class. Save numpy.array([...], str), or leave it out"
        )
    return tuple(member.read().tolist())


def _split(
    path: pathlib.Path,
    archive: zipfile.ZipFile,
    found: dict[str, zipfile.ZipInfo],
    names: _Names,
    split: str,
) -> dataset.Split:
    images, labels = names.of(split)
    return dataset.Split(
        read_images(path, images, _Member(path, archive, found[images], images), names.axes),
        read_labels(path, labels, _Member(path, archive, found[labels], labels)),
    )


class Member(Protocol):
    """An array that is checked by its shape and type before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self) -> np.ndarray: ...


class _Member:
    """An array in the file, of which nothing but the header is read yet.

    Raises:
      DataError: the header and the bytes that are there do not agree.
    """

    def __init__(
        self, path: pathlib.Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
    ):
        self._path, self._name, self._archive, self._info = path, name, archive, info
        ratio = _RATIO.get(info.compress_type)
        if ratio is None or info.flag_bits & 1:
            raise dataset.DataError(
                f"{path}: {name} is encrypted, or compressed in a way that NumPy does not use "
                f"(number {info.compress_type}). {_WRITE} or numpy.savez_compressed"
            )
        with self._reading(), archive.open(info) as file:
            header = _HEADERS.get(np.lib.format.read_magic(file))
            if header is None:
                raise dataset.DataError(f"{path}: {name} is no array of numbers. {_WRITE}")
            self.shape, _, self.dtype = header(file)
            held = info.file_size - file.tell()
        if self.dtype.hasobject:
            return  # refused, with the remedy, by its type
        needed = math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or needed != held:
            raise dataset.DataError(
                f"{path}: damaged: the header of {name} announces {needed} bytes (shape "
                f"{self.shape}, type {self.dtype}), the file holds {held}. {files.AGAIN}"
            )
        if info.file_size > ratio * (info.compress_size + 1):
            raise dataset.DataError(
                f"{path}: damaged: {info.compress_size} bytes cannot hold the "
                f"{info.file_size} of {name}. {files.AGAIN}"
            )
        limits.require(
            f"{path}: {name}", needed, "Save fewer examples, or train on another machine"
        )

    def read(self) -> np.ndarray:
        with self._reading(), self._archive.open(self._info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _reading(self) -> Any:
        return files.reading(self._path, files.AGAIN, f"damaged: {self._name} is no whole array")


def read_images(path: Any, name: str, member: Member, example_axes: int) -> np.ndarray:
    kind = "images" if example_axes == 3 else "signals"
    if member.dtype.hasobject:
        raise dataset.DataError(
            f"{path}: {name} is an array of Python objects, as NumPy makes of images of mixed "
            "size. Bring the images to one size and save them as one uint8 or float32 array"
        )
    if member.dtype != np.uint8 and not np.issubdtype(member.dtype, np.floating):
        raise dataset.DataError(
            f"{path}: {name} has type {member.dtype}; {kind} must be uint8 (values 0 … 255) or "
            "floating point. Convert it with .astype"
        )
    shape = member.shape
    if not example_axes <= len(shape) <= example_axes + 1 or 0 in shape[1:]:
        accepted = "[N, H, W] or [N, H, W, C]" if example_axes == 3 else "[N, L] or [N, L, C]"
        raise dataset.DataError(
            f"{path}: {name} has shape {shape}; {kind} must have {accepted}, no axis empty"
            + (". Name one-dimensional data train_signals, test_signals" * (example_axes == 3))
        )
    if len(shape) == example_axes + 1 and shape[1] <= _FEW < shape[-1]:
        line = example_axes == 2
        raise dataset.DataError(
            f"{path}: {name} has shape {shape}, as if {kind} {shape[1]} "
            f"{'places long' if line else 'rows high'} had {shape[-1]} channels. Channels must be "
            f"last: of {'[N, C, L]' if line else '[N, C, H, W]'} save numpy.moveaxis({name}, 1, "
            "-1)" + ("" if line else "; of rows so few, exchange rows and columns")
        )
    array = member.read()
    if array.ndim == example_axes:
        array = array[..., None]
    if array.dtype == np.uint8:
        return array
    with np.errstate(over="ignore"):  # said below
        array = array.astype(np.float32, copy=False)
    wrong = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if wrong.any():
        raise dataset.DataError(
            f"{path}: {name} has NaN or infinity (as float32) in {int(wrong.sum())} examples, "
            f"first in example {int(np.flatnonzero(wrong)[0])}. Repair or remove them"
        )
    return array


def read_labels(path: Any, name: str, member: Member) -> np.ndarray:
    shape, dtype = member.shape, member.dtype
    one_each = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not one_each or not np.issubdtype(dtype, np.integer):
        remedy = "Save numpy.unique(labels, return_inverse=True)[1]"
        if not one_each:
            remedy = "Of one-hot labels take .argmax(1)"
        elif np.issubdtype(dtype, np.floating) or dtype == np.bool_:
            remedy = "Convert whole numbers with .astype(int)"
        raise dataset.DataError(
            f"{path}: {name} has type {dtype} and shape {shape}; labels must be integers, one per "
            f"example. {remedy}"
        )
    array = member.read().reshape(-1)
    if len(array) and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        wrong = (array < 0) | (array > np.iinfo(np.int32).max)
        index = int(np.flatnonzero(wrong)[0])
        raise dataset.DataError(
            f"{path}: {name}: label {array[index]} of example {index} is out of range; labels "
            "must be 0 … classes − 1"
        )
    return array.astype(np.int32, copy=False)


def check_class_names(where: Any, class_names: Sequence[str], num_classes: int) -> None:
    """Raises DataError unless there is a name for each class, or none at all."""
    if class_names and len(class_names) != num_classes:
        raise dataset.DataError(
            f"{where}: there are {len(class_names)} class_names for {num_classes} classes. Give "
            "one for each, in the order of the labels, or none"
        )


def check_classes(path: Any, name: str, labels: np.ndarray, num_classes: int) -> None:
    present = np.unique(labels)
    if len(present) != num_classes:
        first = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise dataset.DataError(
            f"{path}: {name}: the largest label is {num_classes - 1}, but class {first} has no "
            "example. Labels must be 0 … classes − 1, each with a training example: renumber them"
        )
