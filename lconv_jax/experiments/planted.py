"""Does s_fc find the inputs that a hidden network reads? β-lasso against SGD, by kind of network.

    python -m lconv_jax.experiments.planted --seeds=5
    python -m lconv_jax.experiments.planted --group=draw

The first trains every case and prints precision and recall of the learned first layers beside
chance; `draw` makes the figure from the run directories. Every seed has a teacher of its own. Run
it from the root of a clone: it reads configs/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from numpy.typing import NDArray

from lconv_jax import analysis, distributed, programs, train
from lconv_jax.checkpoint import Checkpoints
from lconv_jax.data import planted
from lconv_jax.experiments.runs import (
    get_config,
    read_kept,
    run_all,
    spread,
    with_overrides,
    write_kept,
)
from lconv_jax.workdir import CHECKPOINTS, read_config

OPTIMIZERS = {"beta_lasso": "β-lasso", "sgd": "SGD"}
INPUTS = {"independent": 0, "correlated": 3}
# A filter at 60 places is learned place by place: it takes more signals, and as many steps.
KINDS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "local": ("kind=local", {}),
    "conv": ("kind=conv,units=2,examples=20000", {"train.epochs": 50}),
    "sparse": ("kind=sparse", {}),
}
# Chosen by validation, from eight settings, as for the table of `other_data`.
WEIGHT_DECAY = {"local": 0.1, "conv": 0.1, "sparse": 0.03}
WINDOW, LENGTH = planted.DEFAULTS["window"], planted.DEFAULTS["length"]
_DRAWN_UNITS = 8


def run_name(kind: str, inputs: str, optimizer: str, seed: int) -> str:
    """The name of a run, which is that of its directory."""
    return f"{kind}, {inputs}, {optimizer}, seed {seed}"


def configs(seeds: Sequence[int]) -> dict[str, Any]:
    """All runs by name, a seed after the other."""
    found = {}
    for seed in seeds:
        for kind, (options, changes) in KINDS.items():
            for inputs, correlation in INPUTS.items():
                for optimizer in OPTIMIZERS:
                    name = f"planted:{options},correlation={correlation},seed={seed}"
                    decay = WEIGHT_DECAY[kind] if optimizer == "sgd" else 0.0
                    found[run_name(kind, inputs, optimizer, seed)] = with_overrides(
                        get_config("sfc_planted", optimizer),
                        {
                            **changes,
                            "data.name": name,
                            "seed": seed,
                            "optimizer.weight_decay": decay,
                        },
                    )
    return found


def first_layer(run_dir: str) -> tuple[NDArray[np.float32], planted.Teacher]:
    """The weights [L, units] of the first layer's units that are read, and the run's teacher."""
    experiment = programs.prepare(read_config(run_dir))
    with Checkpoints(os.path.join(run_dir, CHECKPOINTS)) as checkpoints:
        restored = checkpoints.restore(programs.stored_shapes(experiment))
    if restored is None:
        raise ValueError(f"{run_dir} has no checkpoint; run the experiment first")
    params = distributed.fetch(restored[1].params)
    kernel, reader = (np.asarray(params[layer]["kernel"]) for layer in ("conv1", "fc1"))
    return kernel[:, (reader != 0).any(1)], planted.teacher(experiment.config.data.name)


def measure(run_dir: str) -> dict[str, Any]:
    """`analysis.recovery` of a run's first layer: by all its weights, and by each unit's largest.

    The largest are as many as a unit of the teacher reads; without exact zeros, as under SGD, only
    they say anything.
    """
    kernel, teacher = first_layer(run_dir)
    found = {}
    for name, largest in (("all", None), ("largest", WINDOW)):
        result = analysis.recovery(kernel, teacher.support, largest=largest)
        found[name] = {
            key: value._asdict() if isinstance(value, analysis.Match) else value
            for key, value in result._asdict().items()
        }
    return found


def run(seeds: Sequence[int], runs_dir: str, results_file: str) -> dict[str, dict[str, Any]]:
    """Trains and measures, or continues; name -> result, also kept in a file."""
    all_configs = configs(seeds)
    results: dict[str, dict[str, Any]] = {}
    for name, config in all_configs.items():
        found = run_all({name: config}, runs_dir, results_file)[name]
        if "recovery" not in found:
            found["recovery"] = measure(os.path.join(runs_dir, name))
            write_kept(results_file, read_kept(results_file) | {name: found})
        results[name] = found
    return results


def table(results: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """One Markdown row a case, means over seeds; a number in brackets is that of chance."""
    rows = [
        "| teacher | inputs | method | test accuracy | density | units | precision | recall | "
        "one-to-one precision | one-to-one recall |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        for inputs in INPUTS:
            for optimizer, title in OPTIMIZERS.items():
                runs = [results[run_name(kind, inputs, optimizer, seed)] for seed in seeds]
                accuracy = spread([each["metrics"]["eval/accuracy"] for each in runs], ".1%")
                density = np.mean([each["metrics"]["sparsity/density"] for each in runs])
                support = "largest" if optimizer == "sgd" else "all"
                found = [each["recovery"][support] for each in runs]
                units = np.mean([each["units"] for each in found])
                shares = []
                for match in ("best", "one_to_one"):
                    for what in ("precision", "recall"):
                        mine = np.nanmean([each[match][what] for each in found])
                        null = np.nanmean([each[f"{match}_null"][what] for each in found])
                        shares.append(f"{mine:.2f} ({null:.2f})")
                rows.append(
                    f"| {kind} | {inputs} | {title} | {accuracy} | "
                    f"{density:.1%} | {units:.0f} | {' | '.join(shares)} |"
                )
    return "\n".join(rows)


def draw(runs_dir: str, figures: str) -> None:
    """The teacher's fields beside those of the learned units matched to them, one-to-one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    os.makedirs(figures, exist_ok=True)
    figure, axes = plt.subplots(3, 3, figsize=(10, 5.4), sharex=True, sharey=True)
    first, *_, last = KINDS
    for row, kind in zip(axes, KINDS, strict=True):
        panels = matched_fields(
            *(
                first_layer(os.path.join(runs_dir, run_name(kind, "independent", optimizer, 0)))
                for optimizer in OPTIMIZERS
            )
        )
        titles = ("teacher", *(f"matched, {title}" for title in OPTIMIZERS.values()))
        for axis, fields, title in zip(row, panels, titles, strict=True):
            peak = np.abs(fields).max(1, keepdims=True)
            shown = fields / np.where(peak > 0, peak, 1)
            axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="none")
            axis.set_yticks(np.arange(len(fields) + 1) - 0.5, minor=True)
            axis.set_yticks([])
            axis.grid(which="minor", axis="y", color="0.8", linewidth=0.6)
            axis.tick_params(which="both", left=False)
            if kind == first:
                axis.set_title(title)
            if kind == last:
                axis.set_xlabel("input")
        row[0].set_ylabel(f"{kind}\nunits")
    figure.tight_layout()
    figure.savefig(os.path.join(figures, "planted.png"), dpi=110)


