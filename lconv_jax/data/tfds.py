"""Image classification sets that TensorFlow Datasets has prepared, read without TensorFlow.

A set is prepared once, by `python -m lconv_jax.data.prepare NAME`, which needs TensorFlow. Its
ArrayRecord files are then read at random places, and its images decoded by Pillow. What is made
here are streamed splits: `lconv_jax.data.load` reads them whole where they fit.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lconv_jax.data import dataset

_INFO_FILE = "dataset_info.json"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class NotPreparedError(dataset.DataError):
    """The set is not on this disk; `remedy` is the command that puts it there."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.remedy = remedy


def read_tfds(
    name: str, data_dir: str | os.PathLike[str] | None, others: Sequence[str] = ()
) -> dataset.Source:
    """The training and test split (or else validation split) of a prepared set.

    Args:
      name: as TFDS takes it: "cifar10", "cifar10:3.0.2", "imagenet_resized/8x8"; or the folder of
        the set's own files.
      data_dir: where it was prepared; None: TFDS's own default, and `TFDS_DATA_DIR`.
      others: names of sets that TFDS does not have, to suggest where a name is misspelled.

    Returns:
      Streamed splits, of which nothing is read but the first image of each.

    Raises:
      NotPreparedError: there is no such set, or not in a format of random access.
      DataError: a file is damaged, or the set is not one of images of one size with one label.
    """
    builder = find(name, data_dir, others)
    check_format(builder, name, data_dir)
    num_classes, channels = _check_features(builder, name)
    splits = list(builder.info.splits)
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise dataset.DataError(
            f"{builder.data_dir}: {name} has the splits {', '.join(sorted(splits))}; 'train', and "
            "'test' or 'validation', are needed. Divide it yourself and save it as an .npz file"
        )
    where = {split: f"{builder.data_dir} ({split})" for split in ("train", test)}
    return dataset.Source(
        name=builder.name,
        num_classes=num_classes,
        train=dataset.streamed(TfdsRecords(builder, "train", num_classes, channels)),
        test=dataset.streamed(TfdsRecords(builder, test, num_classes, channels)),
        train_file=where["train"],
        test_file=where[test],
    )


def holds_prepared(folder: pathlib.Path) -> bool:
    """Whether these are the files of a set themselves."""
    return (folder / _INFO_FILE).is_file()


def find(name: str, data_dir: str | os.PathLike[str] | None, others: Sequence[str] = ()) -> Any:
    """The builder of a prepared set, as `read_tfds` looks for it.

    Raises:
      NotPreparedError: there is no such set.
      DataError: the name cannot be one, or there are several.
    """
    import tensorflow_datasets
    from tensorflow_datasets.core import read_only_builder

    folder = None if data_dir is None else str(pathlib.Path(data_dir).expanduser())
    own = pathlib.Path(folder or "") / pathlib.Path(name).expanduser()
    try:
        if holds_prepared(own):
            return read_only_builder.builder_from_directory(str(own))
        return read_only_builder.builder_from_files(name, data_dir=folder)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        base = name.split("/")[0].split(":")[0]
        where = folder or "TFDS's default folder (~/tensorflow_datasets, or TFDS_DATA_DIR)"
        if base not in known:
            close = difflib.get_close_matches(base, [*others, *known], 3)
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


def check_format(builder: Any, name: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Raises `NotPreparedError` where the set is not prepared in a format of random access."""
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


class TfdsRecords:
    """One split of a prepared set, as `records.Records`."""

    def __init__(self, builder: Any, split: str, num_classes: int, channels: int):
        import tensorflow_datasets

        self._where = f"{builder.data_dir} ({split})"
        self._split, self._num_classes, self._channels = split, num_classes, channels
        with self._reading():
            self._source = builder.as_data_source(
                split,
                decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
                file_format="array_record",
            )
        count = builder.info.splits[split].num_examples
        if not count:
            raise dataset.DataError(f"{self}: holds no example. Prepare the set again")
        self.dtype = np.dtype(np.uint8)
        with self._reading():
            (first,) = self._source.__getitems__([0])
            self.shape = (count, *_decode(first["image"], channels).shape)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        labels = np.empty(len(rows), np.int32)
        with self._reading():
            found = self._source.__getitems__(rows.tolist())
            for place, record in enumerate(found):
                image = _decode(record["image"], self._channels)
                if image.shape != self.shape[1:]:
                    raise dataset.DataError(
                        f"{self}: image {rows[place]} has shape {image.shape}, but image 0 "
                        f"{self.shape[1:]}. Images must have one size: resize them and save "
                        "them as an .npz file, or choose a data set of one size"
                    )
                images[place], labels[place] = image, record["label"]
        dataset.check_labels(labels, self._num_classes, str(self), rows)
        return images, labels

    def read_labels(self, rows: np.ndarray) -> np.ndarray:
        labels = np.empty(len(rows), np.int32)
        with self._reading():
            for start in range(0, len(rows), dataset.BLOCK):
                part = slice(start, start + dataset.BLOCK)
                found = self._source.__getitems__(rows[part].tolist())
                labels[part] = [record["label"] for record in found]
        dataset.check_labels(labels, self._num_classes, str(self), rows)
        return labels

    def whole(self) -> None:
        return None

    def files(self) -> dict[str, Any]:
        """What TFDS noted when it wrote the files, and the files' names and bytes."""
        info = self._source.dataset_info.splits[self._split]
        with self._reading():
            return {
                "bytes": info.num_bytes,  # of the records, uncompressed
                "examples": info.shard_lengths,
                "files": [(path.name, path.stat().length) for path in info.filepaths],
            }

    def __str__(self) -> str:
        return self._where

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except dataset.DataError:
            raise
        except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
            raise dataset.DataError(
                f"{self}: cannot be read ({error}). If a file is damaged or incomplete, delete the "
                "folder and prepare the set again"
            ) from error


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    """[H, W, C] uint8 of an encoded PNG or JPEG image."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)
