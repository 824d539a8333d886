"""Test error against width, epochs and examples: is there a double descent, does β-lasso remove it?

    python -m lconv_jax.experiments.scale --group=width
    python -m lconv_jax.experiments.scale --group=examples
    python -m lconv_jax.experiments.scale --group=gain --data_dir=FOLDER_OF_CIFAR

`width` trains s_fc of several widths on few images of Fashion-MNIST, with 15 % of the labels
shuffled and with none: under SGD, and under β-lasso with a λ that stays the same and one that is
chosen for each width by examples held out. `examples` trains the dense network, and those that are
local or convolutional, on more and more images. `gain` asks how the gain of β-lasso over SGD grows
with the width on CIFAR-10. Without augmentation, but for `gain`. Every run keeps its training and
test error by epoch: epochs have a double descent of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lconv_jax.config import with_overrides
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.fashion_mnist import LR_SUM
from lconv_jax.rundir import metrics
from lconv_jax.tables import markdown

# model.name, the argument of get_config, and whether λ is chosen for each width.
METHODS = {
    "SGD": ("s_fc", "sgd", False),
    "β-lasso": ("s_fc", "beta_lasso", False),
    "β-lasso, tuned": ("s_fc", "beta_lasso", True),
    "s_local, SGD": ("s_local", "sgd", False),
    "s_conv, SGD": ("s_conv", "sgd", False),
}
_FEW = 2_000
_NOISE = 0.15
# λ is tried at 0.3, 1 and 3 times its configured value, with the same threshold.
_GRID, _HELD_OUT = {"optimizer.reference_lr_sum": (900.0, 3000.0, 9000.0)}, 400


class Group(NamedTuple):
    """Runs of one figure."""

    methods: tuple[str, ...]
    alphas: tuple[int, ...]
    examples: tuple[int, ...]
    noise: tuple[float, ...]
    config: str  # file under configs/
    changes: Mapping[str, Any]


_STILL = {"data.crop": 0, "train.batch_size": 100, "log.eval_every_epochs": 5}
GROUPS = {
    "width": Group(
        *(("SGD", "β-lasso", "β-lasso, tuned"), (1, 2, 4, 8, 16), (_FEW,), (0.0, _NOISE)),
        *("sfc_fashion_mnist", {**_STILL, "train.epochs": 100}),
    ),
    "examples": Group(
        *(("SGD", "β-lasso", "s_local, SGD", "s_conv, SGD"), (4,), (300, 1_000, 3_000, 10_000)),
        *((0.0,), "sfc_fashion_mnist", {**_STILL, "train.epochs": 100}),
    ),
    "gain": Group(
        *(("SGD", "β-lasso"), (2, 4, 8, 16), (50_000,), (0.0,), "sfc_cifar10"),
        {
            **{"data.cutout": 0, "data.cutout_fill": 0, "model.dtype": "float32"},
            **{"train.epochs": 60, "log.eval_every_epochs": 10},
        },
    ),
}


class Cell(NamedTuple):
    """A run: of a group, its method and sizes, and a seed."""

    group: str  # a key of GROUPS
    method: str  # a key of METHODS
    alpha: int
    examples: int
    noise: float
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return (
            f"{self.group}: {self.method}, α={self.alpha}, {self.examples} examples, "
            f"noise {self.noise:g}, seed {self.seed}"
        )


def cells(group: str) -> list[Cell]:
    """The runs of a group, small networks and few examples first."""
    of = GROUPS[group]
    return [
        Cell(group, method, alpha, examples, noise)
        for examples in of.examples
        for alpha in of.alphas
        for noise in of.noise
        for method in of.methods
    ]


def config_of(
    cell: Cell, data_dir: str = "", settings: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """The configuration of a run, with the settings that were chosen."""
    of, (model, optimizer, _) = GROUPS[cell.group], METHODS[cell.method]
    changes: dict[str, Any] = {**of.changes, "seed": cell.seed, "model.name": model}
    changes["model.alpha"] = cell.alpha
    if cell.group == "gain":
        changes["data.data_dir"] = data_dir
        changes |= {"optimizer.learning_rate": 1.0} if optimizer == "beta_lasso" else {}
    else:
        changes["data.examples"] = cell.examples
        changes |= LR_SUM if optimizer == "beta_lasso" else {}
    if cell.noise:
        changes["data.surrogate"] = f"labels:share={cell.noise:g},seed={cell.seed}"
    return runs.get_config(of.config, optimizer, changes={**changes, **settings})


def settings_of(cell: Cell, folder: str, file: str) -> dict[str, Any]:
    """For tuned methods the λ that is best on examples held out, with seed 0; kept in a file."""
    if not METHODS[cell.method][2]:
        return {}
    first = cell._replace(seed=0)
    held_out = {"data.validation": _HELD_OUT, "log.test": "never"}
    config = with_overrides(config_of(first), held_out)
    return runs.choose(str(first), config, _GRID, folder, file)["changes"]


def measure(run_dir: str) -> dict[str, Any]:
    """Errors by epoch: on training batches as they come, and on the test set."""
    lines = metrics.read_metrics(run_dir)
    steps, test = metrics.column(lines, "eval/accuracy")
    at, train = metrics.column(lines, "train/accuracy")
    # Means since the evaluation before.
    edges = np.searchsorted(at, steps, side="right")
    means = [float(part.mean()) for part in np.split(train, edges)[: len(steps)]]
    return {
        "curve": {
            "step": steps.tolist(),
            "test": (1 - test).tolist(),
            "train": [1 - mean for mean in means],
        }
    }


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Markdown: a row a group, method and size: errors in %, mean ± deviation over seeds."""
    rows = []
    for cell, found in runs.over_seeds(results).items():
        tests = [np.asarray(each["curve"]["test"]) for each in found]
        weights = sum(found[0]["weights"].values())
        rows.append(
            [
                *(cell.group, cell.method, cell.alpha, f"{weights:,}", f"{cell.examples:,}"),
                f"{cell.noise:.0%}",
                runs.spread([100 * each["curve"]["train"][-1] for each in found], ".2f"),
                runs.spread([100 * test[-1] for test in tests], ".2f"),
                runs.spread([100 * test.min() for test in tests], ".2f"),
                runs.spread([100 * each["metrics"]["sparsity/density"] for each in found], ".1f"),
                len(found),
            ]
        )
    head = ["group", "training", "α", "weights", "examples", "noise", "training error, %"]
    head += ["test error, %", "lowest on the way, %", "weights left, %", "seeds"]
    return markdown(head, rows)


