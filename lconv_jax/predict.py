"""Classifies a data set with a described network: `python -m lconv_jax.predict model.lconv`.

Nothing is read but the file and the data. All arithmetic is in integers, so that every machine
makes the same predictions.
"""

from __future__ import annotations

import sys

import numpy as np
from absl import app, flags

from lconv_jax import data, mdl

_DATA = flags.DEFINE_string("data", "fashion_mnist", "A data set, as in config.data.name.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data.")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "test"], "Which examples.")
_OUT = flags.DEFINE_string("out", None, "If set, a text file of the predicted classes.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one file is needed: python -m lconv_jax.predict model.lconv")
    try:
        with open(argv[1], "rb") as file:
            network = mdl.decode(file.read())
        split: data.Split = getattr(data.load(_DATA.value, _DATA_DIR.value), _SPLIT.value)
        predictions = mdl.predict(network, np.asarray(split.images))
        if _OUT.value:
            np.savetxt(_OUT.value, predictions, fmt="%d")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    errors = int(np.count_nonzero(predictions != split.labels))
    print(f"examples: {len(predictions):,}, wrong: {errors:,}")
    print(f"{_SPLIT.value} error: {errors / len(predictions):.4f}")


if __name__ == "__main__":
    app.run(main)
