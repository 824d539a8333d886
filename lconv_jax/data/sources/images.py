"""Image files as arrays: any format that Pillow reads itself, upright, opaque, of eight bits.

What `PIL.Image.Image.convert` would lose is dealt with before it: it leaves alpha out instead of
compositing it, and clips 16-bit values at 255 instead of scaling them.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lconv_jax.data import dataset, files

if TYPE_CHECKING:  # Pillow is imported where an image is read
    import PIL.Image

_FIRST = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# Pillow hands EPS to Ghostscript and WMF to Windows.
_BY_OTHERS = frozenset({"EPS", "WMF"})
_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_MODES = {1: "L", 3: "RGB"}
CHANNELS = tuple(_MODES)
# No network here takes larger images, and no image of that size is waited for.
MOST_SIZE = 8192
# Formats of which Pillow brings more than eight bits to the range 0 … 65535 in mode "I".
_SCALED = frozenset({"PNG", "PPM"})
NONE, REMEDY = "no image that can be read", "Replace or remove it"
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
# A PNG file with none of these has no orientation. Pillow would decode it to find that out.
_PNG_ORIENTATION = (b"eXIf", b"exif", b"adobe.xmp")


class Look(NamedTuple):
    """What an image file's header says: its size once it is upright, and whether it is grey."""

    height: int
    width: int
    grey: bool


def look(content: bytes) -> Look:
    """The size and kind of an encoded image, which is not decoded for it.

    Args:
      content: the bytes of a file.

    Raises:
      Exception: whatever Pillow raises for a file that is none of its formats, or damaged; call it
        inside `files.reading`.
    """
    with _opened(content) as image:
        if image.format == "TIFF":  # these Pillow turns itself, when it decodes them
            image.load()
        width, height = image.size
        if _may_be_turned(image, content) and image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return Look(height, width, _is_grey(image))


def decode(content: bytes, *, size: int = 0, channels: int = 0, where: str = "image") -> np.ndarray:
    """The pixels of an encoded image: uint8 [height, width, channels].

    The first picture of an animation is taken. EXIF's orientation is applied, transparent pixels
    are composited onto white, and 16-bit values are scaled to 0 … 255.

    Args:
      content: the bytes of a file, in any format that Pillow reads without another program.
      size: if not 0, height and width that it is resized to, bicubic, whatever its aspect ratio.
      channels: 1 (grey) or 3 (RGB); 0: 1 for a grey image, else 3.
      where: the file's name, for messages.

    Raises:
      DataError: it is no such image, or damaged, or its values have no known range.
    """
    import PIL.Image
    import PIL.ImageOps

    with files.reading(where, REMEDY, NONE):
        with _opened(content) as image:
            channels = channels or (1 if _is_grey(image) else 3)
            if _may_be_turned(image, content):
                PIL.ImageOps.exif_transpose(image, in_place=True)
            plain = _fitted(_opaque(_eight_bits(image)), size, channels)
            pixels = np.frombuffer(plain.tobytes(), np.uint8)
        return pixels.reshape(plain.height, plain.width, channels)


def converted(source: dataset.Source, size: int, channels: int) -> dataset.Source:
    """A set whose images are resized and made grey or coloured, as `decode` does it; in memory.

    Args:
      source: what a reader of arrays returned.
      size, channels: as in `decode`; 0: as they are.

    Raises:
      DataError: its examples are not images of bytes, grey or RGB.
    """
    shape, dtype = source.train.images.shape[1:], source.train.images.dtype
    if dtype != np.uint8 or len(shape) != 3 or shape[2] not in CHANNELS:
        raise dataset.DataError(
            f"data.size = {size}, data.channels = {channels}: {source.name} has examples of shape "
            f"{shape} and type {dtype}, and only images of bytes, grey or RGB, are converted; set "
            "both to 0"
        )
    splits = {
        name: _converted(dataset.read_all(split), size, channels or shape[2])
        for name, (split, _) in source.splits().items()
    }
    return source._replace(
        train=splits["train"], test=splits["test"], validation=splits.get("validation")
    )


def _converted(split: dataset.Split, size: int, channels: int) -> dataset.Split:
    import PIL.Image

    stored = np.asarray(split.images)
    height, width = (size, size) if size else stored.shape[1:3]
    images = np.empty((len(stored), height, width, channels), np.uint8)
    for index, pixels in enumerate(stored):
        image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        images[index] = np.asarray(_fitted(image, size, channels)).reshape(height, width, channels)
    return dataset.Split(images, split.labels)


def _fitted(image: PIL.Image.Image, size: int, channels: int) -> PIL.Image.Image:
    """The image, grey or RGB, and resized unless `size` is 0."""
    import PIL.Image

    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    return image.resize((size, size), PIL.Image.Resampling.BICUBIC) if size else image


def _is_grey(image: PIL.Image.Image) -> bool:
    """Whether it has no colours: of a palette, whether all of it is grey."""
    if image.mode not in ("P", "PA") or image.palette is None:
        return image.mode in _GREY
    order, entries = image.palette.getdata()  # such as RGB, BGRX, or RGB;L: by planes
    order, _, planes = order.partition(";")
    values = np.frombuffer(entries, np.uint8)
    values = values[: len(values) // len(order) * len(order)]
    colours = values.reshape(len(order), -1).T if planes else values.reshape(-1, len(order))
    return bool((colours[:, :3] == colours[:, :1]).all())


def _may_be_turned(image: PIL.Image.Image, content: bytes) -> bool:
    return image.format != "PNG" or any(mark in content for mark in _PNG_ORIENTATION)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[PIL.Image.Image]:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(content), formats=_formats()) as image:
            yield image
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"of no format that Pillow reads; begins with {content[:8]!r}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that are read, the frequent ones first, as they are tried in this order."""
    import PIL.Image

    PIL.Image.init()
    known = PIL.Image.OPEN.keys() - _BY_OTHERS
    return (*_FIRST, *sorted(known - set(_FIRST)))


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, with 16-bit values scaled: 65535 becomes 255."""
    if image.mode == "F" or (image.mode == "I" and image.format not in _SCALED):
        raise ValueError(
            f"its values are of type {'float32' if image.mode == 'F' else 'int32'}, and the file "
            "does not say which value is white; save the set as an .npz file of scaled values"
        )
    if not image.mode.startswith("I"):
        return image
    import PIL.Image

    values = np.asarray(image).astype(np.int64)
    grey = PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")  # the grey value that is transparent
    if clear is not None:
        grey.putalpha(PIL.Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, on white where it is transparent."""
    if not image.has_transparency_data:
        return image
    import PIL.Image

    colours = image.convert("RGBA")
    white = PIL.Image.new("RGBA", colours.size, "white")
    return PIL.Image.alpha_composite(white, colours)
