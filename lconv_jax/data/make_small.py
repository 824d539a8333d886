"""Writes fashion_mnist_small.npz, the part of Fashion-MNIST that ships with the package.

    python -m lconv_jax.data.make_small IDX_DIR [OUTPUT.npz]

It holds the first 1000 examples of each class of the official training set and the first 200 of
each class of the official test set, in file order. The licence is in FASHION_MNIST_LICENSE.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from lconv_jax.data import dataset
from lconv_jax.data.sources import idx, registry

TRAIN_PER_CLASS = 1000
TEST_PER_CLASS = 200


def make_small(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] = registry.SMALL_PATH
) -> None:
    """Writes the subset as arrays x_train, y_train, x_test, y_test: uint8, images [N, 28, 28].

    The same files give the same arrays, and with one version of zlib the same bytes.

    Args:
      folder: where Fashion-MNIST's four IDX files are.
      output: the .npz file to write.

    Raises:
      DataError: the IDX files are missing or damaged.
    """
    source = idx.read_fashion_mnist(folder)
    arrays = {}
    for name, split, per_class in (
        ("train", source.train, TRAIN_PER_CLASS),
        ("test", source.test, TEST_PER_CLASS),
    ):
        kept = dataset.first_per_class(split.labels, source.num_classes, per_class)
        arrays[f"x_{name}"] = split.images[kept][..., 0]
        arrays[f"y_{name}"] = split.labels[kept].astype(np.uint8)
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m lconv_jax.data.make_small IDX_DIR [OUTPUT.npz]")
    try:
        make_small(*sys.argv[1:])
    except (dataset.DataError, OSError) as error:
        sys.exit(f"error: {error}")
