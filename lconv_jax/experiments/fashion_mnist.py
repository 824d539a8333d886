"""β-lasso against SGD on Fashion-MNIST: accuracy, non-zeros, locality, filters.

    python -m lconv_jax.experiments.fashion_mnist --group=tune
    python -m lconv_jax.experiments.fashion_mnist --group=seeds
    python -m lconv_jax.experiments.fashion_mnist --group=others
    python -m lconv_jax.experiments.fashion_mnist --group=full --data_dir=FOLDER_OF_IDX_FILES

`tune` compares settings on 2 000 validation images held out of the 10 000; the test accuracy it
prints chose nothing. `seeds` repeats the main job, `others` asks what changes with the pixels
permuted and with a convolution, `full` trains on all 60 000 images. The figures are made from run
directories of `seeds` and `others`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.rundir import metrics
from lconv_jax.rundir.directory import read_config


class Variant(NamedTuple):
    """A training job: a configuration file's, with changes."""

    optimizer: str
    changes: Mapping[str, Any] = {}
    config: str = "sfc_fashion_mnist"
    seeds: int = 1  # that it is trained with, of those asked for


# For shorter runs of configs/sfc_fashion_mnist.py: about its Ση, of 300 epochs of 19 steps with a
# mean learning rate of a half, so that λ and β are as strong as in the whole run.
LR_SUM = {"optimizer.reference_lr_sum": 3000.0}
_HELD_OUT = {"data.validation": 2000}
GROUPS = {
    "seeds": {
        "beta_lasso": Variant("beta_lasso", seeds=5),
        "sgd": Variant("sgd", seeds=3),
        "sgd, weight decay": Variant("sgd", {"optimizer.weight_decay": 1e-3}, seeds=3),
    },
    "tune": {
        "tune: as configured": Variant("beta_lasso", _HELD_OUT),
        "tune: crop 2": Variant("beta_lasso", _HELD_OUT | {"data.crop": 2}),
        "tune: crop 4": Variant("beta_lasso", _HELD_OUT | {"data.crop": 4}),
        "tune: beta 10": Variant("beta_lasso", _HELD_OUT | {"optimizer.beta": 10.0}),
        "tune: sgd": Variant("sgd", _HELD_OUT),
        "tune: sgd, crop 1": Variant("sgd", _HELD_OUT | {"data.crop": 1}),
    },
    "others": {
        "beta_lasso, pixels permuted": Variant("beta_lasso", {"data.permute": 1}),
        "beta_lasso, beta 10": Variant("beta_lasso", {"optimizer.beta": 10.0}),
        "s_conv, sgd": Variant("sgd", {"model.name": "s_conv", "train.epochs": 100}),
    },
    "full": {
        "full: beta_lasso": Variant("beta_lasso", config="sfc_fashion_mnist_full"),
        "full: sgd": Variant("sgd", config="sfc_fashion_mnist_full"),
    },
}


class Cell(NamedTuple):
    """A run: a training job of a group, and a seed."""

    group: str  # a key of GROUPS
    variant: str  # a key of the group
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return self.variant + (f", seed {self.seed}" if self.group == "seeds" else "")


BETA_LASSO, SGD = Cell("seeds", "beta_lasso"), Cell("seeds", "sgd")
# The panels of the figure of filters.
PANELS = {
    "SGD": SGD,
    "β-lasso, β = 50": BETA_LASSO,
    "β-lasso, β = 10": Cell("others", "beta_lasso, beta 10"),
    "β-lasso, pixels permuted, mapped back": Cell("others", "beta_lasso, pixels permuted"),
}


def cells(group: str, seeds: int) -> list[Cell]:
    """The runs of a group, with as many seeds as are asked for and each job has."""
    found = runs.with_seeds((Cell(group, variant) for variant in GROUPS[group]), seeds)
    return [cell for cell in found if cell.seed < GROUPS[group][cell.variant].seeds]


