"""What the paper's tables and figures share: networks, presets, choice of settings, commands.

A table or figure is a module with a list of cells, a table and a figure of their results:

    python -m lconv_jax.experiments.table2 --preset=small --data=cifar10 --data_dir=FOLDER

chooses the settings of each cell by validation, trains what is missing, goes on with what was
stopped, keeps each result, and prints and draws them beside the paper's. `--dry_run` says first
what that takes. A cell that several of them have is trained once.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from lconv_jax import analysis, models
from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.experiments import costs, runs
from lconv_jax.experiments.runs import (
    MOST_SEEDS,
    choose,
    first_kernel,
    kept,
    run_all,
    with_seeds,
)
from lconv_jax.rundir import metrics

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn_cropped": "SVHN"}
# How a network is trained: optimizer.name and β.
METHODS: dict[str, tuple[str, float]] = {
    "SGD": ("sgd", 0.0),
    "β-lasso, β = 0": ("beta_lasso", 0.0),
    "β-lasso, β = 1": ("beta_lasso", 1.0),
    "β-lasso, β = 50": ("beta_lasso", 50.0),
    # Not the most accurate setting of the grid, but the sparsest in the first layer.
    "β-lasso, β = 50, sparse": ("beta_lasso", 50.0),
}
SGD, BETA_LASSO, SPARSE = "SGD", "β-lasso, β = 50", "β-lasso, β = 50, sparse"
# Points of a run's curves that are kept.
_CURVE_POINTS = 200
# Measures of units that are kept: those that tell something of weights without zeros, as they go by
# squared weights. A window holds half of a unit's.
_FIELDS, _SHARE, _SHUFFLES = ("window", "spread", "selectivity", "opponency"), 0.5, 4


class Cell(NamedTuple):
    """A network, and how it is trained."""

    model: str
    method: str  # a key of METHODS
    alpha: int
    epochs: int
    kernel_size: int = 3
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        kernel = f", kernel {self.kernel_size}" if self.model == "resnet18" else ""
        return (
            f"{self.model} α={self.alpha}{kernel}, {self.method}, {self.epochs} epochs, "
            f"seed {self.seed}"
        )

    @property
    def choice(self) -> str:
        """The name of what its setting is chosen from: the same for every length, kernel, seed."""
        method = BETA_LASSO if self.method == SPARSE else self.method
        return f"{self.model} α={self.alpha}, {method}"


class Preset(NamedTuple):
    """The size of everything."""

    alpha: Mapping[str, int]  # of tables 1 and 2, by model
    widths: Mapping[str, Sequence[int]]  # α of figure 2, by model
    kernels: Sequence[int]  # of figure 5
    epochs: Mapping[str, Sequence[int]]  # lengths of the runs, by table or figure
    tuning_epochs: int
    validation: int  # training examples held out when settings are chosen
    grids: Mapping[str, Mapping[str, Sequence[float]]]  # settings to choose from, by optimizer
    changes: Mapping[str, Any]  # of the paper's configuration, in every run
    by_optimizer: Mapping[str, Mapping[str, Any]] = {}  # and in those of an optimizer


# λ of β-lasso is meant for 4000 epochs and η = 0.1; `optimizer.reference_lr_sum` adapts it, and β.
_LAMBDAS = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5)
PRESETS = {
    # The paper's sizes and grids (Appendix A.2).
    "paper": Preset(
        alpha={
            **dict.fromkeys(("d_conv", "d_local", "d_fc"), 15),
            **dict.fromkeys(("s_conv", "s_local", "s_fc"), 150),
            **{"three_fc": 14_533, "resnet18": 64},
        },
        widths={
            "resnet18": (2, 4, 8, 16, 32, 64),
            "d_conv": (2, 4, 8, 15, 30, 60),
            "s_conv": (4, 8, 16, 32, 64, 150),
            "three_fc": (128, 256, 512, 1024, 2048, 4096, 14_533),
        },
        kernels=(3, 5, 7, 9, 11, 13, 15),
        epochs={"table1": (400, 4000), "table2": (400, 4000), "figure2": (400,), "figure5": (400,)},
        tuning_epochs=100,
        validation=5_000,
        grids={
            "sgd": {
                "optimizer.learning_rate": (0.01, 0.1, 1.0),
                "optimizer.momentum": (0.0, 0.9),
                "optimizer.weight_decay": (0.0, 1e-4, 2e-4, 5e-4, 1e-3),
            },
            "beta_lasso": {"optimizer.l1.conv": _LAMBDAS, "optimizer.l1.fc": _LAMBDAS},
        },
        changes={},
    ),
    # The same nets with about 4 to 10 million weights in the fully connected twin.
    "small": Preset(
        alpha={
            **dict.fromkeys(("d_conv", "d_local", "d_fc"), 2),
            **dict.fromkeys(("s_conv", "s_local", "s_fc"), 5),
            **{"three_fc": 1000, "resnet18": 4},
        },
        widths={
            "resnet18": (1, 2, 4),
            "d_conv": (1, 2, 4, 8),
            "s_conv": (1, 2, 4, 8, 16),
            "three_fc": (64, 256, 1024, 2048),
        },
        kernels=(3, 7, 11),
        epochs={"table1": (100,), "table2": (200,), "figure2": (40,), "figure5": (30,)},
        # After 30 epochs the weakest penalties lead: networks have not begun to overfit.
        tuning_epochs=60,
        validation=5_000,
        grids={
            "sgd": {
                "optimizer.learning_rate": (0.1, 0.3),
                "optimizer.weight_decay": (5e-4, 2e-3),
            },
            "beta_lasso": {
                "optimizer.l1.conv": (1.5e-6, 5e-6),
                "optimizer.l1.fc": (5e-7, 2e-6),
            },
        },
        # Cutout besides the policy is more than nets of this size can use. Processors without
        # bfloat16 instructions, which are most, take longer in bfloat16 than in float32.
        changes={"data.cutout": 0, "data.cutout_fill": 0, "model.dtype": "float32"},
        by_optimizer={"beta_lasso": {"optimizer.learning_rate": 1.0}},
    ),
    # To see the code run: the numbers mean nothing.
    "tiny": Preset(
        alpha={**dict.fromkeys(models.NAMES, 1), "three_fc": 8},
        widths={"resnet18": (1,), "d_conv": (1, 2), "s_conv": (1, 2), "three_fc": (4, 8)},
        kernels=(3,),
        epochs={"table1": (1,), "table2": (2,), "figure2": (1,), "figure5": (1,)},
        tuning_epochs=1,
        validation=40,
        grids={
            "sgd": {"optimizer.weight_decay": (0.0, 1e-3)},
            "beta_lasso": {"optimizer.l1.conv": (2e-6, 1e-5)},
        },
        changes={
            "data.examples": 200,
            "data.augment": "",  # a policy takes seconds to compile
            "model.dtype": "float32",
            "train.batch_size": 40,
            "log.every_steps": 1,
        },
        by_optimizer={"beta_lasso": {"optimizer.learning_rate": 1.0}},
    ),
}


class Study(NamedTuple):
    """What a command works on: a data set, a preset and where things are."""

    data: str  # a key of DATA
    preset: str  # a key of PRESETS
    data_dir: str = ""
    runs_dir: str = "runs/paper"
    results: str = "docs/results/paper"

    @property
    def sizes(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def title(self) -> str:
        return DATA[self.data]

    def figure(self, folder: str, name: str) -> str:
        """The file of a figure of the paper."""
        return os.path.join(folder, f"{name}-{self.data}-{self.preset}.png")

    def file(self, what: str = "") -> str:
        """The file of kept results, or of the settings chosen."""
        return os.path.join(self.results, f"{self.data}-{self.preset}{what}.json")

    def folder(self, what: str) -> str:
        """The folder of run directories, of the final runs or of those that settings are from."""
        return os.path.join(self.runs_dir, f"{self.data}-{self.preset}", what)


def config_for(study: Study, cell: Cell, settings: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a cell: the paper's, at the preset's size, with the settings chosen."""
    optimizer, beta = METHODS[cell.method]
    sizes = study.sizes
    changes = {
        "data.data_dir": study.data_dir,
        "train.epochs": cell.epochs,
        "seed": cell.seed,
        "model.kernel_size": cell.kernel_size,
        # The test set is read once, by what was chosen without it.
        "log.test": "end",
        **({"optimizer.beta": beta} if optimizer == "beta_lasso" else {}),
        **sizes.changes,
        **sizes.by_optimizer.get(optimizer, {}),
        **(settings or {}),
    }
    config = config_lib.paper_config(study.data, cell.model, cell.alpha, optimizer)
    return with_overrides(config, changes)