def draw(results: Mapping[Cell, Mapping[str, Any]], group: str, figures: str) -> None:
    """Test error against size, and by epoch at the largest size; a colour a method.

    Args:
      results: of runs of the group, one or more.
      group: a key of GROUPS.
      figures: folder.
    """
    there = runs.over_seeds(results)
    noises = [noise for noise in GROUPS[group].noise if any(c.noise == noise for c in there)]
    figure, axes = new_figure(len(noises), 2, size=(11, 4.2 * len(noises)), squeeze=False)
    by_examples = len(GROUPS[group].examples) > 1
    for row, noise in zip(axes, noises, strict=True):
        for number, method in enumerate(GROUPS[group].methods):
            mine = {
                c: found for c, found in there.items() if (c.method, c.noise) == (method, noise)
            }
            if not mine:
                continue
            sizes, means, trains = [], [], []
            for cell, found in mine.items():
                size = cell.examples if by_examples else sum(found[0]["weights"].values())
                sizes.append(size)
                means.append(100 * np.mean([each["curve"]["test"][-1] for each in found]))
                trains.append(100 * np.mean([each["curve"]["train"][-1] for each in found]))
                tests = [100 * each["curve"]["test"][-1] for each in found]
                row[0].plot([size] * len(tests), tests, ".", color=f"C{number}", alpha=0.5)
            row[0].plot(sizes, means, color=f"C{number}", label=method)
            row[0].plot(sizes, trains, ":", color=f"C{number}", linewidth=1)
            last = max(mine, key=lambda cell: (cell.examples, cell.alpha))
            found = mine[last]
            epochs = np.array(found[0]["curve"]["step"]) / found[0]["curve"]["step"][-1]
            mean = 100 * np.mean([each["curve"]["test"] for each in found], 0)
            row[1].plot(epochs * GROUPS[group].changes["train.epochs"], mean, color=f"C{number}")
        row[0].set(xscale="log", xlabel="training examples" if by_examples else "weights")
        row[0].set(ylabel="error, %", title=f"{noise:.0%} of the labels shuffled")
        row[0].legend(fontsize=8, title="test; dotted: training")
        row[1].set(xlabel="epoch", ylabel="test error, %", title="largest size")
    save(figure, os.path.join(figures, f"scale-{group}.png"))


def train_missing(options: Any) -> None:
    """Chooses λ where it is to be chosen, and trains the missing runs."""
    wanted = runs.with_seeds(cells(options.group), options.seeds)
    if options.group == "gain":
        config = config_of(wanted[0], options.data_dir)
        runs.require_data(config.data.name, config.data.data_dir)
    choices = f"{os.path.splitext(options.results)[0]}-choices.json"
    for cell in wanted:
        settings = settings_of(cell, os.path.join(options.runs_dir, "choices"), choices)
        config = config_of(cell, options.data_dir, settings)
        runs.run_all({cell: config}, options.runs_dir, options.results, measure=measure)


def show(options: Any) -> str:
    """The table of a group; draws its figure."""
    results = runs.kept(options.results, runs.with_seeds(cells(options.group), runs.MOST_SEEDS))
    if not results:
        return "Nothing is kept yet."
    draw(results, options.group, options.figures)
    return table(results)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/scale",
        results="docs/results/scale.json",
        seeds=3,
        data_dir="Of CIFAR-10, for --group=gain: a folder of prepared sets, or an .npz file.",
        groups=GROUPS,
    )
