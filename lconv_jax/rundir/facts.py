"""A run directory's files about its data, the answers of its last evaluation, and its bits.

All are there to be read without the data: `lconv_jax.report` lays filters out as images, shows
which classes a network mistakes for which, and how many bits each code takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lconv_jax.host import json_files
from lconv_jax.host.files import write_atomically

DATA_FILE, CONFUSION_FILE = "data.json", "confusion.json"
DESCRIPTION_FILE = "description.json"
_CODE = {"bits": int, "occam": float, "kraft": float, "kl": float}


def write_data(directory: str, about: Mapping[str, Any], pixel_order: Any = None) -> None:
    """Writes data.json: a description of the data, and the order in which the run sees the pixels.

    Args:
      directory: of the run.
      about: the result of `data.about`, and the "dtype" of the data.
      pixel_order: [pixels], the pixel of an image that the network sees as its i-th; None if pixels
        are not permuted.

    Raises:
      OSError: it cannot be written.
    """
    order = None if pixel_order is None else [int(pixel) for pixel in pixel_order]
    facts = {**about, "pixel_order": order}
    write_atomically(os.path.join(directory, DATA_FILE), json.dumps(facts) + "\n")


def read_data(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The contents of data.json of a run directory, or None if there is none.

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
    """The contents of confusion.json of a run directory, or None if there is none.

    Raises:
      StoredError: it is damaged.
    """
    return _read(directory, CONFUSION_FILE, {"step": int, "splits": {str: [[int]]}})


def write_description(directory: str, found: Mapping[str, Any]) -> None:
    """Writes description.json: how many bits a network takes by each code, and its bounds.

    Args:
      directory: of the run.
      found: "network", the origin of what was described, "step" of the newest checkpoint, "codes"
        with "bits", "occam", "kraft" and "kl" by code, "bound", the kl bound of the file that was
        written, and others.

    Raises:
      OSError: it cannot be written.
    """
    text = json.dumps(dict(found), indent=1) + "\n"
    write_atomically(os.path.join(directory, DESCRIPTION_FILE), text)


def read_description(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The contents of description.json of a run directory, or None if there is none.

    Raises:
      StoredError: it is damaged.
    """
    form = {"network": str, "step": int, "codes": {str: _CODE}, "bound": float}
    return _read(directory, DESCRIPTION_FILE, form)


def _read(directory: str | os.PathLike[str], name: str, form: Any) -> dict[str, Any] | None:
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return None
    return json_files.read(path, form, "delete it; only the report reads it")