def choice_of(study: Study, cell: Cell) -> tuple[Any, dict[str, Sequence[float]]]:
    """Of the choice of a cell's settings: its configuration and its grid."""
    shortest = cell._replace(epochs=study.sizes.tuning_epochs, kernel_size=3, seed=0)
    held_out = {"data.validation": study.sizes.validation, "log.test": "never"}
    config = with_overrides(config_for(study, shortest), held_out)
    grid = dict(study.sizes.grids[METHODS[cell.method][0]])
    return config, grid


def settings_of(study: Study, cell: Cell) -> dict[str, Any]:
    """The settings of a cell that are best on examples held out: found now, or kept from before.

    Of `SPARSE`, the best of those with the largest λ of the first layer.
    """
    folder, file = study.folder("choices"), study.file("-choices")
    found = choose(cell.choice, *choice_of(study, cell), folder, file)
    if cell.method != SPARSE:
        return found["changes"]
    best = max(
        found["settings"],
        key=lambda each: (each["changes"]["optimizer.l1.conv"], each["validation/accuracy"] or 0),
    )
    return best["changes"]


def train_cells(study: Study, cells: Iterable[Cell]) -> None:
    """Trains what is missing of the cells, in their order, and keeps the results."""
    for cell in cells:
        config = config_for(study, cell, settings_of(study, cell))
        run_all({cell: config}, study.folder("runs"), study.file(), measure=measure)


