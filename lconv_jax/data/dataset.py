"""What a data set is: three splits, in memory or read as needed, and the ways to divide them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lconv_jax.data import limits
from lconv_jax.data.records import Column, DataError, HostRecords, Records

# Examples that are read at a time where all are wanted.
BLOCK = 1024


class Split(NamedTuple):
    """Examples with their labels.

    images: uint8 or float32 [N, *spatial, C], with one spatial axis (signals) or two (images).
    labels: int32 [N], each in 0 … num_classes − 1.

    Of a streamed split both are a `records.Column`, which has the shape and type of the array and
    reads what it is indexed with. Its labels are checked when they are read.
    """

    images: Any
    labels: Any


class Chunk(NamedTuple):
    """Training batches of consecutive steps, in the place of a whole split.

    first: the step that the first batch is for, int32.
    images: [K, B, *spatial, C].
    labels: int32 [K, B].
    """

    first: Any
    images: Any
    labels: Any


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set. `validation` has no rows unless it has its own, or some were held out.

    `class_names` are in the order of the labels, and empty where the classes have no names.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one example, channels last."""
        return tuple(self.train.images.shape[1:])


class Source(NamedTuple):
    """What a reader returns: splits that are not yet checked against each other.

    train_file, test_file and validation_file say where the splits come from, for messages;
    validation is None where the set has no such split of its own.
    """

    name: str
    num_classes: int
    train: Split
    test: Split
    train_file: str
    test_file: str
    validation: Split | None = None
    validation_file: str = ""
    class_names: tuple[str, ...] = ()

    def splits(self) -> dict[str, tuple[Split, str]]:
        """The splits that there are, and where they come from, by their fields' names."""
        found = {
            "train": (self.train, self.train_file),
            "test": (self.test, self.test_file),
        }
        if self.validation is not None:
            found["validation"] = (self.validation, self.validation_file)
        return found


def streamed(records: Records) -> Split:
    """A split of all the records, of which nothing is read yet."""
    return Split(Column(records, "images"), Column(records, "labels"))


def is_streamed(split: Split) -> bool:
    """Whether the split is read as it is needed, and not to be moved to the device whole."""
    return isinstance(split.images, Column)


def stream_arrays(split: Split) -> Split:
    """The split, to be read as it is needed from wherever it is."""
    return split if is_streamed(split) else streamed(HostRecords(*map(np.asarray, split)))


def read(split: Split, indices: Any) -> Split:
    """These examples, or a slice of them, as arrays."""
    if not is_streamed(split):
        return Split(split.images[indices], split.labels[indices])
    column: Column = split.images
    return Split(*column.records.read(column.rows_of(indices)))


def blocks(split: Split) -> Iterator[Split]:
    """All examples in order, as arrays: at once if they are in memory, else some at a time."""
    size = BLOCK if is_streamed(split) else max(1, len(split.labels))
    for start in range(0, len(split.labels), size):
        block = read(split, slice(start, start + size))
        yield Split(np.asarray(block.images), np.asarray(block.labels))


def read_all(split: Split) -> Split:
    """The split as arrays in memory."""
    if not is_streamed(split):
        return split
    limits.require(
        f"{split.images.records}: to hold all of it",
        nbytes(split),
        "Read it as it is needed: config.data.stream=auto",
    )
    loaded = split.images.records.load() if split.images.rows is None else None
    if loaded is not None:
        return Split(*loaded)
    images = np.empty(split.images.shape, split.images.dtype)
    labels = np.empty(split.labels.shape, split.labels.dtype)
    for number, block in enumerate(blocks(split)):
        part = slice(number * BLOCK, number * BLOCK + len(block.labels))
        images[part], labels[part] = block
    return Split(images, labels)


def nbytes(*splits: Split) -> int:
    """What the splits take as arrays."""
    arrays = [array for split in splits for array in split]
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)


