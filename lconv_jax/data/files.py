"""Files that data come from: opened and read in one place, where every failure is a DataError.

Readers take their files from here, and parse what is in them inside `reading`. So what a parser
raises, whatever it is, is said with the file (and record) that it was raised for.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import IO, Any, cast

from lconv_jax.data import limits
from lconv_jax.errors import DataError
from lconv_jax.host import memory

AGAIN = "Write or copy it again"
_BLOCK = 1 << 24
GZIP = b"\x1f\x8b"
# The first bytes of files that are no text, and what they are.
_OTHERS = {
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
}
# Longer marks first, as one begins with another.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@contextlib.contextmanager
def reading(where: Any, remedy: str = AGAIN, problem: str = "cannot be read") -> Iterator[None]:
    """Turns whatever is raised inside into a DataError that begins with `where`.

    For what others wrote is parsed here, by libraries that do not say what they raise. A DataError
    passes as it is.

    Args:
      where: the file, and the record in it where there is one.
      remedy: what to do, as a sentence without its full stop.
      problem: what the failure means.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where}: {problem} ({_reason(error)}). {remedy}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if len(text) > 200:
        text = f"{text[:199]}…"
    return f"{kind}: {text}" if text else kind


def place(path: str | os.PathLike[str] | None) -> pathlib.Path:
    """The path, with ~ expanded; that of the working directory for None.

    Raises:
      DataError: there is no such user, or no home.
    """
    with reading(path, "Give the path in full", "is no path"):
        expanded = pathlib.Path(path or "").expanduser()
        if b"\0" in os.fsencode(expanded):
            raise ValueError("a null byte")
    return expanded


def is_regular(path: pathlib.Path) -> bool:
    """Whether there is a file of data there, and no folder, FIFO or device."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def listed(folder: pathlib.Path, remedy: str) -> list[pathlib.Path]:
    """What is in a folder, in alphabetical order.

    Raises:
      DataError: it is no folder, or cannot be read.
    """
    with reading(folder, remedy):
        return sorted(folder.iterdir())


@contextlib.contextmanager
def opened(path: pathlib.Path, remedy: str = AGAIN, unpack: bool = True) -> Iterator[IO[bytes]]:
    """A regular file, open for reading in binary; its content where it is compressed by gzip.

    Args:
      path: of the file; symbolic links are followed.
      remedy: what to do where it cannot be read, as a sentence without its full stop.
      unpack: False: the bytes as they are.

    Raises:
      DataError: it is not there, it is no regular file (a FIFO would be waited for), or anything
        that is raised while it is open.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(path, remedy))
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file, but a FIFO or device"
            raise DataError(f"{path}: is {what}. {remedy}")
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        if unpack and file.read(len(GZIP)) == GZIP:
            file.seek(0)
            stack.enter_context(
                reading(path, remedy, "truncated or damaged gzip file, or not read to its end")
            )
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)))
        else:
            file.seek(0)
        yield file


def read_most(file: IO[bytes], count: int) -> bytes:
    """The next `count` bytes, or fewer at the end; no more is allocated than there is."""
    blocks = []
    while count > 0 and (block := file.read(min(count, _BLOCK))):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


def read_bytes(path: pathlib.Path, remedy: str = AGAIN) -> bytes:
    """The content of a file, unpacked where it is compressed by gzip.

    Raises:
      DataError: as `opened`, or there is more than a quarter of the memory.
    """
    most = memory.host_bytes() // 4
    with opened(path, remedy) as file:
        content = read_most(file, most + 1)
    # Text takes several times its bytes while it is worked on.
    limits.require(f"{path}: its content", len(content), "Give a shorter file", most)
    return content


def read_text(path: pathlib.Path, remedy: str = AGAIN, otherwise: str | None = None) -> str:
    """The text of a file: UTF-8, or UTF-16 or 32 with a byte order mark; or compressed by gzip.

    Args:
      path, remedy: as in `opened`.
      otherwise: the encoding where it is not UTF-8; None: there is none.

    Raises:
      DataError: as `opened`; or what is in the file is no text, with what it seems to be.
    """
    raw = read_bytes(path, remedy)
    for mark, kind in _OTHERS.items():
        if raw.startswith(mark):
            raise DataError(f"{path}: is {kind}. Unpack it; of packed files only gzip is read")
    with reading(path, "Save it as UTF-8", "is not the text it begins as"):
        for mark, encoding in _MARKS:
            if raw.startswith(mark):
                return raw[len(mark) :].decode(encoding)
    if b"\0" in raw:
        raise DataError(
            f"{path}: has zero bytes, so it is no text, or UTF-16 without a byte order mark. Save "
            "it as UTF-8"
        )
    with reading(path, "Save it as UTF-8", "is no UTF-8 text"):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            if otherwise is None:
                raise
            return raw.decode(otherwise)
