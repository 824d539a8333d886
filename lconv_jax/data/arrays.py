"""Data sets made of arrays, and written as .npz files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lconv_jax.data import dataset
from lconv_jax.data.records import DataError
from lconv_jax.data.sources import npz
from lconv_jax.host import places

Pair = tuple[ArrayLike, ArrayLike]
_SPLITS = ("train", "test", "validation")


class _Array(NamedTuple):
    """An array in memory, in the place of one in a file."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self) -> np.ndarray:
        return self.array


def from_arrays(
    train: Pair,
    test: Pair,
    validation: Pair | None = None,
    *,
    name: str = "arrays",
    class_names: Sequence[str] = (),
    signals: bool = False,
) -> dataset.Dataset:
    """A data set of arrays, checked as those of an .npz file are.

    Args:
      train: images and labels. Images are [N, H, W] or [N, H, W, C], channels last, uint8 or
        floating point; the latter are used as they are, so scale them first. Labels are integers
        0 … classes − 1, each class with a training example.
      test: of the same shape and type.
      validation: likewise, or None.
      name: of the data set. It is part of its digest, and so of what a run is continued with.
      class_names: one for each class, in the order of the labels; or none.
      signals: whether they are [N, L] or [N, L, C], with one spatial axis.

    Returns:
      The data set. Arrays of the right type are not copied.

    Raises:
      DataError: naming the array, what is wrong with it and what to do.
    """
    pairs = dict(zip(_SPLITS, (train, test, validation), strict=True))
    splits = {
        split: _split(name, split, pair, 2 if signals else 3)
        for split, pair in pairs.items()
        if pair is not None
    }
    num_classes = int(splits["train"].labels.max(initial=-1)) + 1
    npz.check_classes(name, "train labels", splits["train"].labels, num_classes)
    return dataset.divide(
        _source(name, num_classes, splits, class_names), validation=0, examples=0, seed=0
    )


def source(given: dataset.Dataset) -> dataset.Source:
    """What a reader would return for a data set that a program made. Streamed splits stay so.

    Raises:
      DataError: it is no data set, or an array is not as `dataset.Split` says.
    """
    if not isinstance(given, dataset.Dataset):
        raise DataError(
            f"dataset = {type(given).__name__}: must be a lconv_jax.data.Dataset; make one with "
            "lconv_jax.data.from_arrays"
        )
    splits = {}
    for name in _SPLITS:
        split = getattr(given, name)
        if dataset.is_streamed(split):
            splits[name] = split
        elif name != "validation" or len(split.labels):
            axes = 2 if np.ndim(split.images) == 3 else 3
            splits[name] = _split(given.name, name, tuple(split), axes)
    return _source(given.name, given.num_classes, splits, given.class_names)


def save(given: dataset.Dataset, path: str | os.PathLike[str]) -> None:
    """Writes a data set as an .npz file that `load` reads, with the names of its classes.

    Args:
      given: the data set, in memory.
      path: of the file, which is replaced; it ends in ".npz".

    Raises:
      DataError: the path does not end so, or the data are on disk and too large to be in memory.
      ConfigError: there is no such folder.
    """
    target = places.output(path, "the file")
    if not target.lower().endswith(".npz"):
        raise DataError(f"{target}: a data set is found by a name that ends in .npz; add it")
    images, labels = ("{}_signals", "{}_labels")
    if len(given.image_shape) == 3:
        images, labels = ("x_{}", "y_{}")
    arrays: dict[str, Any] = {}
    for name in _SPLITS:
        split = dataset.read_all(getattr(given, name))
        if name != "validation" or len(split.labels):
            arrays |= {images.format(name): split.images, labels.format(name): split.labels}
    if given.class_names:
        arrays["class_names"] = np.array(given.class_names, str)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as folder:
        written = os.path.join(folder, "set.npz")
        np.savez(written, **arrays)
        os.replace(written, target)


def _split(where: str, name: str, pair: Any, axes: int) -> dataset.Split:
    try:
        images, labels = map(np.asarray, pair)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: {name} must be a pair of arrays, images and labels ({error})"
        ) from error
    return dataset.Split(
        npz.read_images(where, f"{name} images", _Array(images), axes),
        npz.read_labels(where, f"{name} labels", _Array(labels)),
    )


def _source(
    name: str,
    num_classes: int,
    splits: dict[str, dataset.Split],
    class_names: Sequence[str],
) -> dataset.Source:
    if not isinstance(name, str) or not name:
        raise DataError(f"name = {name!r}: must be a text")
    if isinstance(class_names, str) or not all(isinstance(each, str) for each in class_names):
        raise DataError(f"{name}: class_names must be a list of texts, got {class_names!r}")
    npz.check_class_names(name, class_names, num_classes)
    return dataset.Source(
        name=name,
        num_classes=num_classes,
        train=splits["train"],
        test=splits["test"],
        train_file=f"{name} (train)",
        test_file=f"{name} (test)",
        validation=splits.get("validation"),
        validation_file=f"{name} (validation)",
        class_names=tuple(class_names),
    )
