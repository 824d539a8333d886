"""Any data set in one .npz file.

The file holds four arrays, under one of these sets of names:

    x_train y_train x_test y_test                                   Keras's names; images
    train_images train_labels test_images test_labels               MedMNIST's names; images
    train_signals train_labels test_signals test_labels             one-dimensional signals

Images are [N, H, W] or [N, H, W, C], signals [N, L] or [N, L, C]; where C is missing there is one
channel. They are uint8, or floating-point numbers that need no further scaling. Labels are
integers 0 … classes − 1, [N] or [N, 1]. Other arrays in the file are not read.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib

import numpy as np

from lconv_jax.data import dataset

# The names of the four arrays, and the number of axes of one example with channels.
_NAMES = (
    (("x_train", "y_train", "x_test", "y_test"), 3),
    (("train_images", "train_labels", "test_images", "test_labels"), 3),
    (("train_signals", "train_labels", "test_signals", "test_labels"), 2),
)


def read_npz(path: str | os.PathLike[str]) -> dataset.Source:
    """The data set of an .npz file laid out as this module's docstring says.

    Raises:
      DataError: the file is missing or damaged, or an array is missing or not as described.
    """
    path = pathlib.Path(path)
    names, example_axes, arrays = _read_arrays(path)
    images = [_images(path, name, arrays[name], example_axes) for name in names[::2]]
    labels = [_labels(path, name, arrays[name]) for name in names[1::2]]
    num_classes = int(labels[0].max(initial=-1)) + 1
    _check_classes(path, names[1], labels[0], num_classes)
    return dataset.Source(
        name=path.stem,
        num_classes=num_classes,
        train=dataset.Split(images[0], labels[0]),
        test=dataset.Split(images[1], labels[1]),
        train_file=f"{path} ({names[0]}, {names[1]})",
        test_file=f"{path} ({names[2]}, {names[3]})",
    )


def _read_arrays(path: pathlib.Path) -> tuple[tuple[str, ...], int, dict[str, np.ndarray]]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise dataset.DataError(f"{path}: not an .npz file. Write it with numpy.savez")
        with file:
            found = set(file.files)
            for names, example_axes in _NAMES:
                if found.issuperset(names):
                    return names, example_axes, {name: _member(path, file, name) for name in names}
    except FileNotFoundError as error:
        raise dataset.DataError(
            f"{path}: no such file. data.name is relative to data.data_dir, if that is given"
        ) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, dataset.DataError):
            raise
        raise dataset.DataError(
            f"{path}: damaged or not an .npz file ({error}). Write or copy it again"
        ) from error
    choices = ", or ".join(" ".join(names) for names, _ in _NAMES)
    raise dataset.DataError(
        f"{path}: holds the arrays {' '.join(sorted(found)) or '(none)'}; it must hold {choices}"
    )


def _member(path: pathlib.Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise dataset.DataError(
            f"{path}: {name} is an array of Python objects, as NumPy makes of images of mixed "
            "size. Bring the images to one size and save them as one uint8 or float32 array"
        ) from error


def _images(path: pathlib.Path, name: str, array: np.ndarray, example_axes: int) -> np.ndarray:
    kind = "images" if example_axes == 3 else "signals"
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise dataset.DataError(
            f"{path}: {name} has type {array.dtype}; {kind} must be uint8 (values 0 … 255) or "
            "floating point. Convert it with .astype"
        )
    if array.ndim == example_axes:
        array = array[..., None]
    if array.ndim != example_axes + 1 or 0 in array.shape[1:]:
        accepted = "[N, H, W] or [N, H, W, C]" if example_axes == 3 else "[N, L] or [N, L, C]"
        raise dataset.DataError(
            f"{path}: {name} has shape {array.shape}; {kind} must have {accepted}, no axis empty"
            + (". Name one-dimensional data train_signals, test_signals" * (example_axes == 3))
        )
    if array.dtype == np.uint8:
        return array
    array = array.astype(np.float32)
    wrong = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if wrong.any():
        raise dataset.DataError(
            f"{path}: {name} has NaN or infinity (as float32) in {int(wrong.sum())} examples, "
            f"first in example {int(np.flatnonzero(wrong)[0])}. Repair or remove them"
        )
    return array


def _labels(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise dataset.DataError(
            f"{path}: {name} has type {array.dtype} and shape {array.shape}; labels must be "
            "integers, one per example. Of one-hot labels take .argmax(1)"
        )
    if len(array) and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        wrong = (array < 0) | (array > np.iinfo(np.int32).max)
        index = int(np.flatnonzero(wrong)[0])
        raise dataset.DataError(
            f"{path}: {name}: label {array[index]} of example {index} is out of range; labels "
            "must be 0 … classes − 1"
        )
    return array.astype(np.int32)


def _check_classes(path: pathlib.Path, name: str, labels: np.ndarray, num_classes: int) -> None:
    if not len(labels):
        return  # said, with the remedy, where the splits are checked
    present = np.unique(labels)
    if len(present) == num_classes and num_classes > 1:
        return
    if num_classes == 1:
        problem = "every label is 0"
    else:
        first = int(np.flatnonzero(present != np.arange(len(present)))[0])
        problem = f"the largest label is {num_classes - 1}, but class {first} has no example"
    raise dataset.DataError(
        f"{path}: {name}: {problem}. Labels must be 0 … classes − 1, at least two classes, each "
        "with a training example: renumber them"
    )
