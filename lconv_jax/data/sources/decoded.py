"""Decoded images are kept on disk, under a digest of the files that they were decoded from."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
import zlib
from typing import Any

import numpy as np
from absl import logging

from lconv_jax.errors import ConfigError
from lconv_jax.host import places

VARIABLE = "LCONV_JAX_DATA_CACHE"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def directory() -> str:
    """The folder: $LCONV_JAX_DATA_CACHE, or lconv_jax/images in the user's folder of caches.

    It is "" where the variable is empty: then nothing is kept, and nothing that is kept is read.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return os.path.join(places.user_caches(), "lconv_jax", "images")
    return chosen


def shape(key: str) -> tuple[int, ...] | None:
    """[N, H, W, C] of the images under a key; None: there are none."""
    found = _read(key, "shape")
    return None if found is None else tuple(found.tolist())


def images(key: str) -> np.ndarray | None:
    """The images under a key, uint8; None: there are none, or they are damaged."""
    return _read(key, "images")


def keep(key: str, images: np.ndarray) -> None:
    """Keeps images under a key. Where that cannot be, it is done without, with a warning."""
    if not directory():
        return
    try:
        folder = places.folder(directory(), VARIABLE)
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, shape=np.array(images.shape), images=images)
                file.close()
                os.replace(file.name, _path(key))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(file.name)
                raise
    except (ConfigError, OSError) as error:
        logging.warning("Decoded images are not kept: %s", error)


def _path(key: str) -> str:
    return os.path.join(os.path.expanduser(directory()), f"{key}.npz")


def _read(key: str, name: str) -> Any:
    if not directory():
        return None
    # A ZIP archive has a checksum of each array, so what is damaged is decoded again.
    with contextlib.suppress(*_DAMAGED), np.load(_path(key), allow_pickle=False) as arrays:
        return arrays[name]
    return None
