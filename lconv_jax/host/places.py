"""Folders and files that a user names: absolute paths on this machine, or an error at once."""

from __future__ import annotations

import os
import re

from lconv_jax.errors import ConfigError
from lconv_jax.host.files import NotRegularError, regular

# Of those that are in use, `pathlib` may have made one slash of two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:s3|gs|gcs|az|abfss?|hdfs|https?|file):/")


def local(name: str | os.PathLike[str], what: str) -> str:
    """The absolute path of `name`, with ~ replaced by the home directory.

    Nothing is looked up but the home directory: the path need not exist.

    Args:
      name: as a user gave it.
      what: what to call it in an error, such as "--workdir".

    Raises:
      ConfigError: it is empty, has a zero byte, is an address such as s3://bucket/run, or starts
        with a ~ for which there is no home directory.
    """
    text = os.fspath(name)
    if not text:
        raise ConfigError(f"{what} is empty; name a place on a file system")
    if "\0" in text:
        raise ConfigError(f"{what}={text!r} has a zero byte, which no path has")
    if _SCHEME.match(text):
        raise ConfigError(
            f"{what}={text} is an address, and only file systems are read and written; mount it, "
            "and give the path where it is mounted"
        )
    path = os.path.expanduser(text)
    if text.startswith("~") and path == text:
        raise ConfigError(
            f"{what}={text}: there is no such home directory; set HOME, give the whole path, or "
            f"write ./{text} for a name that starts with ~"
        )
    return os.path.abspath(path)


def folder(name: str | os.PathLike[str], what: str) -> str:
    """The absolute path of a folder that is there, or can be made where it is said to be.

    Raises:
      ConfigError: as `local`; or it, or what it is to lie in, is a file.
    """
    path = local(name, what)
    there = path
    while not os.path.lexists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise ConfigError(f"{what}={name}: {there} is no folder; give another")
    return path


def user_caches() -> str:
    """The user's folder of caches: $XDG_CACHE_HOME, if it is an absolute path, or ~/.cache."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return caches if os.path.isabs(caches) else os.path.expanduser(os.path.join("~", ".cache"))


def output(name: str | os.PathLike[str], what: str) -> str:
    """The absolute path of a file that may be written: its folder is there.

    Raises:
      ConfigError: as `local`; or there is no such folder, or the path is a folder.
    """
    path = local(name, what)
    if os.path.isdir(path):
        raise ConfigError(f"{what}={name} is a folder; give the path of a file")
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigError(f"{what}={name}: there is no folder {os.path.dirname(path)}")
    return path


def read(path: str | os.PathLike[str]) -> bytes:
    """What a regular file holds; a pipe or a device is neither waited for nor read.

    Raises:
      ConfigError: the path is no regular file.
      OSError: it cannot be read now.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read()
    except NotRegularError:
        raise ConfigError(
            f"{path} is no regular file; give another, or move it elsewhere"
        ) from None
