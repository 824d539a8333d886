"""Files that a kill leaves whole, names that nothing has, errors that say which file."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator


def write_atomically(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Replaces a file's contents: a kill leaves the old or the new, never a part."""
    temporary = f"{path}.tmp"
    with naming(path), open(temporary, "wb", opener=no_link) as file:
        file.write(contents.encode() if isinstance(contents, str) else contents)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class NotRegularError(OSError):
    """What is no file of data: a pipe, a device or a folder."""


def regular(path: str, flags: int) -> int:
    """An opener for `open` that takes regular files only: a pipe would be waited for.

    Raises:
      NotRegularError: the path is none.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "is no regular file", path)
    return descriptor


def no_link(path: str, flags: int) -> int:
    """As `regular`, of this very path: a symbolic link may lead out of a run directory.

    Raises:
      OSError: the path is a link, a pipe or a device.
    """
    return regular(path, flags | getattr(os, "O_NOFOLLOW", 0))


def free_name(path: str) -> str:
    """`path`, or the first of path.1, path.2, … that does not exist."""
    names = itertools.chain([path], (f"{path}.{count}" for count in itertools.count(1)))
    return next(name for name in names if not os.path.lexists(name))


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives an OSError the file's name, which those of writing and flushing lack."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
