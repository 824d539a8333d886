"""Makes a run's network shorter: `python -m lconv_jax.shorten RUN_DIR`.

Round by round, the weights that matter least for their bits are removed, and the others are trained
under rounding to the integers of a file. Each round's network is encoded and certified. With
`--method=rate`, training itself weighs the loss against the bits of the file.
RUN_DIR/short/ keeps the frontier of description length against training error; `describe` takes the
file with the smallest bound. The test set is used for the report only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import app, flags

from lconv_jax import data, mdl
from lconv_jax.compression import certify, rate_search
from lconv_jax.compression.search import DEFAULTS, Options, search
from lconv_jax.describe import SHORT_DIR, certified_files, own_folder
from lconv_jax.errors import ConfigError
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.parallel import distributed
from lconv_jax.tables import rounded_up
from lconv_jax.terminal import commands
from lconv_jax.training.exporting import restore_network

FRONTIER_FILE = "frontier.json"


def shorten(
    run_dir: str, options: Options | rate_search.Options = DEFAULTS
) -> list[dict[str, Any]]:
    """Searches, and keeps the frontier in RUN_DIR/short/: files by their bits, and a table.

    A file already there stays unless one of the same length makes fewer errors. The method is that
    of the options.

    Returns:
      One row a file of the frontier, the shortest first.
    """
    setup, network, _ = restore_network(run_dir)
    dataset, delta = setup.dataset, setup.config.log.delta
    folder = own_folder(run_dir, SHORT_DIR)
    # The rows are computed from the files themselves: a stored table may be wrong, and its names
    # could point to any place.
    rows = [
        _row(file, certificate, dataset.test)
        for path, file, certificate in certified_files(run_dir, dataset.train, delta)
        if os.path.basename(path) == _file_name(certificate)
    ]
    _write_table(folder, rows)
    for file, certificate in _found(network, dataset.train, delta, options):
        row = _row(file, certificate, dataset.test)
        commands.say(_line(row))
        if any(_covers(other, row) for other in rows):
            continue
        write_atomically(os.path.join(folder, row["file"]), file)
        for other in [other for other in rows if _covers(row, other)]:
            rows.remove(other)
            if other["file"] != row["file"]:
                os.remove(os.path.join(folder, other["file"]))
        rows = sorted([*rows, row], key=lambda row: row["bits"])
        _write_table(folder, rows)
    return rows


def _found(
    network: mdl.Network, train: data.Split, delta: float, options: Options | rate_search.Options
) -> Iterable[tuple[bytes, certify.Certificate]]:
    if isinstance(options, rate_search.Options):
        return rate_search.search(network, train, delta, options)
    return search(network, train, delta, options)


def _write_table(folder: str, rows: list[dict[str, Any]]) -> None:
    write_atomically(os.path.join(folder, FRONTIER_FILE), json.dumps(rows, indent=1) + "\n")


def _file_name(certificate: certify.Certificate) -> str:
    return f"{certificate.bits:07d}.lconv"


def _covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["bits"] <= other["bits"] and one["train_error"] <= other["train_error"]


def _row(file: bytes, certificate: certify.Certificate, test: data.Split) -> dict[str, Any]:
    network = mdl.decode(file)
    errors = mdl.count_errors(network, np.asarray(test.images), np.asarray(test.labels))
    return {
        "file": _file_name(certificate),
        "bits": certificate.bits,
        "bytes": len(file),
        "nonzeros": mdl.count_weights(network)[1],
        "train_error": certificate.error,
        "test_error": errors / len(test.labels),
        "kl_bound": certificate.bounds()["kl"],
    }


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['nonzeros']:6,} weights {row['bits']:8,} bits  training error "
        f"{row['train_error']:.4f}  test error {row['test_error']:.4f}  "
        f"kl bound {rounded_up(row['kl_bound']):.4f}"
    )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of both methods."""
    # Those of one method alone name it.
    flags.DEFINE_enum(
        "method",
        "prune",
        ["prune", "rate"],
        "Whether weights are removed round by round, or training charges for the file's bits.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "bias_bits", 4, "Binary digits of a layer's largest bias.", 1, 30, flag_values=values
    )
    flags.DEFINE_integer(
        "seed", 0, "Of the order of the examples.", 0, 2**32 - 1, flag_values=values
    )
    flags.DEFINE_integer(
        "depth",
        None,
        "Largest level q: weights become −q … q. 7, and 3 for rate.",
        1,
        2**15,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps",
        None,
        "Training steps of a cycle. 600, and 2000 for rate.",
        1,
        2**31 - 1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "cycles", 1, "prune: training cycles, each with a file, in a round.", 1, flag_values=values
    )
    flags.DEFINE_float(
        "keep",
        0.8,
        "prune: share of the weights that a round leaves.",
        0.05,
        0.99,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "start",
        rate_search.DEFAULTS.start,
        "rate: weights left, by pruning, when the bits begin to count.",
        1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "prices",
        [str(price) for price in rate_search.DEFAULTS.prices],
        "rate: nats of the loss that a bit costs, for each file in turn.",
        flag_values=values,
    )


def options_of(values: flags.FlagValues) -> Options | rate_search.Options:
    """The options of the method, from the flags; a flag without a value keeps the default."""
    given = values.flag_values_dict()
    if given["method"] == "prune":
        return Options(**{name: given[name] for name in Options._fields if given[name] is not None})
    names = rate_search.Options._fields
    options = {name: given[name] for name in names if given[name] is not None}
    try:
        prices = tuple(float(price) for price in given["prices"])
    except ValueError:
        prices = ()
    if not prices or not all(0 <= price < 1 for price in prices):
        raise ConfigError(f"--prices={','.join(given['prices'])} must be numbers from 0 to 1")
    return rate_search.Options(**options | {"prices": prices})


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.shorten RUN_DIR")
    run_dir = places.local(argv[1], "RUN_DIR")
    distributed.initialize()
    rows = shorten(run_dir, options_of(flags.FLAGS))
    best = min(rows, key=lambda row: row["kl_bound"])
    folder = os.path.join(argv[1], SHORT_DIR)
    commands.say(f"best of {len(rows)} files in {folder}:\n{_line(best)}")


if __name__ == "__main__":
    commands.launch(main, define_flags)
