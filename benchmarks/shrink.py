"""What leaving out dead units saves, and that it changes nothing else.

    python -m benchmarks.shrink [--seeds=3] [--figure=FILE.png] [--json]

Trains configs/mdl/sfc.py (the whole of Fashion-MNIST) with `train.shrink` none, exact and frozen,
draws cost and sparsity against the epoch, and measures how far losses part after the first shrink:
of the network with its dead units left out, and, as a control, of the same network with its
units in another order, which differ by rounding alone.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import logging
from numpy.typing import NDArray

from benchmarks import common
from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.rundir import metrics
from lconv_jax.training import hidden_units, loop, programs
from lconv_jax.training.setup import prepare
from lconv_jax.training.shrinker import Shrinker

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TOY = ["data.name=digits", "train.batch_size=128", "train.epochs=12", "model.alpha=8"]


def get_config(args: Any, how: str, seed: int) -> Any:
    """The configuration, evaluated each epoch, with `train.shrink` = how."""
    config = runpy.run_path(args.config)["get_config"]()
    changes = {}
    for item in [*(TOY if args.toy else []), *args.overrides]:
        key, _, value = item.partition("=")
        config_lib.check_name(key)
        kind = type(config_lib.KEYS[key].default)
        changes[key] = kind(value)
    fixed = {"train.shrink": how, "seed": seed, "log.eval_every_epochs": 1}
    return with_overrides(config, fixed | changes)


def run(args: Any, how: str, seed: int, runs_dir: str) -> dict[str, Any]:
    """Trains once; the curves and the end of the run."""
    config, workdir = get_config(args, how, seed), os.path.join(runs_dir, f"{how}-seed{seed}")
    summary = loop.train_and_evaluate(config, workdir)
    lines = metrics.read_metrics(workdir)
    at, rate = metrics.column(lines, "time/examples_per_second")
    per_epoch = at[0]
    counts = {layer: metrics.column(lines, f"sparsity/{layer}/nonzeros") for layer in ("conv1",)}
    units: dict[str, list[list[int]]] = {}
    for line in lines:
        for name in line:
            if name.startswith("units/"):
                units.setdefault(name[6:], []).append([int(line["step"] // per_epoch), line[name]])
    steps_logged, density = metrics.column(lines, "sparsity/density")
    by_epoch = np.searchsorted(steps_logged, at, side="right") - 1
    seconds = config.train.batch_size / rate
    return {
        "how": how,
        "seed": seed,
        "accuracy": summary["metrics"]["eval/accuracy"],
        "nonzeros": sum(
            summary["metrics"][f"sparsity/{layer}/nonzeros"] for layer in summary["weights"]
        ),
        "seconds": summary["metrics"]["time/seconds"],
        "step_ms": (1e3 * seconds).round(3).tolist(),
        "density": density[by_epoch].round(6).tolist(),
        "conv1_nonzeros": counts["conv1"][1][by_epoch].tolist(),
        "units": units,
    }


def divergence(args: Any, seed: int, epochs: int) -> dict[str, Any] | None:
    """How far losses part after the first shrink, step by step: mean |difference| of the loss."""
    config = get_config(args, "exact", seed)
    whole = prepare(config)
    split = jax.device_put(whole.dataset.train)
    count = jnp.int32(whole.plan.steps_per_epoch)
    advance = programs.compile_train_steps(whole)
    state, keep = programs.initial_state(whole), None
    for _ in range(config.train.epochs - epochs):
        state, _ = advance(state, split, count)
        if (keep := Shrinker(whole).choose(state, split)) is not None:
            break
    if keep is None:
        return None
    rng = np.random.default_rng(seed)
    hidden = hidden_units.hidden_layers(whole.model, whole.dataset.image_shape)
    shuffled = {layer.name: rng.permutation(layer.units) for layer in hidden}

    def losses(keep: dict[str, NDArray[np.int64]] | None) -> NDArray[Any]:
        there, now = whole, jax.tree.map(jnp.copy, state)
        if keep is not None:
            shrinker = Shrinker(whole)
            now = shrinker.restrict(now, keep)
            there = shrinker.current
        go, found = programs.compile_train_steps(there), []
        for _ in range(epochs):
            now, rows = go(now, split, count)
            found.append(jax.device_get(rows["train/loss"]))
        return np.concatenate(found)

    plain = losses(None)
    parted = {"left out": losses(keep), "reordered": losses(shuffled)}
    return {
        "from_step": int(state.step),
        "steps": len(plain),
        "mean_loss": float(plain.mean()),
    } | {
        f"mean |difference|, {name}": float(np.abs(other - plain).mean())
        for name, other in parted.items()
    }


def draw(runs: list[dict[str, Any]], path: str) -> None:
    """Time per step and density against the epoch, of the runs of the first seed."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5.5), sharex=True)
    titles = {"none": "all units", "exact": "dead units left out", "frozen": "and constant ones"}
    for each in runs:
        if each["seed"] != runs[0]["seed"]:
            continue
        epochs = np.arange(1, len(each["step_ms"]) + 1)
        style = {"none": "-", "exact": "-", "frozen": ":"}[each["how"]]
        above.plot(epochs, each["step_ms"], style, label=titles[each["how"]])
        below.plot(epochs, 100 * np.asarray(each["density"]), style, label=titles[each["how"]])
    above.set(yscale="log", ylabel="time of a step, ms")
    below.set(yscale="log", ylabel="non-zero weights, %", xlabel="epoch")
    above.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A row for each setting."""
    rows = {}
    for how in ("none", "exact", "frozen"):
        same = [each for each in runs if each["how"] == how]
        first = statistics.median(each["step_ms"][0] for each in same)
        last = statistics.median(np.median(each["step_ms"][-10:]) for each in same)
        accuracy = [each["accuracy"] for each in same]
        rows[how] = {
            "seeds": len(same),
            "test accuracy": f"{statistics.mean(accuracy):.4f}",
            "s.d.": f"{statistics.stdev(accuracy):.4f}" if len(same) > 1 else "",
            "non-zeros": round(statistics.mean(each["nonzeros"] for each in same)),
            "total, s": statistics.median(each["seconds"] for each in same),
            "first epoch's step, ms": first,
            "last epochs' step, ms": last,
            "ratio": first / last,
        }
    return rows


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument("--config", default="configs/mdl/sfc.py", help="configuration file")
        parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default 3)")
        parser.add_argument("--runs_dir", help="where runs are kept; else a temporary folder")
        parser.add_argument("--figure", help="PNG file for the curves of seed 0")
        parser.add_argument("--overrides", nargs="*", default=[], help="further KEY=VALUE changes")

    args = common.parse(__doc__, argv, name="shrink", add=add)
    if not os.path.isfile(args.config):
        sys.exit(f"error: --config={args.config}: no such file")
    logging.set_verbosity(logging.WARNING)
    seeds = range(1 if args.toy else args.seeds)
    with tempfile.TemporaryDirectory() as temporary:
        runs = [
            run(args, how, seed, args.runs_dir or temporary)
            for seed in seeds
            for how in ("none", "exact", "frozen")
        ]
    rows = summarise(runs)
    parted = [divergence(args, seed, 4) for seed in seeds]
    result = common.result_of(args, rows) | {"divergence": parted, "runs": runs}
    common.show("Units left out", rows, result["machine"])
    print(json.dumps(parted, indent=2))
    if args.figure:
        draw(runs, args.figure)
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
