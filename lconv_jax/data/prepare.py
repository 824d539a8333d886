"""Downloads a set of TensorFlow Datasets and prepares it for reading without TensorFlow.

    pip install "lconv_jax[tfds]"
    python -m lconv_jax.data.prepare NAME [--data_dir FOLDER]

This is the one part of the package that needs TensorFlow, and it is needed once per data set.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from lconv_jax.data import dataset


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Prepares `name` in ArrayRecord format, and returns the folder it is in.

    Args:
      name: as TFDS takes it, such as "cifar10".
      data_dir: where to put it; None: TFDS's own default.

    Raises:
      DataError: TensorFlow is missing, TFDS knows no such set, or it is there in another format.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise dataset.DataError(
            'Preparing a data set needs TensorFlow: pip install "lconv_jax[tfds]"'
        )
    import tensorflow_datasets

    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        builder = tensorflow_datasets.builder(name, data_dir=folder)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        raise dataset.DataError(f"{name}: {str(error).splitlines()[0]}") from error
    found = {file_format.value for file_format in builder.info.available_file_formats()}
    if not builder.data_path.exists():
        builder = tensorflow_datasets.builder(name, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    elif "array_record" not in found:
        raise dataset.DataError(
            f"{builder.data_dir}: already prepared as {', '.join(sorted(found))}. Delete this "
            "folder and prepare the set again; the download is kept beside it"
        )
    return str(builder.data_dir)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lconv_jax.data.prepare", description="Downloads and prepares a TFDS set."
    )
    parser.add_argument("name", help="cifar10, cifar100, svhn_cropped, mnist, …")
    parser.add_argument("--data_dir", help="where to put it (default: TFDS's own)")
    arguments = parser.parse_args()
    try:
        print(prepare(arguments.name, arguments.data_dir))
    except dataset.DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
