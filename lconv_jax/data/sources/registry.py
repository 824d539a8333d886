"""From a data set's name to its reader."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from lconv_jax.data import dataset, files
from lconv_jax.data.sources import folder, idx, images, npz, tfds

# The last 360 of the 1797 digits, in the order of scikit-learn, are the test set.
_DIGITS_TEST = 360

# The module of this package that reads, builds or generates a set, by the set's name: its function
# `read(name, data_dir)` returns the `Source`. Options stand behind the name (see `options`).
MADE: dict[str, str] = {
    "mnist1d": "mnist1d",
    "planted": "planted",
    "gp": "gaussian",
    "gp_2d": "gaussian",
    "nlgp": "gaussian",
    "nlgp_2d": "gaussian",
    "dna": "dna",
    "dna_motifs": "dna_motifs",
    "genomics_ood": "dna",
    "spoken_digits": "spoken_digits",
    "words": "words",
}

# Written by `python -m lconv_jax.data.make_small`.
SMALL_PATH = pathlib.Path(__file__).parent.with_name("fashion_mnist_small.npz")

# The data set's name in the configuration of a run whose data a program gave.
GIVEN = "given"


def read(
    name: str, data_dir: str | os.PathLike[str] | None, *, size: int = 0, channels: int = 0
) -> dataset.Source:
    """Reads `name` as `lconv_jax.data.load` says, without any division of it.

    Raises:
      DataError: the data are missing, damaged or of an unsupported kind.
    """
    if not isinstance(name, str) or not name:
        raise dataset.DataError(f"data.name = {name!r}: must be the name of a data set")
    with unforeseen(name):
        check_look(size, channels)
        path = files.place(data_dir) / files.place(name)
        if _is_folder(name, path):
            return folder.read_folder(path, size=size, channels=channels)
        try:
            source = _read(name, data_dir)
        except tfds.NotPreparedError as error:
            if not (size or channels) or _is_other(name, path):
                raise
            there = "has neither train/ nor test/" if path.is_dir() else "does not exist"
            raise dataset.DataError(
                f"data.size = {size}, data.channels = {channels}, data.name = {name!r}: "
                f"{path.absolute()} {there}. Give a folder with images in {folder.LAYOUT}. "
                f"Or else: {error}"
            ) from error
        return images.converted(source, size, channels) if size or channels else source


def check_look(size: int, channels: int) -> None:
    """Raises DataError unless they are a size and a number of channels, or 0."""
    if type(size) is not int or not 0 <= size <= images.MOST_SIZE:
        raise dataset.DataError(f"data.size = {size!r}: must be 0 … {images.MOST_SIZE}")
    if type(channels) is not int or channels not in (0, *images.CHANNELS):
        raise dataset.DataError(f"data.channels = {channels!r}: must be 0, 1 or 3")


def _is_folder(name: str, path: pathlib.Path) -> bool:
    """Whether that is a folder of images: no name of another source, and no set of TFDS."""
    return not _is_other(name, path) and folder.holds_images(path)


def _is_other(name: str, path: pathlib.Path) -> bool:
    """Whether a name is of another source than folders: by itself, or by what lies there."""
    others = {"fashion_mnist_small", "digits", "fashion_mnist", GIVEN, *MADE}
    return (
        name.partition(":")[0] in others
        or name.lower().endswith(".npz")
        or tfds.holds_prepared(path)
    )


@contextlib.contextmanager
def unforeseen(name: str) -> Iterator[None]:
    """Turns errors that a reader did not foresee into a DataError, with the error as its cause.

    Readers guard their own parsing (`files.reading`), with more specific messages.
    """
    with files.reading(
        f"data.name = {name!r}",
        "If the data are as the documentation says, this is a mistake of the program: report it",
        "cannot be read for a reason that is not foreseen",
    ):
        yield


def _read(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    path = files.place(data_dir) / files.place(name)
    if name.lower().endswith(".npz"):
        return npz.read_npz(path)
    if name == GIVEN:
        raise dataset.DataError(
            f"data.name = {name!r}: the data of this run were given to train_and_evaluate; call it "
            "with them again, or write them with lconv_jax.data.save and train on that file"
        )
    if name == "fashion_mnist_small":
        return npz.read_npz(SMALL_PATH)._replace(class_names=idx.CLASS_NAMES)
    if name == "digits":
        return _read_digits()
    if name == "fashion_mnist":
        return _read_fashion_mnist(data_dir)
    base = name.partition(":")[0]
    if base in MADE:
        module = importlib.import_module(f"lconv_jax.data.sources.{MADE[base]}")
        return module.read(name, data_dir)
    if path.suffix and files.is_regular(path):
        raise dataset.DataError(
            f"{path}: of single files only .npz files are read. Save your arrays with numpy.savez"
        )
    if str(data_dir or "").endswith(".npz"):
        return npz.read_npz(files.place(data_dir))._replace(name=name)
    return tfds.read_tfds(name, data_dir, ("fashion_mnist_small", "digits", *MADE))


def _read_digits() -> dataset.Source:
    import sklearn.datasets

    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    # 17 grey levels, 0 … 16.
    images_uint8 = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int32)
    return dataset.Source(
        name="digits",
        num_classes=10,
        train=dataset.Split(images_uint8[:-_DIGITS_TEST], labels[:-_DIGITS_TEST]),
        test=dataset.Split(images_uint8[-_DIGITS_TEST:], labels[-_DIGITS_TEST:]),
        train_file="sklearn.datasets.load_digits",
        test_file="sklearn.datasets.load_digits",
    )


def _read_fashion_mnist(data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    folder = idx.DEBIAN_DIR if data_dir is None else files.place(data_dir)
    if idx.holds_idx(folder):
        return idx.read_fashion_mnist(folder)
    try:
        return tfds.read_tfds("fashion_mnist", data_dir)
    except tfds.NotPreparedError as error:
        raise dataset.DataError(
            f"fashion_mnist: no IDX files in {folder}, and no set prepared by TFDS. Put the four "
            f"files of {idx.URL} in a folder and give it as data.data_dir; or install Debian's "
            f"package dataset-fashion-mnist; or use TFDS. {error.remedy}"
        ) from error
