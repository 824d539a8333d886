"""Describes a finished run's network in bits: `python -m lconv_jax.describe RUN_DIR`.

Prints what each code makes of the network, the bounds on its test error, and its training and test
error, and writes the shortest description as a file that `lconv_jax.predict` reads. The numbers go
into RUN_DIR/description.json, for `lconv_jax.report`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

from absl import app, flags
from rich import box, table

from lconv_jax import data, mdl
from lconv_jax.compression import certify, folding
from lconv_jax.errors import ConfigError
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.mdl import untrusted
from lconv_jax.parallel import distributed
from lconv_jax.rundir import facts
from lconv_jax.rundir.checkpoint import leaf_digests
from lconv_jax.rundir.directory import check_is_run, read_summary
from lconv_jax.tables import rounded_up
from lconv_jax.terminal import commands
from lconv_jax.training.exporting import restore_network
from lconv_jax.training.setup import Setup

SHORT_DIR, ROUNDED_DIR = "short", "rounded"
_QUICK_CODES = ("raw", "theorem2", "unit")


class Description(NamedTuple):
    """A file, its certificate, the candidate it comes from, the run's setup, the newest step."""

    file: bytes
    certificate: certify.Certificate
    origin: str
    setup: Setup
    step: int


def describe(run_dir: str, tell: Callable[[str], object] = lambda text: None) -> Description:
    """The description of a run's network with the smallest kl bound.

    Candidates are the rounded network of the newest checkpoint, and files of `lconv_jax.shorten`.
    If there are such files, a dense network is not rounded: that takes minutes, for a bound of 1.
    The rounded network is kept, and found again by the next call.

    Args:
      run_dir: a --workdir of `lconv_jax.main`.
      tell: is given a line before what may take a while.

    Raises:
      ValueError: there is no run, or no checkpoint; or a file of `shorten` is damaged.
    """
    setup, network, step = restore_network(run_dir)
    if read_summary(run_dir) is None:
        tell(f"the run is not finished: this is step {step:,} of {setup.plan.total_steps:,}")
    split, delta = setup.dataset.train, setup.config.log.delta
    found = [
        Description(file, certificate, path, setup, step)
        for path, file, certificate in certified_files(run_dir, split, delta)
    ]
    if not found or not certify.is_dense(network):
        rounded = _rounded(run_dir, network, split, delta, tell)
        name = f"the checkpoint of step {step}, rounded"
        found.insert(0, Description(*rounded, name, setup, step))
    return min(found, key=lambda each: each.certificate.bounds()["kl"])


def _rounded(
    run_dir: str,
    network: mdl.Network,
    train: data.Split,
    delta: float,
    tell: Callable[[str], object],
) -> tuple[bytes, certify.Certificate]:
    """`certify.shortest_description` of a run's network, kept in RUN_DIR/rounded/."""
    folder = own_folder(run_dir, ROUNDED_DIR)
    name = f"{_digest(network, delta)}.lconv"
    try:
        for path, file, certificate in certified_files(run_dir, train, delta, ROUNDED_DIR):
            if os.path.basename(path) == name:
                return file, certificate
    except ValueError:
        pass  # a damaged file is made anew
    tell(f"rounding and coding {certify.count_nonzeros(network):,} weights that are not zero ...")
    file, certificate = certify.shortest_description(network, train, delta)
    for other in os.listdir(folder):
        if other.endswith(".lconv"):  # of an earlier step
            os.remove(os.path.join(folder, other))
    write_atomically(os.path.join(folder, name), file)
    return file, certificate


def _digest(network: mdl.Network, delta: float) -> str:
    """Of what `_rounded` depends on: every number of the network, δ, and this package's version."""
    weights = leaf_digests(folding.weights(network))
    made_of = [metadata.version("lconv_jax"), delta, network.input_code, weights]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def own_folder(run_dir: str, name: str) -> str:
    """A folder of a run in which a command writes and removes files; it is made if need be.

    Raises:
      ConfigError: it is a link.
    """
    folder = os.path.join(run_dir, name)
    if os.path.islink(folder):
        raise ConfigError(f"{folder} is a link, and files are written and removed there; move it")
    os.makedirs(folder, exist_ok=True)
    return folder