def matched_fields(
    sparse: tuple[NDArray[np.float32], planted.Teacher],
    dense: tuple[NDArray[np.float32], planted.Teacher],
) -> list[NDArray[Any]]:
    """Fields [units, L] of the teacher and of its partners in a sparse and in a dense first layer.

    At most eight, evenly spaced among the teacher's units that have a partner in the sparse layer.
    Of a convolution the field at a place is that of the filter which the sparse layer's unit is
    most like. A partner's sign is the teacher's; a ReLU of either sign sees the same inputs.
    """
    (kernel, teacher), (other, _) = sparse, dense
    _, first = np.unique(teacher.support, axis=1, return_index=True)
    places = teacher.support[:, np.sort(first)]
    partner = analysis.partners(kernel != 0, places)
    shown = np.flatnonzero(partner >= 0)
    shown = shown[np.argsort(places[:, shown].argmax(0), kind="stable")]
    count = min(_DRAWN_UNITS, len(shown))
    shown = shown[np.linspace(0, len(shown) - 1, count).round().astype(int)]
    mine = kernel[:, partner[shown]]
    theirs = other[:, analysis.partners(analysis.cut(other, WINDOW) != 0, places)[shown]]
    fields = []
    for unit, learned in zip(shown, mine.T, strict=True):
        same = (teacher.support == places[:, [unit]]).all(0)
        candidates = teacher.weights[:, same]
        fields.append(candidates[:, np.abs(learned @ candidates).argmax()])
    known = np.stack(fields)
    return [known, *(_signed(each.T, known) for each in (mine, theirs))]


def _signed(fields: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    return fields * np.where((fields * like).sum(1, keepdims=True) < 0, -1, 1)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_enum("group", "seeds", ("seeds", "draw"), "Train and compare, or draw.")
    flags.DEFINE_integer("seeds", 5, "Seeds of each case.", 1)
    flags.DEFINE_string("runs_dir", "runs/planted", "Where the runs live.")
    flags.DEFINE_string("results", "docs/results/planted.json", "Kept results.")
    flags.DEFINE_string("figures", "docs/figures", "Folder of the figure.")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    seeds = range(options.seeds)
    with train.errors_in_a_line():
        if options.group == "draw":
            draw(options.runs_dir, options.figures)
            return
        results = run(seeds, options.runs_dir, options.results)
    print(table(results, seeds))


if __name__ == "__main__":
    define_flags()
    app.run(main)
