"""Images in folders: FOLDER/train/CLASS/*, FOLDER/test/CLASS/* and, if there is one, FOLDER/val.

The names of the folders are the classes, in the order of `dataset.class_names`. Every file in them
is an image, but for hidden ones. Images are decoded on all cores when they are read; those of a
whole split are kept decoded (see `decoded`).
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lconv_jax.data import dataset, files, limits
from lconv_jax.data.sources import decoded, images
from lconv_jax.host import files as opening
from lconv_jax.host import memory

T = TypeVar("T")

_VALIDATION = ("val", "valid", "validation")
LAYOUT = "train/CLASS/*, test/CLASS/* and, if there is a validation split, val/CLASS/*"
# What Windows hides, beside the names that begin with a dot.
_HIDDEN = frozenset({"thumbs.db", "desktop.ini"})
# Files that a thread takes at a time. Part of the keys of what is kept.
_CHUNK = 256
_MOST_SIZES = 4  # that a message lists
_RESIZE = "Set data.size, the height and width that all are resized to"


class _SizeError(dataset.DataError):
    """An image is of another size than the first one."""


class Listing(NamedTuple):
    """The files of a split, class by class and in alphabetical order, and what they are."""

    folder: pathlib.Path
    files: list[str]  # relative to `folder`
    sizes: np.ndarray  # int64 [N], in bytes
    labels: np.ndarray  # int32 [N]


def holds_images(path: pathlib.Path) -> bool:
    """Whether a folder is meant to be one of images: it has a folder `train` or `test`."""
    return any(os.path.isdir(path / split) for split in ("train", "test"))


def read_folder(
    path: str | os.PathLike[str], *, size: int = 0, channels: int = 0
) -> dataset.Source:
    """The splits of a folder of images, of which no image is decoded yet.

    Args:
      path: of the folder.
      size: height and width that all images are resized to; 0: all must have one size.
      channels: 1 or 3; 0: 1 if all files are grey, else 3.

    Returns:
      Streamed splits. Nothing is read for them but the folders, and the header of the first image,
      or of all up to the first that is not grey.

    Raises:
      DataError: there is no such folder, split or class; or a file is no image. What only decoding
        shows, damage or images of another size, is said when they are read.
    """
    path = pathlib.Path(os.path.abspath(path))
    classes = _classes(path / "train")
    found = [name for name in _VALIDATION if os.path.isdir(path / name)]
    if len(found) > 1:
        raise dataset.DataError(
            f"{path}: has the folders {', '.join(found)}; keep one of them, the validation split"
        )
    listings = {name: _listing(path / name, classes) for name in ("train", "test", *found)}
    key = _Key(listings, size, channels)
    shape = _shape(listings, size, channels, key)
    records = {split: FolderRecords(split, listings, shape, key) for split in listings}
    source = dataset.Source(
        name=path.name,
        num_classes=len(classes),
        train=dataset.streamed(records["train"]),
        test=dataset.streamed(records["test"]),
        train_file=str(records["train"]),
        test_file=str(records["test"]),
        class_names=tuple(classes),
    )
    for name in found:
        source = source._replace(
            validation=dataset.streamed(records[name]), validation_file=str(records[name])
        )
    return source


class FolderRecords:
    """One split of a folder of images, as `records.Records`."""

    def __init__(
        self, split: str, listings: dict[str, Listing], shape: tuple[int, int, int], key: _Key
    ):
        self._split, self._listings, self._key = split, listings, key
        self._listing = listings[split]
        self.shape: tuple[int, ...] = (len(self._listing.files), *shape)
        self.dtype = np.dtype(np.uint8)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            found[place] = self._decoded(int(row))
        return found, self._listing.labels[rows]

    def read_labels(self, rows: np.ndarray) -> np.ndarray:
        return self._listing.labels[rows]

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """All images and labels: as they are kept, or decoded on all cores, and then kept."""
        key = self._key.of(self._split)
        found = None if key is None else decoded.images(key)
        if found is None or found.shape != self.shape or found.dtype != np.uint8:
            found = self._decode()
            if key is not None:
                decoded.keep(key, found)
        return found, self._listing.labels

    def _decode(self) -> np.ndarray:
        found = np.empty(self.shape, np.uint8)

        def decode(part: range) -> None:
            for row in part:
                found[row] = self._decoded(row)

        try:
            for _ in _on_all_cores(decode, _chunks(len(found))):
                pass
        except _SizeError as error:
            raise dataset.DataError(
                f"{self._listing.folder.parent}: the images differ in size (height × width): "
                f"{_sizes(self._listings)}. {_RESIZE}"
            ) from error
        return found

    def _decoded(self, row: int) -> np.ndarray:
        _, height, _, channels = self.shape
        size = height if self._key.size else 0
        where = os.path.join(self._listing.folder, self._listing.files[row])
        pixels = images.decode(_content(where), size=size, channels=channels, where=where)
        if pixels.shape != self.shape[1:]:
            raise _SizeError(
                f"{where}: is an image of {_size(pixels.shape)} (height × width), but the first "
                f"one of the set has {_size(self.shape[1:])}. {_RESIZE}"
            )
        return pixels

    def whole(self) -> None:
        return None

    def files(self) -> dict[str, Any]:
        """The files' names and bytes, as one digest of them."""
        lines = zip(self._listing.files, self._listing.sizes.tolist(), strict=True)
        sha = hashlib.sha256(os.fsencode("\0".join(f"{name}\0{size}" for name, size in lines)))
        return {"files": len(self._listing.files), "names_and_bytes": sha.hexdigest()}

    def __str__(self) -> str:
        return str(self._listing.folder)


