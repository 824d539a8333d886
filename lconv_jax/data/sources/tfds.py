"""Image classification sets that TensorFlow Datasets has prepared, read without TensorFlow.

A set is prepared once, by `python -m lconv_jax.data.prepare NAME`, which needs TensorFlow. Its
ArrayRecord files are then read at random places, and its images decoded by Pillow. What is made
here are streamed splits: `lconv_jax.data.load` reads them whole where they fit.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lconv_jax.data import dataset, files

AGAIN = (
    "If a file is damaged or incomplete, delete the folder of this version and prepare the set "
    "again; the download is kept beside it"
)
_INFO_FILE = "dataset_info.json"
_FEATURES_FILE = "features.json"
# Under these keys TFDS's metadata name classes, which TFDS imports.
_CLASS_KEYS = frozenset({"pythonClassName", "python_class_name", "type"})
_OWN_CLASS = re.compile(r"tensorflow_datasets(\.[A-Za-z]\w*)+", re.ASCII)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What TFDS stores. Of others Pillow hands some to programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")


class NotPreparedError(dataset.DataError):
    """The set is not on this disk; `remedy` is the command that puts it there."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}. {remedy}")
        self.remedy = remedy


def read_tfds(
    name: str, data_dir: str | os.PathLike[str] | None, others: Sequence[str] = ()
) -> dataset.Source:
    """The splits of a prepared set: training, test, and validation if it has all three.

    Without a test split the validation split is in its place.

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
    with files.reading(builder.data_dir, AGAIN):
        num_classes, channels = _check_features(builder, name)
        class_names = tuple(builder.info.features["label"].names)
        splits = list(builder.info.splits)
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise dataset.DataError(
            f"{builder.data_dir}: {name} has the splits {', '.join(sorted(splits))}; 'train', and "
            "'test' or 'validation', are needed. Divide it yourself and save it as an .npz file"
        )
    records = {
        split: TfdsRecords(builder, split, num_classes, channels)
        for split in ("train", "validation", "test")
        if split in splits
    }
    source = dataset.Source(
        name=builder.name,
        num_classes=num_classes,
        train=dataset.streamed(records["train"]),
        test=dataset.streamed(records[test]),
        train_file=str(records["train"]),
        test_file=str(records[test]),
        class_names=class_names,
    )
    if test == "validation" or "validation" not in records:
        return source
    own = records["validation"]
    return source._replace(validation=dataset.streamed(own), validation_file=str(own))


def holds_prepared(folder: pathlib.Path) -> bool:
    """Whether these are the files of a set themselves."""
    return files.is_regular(folder / _INFO_FILE)


def find(name: str, data_dir: str | os.PathLike[str] | None, others: Sequence[str] = ()) -> Any:
    """The builder of a prepared set, as `read_tfds` looks for it.

    Raises:
      NotPreparedError: there is no such set.
      DataError: the name cannot be one, or there are several.
    """
    import tensorflow_datasets
    from tensorflow_datasets.core import read_only_builder

    folder = prepared_folder(name, data_dir)
    if folder is not None:
        check_metadata(folder)
        with files.reading(folder, AGAIN):
            return read_only_builder.builder_from_directory(str(folder))
    known = tensorflow_datasets.list_builders(with_community_datasets=False)
    base = name.split("/")[0].split(":")[0]
    where = data_dir or _default_folder()
    if base not in known:
        close = difflib.get_close_matches(base, [*others, *known], 3)
        raise NotPreparedError(
            f"data.name = {name!r}: nothing of this name in {where}, and TFDS knows none"
            + (f"; similar: {', '.join(close)}" if close else ""),
            "Correct the name, or give the path of an .npz file or of a folder of images "
            "(train/CLASS/*, test/CLASS/*)",
        )
    raise NotPreparedError(f"{name}: not prepared in {where}", _prepare_command(name, data_dir))


def _default_folder() -> str:
    """Where TFDS looks by default, in words."""
    set_by_user = os.environ.get("TFDS_DATA_DIR")
    if set_by_user is None:
        return "TFDS's default folder (~/tensorflow_datasets; none is set as TFDS_DATA_DIR)"
    missing = "" if os.path.isdir(os.path.expanduser(set_by_user)) else ", which is no folder"
    return f"TFDS_DATA_DIR ({set_by_user}{missing})"


def prepared_folder(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    """The folder of a prepared set's files, of which none is read; None: there is none.

    Raises:
      DataError: the name cannot be one, or there are several such folders.
    """
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.utils import error_utils

    own = files.place(data_dir) / files.place(name)
    if holds_prepared(own):
        return own
    with files.reading(
        f"data.name = {name!r}",
        "Accepted: a name such as fashion_mnist_small or cifar10, or a path that ends in .npz",
        "names no data set, or several",
    ):
        given = None if data_dir is None else str(files.place(data_dir))
        # As `builder_from_files` begins; but what it finds must be checked before it is read.
        with error_utils.record_error_context():
            found = read_only_builder._find_builder_dir(name, data_dir=given)
        return None if found is None else pathlib.Path(os.fspath(found))


def check_metadata(folder: pathlib.Path) -> None:
    """Refuses a prepared set that TFDS could not read safely, before TFDS reads it.

    Raises:
      DataError: a file of metadata is missing, is no JSON, or names a class that is not one of
        TFDS's own (TFDS would import it, and so run it); or there is a FIFO or a device in the
        folder.
    """
    for path in files.listed(folder, AGAIN):
        if not path.is_dir():
            require_regular(path)
    for name in (_INFO_FILE, _FEATURES_FILE):
        path = folder / name
        content = files.read_bytes(path, AGAIN)
        with files.reading(path, AGAIN, "is no JSON, or not whole"):
            _check_classes(path, content.decode())


def _check_classes(path: pathlib.Path, text: str) -> None:
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            if not isinstance(value, str):
                continue
            if key in _CLASS_KEYS and not _OWN_CLASS.fullmatch(value):
                raise dataset.DataError(
                    f"{path}: names the class {value!r}, whose code would be run; only classes of "
                    "tensorflow_datasets are accepted. Save what you want to learn as an .npz file"
                )
            # Features may be described by JSON within JSON.
            if "{" in value:
                with contextlib.suppress(json.JSONDecodeError):
                    json.loads(value, object_pairs_hook=check)
        return dict(pairs)

    json.loads(text, object_pairs_hook=check)


def require_regular(path: pathlib.Path) -> None:
    """Raises DataError unless it is a regular file, which is neither waited for nor endless."""
    if not files.is_regular(path):
        raise dataset.DataError(f"{path}: is no regular file, or not there. {AGAIN}")


def _prepare_command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    folder = "" if data_dir is None else f" --data_dir {data_dir}"
    return (
        "Download and prepare it once with\n"
        '    pip install "lconv_jax[tfds]"\n'
        f"    python -m lconv_jax.data.prepare {name}{folder}"
    )


def check_format(builder: Any, name: str, data_dir: str | os.PathLike[str] | None) -> None:
    """Raises `NotPreparedError` where the set is not prepared in a format of random access."""
    with files.reading(builder.data_dir, AGAIN):
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


def open_split(builder: Any, split: str, **options: Any) -> Any:
    """TFDS's source of a split's records, by index.

    Args:
      builder: of the set.
      split: its name.
      **options: of `as_data_source`.

    Raises:
      DataError: there is no such split, or its files do not hold as many records as it should have.
    """
    from array_record.python import array_record_module

    where = f"{builder.data_dir} ({split})"
    with files.reading(where, AGAIN):
        info = builder.info.splits[split]
        for path, stated in zip(info.filepaths, info.shard_lengths, strict=True):
            local = pathlib.Path(os.fspath(path))
            require_regular(local)
            reader = array_record_module.ArrayRecordReader(str(local))
            there = reader.num_records()
            reader.close()
            if there != stated:
                raise dataset.DataError(
                    f"{local}: holds {there} records, where {_INFO_FILE} says {stated}. {AGAIN}"
                )
        return builder.as_data_source(split, file_format="array_record", **options)


class TfdsRecords:
    """One split of a prepared set, as `records.Records`."""

    def __init__(self, builder: Any, split: str, num_classes: int, channels: int):
        import tensorflow_datasets

        self._where = f"{builder.data_dir} ({split})"
        self._split, self._num_classes, self._channels = split, num_classes, channels
        decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
        self._source = open_split(builder, split, decoders=decoders)
        count = len(self._source)
        if not count:
            raise dataset.DataError(f"{self}: holds no example. Prepare the set again")
        self.dtype = np.dtype(np.uint8)
        (first,) = self._records([0])
        with files.reading(f"{self}, image 0", AGAIN):
            self.shape: tuple[int, ...] = (count, *_decode(first["image"], channels).shape)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        labels = np.empty(len(rows), np.int32)
        for place, record in enumerate(self._records(rows.tolist())):
            with files.reading(f"{self}, image {rows[place]}", AGAIN):
                image, label = _decode(record["image"], self._channels), record["label"]
                if image.shape != self.shape[1:]:
                    raise dataset.DataError(
                        f"{self}: image {rows[place]} has shape {image.shape}, but image 0 "
                        f"{self.shape[1:]}. Images must have one size: resize them and save "
                        "them as an .npz file, or choose a data set of one size"
                    )
                images[place], labels[place] = image, label
        dataset.check_labels(labels, self._num_classes, str(self), rows)
        return images, labels

    def read_labels(self, rows: np.ndarray) -> np.ndarray:
        labels = np.empty(len(rows), np.int32)
        for start in range(0, len(rows), dataset.BLOCK):
            part = slice(start, start + dataset.BLOCK)
            found = self._records(rows[part].tolist())
            with files.reading(f"{self}, labels", AGAIN):
                labels[part] = [record["label"] for record in found]
        dataset.check_labels(labels, self._num_classes, str(self), rows)
        return labels

    def _records(self, rows: list[int]) -> Any:
        with files.reading(self, AGAIN):
            return self._source.__getitems__(rows)

    def whole(self) -> None:
        return None

    def load(self) -> None:
        return None

    def files(self) -> dict[str, Any]:
        """What TFDS noted when it wrote the files, and the files' names and bytes."""
        info = self._source.dataset_info.splits[self._split]
        with files.reading(self, AGAIN):
            return {
                "bytes": info.num_bytes,  # of the records, uncompressed
                "examples": info.shard_lengths,
                "files": [(path.name, path.stat().length) for path in info.filepaths],
            }

    def __str__(self) -> str:
        return self._where


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    """[H, W, C] uint8 of an encoded PNG or JPEG image."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            pixels = np.asarray(image.convert(_MODES[channels]))
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"no {' or '.join(_FORMATS)}; begins with {encoded[:8]!r}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