def about(dataset: Dataset) -> dict[str, Any]:
    """What a run directory says of its data, for JSON: names, shape, numbers of examples."""
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    return {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "num_examples": {name: len(split.labels) for name, split in splits.items()},
    }


def digest(dataset: Dataset) -> str:
    """SHA-256, in hex, of all a run sees of its data: names, types, shapes and every value.

    Names of classes are not part of it: nothing that is computed depends on them.

    What is streamed from disk would take too long to read. Of it the digest covers names, types
    and shapes, which records each split has, their number and bytes, their files' names and sizes,
    and the contents of 64 examples of each split, evenly spaced; and it is "streamed-" and the
    SHA-256. A change of other examples that keeps their length is not seen.
    """
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    arrays = [array for split in splits.values() for array in split]
    header = {
        "name": dataset.name,
        "num_classes": dataset.num_classes,
        "splits": list(splits),
        "arrays": [[array.dtype.name, array.shape] for array in arrays],
    }
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    prefix = ""
    for array in arrays:
        values = [array]
        if isinstance(array, Column) and array.on_disk:
            head, values = array.sample()
            sha.update(head)
            prefix = "streamed-"
        for part in map(np.asarray, values):
            little_endian = part.astype(part.dtype.newbyteorder("<"), copy=False)
            sha.update(np.ascontiguousarray(little_endian).data)
    return prefix + sha.hexdigest()


