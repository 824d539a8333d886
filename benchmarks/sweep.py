"""What training runs together saves against training them one after another.

    python -m benchmarks.sweep [--models=…] [--rounds=9] [--whole=3] [--json]

For each network, K settings of β-lasso: an epoch of all of them by one vmapped program, against an
epoch of each in turn, in one process, by a program that is compiled once (the same one, of one
lane) and by that of a lone run. The three take turns, so that the machine's speed, which drifts, is
the same for all; ratios are medians of the ratios of a turn. Then whole runs, from the first step
to the summary, with evaluation, logging and checkpoints; programs compiled beforehand.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from benchmarks import common
from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.training import lanes, programs
from lconv_jax.training.setup import Setup, prepare

_SMALL = {"data.name": "fashion_mnist_small", "data.validation": 2000, "data.crop": 3}
_DIGITS = {"data.name": "digits", "data.validation": 200, "data.crop": 1, "train.batch_size": 128}
CASES: dict[str, dict[str, Any]] = {
    "digits_s_fc_4": _DIGITS | {"model.alpha": 4},
    "digits_s_fc_16": _DIGITS | {"model.alpha": 16},
    "fashion_s_fc_2": _SMALL | {"model.alpha": 2},
    "fashion_s_fc_8": _SMALL | {"model.alpha": 8},
    "fashion_s_conv_8": _SMALL | {"model.name": "s_conv", "model.alpha": 8},
}


def experiments_of(changes: dict[str, Any], count: int) -> list[Setup]:
    """`count` settings that one program trains."""
    base = {
        "optimizer.learning_rate": 0.5,
        "optimizer.l1.conv": 1e-4,
        "optimizer.l1.fc": 1e-4,
        "train.epochs": 20,
    }
    config = with_overrides(config_lib.base_config(), base | changes)
    return [
        prepare(with_overrides(config, {"optimizer.beta": 5.0 * index})) for index in range(count)
    ]


def measure(changes: dict[str, Any], args: Any) -> dict[str, Any]:
    """A step of all runs, each way, and whole runs."""
    count = args.together
    experiments = experiments_of(changes, count)
    config, plan = experiments[0].config, experiments[0].plan
    whole = lanes.load_whole(config)
    split = jax.device_put(whole.train)
    own_split = jax.device_put(experiments[0].dataset.train)
    steps = jnp.int32(plan.steps_per_epoch)
    begun = time.perf_counter()
    all_ = lanes.compile_together(experiments, whole)
    compile_seconds = time.perf_counter() - begun
    one = lanes.compile_together(experiments[:1], whole)
    lone = programs.compile_train_steps(experiments[0])
    alone = [programs.initial_state(experiment) for experiment in experiments]
    differing = jax.device_put(lanes.make_lanes(experiments, whole))
    states: dict[str, Any] = {
        "together": jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone),
        "in turn": [jax.tree.map(lambda leaf: leaf[None].copy(), state) for state in alone],
        "lone": alone,
    }
    first_lanes = [
        jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], differing)
        for index in range(count)
    ]

    def advance(how: str) -> None:
        if how == "together":
            states[how], rows = all_(states[how], differing, split, steps)
        elif how == "in turn":
            for index, lane in enumerate(first_lanes):
                states[how][index], rows = one(states[how][index], lane, split, steps)
        else:
            for index in range(count):
                states[how][index], rows = lone(states[how][index], own_split, steps)
        jax.block_until_ready(rows)

    ways = {how: functools.partial(advance, how) for how in states}
    times = common.interleave(ways, args.rounds, clock=args.clock)
    result = {
        "runs": count,
        "step of all, ms": 1e3 * times.median("together") / plan.steps_per_epoch,
        "in turn / together": times.ratio("in turn", "together"),
        "lone / together": times.ratio("lone", "together"),
        "MiB": lanes.bytes_needed(all_) / 2**20,
        "compile s": compile_seconds,
    }
    if args.whole:
        wholes = {
            how: functools.partial(_whole_runs, experiments, how, program, whole)
            for how, program in (("together", all_), ("in turn", one))
        }
        times = common.interleave(wholes, args.whole, warmup=0)
        result["whole runs, together, s"] = times.median("together")
        result["whole runs, in turn / together"] = times.ratio("in turn", "together")
    return result


def _whole_runs(experiments: list[Setup], how: str, program: Any, whole: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            lanes.Run(experiment, os.path.join(folder, str(index)))
            for index, experiment in enumerate(experiments)
        ]
        for chunk in [runs] if how == "together" else [[run] for run in runs]:
            lanes.train_together(chunk, whole, program)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument("--together", type=int, default=8, help="settings (default 8)")
        parser.add_argument("--whole", type=int, default=3, help="turns of whole runs; 0: none")

    args = common.parse(__doc__, argv, name="sweep", rounds=9, models=CASES, add=add)
    logging.set_verbosity(logging.WARNING)
    if args.toy:
        args.together, args.whole = 2, 0
    rows = {name: measure(CASES[name], args) for name in args.models}
    result = common.result_of(args, rows)
    common.show("Settings together and in turn", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
