"""Image classification sets that TensorFlow Datasets has prepared, read without TensorFlow.

A set is prepared once, by `python -m lconv_jax.data.prepare NAME`, which needs TensorFlow. Its
ArrayRecord files are then read at random places, and its images decoded by Pillow.
"""

from __future__ import annotations

import difflib
import io
import os
import pathlib
from typing import Any

import numpy as np

from lconv_jax.data import dataset

# Records read at a time.
_CHUNK = 1024
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class NotPreparedError(dataset.DataError):
    """The set is not on this disk; `remedy` is the command that puts it there."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.remedy = remedy


def read_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    """The training and test split (or else validation split) of a prepared set.

    Args:
      name: as TFDS takes it: "cifar10", "cifar10:3.0.2", "imagenet_resized/8x8".
      data_dir: where it was prepared; None: TFDS's own default, and `TFDS_DATA_DIR`.

    Raises:
      NotPreparedError: there is no such set, or not in a format of random access.
      DataError: a file is damaged, or the set is not one of images of one size with one label.
    """
    builder = _find(name, data_dir)
    _check_format(builder, name, data_dir)
    num_classes, channels = _check_features(builder, name)
    splits = list(builder.info.splits)
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise dataset.DataError(
            f"{builder.data_dir}: {name} has the splits {', '.join(sorted(splits))}; 'train', and "
            "'test' or 'validation', are needed. Divide it yourself and save it as an .npz file"
        )
    return dataset.Source(
        name=builder.name,
        num_classes=num_classes,
        train=_read_split(builder, "train", channels),
        test=_read_split(builder, test, channels),
        train_file=f"{builder.data_dir} (train)",
        test_file=f"{builder.data_dir} ({test})",
    )


def _find(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets
    from tensorflow_datasets.core import read_only_builder

    folder = None if data_dir is None else str(pathlib.Path(data_dir).expanduser())
    try:
        return read_only_builder.builder_from_files(name, data_dir=folder)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        base = name.split("/")[0].split(":")[0]
        where = folder or "TFDS's default folder (~/tensorflow_datasets, or TFDS_DATA_DIR)"
        if base not in known:
            close = difflib.get_close_matches(base, [*known, "fashion_mnist_small", "digits"], 3)
            raise NotPreparedError(
                f"data.name = {name!r}: nothing of this name in {where}, and TFDS knows none"
                + (f"; similar: {', '.join(close)}" if close else ""),
                "Correct the name, or give the path of an .npz file",
            ) from error
        raise NotPreparedError(
            f"{name}: not prepared in {where}", _prepare_command(name, data_dir)
        ) from error
    except ValueError as error:
        # The name cannot be parsed, or the set was found in several folders.
        problem = str(error).splitlines()[0]
        raise dataset.DataError(
            f"data.name = {name!r}: {problem} Accepted: a name such as fashion_mnist_small or "
            "cifar10, or a path that ends in .npz"
        ) from error


def _prepare_command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    folder = "" if data_dir is None else f" --data_dir {data_dir}"
    return (
        "Download and prepare it once with\n"
        '    pip install "lconv_jax[tfds]"\n'
        f"    python -m lconv_jax.data.prepare {name}{folder}"
    )


def _check_format(builder: Any, name: str, data_dir: str | os.PathLike[str] | None) -> None:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise NotPreparedError(
            f"{builder.data_dir}: prepared as {', '.join(sorted(formats)) or 'nothing'}, which "
            "cannot be read without TensorFlow. Delete this folder (the download is kept beside "
            "it) or choose another as data.data_dir",
            _prepare_command(name, data_dir),
        )


def _check_features(builder: Any, name: str) -> tuple[int, int]:
    """The number of classes, and of channels."""
    import tensorflow_datasets

    features = builder.info.features
    found = dict(features) if hasattr(features, "keys") else {}
    image, label = found.get("image"), found.get("label")
    if (
        not isinstance(image, tensorflow_datasets.features.Image)
        or not isinstance(label, tensorflow_datasets.features.ClassLabel)
        or not label.num_classes
    ):
        kinds = ", ".join(f"{key}: {type(found[key]).__name__}" for key in sorted(found))
        raise dataset.DataError(
            f"{builder.data_dir}: {name} has the features {kinds}; 'image' (an Image) and 'label' "
            "(a ClassLabel) are needed. Save what you want to learn as an .npz file"
        )
    if image.np_dtype != np.uint8 or image.shape[-1] not in _MODES:
        raise dataset.DataError(
            f"{builder.data_dir}: {name} has images of {image.shape[-1]} channels of "
            f"{image.np_dtype.__name__}; 1, 3 or 4 channels of uint8 are accepted"
        )
    return int(label.num_classes), int(image.shape[-1])


def _read_split(builder: Any, split: str, channels: int) -> dataset.Split:
    import tensorflow_datasets

    where = f"{builder.data_dir} ({split})"
    count = builder.info.splits[split].num_examples
    images: np.ndarray | None = None
    labels = np.empty(count, np.int32)
    try:
        source = builder.as_data_source(
            split,
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
            file_format="array_record",
        )
        for start in range(0, count, _CHUNK):
            indices = range(start, min(start + _CHUNK, count))
            for index, record in zip(indices, source.__getitems__(indices), strict=True):
                image = _decode(record["image"], channels)
                if images is None:
                    images = np.empty((count, *image.shape), np.uint8)
                if image.shape != images.shape[1:]:
                    raise dataset.DataError(
                        f"{where}: image {index} has shape {image.shape}, but image 0 "
                        f"{images.shape[1:]}. Images must have one size: resize them and save "
                        "them as an .npz file, or choose a data set of one size"
                    )
                images[index], labels[index] = image, record["label"]
    except dataset.DataError:
        raise
    except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise dataset.DataError(
            f"{where}: cannot be read ({error}). If a file is damaged or incomplete, delete the "
            "folder and prepare the set again"
        ) from error
    if images is None:
        raise dataset.DataError(f"{where}: holds no example. Prepare the set again")
    return dataset.Split(images, labels)


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    """[H, W, C] uint8 of an encoded PNG or JPEG image."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)