def configs(cells: Iterable[Cell], data_dir: str = "") -> dict[Cell, Any]:
    """The configuration of each run; the full set is in `data_dir`."""
    found = {}
    for cell in cells:
        variant = GROUPS[cell.group][cell.variant]
        where = {"data.data_dir": data_dir} if cell.group == "full" else {}
        changes = {**variant.changes, **where, "seed": cell.seed}
        found[cell] = runs.get_config(variant.config, variant.optimizer, changes=changes)
    return found


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a run, and a line for each training job that has several seeds."""
    lines = [runs.table(results)]
    for cell, found in runs.over_seeds(results).items():
        if len(found) > 1:
            accuracy = runs.spread([each["metrics"]["eval/accuracy"] for each in found], ".2%")
            density = np.mean([each["metrics"]["sparsity/density"] for each in found])
            about = f"density {density:.1%}, {len(found)} seeds"
            lines.append(f"{cell.variant}: test accuracy {accuracy}, {about}")
    return "\n".join(lines)


def draw(runs_dir: str, figures: str) -> None:
    """Filters side by side, and non-zeros, accuracy and density against epoch."""
    from matplotlib import image  # here, so that a table loads no plotting

    figure, axes = new_figure(2, 2, size=(10, 10.6))
    for axis, (title, cell) in zip(axes.flat, PANELS.items(), strict=True):
        axis.imshow(image.imread(os.path.join(runs_dir, str(cell), "filters.png")))
        axis.set_title(title)
        axis.axis("off")
    save(figure, os.path.join(figures, "filters.png"))

    lasso, sgd = (os.path.join(runs_dir, str(cell)) for cell in (BETA_LASSO, SGD))
    lines, dense = metrics.read_metrics(lasso), metrics.read_metrics(sgd)
    epochs = read_config(lasso).train.epochs / lines[-1]["step"]
    figure, (left, right) = new_figure(1, 2, size=(10, 3.6))
    for layer in ("conv1", "fc1", "fc2"):
        at, nonzeros = metrics.column(lines, f"sparsity/{layer}/nonzeros")
        left.semilogy(at * epochs, nonzeros, label=layer, linewidth=1)
    left.set(xlabel="epoch", ylabel="non-zero weights", title="Non-zeros per layer, β-lasso")
    left.legend()
    for name, logged, style in (("β-lasso", lines, "-"), ("SGD", dense, "--")):
        at, accuracy = metrics.column(logged, "eval/accuracy")
        right.plot(at * epochs, 100 * accuracy, f"C0{style}", label=f"test accuracy, {name}")
    right.set(xlabel="epoch", ylabel="test accuracy, %", title="Accuracy and density")
    density_axis = right.twinx()
    at, density = metrics.column(lines, "sparsity/density")
    density_axis.plot(at * epochs, 100 * density, "C1", linewidth=1, label="density, β-lasso")
    density_axis.set(ylabel="density, %", ylim=(0, None))
    handles = right.get_legend_handles_labels()[0] + density_axis.get_legend_handles_labels()[0]
    right.legend(handles=handles, loc="center right")
    save(figure, os.path.join(figures, "training.png"))


def train_missing(options: Any) -> None:
    """Trains the missing runs of a group."""
    wanted = configs(cells(options.group, options.seeds), options.data_dir)
    runs.run_all(wanted, options.runs_dir, options.results)


def show(options: Any) -> str:
    """The table of a group; draws the figures if they are of it."""
    text = table(runs.kept(options.results, cells(options.group, runs.MOST_SEEDS)))
    if options.group not in {cell.group for cell in PANELS.values()}:
        return text
    return text + runs.draw_finished(draw, options.runs_dir, options.figures, PANELS.values())


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/fashion_mnist",
        results="docs/results/fashion_mnist.json",
        data_dir="Folder of the full set, for --group=full.",
        groups=GROUPS,
    )