class _Key:
    """Under what the decoded images of a folder are kept: a digest of all its files' contents.

    The files are read for it, once, when it is first asked for. With labels and order it decides
    the arrays, together with `size`, `channels` and the version of Pillow.
    """

    def __init__(self, listings: dict[str, Listing], size: int, channels: int):
        self._listings, self.size, self._channels = listings, size, channels

    def of(self, split: str) -> str | None:
        """The key of a split; None: nothing is kept."""
        return None if self._digest is None else f"{self._digest}-{split}"

    def shape(self) -> tuple[int, ...] | None:
        """[H, W, C] of the images, where they are kept already."""
        key = self.of("train")
        found = None if key is None else decoded.shape(key)
        return None if found is None else found[1:]

    @functools.cached_property
    def _digest(self) -> str | None:
        total = sum(int(listing.sizes.sum()) for listing in self._listings.values())
        # Larger sets are streamed, or are made much smaller: nothing is gained by reading them
        # twice.
        if not decoded.directory() or total > memory.host_bytes() // 2:
            return None
        import PIL

        head = ["1", PIL.__version__, self.size, self._channels, sorted(self._listings)]
        sha = hashlib.sha256(repr(head).encode())
        for _, listing in sorted(self._listings.items()):
            sha.update(len(listing.files).to_bytes(8, "little"))
            sha.update(listing.labels.astype("<i4").tobytes())
            chunks = _chunks(len(listing.files))
            for part in _on_all_cores(functools.partial(_contents_digest, listing), chunks):
                sha.update(part)
        return sha.hexdigest()


def _contents_digest(listing: Listing, part: range) -> bytes:
    sha = hashlib.sha256()
    for row in part:
        content = _content(os.path.join(listing.folder, listing.files[row]))
        sha.update(len(content).to_bytes(8, "little"))
        sha.update(content)
    return sha.digest()


def _classes(folder: pathlib.Path) -> list[str]:
    """The names of the folders in a split's folder, in order."""
    names = []
    for entry in _entries(folder):
        if not entry.is_dir():
            raise dataset.DataError(
                f"{entry.path}: is no folder of a class. Files must lie in {LAYOUT}"
            )
        names.append(entry.name)
    if not names:
        raise dataset.DataError(f"{folder}: has no folder. Images must lie in {LAYOUT}")
    return dataset.class_names(names)