def measure(run_dir: str) -> dict[str, Any]:
    """What is kept of a run beside its last metrics: `curves`; and "fields" of dense units.

    "fields" has measures of the first layer's units (`analysis.compare_fields`) beside those of
    shuffled weights that keep the counts of units and of inputs.
    """
    kernel, shape = first_kernel(run_dir)
    if kernel.shape[0] != math.prod(shape):
        return curves(run_dir)
    found = analysis.compare_fields(kernel, shape, share=_SHARE, shuffles=_SHUFFLES)
    return curves(run_dir) | {"fields": {name: found[name]._asdict() for name in _FIELDS}}


def curves(run_dir: str) -> dict[str, Any]:
    """Non-zeros by epoch, and training accuracy."""
    lines = metrics.read_metrics(run_dir)
    at, accuracy = metrics.column(lines, "train/accuracy")
    names = sorted(name for name in lines[0] if name.endswith("/nonzeros"))
    shown = np.unique(np.linspace(0, len(at) - 1, _CURVE_POINTS).round().astype(int))
    tail = at > at[-1] - max(1, at[-1] // 100)
    return {
        "curves": {
            "step": at[shown].tolist(),
            **{name: metrics.column(lines, name)[1][shown].tolist() for name in names},
        },
        # Of augmented batches, over the last hundredth of the steps.
        "train/accuracy": float(accuracy[tail].mean()),
    }


def command(
    cells: Callable[[Preset], Sequence[Cell]],
    show: Callable[[Study, Mapping[Cell, Mapping[str, Any]], str], str],
) -> None:
    """The command of a table or figure.

    Args:
      cells: what it trains, in the order of worth.
      show: (study, results, folder of figures) -> text; draws what there is to draw.
    """

    def study_of(options: Any) -> Study:
        return Study(
            *(options.data, options.preset, options.data_dir, options.runs_dir, options.results)
        )

    def wanted(options: Any) -> list[Cell]:
        found = filtered(cells(study_of(options).sizes), options.models, options.methods)
        return with_seeds(found, options.seeds)

    def train_missing(options: Any) -> None:
        if not options.dry_run:
            runs.require_data(options.data, options.data_dir)
            train_cells(study_of(options), wanted(options))

    def show_kept(options: Any) -> str:
        study, chosen = study_of(options), wanted(options)
        if options.dry_run:
            return plan(study, chosen)
        all_cells = with_seeds(cells(study.sizes), MOST_SEEDS)
        return show(study, kept(study.file(), all_cells), options.figures)

    def define_flags() -> None:
        flags.DEFINE_enum("preset", "small", list(PRESETS), "The size of everything.")
        flags.DEFINE_enum("data", "cifar10", list(DATA), "The data set.")
        flags.DEFINE_list("models", None, "Only these models.")
        flags.DEFINE_list("methods", None, "Only methods whose names end so, such as SGD,50.")
        flags.DEFINE_bool("dry_run", False, "Say what would run, with sizes and time, and stop.")

    runs.command(
        *(train_missing, show_kept),
        runs_dir="runs/paper",
        results="docs/results/paper",
        seeds=1,
        data_dir="Where the set is: a folder of prepared sets, or an .npz file of this one.",
        define_more=define_flags,
    )


def filtered(
    cells: Iterable[Cell], only_models: Sequence[str] | None, only_methods: Sequence[str] | None
) -> list[Cell]:
    """The cells of these models, and of methods whose names end so; None: all.

    Raises:
      ValueError: nothing is left.
    """
    cells = list(cells)
    left = [
        cell
        for cell in cells
        if (not only_models or cell.model in only_models)
        and (not only_methods or cell.method.endswith(tuple(only_methods)))
    ]
    if not left:
        there = sorted({(cell.model, cell.method) for cell in cells})
        raise ValueError(
            f"--models={only_models} --methods={only_methods} leaves nothing of "
            + "; ".join(map(", ".join, there))
        )
    return left


def plan(study: Study, cells: Sequence[Cell]) -> str:
    """What training the cells takes: a Markdown row for each that is missing, and the sum."""
    done = kept(study.file(), cells)
    jobs = []
    for _, group in itertools.groupby(
        sorted((cell for cell in cells if cell not in done), key=lambda cell: cell.choice),
        key=lambda cell: cell.choice,
    ):
        members = list(group)
        name = members[0].choice
        config, grid = choice_of(study, members[0])
        if "changes" not in runs.read_choice(name, config, grid, study.file("-choices")):
            trials = int(np.prod([len(values) for values in grid.values()]))
            jobs.append(costs.Job(f"choice of {name}", config, trials))
        jobs += [costs.Job(str(cell), config_for(study, cell), 1) for cell in members]
    return costs.table(jobs)