def certified_files(
    run_dir: str, train: data.Split, delta: float, folder: str = SHORT_DIR
) -> list[tuple[str, bytes, certify.Certificate]]:
    """Files in a folder of a run: path, contents and certificate of each.

    Args:
      run_dir: of the run.
      train, delta: as in `certify.certify`.
      folder: by default where `lconv_jax.shorten` writes.

    Raises:
      ValueError: a file is damaged, or asks for more than `mdl.untrusted` allows.
    """
    folder = os.path.join(run_dir, folder)
    files = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".lconv"):
            path = os.path.join(folder, name)
            files[path] = places.read(path)
    try:
        for path, network in (untrusted.decode(files) if files else {}).items():
            untrusted.check_work(path, network, len(train.labels))
    except ValueError as error:
        raise ValueError(
            f"{error}. To go on without the file, move it elsewhere, and run again"
        ) from None
    return [(path, file, certify.certify(file, train, delta)) for path, file in files.items()]


def code_lengths(network: mdl.Network) -> dict[str, int]:
    """Bits of the file that each code makes of an integer network; too slow ones are left out.

    Of more than 10 000 weights three codes are tried: `raw`, `theorem2` and `unit`.
    """
    lengths = {}
    for code in _QUICK_CODES if certify.is_slow(network) else mdl.CODES:
        try:
            lengths[code] = 8 * len(mdl.encode(network, code))
        except ValueError:
            continue
    return lengths


def measure(found: Description) -> dict[str, Any]:
    """The contents of description.json (see `facts.write_description`)."""
    network, certificate = mdl.decode(found.file), found.certificate
    test = found.setup.dataset.test
    weights, nonzeros, distinct = mdl.count_weights(network)
    sizes = nonzeros, distinct, max(1, weights), 32
    lengths = code_lengths(network) | {"shortest": certificate.bits}
    estimate = mdl.theorem2_bound(
        certificate.error, *sizes, certificate.num_examples, certificate.delta
    )
    return {
        "network": found.origin,
        "step": found.step,
        "codes": {
            name: {"bits": bits, **certificate._replace(bits=bits).bounds()}
            for name, bits in lengths.items()
        },
        "units": [len(layer.bias) for layer in network.layers],
        "nonzeros": nonzeros,
        "values": distinct - 1,
        "formula": {"bits": float(mdl.theorem2_bits(*sizes)), "bound": float(estimate)},
        "training_errors": certificate.errors,
        "num_examples": certificate.num_examples,
        "delta": certificate.delta,
        "bound": certificate.bounds()["kl"],
        "test_error": certify.count_errors(network, test) / len(test.labels),
    }


def as_text(found: Mapping[str, Any]) -> tuple[table.Table, list[str]]:
    """The table of codes, and the lines below it, of `measure`."""
    bounds = ("occam", "kraft", "kl")
    grid = table.Table("code", "bits", *bounds, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in grid.columns[1:]:
        column.justify = "right"
    for name, row in found["codes"].items():
        grid.add_row(name, f"{row['bits']:,}", *(f"{rounded_up(row[key]):.4f}" for key in bounds))
    errors, examples = found["training_errors"], found["num_examples"]
    lines = [
        f"units: {' → '.join(map(str, found['units']))}; {found['nonzeros']:,} weights that are "
        f"not zero, of {found['values']} values in all",
        f"for comparison, Theorem 2's formula with 32 bits a value, which describes no biases: "
        f"{found['formula']['bits']:,.0f} bits, {found['formula']['bound']:.4f}",
        f"training error: {errors / examples:.4f} ({errors:,} of {examples:,})",
        f"bound: with probability {1 - found['delta']:g} the error on new data is at most "
        f"{rounded_up(found['bound']):.4f} (kl)",
        f"test error: {found['test_error']:.4f}",
    ]
    if found["bound"] > certify.SAYS_NOTHING:
        lines.append(
            "A bound near 1 says nothing: the file is long for so few examples. lconv_jax.shorten "
            "makes shorter ones."
        )
    return grid, lines


def define_flags() -> None:
    flags.DEFINE_string("out", None, "The file to write; RUN_DIR/model.lconv by default.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.describe RUN_DIR")
    run_dir = places.local(argv[1], "RUN_DIR")
    check_is_run(run_dir)
    out = places.output(flags.FLAGS.out or os.path.join(run_dir, "model.lconv"), "--out")
    distributed.initialize()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = describe(run_dir, tell)
    write_atomically(out, found.file)
    tell("comparing codes, and counting errors on the test set ...")
    measured = measure(found)
    facts.write_description(run_dir, measured)
    grid, lines = as_text(measured)
    commands.show(grid, width=100)
    commands.say("\n".join([f"network: {found.origin}", *lines]))
    commands.say(f"file: {out}, {len(found.file):,} bytes")


if __name__ == "__main__":
    commands.launch(main, define_flags)