def first_per_class(
    labels: np.ndarray, num_classes: int, per_class: int | np.ndarray
) -> np.ndarray:
    """Indices, ascending, of the first `per_class` examples of each class, one number or many."""
    numbers = np.broadcast_to(per_class, num_classes)
    chosen = [np.flatnonzero(labels == label)[: numbers[label]] for label in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def random_per_class(
    labels: np.ndarray, num_classes: int, per_class: int | np.ndarray, seed: int
) -> np.ndarray:
    """Indices, ascending, of `per_class` examples of each class: a pure function of the seed.

    The examples are ranked by raw output of PCG64, which NumPy keeps the same in all versions
    (NEP 19), unlike that of `Generator.permutation`.
    """
    rank = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    return np.sort(rank[first_per_class(labels[rank], num_classes, per_class)])


def divide(source: Source, *, validation: int, examples: int, seed: int) -> Dataset:
    """Takes a stratified subset of the training set, then holds a validation split out of it.

    Args:
      source: what a reader returned.
      validation: training examples held out (see `apportion`), in the place of the set's own
        validation split, if it has one; 0 holds out none.
      examples: training examples kept, the first of each class in file order (see `apportion`);
        0 keeps all.
      seed: decides which examples are held out.

    Raises:
      DataError: the data contradict themselves, or do not allow such a division.
    """
    _check(source)
    train, num_classes = source.train, source.num_classes
    # Of a set on disk this reads every record.
    labels = np.asarray(train.labels) if examples != 0 or validation != 0 else None
    if labels is not None and examples != 0:
        numbers = apportion("data.examples", examples, labels, num_classes, source.name)
        kept = first_per_class(labels, num_classes, numbers)
        train, labels = _take(train, kept), labels[kept]
    kept, held_out = np.arange(len(train.labels)), np.arange(0)
    if labels is not None and validation != 0:
        kept, held_out = divide_rows(labels, num_classes, validation, seed, source.name)
    own = source.validation
    return Dataset(
        name=source.name,
        num_classes=num_classes,
        train=_take(train, kept),
        validation=_take(train, held_out) if own is None or validation != 0 else own,
        test=source.test,
        class_names=source.class_names,
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
      DataError: `validation` is no number that leaves an example of each class.
    """
    held_out = np.zeros(0, np.int64)
    if validation != 0:
        numbers = apportion("data.validation", validation, labels, num_classes, name)
        held_out = random_per_class(labels, num_classes, numbers, seed)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def apportion(key: str, value: int, labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    """How many examples of each class are chosen, where `value` are chosen in all. [num_classes]

    As many of each class, where that is possible. Otherwise in proportion to the classes' sizes,
    where an example of each class stays in the training set: to what each class has beyond one,
    rounded by largest remainder (of equal ones, the lower class first).

    Args:
      key: data.examples, which are kept in the training set, or data.validation, which leave it.
      value: at least 1.
      labels: of the training set.
      num_classes: of them.
      name: of the data set, for messages.

    Raises:
      DataError: it is no integer, or there are not so many.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DataError(f"{key} = {value!r}: a number of examples must be an integer")
    sizes = np.bincount(labels, minlength=num_classes)
    one = np.minimum(sizes, 1)
    spare = sizes - one
    kept = one if key == "data.examples" else np.zeros_like(one)
    low, high = int(kept.sum()), int((kept + spare).sum())
    if not max(1, low) <= value <= high:
        raise DataError(
            f"{key} = {value}: {name} has {len(labels)} training examples of {num_classes} "
            f"classes, and an example of each must stay, so that {key} accepts 0, or "
            f"{max(1, low)} … {high}"
        )
    if value % num_classes == 0 and value // num_classes <= int((kept + spare).min()):
        return np.full(num_classes, value // num_classes)
    # In integers, so that it is the same everywhere.
    shares = (int(value) - low) * spare.astype(object)
    floors = (shares // max(1, int(spare.sum()))).astype(np.int64)
    remainders = (shares % max(1, int(spare.sum()))).astype(np.int64)
    left = int(value) - low - int(floors.sum())
    floors[np.argsort(-remainders, kind="stable")[:left]] += 1
    return kept + floors


def class_names(labels: Iterable[str]) -> list[str]:
    """Each label once: in order of number if all are (of up to 18 digits), else alphabetical."""
    names = sorted(set(labels))
    if all(name.isdecimal() and len(name) <= 18 for name in names):
        names.sort(key=int)
    return names


def _take(split: Split, indices: np.ndarray) -> Split:
    if len(indices) == len(split.labels):
        return split
    if is_streamed(split):
        return Split(split.images.select(indices), split.labels.select(indices))
    return Split(split.images[indices], split.labels[indices])


def check_labels(
    labels: np.ndarray, num_classes: int, file: str, rows: np.ndarray | None = None
) -> None:
    """Raises DataError, naming the example (one of `rows`, if given), if a label is no class."""
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        index = int(np.flatnonzero((labels < 0) | (labels >= num_classes))[0])
        raise DataError(
            f"{file}: label {labels[index]} of example {index if rows is None else rows[index]} is "
            f"out of range; there are the classes 0 … {num_classes - 1}. Correct the label, or "
            "download the file again"
        )


def _check(source: Source) -> None:
    train, train_file = source.splits()["train"]
    for split, file in source.splits().values():
        if not len(split.labels):
            raise DataError(f"{file}: holds no example. Write or download it again")
        if len(split.images) != len(split.labels):
            raise DataError(
                f"{file}: {len(split.images)} images but {len(split.labels)} labels. They must "
                "come in pairs: write or download the file again"
            )
        if not (is_streamed(split) and split.labels.on_disk):
            labels = np.asarray(split.labels)
            check_labels(labels, source.num_classes, file)
            if split is train and labels.min() == labels.max():
                _refuse_one_class(file, labels[0])
        if split.images.shape[1:] != train.images.shape[1:]:
            raise DataError(
                f"{file}: images of shape {split.images.shape[1:]}, but those of {train_file} "
                f"have {train.images.shape[1:]}. Resize them to one shape"
            )
        if split.images.dtype != train.images.dtype:
            raise DataError(
                f"{file}: images of type {split.images.dtype}, but those of {train_file} are "
                f"{train.images.dtype}. Convert them to one type"
            )
    if source.num_classes < 2:
        _refuse_one_class(train_file, 0)


def _refuse_one_class(file: str, label: int) -> None:
    raise DataError(
        f"{file}: every label is {label}; two classes are needed, or there is nothing to learn. "
        "Give training examples of another class"
    )
