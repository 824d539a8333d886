"""Classifies a data set with a described network: `python -m lconv_jax.predict model.lconv`.

Nothing is read but the file and the data. All arithmetic is in integers, so that every machine
makes the same predictions.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from lconv_jax import config, data, mdl
from lconv_jax.host import places
from lconv_jax.mdl import untrusted
from lconv_jax.terminal import commands


def define_flags() -> None:
    flags.DEFINE_string("data", "fashion_mnist", "A data set, as in config.data.name.")
    flags.DEFINE_string("data_dir", None, "Folder of the data.")
    flags.DEFINE_integer("size", 0, "Of a folder of images, as in config.data.size.")
    flags.DEFINE_integer("channels", 0, "Of a folder of images, as in config.data.channels.")
    flags.DEFINE_enum("split", "test", ["train", "test"], "Which examples.")
    flags.DEFINE_string("out", None, "If set, a text file of the predicted classes.")
    flags.DEFINE_boolean("trust", False, "Take whatever memory and time the file asks for.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one file is needed: python -m lconv_jax.predict model.lconv")
    given = flags.FLAGS
    path = places.local(argv[1], "the file")
    out = places.output(given.out, "--out") if given.out else None
    config.check_value("data.name", given.data)
    config.check_value("data.data_dir", given.data_dir or "")
    file = places.read(path)
    network = mdl.decode(file) if given.trust else untrusted.decode({path: file})[path]
    dataset = data.load(given.data, given.data_dir, size=given.size, channels=given.channels)
    split: data.Split = getattr(dataset, given.split)
    if not given.trust:
        untrusted.check_work(path, network, len(split.labels))
    predictions = mdl.predict(network, np.asarray(split.images))
    if out:
        np.savetxt(out, predictions, fmt="%d")
    errors = int(np.count_nonzero(predictions != split.labels))
    commands.say(f"examples: {len(predictions):,}, wrong: {errors:,}")
    commands.say(f"{given.split} error: {errors / len(predictions):.4f}")


if __name__ == "__main__":
    commands.launch(main, define_flags)
