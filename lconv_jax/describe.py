"""Describes a finished run's network in bits: `python -m lconv_jax.describe RUN_DIR`.

Prints what each code makes of the network, the bounds on its test error, and its training and test
error, and writes the shortest description as a file that `lconv_jax.predict` reads.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from absl import app, flags
from rich import box, table

from lconv_jax import data, mdl
from lconv_jax.compression import certify
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.mdl import untrusted
from lconv_jax.parallel import distributed
from lconv_jax.terminal import commands
from lconv_jax.training.exporting import restore_network
from lconv_jax.training.setup import Setup

SHORT_DIR = "short"


class Description(NamedTuple):
    """A file, what it proves, which candidate it is, and the experiment it describes."""

    file: bytes
    certificate: certify.Certificate
    origin: str
    experiment: Setup


def describe(run_dir: str) -> Description:
    """The description of a run's network with the smallest kl bound.

    Candidates are the newest checkpoint's network, rounded, and what `lconv_jax.shorten` left. If
    it left something, a dense network is not rounded: that takes minutes, for a bound of 1.

    Args:
      run_dir: a --workdir of `lconv_jax.main`.

    Raises:
      ValueError: there is no run, or no checkpoint; or a file of `shorten` is damaged.
    """
    experiment, network, step = restore_network(run_dir)
    split, delta = experiment.dataset.train, experiment.config.log.delta
    found = [
        Description(file, certificate, path, experiment)
        for path, file, certificate in certified_files(run_dir, split, delta)
    ]
    if not found or not certify.is_dense(network):
        name = f"the checkpoint of step {step}, rounded"
        found.insert(
            0, Description(*certify.shortest_description(network, split, delta), name, experiment)
        )
    return min(found, key=lambda each: each.certificate.bounds()["kl"])


def rounded_up(bound: float) -> str:
    """A bound as text: its last digit is rounded up, so that what is printed holds."""
    return f"{math.ceil(bound * 1e4) / 1e4:.4f}"


def certified_files(
    run_dir: str, train: data.Split, delta: float
) -> list[tuple[str, bytes, certify.Certificate]]:
    """What `lconv_jax.shorten` wrote for a run: path, contents and certificate of each file.

    Raises:
      ValueError: a file is damaged, or asks for more than `mdl.untrusted` allows.
    """
    folder = os.path.join(run_dir, SHORT_DIR)
    files = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".lconv"):
            path = os.path.join(folder, name)
            files[path] = places.read(path)
    try:
        for path, network in (untrusted.decode(files) if files else {}).items():
            untrusted.check_work(path, network, len(train.labels))
    except ValueError as error:
        raise ValueError(f"{error}; or move it elsewhere, and run again") from None
    return [(path, file, certify.certify(file, train, delta)) for path, file in files.items()]


def code_lengths(network: mdl.Network) -> dict[str, int]:
    """Bits of the file that each code makes of an integer network; too slow ones are left out."""
    lengths = {}
    for code in (*mdl.CODES, "shortest"):
        try:
            lengths[code] = 8 * len(mdl.encode(network, code))
        except ValueError:
            continue
    return lengths


def report(
    file: bytes, certificate: certify.Certificate, test: data.Split
) -> tuple[table.Table, list[str]]:
    """The table of codes, and what is to be said below it."""
    network = mdl.decode(file)
    grid = table.Table(
        "code", *("bits", "occam", "kraft", "kl"), box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in grid.columns[1:]:
        column.justify = "right"
    weights, nonzeros, distinct = mdl.count_weights(network)
    for name, bits in code_lengths(network).items():
        bounds = certificate._replace(bits=bits).bounds()
        numbers = (rounded_up(bounds[key]) for key in ("occam", "kraft", "kl"))
        grid.add_row(name, f"{bits:,}", *numbers)
    sizes = nonzeros, distinct, max(1, weights), 32
    formula = mdl.theorem2_bits(*sizes)
    estimate = mdl.theorem2_bound(
        certificate.error, *sizes, certificate.num_examples, certificate.delta
    )
    errors = certify.count_errors(network, test)
    units = " → ".join(str(len(layer.bias)) for layer in network.layers)
    lines = [
        f"units: {units}; {nonzeros:,} weights that are not zero, of {distinct - 1} values in all",
        f"for comparison, Theorem 2's formula with 32 bits a value, which describes no biases: "
        f"{float(formula):,.0f} bits, {float(estimate):.4f}",
        f"training error: {certificate.error:.4f} ({certificate.errors:,} of "
        f"{certificate.num_examples:,})",
        f"bound: with probability {1 - certificate.delta:g} the error on new data is at most "
        f"{rounded_up(certificate.bounds()['kl'])} (kl)",
        f"test error: {errors / len(test.labels):.4f}",
    ]
    return grid, lines


def define_flags() -> None:
    flags.DEFINE_string("out", None, "The file to write; RUN_DIR/model.lconv by default.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.describe RUN_DIR")
    run_dir = places.local(argv[1], "RUN_DIR")
    out = places.output(flags.FLAGS.out or os.path.join(run_dir, "model.lconv"), "--out")
    distributed.initialize()
    file, certificate, origin, experiment = describe(run_dir)
    write_atomically(out, file)
    grid, lines = report(file, certificate, experiment.dataset.test)
    commands.show(grid, width=100)
    commands.say("\n".join([f"network: {origin}", *lines]))
    commands.say(f"file: {out}, {len(file):,} bytes")


if __name__ == "__main__":
    commands.launch(main, define_flags)
