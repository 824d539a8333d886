"""What leaving out dead units saves, and that it changes nothing else.

    python -m benchmarks.shrink --out=benchmarks/shrink.json

Trains configs/mdl/sfc.py (the whole of Fashion-MNIST) with `train.shrink` none, exact and frozen,
draws cost and sparsity against the epoch, and measures how far losses part after the first shrink:
of the network with its dead units left out, and, as a control, of the same network with its
units in another order, which differ by rounding alone.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import statistics
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import app, flags, logging
from numpy.typing import NDArray

from lconv_jax import metrics, shrink, train
from lconv_jax.experiments.runs import with_overrides

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_CONFIG = flags.DEFINE_string("config", "configs/mdl/sfc.py", "Configuration file.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each.", 1)
_RUNS_DIR = flags.DEFINE_string("runs_dir", None, "Where runs are kept; a temporary folder.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the result.")
_FIGURE = flags.DEFINE_string("figure", None, "PNG file for the curves of seed 0.")
_OVERRIDES = flags.DEFINE_list("overrides", [], "Further key=value changes of the configuration.")


def get_config(how: str, seed: int) -> Any:
    """The configuration, evaluated each epoch, with `train.shrink` = how."""
    config = runpy.run_path(_CONFIG.value)["get_config"]()
    changes: dict[str, Any] = dict(item.split("=", 1) for item in _OVERRIDES.value)
    changes = {key: json.loads(value) for key, value in changes.items()}
    fixed = {"train.shrink": how, "seed": seed, "log.eval_every_epochs": 1}
    return with_overrides(config, fixed | changes)


def run(how: str, seed: int, runs_dir: str) -> dict[str, Any]:
    """Trains once; the curves and the end of the run."""
    config, workdir = get_config(how, seed), os.path.join(runs_dir, f"{how}-seed{seed}")
    summary = train.train_and_evaluate(config, workdir)
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


def divergence(seed: int, epochs: int) -> dict[str, Any] | None:
    """How far losses part after the first shrink, step by step: mean |difference| of the loss."""
    config = get_config("exact", seed)
    whole = train.prepare(config)
    split = jax.device_put(whole.dataset.train)
    count = jnp.int32(whole.plan.steps_per_epoch)
    advance = train.compile_train_steps(whole)
    state, keep = train.initial_state(whole), None
    for _ in range(config.train.epochs - epochs):
        state, _ = advance(state, split, count)
        if (keep := train.smaller(whole, state, split)) is not None:
            break
    if keep is None:
        return None
    rng = np.random.default_rng(seed)
    hidden = shrink.hidden_layers(whole.model, whole.dataset.image_shape)
    shuffled = {layer.name: rng.permutation(layer.units) for layer in hidden}

    def losses(keep: dict[str, NDArray[np.int64]] | None) -> NDArray[Any]:
        there, now = whole, jax.tree.map(jnp.copy, state)
        if keep is not None:
            there, now = train.restricted(whole, now, keep)
        go, found = train.compile_train_steps(there), []
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


def summarise(runs: list[dict[str, Any]]) -> list[str]:
    """One line for each setting, as a Markdown table."""
    rows = [
        "| train.shrink | seeds | test accuracy | non-zeros | total, s | first epoch's step, ms "
        "| last epochs' step, ms | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for how in ("none", "exact", "frozen"):
        same = [each for each in runs if each["how"] == how]
        if not same:
            continue
        first = statistics.median(each["step_ms"][0] for each in same)
        last = statistics.median(np.median(each["step_ms"][-10:]) for each in same)
        accuracy = [each["accuracy"] for each in same]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        rows.append(
            f"| {how} | {len(same)} | {statistics.mean(accuracy):.4f} ± {spread:.4f} "
            f"| {statistics.mean(each['nonzeros'] for each in same):,.0f} "
            f"| {statistics.median(each['seconds'] for each in same):.0f} "
            f"| {first:.2f} | {last:.2f} | {first / last:.1f} |"
        )
    return rows


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        runs = [
            run(how, seed, _RUNS_DIR.value or temporary)
            for seed in range(_SEEDS.value)
            for how in ("none", "exact", "frozen")
        ]
    result = {
        "runs": runs,
        "divergence": [divergence(seed, 4) for seed in range(_SEEDS.value)],
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {platform.machine()}, "
        f"{os.cpu_count()} cores",
        "jax": jax.__version__,
    }
    print("\n".join(summarise(runs)))
    print(json.dumps(result["divergence"], indent=2))
    print(result["device"], "jax", result["jax"])
    if _FIGURE.value:
        draw(runs, _FIGURE.value)
    if _OUT.value:
        metrics.write_atomically(_OUT.value, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