def _listing(folder: pathlib.Path, classes: Sequence[str]) -> Listing:
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    there = _classes(folder)
    training = folder.name == "train"
    if strange := sorted(set(there) - set(classes)):
        raise dataset.DataError(
            f"{folder / strange[0]}: there is no such class among the training examples "
            f"({', '.join(classes[:10])}{', …' * (len(classes) > 10)}). Rename the folder, or give "
            "training examples of it"
        )
    for label, name in enumerate(classes):
        if name not in there:
            continue
        entries = _entries(folder / name)
        if training and not entries:
            raise dataset.DataError(
                f"{folder / name}: holds no image. Put images of the class there, or remove its "
                "folders"
            )
        for entry in entries:
            if entry.is_dir():
                raise dataset.DataError(
                    f"{entry.path}: is a folder within a class. Images must lie in {LAYOUT}"
                )
            names.append(f"{name}{os.sep}{entry.name}")
            sizes.append(_bytes(entry))
        labels += [label] * len(entries)
    if sizes:
        largest = int(np.argmax(sizes))
        limits.require(f"{folder / names[largest]}: its content", sizes[largest], images.REMEDY)
    return Listing(folder, names, np.array(sizes, np.int64), np.array(labels, np.int32))


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """What is in a folder, hidden files left out, in alphabetical order."""
    remedy = f"Images must lie in {LAYOUT}"
    with files.reading(folder, remedy), os.scandir(folder) as entries:
        shown = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower() not in _HIDDEN
        ]
    return sorted(shown, key=lambda entry: entry.name)


# Of every file; so `files.reading` is entered only where something is wrong.
def _bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        with files.reading(entry.path, images.REMEDY):
            raise error


def _content(path: str) -> bytes:
    try:
        with open(opening.regular(path, os.O_RDONLY), "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        with files.reading(path, images.REMEDY):
            raise error


def _shape(
    listings: dict[str, Listing], size: int, channels: int, key: _Key
) -> tuple[int, int, int]:
    """[H, W, C] that the images are brought to, or that the first of them has.

    A colour image settles the channels. As long as none is found, headers are read.
    """
    if size and channels:
        return size, size, channels
    first = _look(listings["train"], range(1))[0]
    if not channels:
        channels = 3
        if first.grey:
            known = key.shape()
            channels = known[-1] if known else 1 if _all_grey(listings) else 3
    return size or first.height, size or first.width, channels


def _all_grey(listings: dict[str, Listing]) -> bool:
    return all(
        look.grey
        for listing in listings.values()
        for looks in _on_all_cores(functools.partial(_look, listing), _chunks(len(listing.files)))
        for look in looks
    )


def _sizes(listings: dict[str, Listing]) -> str:
    """The sizes that there are, most frequent ones first, as text; every file's header is read."""
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    examples: dict[tuple[int, int], str] = {}
    for split, listing in listings.items():
        chunks = _chunks(len(listing.files))
        found = _on_all_cores(functools.partial(_look, listing), chunks)
        for row, look in enumerate(itertools.chain.from_iterable(found)):
            counts[look[:2]] += 1
            examples.setdefault(look[:2], os.path.join(split, listing.files[row]))
    sizes = [
        f"{_size(each)} ({count}, such as {examples[each]})"
        for each, count in counts.most_common(_MOST_SIZES)
    ]
    more = len(counts) - len(sizes)
    return ", ".join(sizes) + f" and {more} more" * (more > 0)


def _look(listing: Listing, part: range) -> list[images.Look]:
    found = []
    for row in part:
        where = os.path.join(listing.folder, listing.files[row])
        content = _content(where)
        with files.reading(where, images.REMEDY, images.NONE):
            found.append(images.look(content))
    return found


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


def _on_all_cores(function: Callable[[range], T], parts: Sequence[range]) -> Iterator[T]:
    """The function of each part, in order. Pillow and hashlib release Python's lock."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield from pool.map(function, parts)
    finally:
        pool.shutdown(cancel_futures=True)
