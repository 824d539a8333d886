"""Downloads a set of TensorFlow Datasets and prepares it for reading without TensorFlow.

    pip install "lconv_jax[tfds]"
    python -m lconv_jax.data.prepare NAME [--data_dir FOLDER]

This is the one part of the package that needs TensorFlow, and it is needed once per data set.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator

from lconv_jax.data import dataset, files
from lconv_jax.data.sources import tfds


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Prepares `name` in ArrayRecord format, and returns the folder it is in.

    Args:
      name: as TFDS takes it, such as "cifar10".
      data_dir: where to put it; None: TFDS's own default.

    Raises:
      DataError: TensorFlow is missing, TFDS knows no such set, it is there in another format or
        not whole, or it cannot be downloaded.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise dataset.DataError(
            'Preparing a data set needs TensorFlow: pip install "lconv_jax[tfds]"'
        )
    import tensorflow_datasets

    there = tfds.prepared_folder(name, data_dir)
    if there is not None:
        return str(_checked(name, data_dir, there))
    folder = None if data_dir is None else str(files.place(data_dir))
    with files.reading(name, "Give a name such as cifar10", "is no set that TFDS can prepare"):
        builder = tensorflow_datasets.builder(name, data_dir=folder, file_format="array_record")
    target = pathlib.Path(os.fspath(builder.data_path))
    if target.exists():
        _remove_empty(target)
    with (
        _few_retries(),
        files.reading(
            name,
            "See that the network reaches the server and that the disk has room, and start again: "
            "what was downloaded is kept",
            "could not be downloaded and prepared",
        ),
    ):
        builder.download_and_prepare()
    return str(builder.data_dir)


def _checked(
    name: str, data_dir: str | os.PathLike[str] | None, folder: pathlib.Path
) -> pathlib.Path:
    """The folder, if the set in it is whole and can be read."""
    builder = tfds.find(name, data_dir)
    tfds.check_format(builder, name, data_dir)
    for split in builder.info.splits:
        tfds.open_split(builder, split)
    return folder


def _remove_empty(folder: pathlib.Path) -> None:
    """Makes way for a set, in the place of what a preparation that was broken off has left."""
    with files.reading(
        folder,
        "Delete this folder and prepare the set again; the download is kept beside it",
        "is there, but holds no prepared set: its preparation may have been broken off",
    ):
        folder.rmdir()


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """TFDS asks a server that cannot be reached for minutes; this makes it some seconds."""
    from tensorflow_datasets.core.download import downloader

    before = getattr(downloader, "MAX_RETRIES", None)
    downloader.MAX_RETRIES = 4
    try:
        yield
    finally:
        downloader.MAX_RETRIES = before


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lconv_jax.data.prepare", description="Downloads and prepares a TFDS set."
    )
    parser.add_argument("name", help="cifar10, cifar100, svhn_cropped, mnist, …")
    parser.add_argument("--data_dir", help="where to put it (default: TFDS's own)")
    arguments = parser.parse_args()
    try:
        print(prepare(arguments.name, arguments.data_dir))
    except (dataset.DataError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
