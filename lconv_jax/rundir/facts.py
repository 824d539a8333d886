"""What a run directory says of its data, and of the answers of its last evaluation.

Both are there to be read without the data: `lconv_jax.report` lays filters out as images, and shows
which classes a network mistakes for which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lconv_jax.host import json_files
from lconv_jax.host.files import write_atomically

DATA_FILE, CONFUSION_FILE = "data.json", "confusion.json"


def write_data(directory: str, about: Mapping[str, Any], pixel_order: Any = None) -> None:
    """Writes data.json: what the data are, and in which order the run sees their pixels.

    Args:
      directory: of the run.
      about: what `data.about` says of them, and their "dtype".
      pixel_order: [pixels], the pixel of an image that the network sees as its i-th; None if pixels
        are not permuted.

    Raises:
      OSError: it cannot be written.
    """
    order = None if pixel_order is None else [int(pixel) for pixel in pixel_order]
    facts = {**about, "pixel_order": order}
    write_atomically(os.path.join(directory, DATA_FILE), json.dumps(facts) + "\n")


def read_data(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What data.json of a run directory says, or None if there is none.

    Raises:
      StoredError: it is damaged.
    """
    form = {"name": str, "num_classes": int, "image_shape": [int], "num_examples": {str: int}}
    return _read(directory, DATA_FILE, form)


def write_confusion(directory: str, step: int, splits: Mapping[str, Any]) -> None:
    """Writes confusion.json: of each class, which classes its examples were taken for.

    Args:
      directory: of the run.
      step: of the evaluation.
      splits: by the split's name, [label, predicted class, examples] of each pair that occurs.

    Raises:
      OSError: it cannot be written.
    """
    record = {"step": step, "splits": dict(splits)}
    write_atomically(os.path.join(directory, CONFUSION_FILE), json.dumps(record) + "\n")


def read_confusion(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What confusion.json of a run directory says, or None if there is none.

    Raises:
      StoredError: it is damaged.
    """
    return _read(directory, CONFUSION_FILE, {"step": int, "splits": {str: [[int]]}})


def _read(directory: str | os.PathLike[str], name: str, form: Any) -> dict[str, Any] | None:
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    return json_files.read(path, form, "delete it; only the report reads it")
