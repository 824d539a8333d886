"""What training runs together saves against training them one after another.

    python -m benchmarks.sweep --out=benchmarks/sweep.json

For each network, K settings of β-lasso: an epoch of all of them by one vmapped program, against an
epoch of each in turn, in one process, by a program that is compiled once (the same one, of one
lane) and by that of a lone run. The three take turns, so that the machine's speed, which drifts, is
the same for all; ratios are medians of the ratios of a turn, of wall time and of the processor time
of the process, which other work on the machine disturbs less. Then whole runs, from the first step
to the summary, with evaluation, logging and checkpoints; programs compiled beforehand.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from rich import box, console, table

from lconv_jax import config as config_lib
from lconv_jax import together, train
from lconv_jax.experiments.runs import with_overrides

_TOGETHER = flags.DEFINE_list("together", ["8"], "Numbers of settings.")
_CASES = flags.DEFINE_list("cases", None, "Some of the cases; all by default.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns that each program takes.", lower_bound=3)
_WHOLE = flags.DEFINE_integer("whole", 3, "Turns of whole runs; 0: none.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "JSON file for the result.")

_SMALL = {"data.name": "fashion_mnist_small", "data.validation": 2000, "data.crop": 3}
_DIGITS = {"data.name": "digits", "data.validation": 200, "data.crop": 1, "train.batch_size": 128}
CASES: dict[str, dict[str, Any]] = {
    "digits s_fc α=4": _DIGITS | {"model.alpha": 4},
    "digits s_fc α=16": _DIGITS | {"model.alpha": 16},
    "fashion_mnist_small s_fc α=2": _SMALL | {"model.alpha": 2},
    "fashion_mnist_small s_fc α=8": _SMALL | {"model.alpha": 8},
    "fashion_mnist_small s_conv α=8": _SMALL | {"model.name": "s_conv", "model.alpha": 8},
}


def experiments_of(changes: dict[str, Any], count: int) -> list[train.Experiment]:
    """`count` settings that one program trains."""
    base = {
        "optimizer.learning_rate": 0.5,
        "optimizer.l1.conv": 1e-4,
        "optimizer.l1.fc": 1e-4,
        "train.epochs": 20,
    }
    config = with_overrides(config_lib.base_config(), base | changes)
    return [
        train.prepare(with_overrides(config, {"optimizer.beta": 5.0 * index}))
        for index in range(count)
    ]


def measure(changes: dict[str, Any], count: int, rounds: int, whole_rounds: int) -> dict[str, Any]:
    """Seconds of a step of all `count` runs, each way, and of whole runs."""
    experiments = experiments_of(changes, count)
    config, plan = experiments[0].config, experiments[0].plan
    whole = together.undivided(config)
    split = jax.device_put(whole.train)
    own_split = jax.device_put(experiments[0].dataset.train)
    steps = jnp.int32(plan.steps_per_epoch)
    begun = time.perf_counter()
    all_ = together.compile_together(experiments, whole)
    compile_seconds = time.perf_counter() - begun
    one = together.compile_together(experiments[:1], whole)
    lone = train.compile_train_steps(experiments[0])
    alone = [train.initial_state(experiment) for experiment in experiments]
    lanes = jax.device_put(together.make_lanes(experiments, whole))
    states: dict[str, Any] = {
        "together": jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone),
        "in turn": [jax.tree.map(lambda leaf: leaf[None].copy(), state) for state in alone],
        "lone": alone,
    }
    first_lanes = [
        jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], lanes)
        for index in range(count)
    ]

    def advance(how: str) -> None:
        if how == "together":
            states[how], rows = all_(states[how], lanes, split, steps)
        elif how == "in turn":
            for index, lane in enumerate(first_lanes):
                states[how][index], rows = one(states[how][index], lane, split, steps)
        else:
            for index in range(count):
                states[how][index], rows = lone(states[how][index], own_split, steps)
        jax.block_until_ready(rows)

    seconds: dict[str, list[float]] = {how: [] for how in states}
    processor: dict[str, list[float]] = {how: [] for how in states}
    for turn in range(rounds + 1):  # one turn of warm-up
        for how in states:
            begun, cpu_begun = time.perf_counter(), time.process_time()
            advance(how)
            if turn:
                seconds[how].append((time.perf_counter() - begun) / plan.steps_per_epoch)
                processor[how].append(time.process_time() - cpu_begun)
    result = {
        "runs": count,
        "steps of all runs together, ms": 1e3 * statistics.median(seconds["together"]),
        "in turn / together": _ratio(seconds["in turn"], seconds["together"]),
        "lone / together": _ratio(seconds["lone"], seconds["together"]),
        "in turn / together, processor time": _ratio(processor["in turn"], processor["together"]),
        "lone / together, processor time": _ratio(processor["lone"], processor["together"]),
        "bytes": together.bytes_needed(all_),
        "compiled in, s": compile_seconds,
    }
    if whole_rounds:
        wholes: dict[str, list[float]] = {"together": [], "in turn": []}
        for _ in range(whole_rounds):
            for how, program in (("together", all_), ("in turn", one)):
                wholes[how].append(_whole_runs(experiments, how, program, whole))
        result["whole runs, together, s"] = statistics.median(wholes["together"])
        result["whole runs, in turn / together"] = _ratio(wholes["in turn"], wholes["together"])
    return result


def _whole_runs(experiments: list[train.Experiment], how: str, program: Any, whole: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            together.Run(experiment, os.path.join(folder, str(index)))
            for index, experiment in enumerate(experiments)
        ]
        begun = time.perf_counter()
        for chunk in [runs] if how == "together" else [[run] for run in runs]:
            together.train_together(chunk, whole, program)
        return time.perf_counter() - begun


def _ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    results: dict[str, Any] = {
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {platform.machine()}",
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "cases": {},
    }
    columns = ("runs", "step of all, ms", "in turn / together", "processor", "whole runs")
    grid = table.Table("network", *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in grid.columns[1:]:
        column.justify = "right"
    for name in _CASES.value or CASES:
        for count in map(int, _TOGETHER.value):
            found = measure(CASES[name], count, _ROUNDS.value, _WHOLE.value)
            results["cases"].setdefault(name, []).append(found)
            grid.add_row(
                name,
                str(count),
                f"{found['steps of all runs together, ms']:.2f}",
                f"{found['in turn / together']:.2f}",
                f"{found['in turn / together, processor time']:.2f}",
                f"{found.get('whole runs, in turn / together', float('nan')):.2f}",
            )
            if _OUT.value:
                with open(_OUT.value, "w", encoding="utf-8") as file:
                    json.dump(results, file, indent=2)
    terminal = console.Console()
    terminal.print(f"{results['device']}, {results['cores']} cores, JAX {results['jax']}")
    terminal.print(grid)


if __name__ == "__main__":
    app.run(main)
