"""What a data set is: three splits of arrays in memory, and the ways to divide them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import numpy as np


class DataError(ValueError):
    """Data that cannot be used; the message names the file or key, and what to do."""


class Split(NamedTuple):
    """Examples with their labels.

    images: uint8 or float32 [N, *spatial, C], with one spatial axis (signals) or two (images).
    labels: int32 [N], each in 0 … num_classes − 1.
    """

    images: Any
    labels: Any


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory. `validation` has no rows unless some were held out of `train`."""

    name: str
    num_classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one example, channels last."""
        return tuple(self.train.images.shape[1:])


class Source(NamedTuple):
    """What a reader returns: a training and a test split, not yet checked against each other.

    train_file and test_file say where the splits come from, for messages.
    """

    name: str
    num_classes: int
    train: Split
    test: Split
    train_file: str
    test_file: str


def digest(dataset: Dataset) -> str:
    """SHA-256, in hex, of all a run sees of its data: names, types, shapes and every value."""
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    arrays = [np.asarray(array) for split in splits.values() for array in split]
    header = {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "splits": list(splits),
        "arrays": [[array.dtype.name, array.shape] for array in arrays],
    }
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(np.ascontiguousarray(little_endian).data)
    return sha.hexdigest()


def first_per_class(labels: np.ndarray, num_classes: int, per_class: int) -> np.ndarray:
    """Indices, ascending, of the first `per_class` examples of each class. [num_classes · k]"""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def random_per_class(labels: np.ndarray, num_classes: int, per_class: int, seed: int) -> np.ndarray:
    """Indices, ascending, of `per_class` examples of each class: a pure function of the seed.

    The examples are ranked by raw output of PCG64, which NumPy keeps the same in all versions
    (NEP 19), unlike that of `Generator.permutation`.
    """
    rank = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    return np.sort(rank[first_per_class(labels[rank], num_classes, per_class)])


def divide(source: Source, *, validation: int, examples: int, seed: int) -> Dataset:
    """Takes a class-balanced subset of the training set, then holds a validation split out of it.

    Args:
      source: what a reader returned.
      validation: training examples held out, the same number of each class; 0 holds out none.
      examples: training examples kept, the first examples / num_classes of each class in file
        order; 0 keeps all.
      seed: decides which examples are held out.

    Raises:
      DataError: the data contradict themselves, or do not allow such a division.
    """
    _check(source)
    train, num_classes = source.train, source.num_classes
    if examples != 0:
        smallest = int(np.bincount(train.labels, minlength=num_classes).min())
        _check_balanced("data.examples", examples, num_classes, smallest, source.name)
        kept = first_per_class(train.labels, num_classes, examples // num_classes)
        train = _take(train, kept)
    kept, held_out = divide_rows(train.labels, num_classes, validation, seed, source.name)
    return Dataset(
        name=source.name,
        num_classes=num_classes,
        train=_take(train, kept),
        validation=_take(train, held_out),
        test=source.test,
    )


def divide_rows(
    labels: np.ndarray, num_classes: int, validation: int, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which examples of a training set stay in it and which are held out; ascending indices.

    Args:
      labels: of the training set before any are held out.
      num_classes, validation, seed: as in `divide`.
      name: of the data set, for messages.

    Raises:
      DataError: `validation` is no class-balanced number that leaves an example of each class.
    """
    held_out = np.zeros(0, np.int64)
    if validation != 0:
        spare = int(np.bincount(labels, minlength=num_classes).min()) - 1
        _check_balanced("data.validation", validation, num_classes, spare, name)
        held_out = random_per_class(labels, num_classes, validation // num_classes, seed)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _take(split: Split, indices: np.ndarray) -> Split:
    if len(indices) == len(split.labels):
        return split
    return Split(split.images[indices], split.labels[indices])


def _check_balanced(key: str, value: int, num_classes: int, smallest: int, name: str) -> None:
    most = max(0, smallest) * num_classes
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DataError(f"{key} = {value!r}: a number of examples must be an integer")
    if not 0 <= value <= most or value % num_classes:
        raise DataError(
            f"{key} = {value}: {name} has {num_classes} classes, and a class-balanced choice "
            f"accepts 0 or a multiple of {num_classes} up to {most}"
        )


def _check(source: Source) -> None:
    files = (source.train_file, source.test_file)
    for split, file in zip((source.train, source.test), files, strict=True):
        if not len(split.labels):
            raise DataError(f"{file}: holds no example. Write or download it again")
        if len(split.images) != len(split.labels):
            raise DataError(
                f"{file}: {len(split.images)} images but {len(split.labels)} labels. They must "
                "come in pairs: write or download the file again"
            )
        if split.labels.min() < 0 or split.labels.max() >= source.num_classes:
            wrong = (split.labels < 0) | (split.labels >= source.num_classes)
            index = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{file}: label {split.labels[index]} of example {index} is out of range; "
                f"{source.name} has classes 0 … {source.num_classes - 1}. Correct the label, or "
                "download the file again"
            )
    if source.train.images.shape[1:] != source.test.images.shape[1:]:
        raise DataError(
            f"{source.test_file}: images of shape {source.test.images.shape[1:]}, but those of "
            f"{source.train_file} have {source.train.images.shape[1:]}. Resize them to one shape"
        )
    if source.train.images.dtype != source.test.images.dtype:
        raise DataError(
            f"{source.test_file}: images of type {source.test.images.dtype}, but those of "
            f"{source.train_file} are {source.train.images.dtype}. Convert them to one type"
        )
