"""Data sets in memory, by name, and their augmentation on the device.

Importing this package imports neither TensorFlow nor tensorflow-datasets nor scikit-learn.
"""

from __future__ import annotations

import os

from lconv_jax.data import sources
from lconv_jax.data.augment import augment, normalize
from lconv_jax.data.dataset import DataError, Dataset, Split, digest, divide, divide_rows

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "augment",
    "digest",
    "divide_rows",
    "load",
    "normalize",
]


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int = 0,
    examples: int = 0,
    seed: int = 0,
) -> Dataset:
    """Loads a data set into memory as NumPy arrays.

    Args:
      name: one of
        "fashion_mnist_small", 10 000 training and 2 000 test examples inside this package;
        "fashion_mnist", from the four IDX files in `data_dir`, or where Debian's package
          dataset-fashion-mnist puts them, or prepared by TFDS;
        "digits", scikit-learn's 8 × 8 digits;
        a path that ends in ".npz", relative to `data_dir` (see `lconv_jax.data.npz`);
        any image classification set of TFDS, such as "cifar10", prepared under `data_dir` (or
          TFDS's own default) by `python -m lconv_jax.data.prepare NAME`.
      data_dir: the folder to read from; None or "" is the source's own default.
      validation: number of training examples to hold out: as many of each class, chosen by
        `seed`, and never part of `train`.
      examples: if not 0, the training set is first cut to this many: the first examples / classes
        of each class, in file order.
      seed: decides which examples are held out, and nothing else.

    Returns:
      The data set; `validation` has no rows if none were asked for. Order is that of the files.

    Raises:
      DataError: a ValueError that names the file or key at fault, and says what to do.
    """
    source = sources.read(name, data_dir or None)
    return divide(source, validation=validation, examples=examples, seed=seed)
