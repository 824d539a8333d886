"""Data sets by name, in memory or read as they are needed, and their augmentation on the device.

Importing this package imports neither TensorFlow nor tensorflow-datasets nor scikit-learn.
"""

from __future__ import annotations

import dataclasses
import math
import os

from lconv_jax.data import arrays, surrogates
from lconv_jax.data.arrays import from_arrays, save
from lconv_jax.data.augmentation.shifts import augment, normalize
from lconv_jax.data.dataset import (
    Chunk,
    DataError,
    Dataset,
    Source,
    Split,
    about,
    blocks,
    digest,
    divide,
    divide_rows,
    is_streamed,
    nbytes,
    read,
    read_all,
    stream_arrays,
)
from lconv_jax.data.records import Column
from lconv_jax.data.sources import registry
from lconv_jax.data.sources.images import decode as decode_image

__all__ = [
    "Chunk",
    "Column",
    "DataError",
    "Dataset",
    "Split",
    "about",
    "augment",
    "blocks",
    "decode_image",
    "digest",
    "divide_rows",
    "from_arrays",
    "given",
    "is_streamed",
    "load",
    "nbytes",
    "normalize",
    "read",
    "read_all",
    "save",
    "stream_arrays",
]


# When examples are read as they are needed, instead of moved to the device whole.
STREAM = ("auto", "never", "always")


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int = 0,
    examples: int = 0,
    seed: int = 0,
    stream: str = "never",
    device_limit_gib: float = 4.0,
    size: int = 0,
    channels: int = 0,
    surrogate: str = "",
) -> Dataset:
    """Loads a data set into memory as NumPy arrays, or opens it to be read as it is needed.

    Args:
      name: one of
        "fashion_mnist_small", 10 000 training and 2 000 test examples inside this package;
        "fashion_mnist", from the four IDX files in `data_dir`, or where Debian's package
          dataset-fashion-mnist puts them, or prepared by TFDS;
        "digits", scikit-learn's 8 × 8 digits;
        "nlgp", "gp", "nlgp_2d", "gp_2d", "planted", "mnist1d", "words", "spoken_digits", "dna",
          "dna_motifs" or "genomics_ood", which are not photographs, with options behind the name
          as in "nlgp:length=64,seed=3" (docs/other_data.md);
        a path that ends in ".npz", relative to `data_dir` (see `lconv_jax.data.sources.npz`);
        any image classification set of TFDS, such as "cifar10", prepared under `data_dir` (or
          TFDS's own default) by `python -m lconv_jax.data.prepare NAME`; or the same set in the
          .npz file that `data_dir` names;
        the folder of such a set's own files (with its dataset_info.json), relative to `data_dir`;
        a folder of images, train/CLASS/* and test/CLASS/*, relative to `data_dir` (see
          `lconv_jax.data.sources.folder`).
      data_dir: the folder to read from; None or "" is the source's own default.
      validation: number of training examples to hold out, chosen by `seed`, and never part of
        `train`: as many of each class, or else in proportion (see `dataset.apportion`). 0: none;
        the validation split is then that of the set's own, if it has one.
      examples: if not 0, the training set is first cut to this many: the first of each class in
        file order, as many of each, or else in proportion.
      seed: decides which examples are held out, and nothing else.
      stream: "never" reads all; "always" makes splits that are read as they are needed (see
        `Split`), a TFDS set's from disk, any other's from the host's memory; "auto" does so where
        the splits together, as arrays, are larger than `device_limit_gib`.
      device_limit_gib: what a device may be asked to hold, in GiB.
      size: height and width that images are resized to; 0: as they are, of one size.
      channels: 1 (grey) or 3 (RGB); 0: as the images are, of a folder 1 if all its files are grey.
      surrogate: in the place of the examples, others that are made of them (see
        `lconv_jax.data.surrogates`), before any division; "": none.

    Returns:
      The data set; `validation` has no rows if there is none. Order is that of the files.

    Raises:
      DataError: a ValueError that names the file or key at fault, and says what to do.
    """
    limit = _limit(stream, device_limit_gib)
    source = registry.read(name, data_dir or None, size=size, channels=channels)
    if surrogate:
        source = surrogates.make(source, surrogate)
    return _divided(source, limit, validation=validation, examples=examples, seed=seed)


def given(
    dataset: Dataset,
    *,
    validation: int = 0,
    examples: int = 0,
    seed: int = 0,
    stream: str = "never",
    device_limit_gib: float = 4.0,
    surrogate: str = "",
) -> Dataset:
    """A data set that a program made, checked and divided as `load` does with one that it reads.

    Args:
      dataset: made by `from_arrays` or `load`, or by hand. Its validation split is kept where
        `validation` is 0.
      validation, examples, seed, stream, device_limit_gib, surrogate: as in `load`.

    Raises:
      DataError: it is no data set, or contradicts itself, or does not allow such a division.
    """
    limit = _limit(stream, device_limit_gib)
    source = arrays.source(dataset)
    if surrogate:
        source = surrogates.make(source, surrogate)
    return _divided(source, limit, validation=validation, examples=examples, seed=seed)


def _limit(stream: str, device_limit_gib: float) -> float:
    """Bytes of a data set beyond which it is streamed."""
    if stream not in STREAM:
        raise DataError(f"data.stream = {stream!r}: must be one of {', '.join(STREAM)}")
    return {"never": math.inf, "always": 0.0}.get(stream, device_limit_gib * 2**30)


def _divided(source: Source, limit: float, *, validation: int, examples: int, seed: int) -> Dataset:
    """The splits of a data set, read if they are to be in memory, and divided."""
    splits = [split for split, _ in source.splits().values()]
    prepare = stream_arrays if nbytes(*splits) > limit else read_all
    own = source.validation
    source = source._replace(
        train=prepare(source.train),
        test=prepare(source.test),
        validation=None if own is None else prepare(own),
    )
    dataset = divide(source, validation=validation, examples=examples, seed=seed)
    if nbytes(dataset.train, dataset.validation, dataset.test) > limit:
        return dataset
    # A subset may fit where the whole set does not.
    return dataclasses.replace(
        dataset,
        train=read_all(dataset.train),
        validation=read_all(dataset.validation),
        test=read_all(dataset.test),
    )
