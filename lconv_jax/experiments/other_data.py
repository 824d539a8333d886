"""β-lasso on data that are not photographs: accuracy, density, localisation and fields.

    python -m lconv_jax.experiments.other_data --sets=nlgp,gp,mnist1d

Each set is learned by s_fc under β-lasso and under SGD, and by s_local and s_conv under SGD, and
where there is an augmentation, with and without it; five seeds. A seed is the network's and, of
sets that are generated, not the data's. The settings of each are chosen first, by one seed: the
best of eight on examples that are held out of training. Results and settings are kept in one file a
set, so that several processes can work on different sets. The figure of learned fields is made from
run directories.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lconv_jax import analysis
from lconv_jax import config as config_lib
from lconv_jax.data import make_spoken_digits
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import fields, new_figure, save
from lconv_jax.tables import markdown


class Set(NamedTuple):
    """A data set of the table."""

    config: str  # file under configs/, for β-lasso and for "sgd"
    validation: int  # training examples that are held out when settings are chosen
    changes: Mapping[str, Any] = {}  # of every run
    augmentation: Mapping[str, Any] = {}  # of the runs with augmentation; empty: there are no such
    chosen_for: Sequence[str] = ("s_fc", "s_local", "s_conv")  # others: as in the configuration
    chosen_by: str = "validation/accuracy"
    choice: Mapping[str, Any] = {}  # changes when settings are chosen
    ring: bool = False  # whether distances are measured around
    in_folder: bool = False  # whether it is read from --data_dir


# The networks and how they are trained: model.name and the argument of get_config.
METHODS = {
    "s_fc, β-lasso": ("s_fc", "beta_lasso"),
    "s_fc, SGD": ("s_fc", "sgd"),
    "s_local, SGD": ("s_local", "sgd"),
    "s_conv, SGD": ("s_conv", "sgd"),
}
SPARSE, DENSE, *_ = METHODS
# Data whose configuration has no augmentation of its own have no shifts.
_STILL = {"data.crop": 0}
_TESTED_VOICES = sorted(make_spoken_digits.VOICES)[4::5]
SETS: dict[str, Set] = {
    "nlgp": Set("sfc_nlgp", 10_000, ring=True),
    "gp": Set("sfc_nlgp", 10_000, {"data.name": "gp"}, ring=True),
    "nlgp_2d": Set("sfc_nlgp", 10_000, {"data.name": "nlgp_2d"}, ring=True),
    "gp_2d": Set("sfc_nlgp", 10_000, {"data.name": "gp_2d"}, ring=True),
    "planted": Set("sfc_planted", 2_000),
    "planted_sparse": Set("sfc_planted", 2_000, {"data.name": "planted:kind=sparse"}),
    "planted_conv": Set(
        "sfc_planted", 4_000, {"data.name": "planted:kind=conv,units=2,examples=20000"}
    ),
    "mnist1d": Set("sfc_mnist1d", 1_000, _STILL, {"data.crop": 8}),
    "words": Set("sfc_words", 4_000, _STILL, {"data.crop": 2}),
    "words_diacritics": Set("sfc_words", 4_000, _STILL | {"data.name": "words:diacritics=1"}),
    # Voices are held out, as those for testing are others, too: without these, others are tested.
    # s_local and s_conv take a minute and a half there.
    "spoken_digits": Set(
        *("sfc_spoken_digits", 100, _STILL, {"data.crop": 3}),
        chosen_for=("s_fc",),
        chosen_by="eval/accuracy",
        choice={"data.name": f"spoken_digits:without={'+'.join(_TESTED_VOICES)}"},
        in_folder=True,
    ),
    "dna_motifs": Set("sfc_dna_motifs", 1_600, _STILL, {"data.crop": 4}),
}
# On Gaussian fields s_fc is narrow, so that its few fields can be looked at. With its α of 1 a
# convolution would be a single filter, and s_local have one at a place.
_ALPHA_ON_RINGS = 8
# Settings are chosen among the products of these; of β-lasso, times the configuration's.
_SGD = {
    "optimizer.learning_rate": (0.1, 0.3),
    "optimizer.weight_decay": (0.001, 0.01, 0.03, 0.1),
}
_BETA_LASSO = {"optimizer.l1.conv": (0.25, 0.5, 1, 2), "optimizer.l1.fc": (0.25, 1)}


class Cell(NamedTuple):
    """A run: a set, how it is learned, and a seed."""

    set: str  # a key of SETS
    method: str  # a key of METHODS
    augmented: bool = False
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory, among those of its set."""
        return f"{self.method}{', augmented' if self.augmented else ''}, seed {self.seed}"


# The sets of the figure, in which s_fc is trained with augmentation.
DRAWN = {
    name: [Cell(name, method, augmented=True) for method in (DENSE, SPARSE)]
    for name in ("mnist1d", "words", "spoken_digits", "dna_motifs")
}


def file_of(folder: str, name: str) -> str:
    """The file of a set in a folder."""
    return os.path.join(folder, f"{name}.json")


def cells(name: str) -> list[Cell]:
    """All methods on a set, with and without augmentation."""
    arms = (False, True) if SETS[name].augmentation else (False,)
    return [Cell(name, method, augmented) for method in METHODS for augmented in arms]


def configs(
    cells: Iterable[Cell],
    settings: Mapping[Cell, Mapping[str, Any]] | None = None,
    data_dir: str = "",
) -> dict[Cell, Any]:
    """The configuration of each run.

    Args:
      cells: the runs.
      settings: by cell of seed 0, what `choose` returned; None for those of the configurations.
      data_dir: of sets that are read from a folder.
    """
    found = {}
    for cell in cells:
        of_set, (model, optimizer) = SETS[cell.set], METHODS[cell.method]
        changes = {
            **of_set.changes,
            **(of_set.augmentation if cell.augmented else {}),
            "model.name": model,
            "seed": cell.seed,
            **({"model.alpha": _ALPHA_ON_RINGS} if of_set.ring and model != "s_fc" else {}),
            **({"data.data_dir": data_dir} if of_set.in_folder else {}),
            **(settings or {}).get(cell._replace(seed=0), {}),
        }
        found[cell] = runs.get_config(of_set.config, optimizer, changes=changes)
    return found


def choose(name: str, data_dir: str, folder: str, file: str) -> dict[Cell, dict[str, Any]]:
    """The best settings of each method on a set: found by sweeps in `folder`, or kept in `file`."""
    of_set, found = SETS[name], {}
    for cell, config in configs(cells(name), data_dir=data_dir).items():
        if config.model.name not in of_set.chosen_for:
            continue
        held_out = {"data.validation": of_set.validation, **of_set.choice}
        config = config_lib.with_overrides(config, held_out)
        grid: dict[str, Sequence[float]] = dict(_SGD)
        if config.optimizer.name == "beta_lasso":
            flat = dict(config_lib.flatten(config))
            grid = {key: [flat[key] * each for each in _BETA_LASSO[key]] for key in _BETA_LASSO}
        kept = runs.choose(str(cell), config, grid, folder, file, of_set.chosen_by)
        found[cell] = kept["changes"]
    return found


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a set: mean and standard deviation of the test accuracy over the seeds.

    Density is that of β-lasso; the others are dense. Spread is that of s_fc's first layer over that
    of shuffled weights: under β-lasso, and under SGD cut to as many weights.
    """
    groups, rows = runs.over_seeds(results), []
    for name, augmented in {(cell.set, cell.augmented): None for cell in groups}:
        found = {method: groups.get(Cell(name, method, augmented), []) for method in METHODS}
        accuracies = [
            [100 * each["metrics"]["eval/accuracy"] for each in mine] for mine in found.values()
        ]
        density = [100 * each["metrics"]["sparsity/density"] for each in found[SPARSE]]
        # Localisation is added when all runs of a set are there.
        ratios = [
            [each["localisation"][key]["ratio"] for each in found[method] if "localisation" in each]
            for method, key in ((SPARSE, "whole"), (DENSE, "cut"))
        ]
        rows.append(
            [
                name + ", augmented" * augmented,
                *(runs.spread(values, ".1f") for values in (*accuracies, density)),
                *(runs.spread(values, ".2f") for values in ratios),
                min(map(len, found.values())),
            ]
        )
    return markdown(["set", *METHODS, "density", "spread", "spread, SGD cut", "seeds"], rows)


def draw(runs_dir: str, figures: str) -> None:
    """First-layer fields of seed 0 of some sets, under SGD and under β-lasso: nine units each."""
    pictures: dict[Cell, Any] = {}
    for cell in itertools.chain(*DRAWN.values()):
        kernel, shape = runs.first_kernel(os.path.join(runs_dir, cell.set, str(cell)))
        filters = analysis.first_layer_filters(kernel, shape)
        pictures[cell] = fields(analysis.choose_filters(filters, 9, min_nonzeros=5))
    heights = [shown.shape[0] / shown.shape[1] for shown in list(pictures.values())[::2]]
    size = (10.4, sum(5 * height + 0.4 for height in heights))
    figure, axes = new_figure(len(heights), 2, size, height_ratios=heights)
    for axis, (cell, shown) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(shown, interpolation="antialiased")
        axis.set_title(f"{cell.set}: {cell.method}", fontsize=12)
        axis.axis("off")
    save(figure, os.path.join(figures, "other_data.png"), dpi=120)


def train_missing(options: Any) -> None:
    """Chooses the settings of each set, trains the missing runs, and localises its fields."""
    for name in options.sets:
        first = next(iter(configs(cells(name), data_dir=options.data_dir).values()))
        runs.require_data(first.data.name, first.data.data_dir)
    for name in options.sets:
        runs_dir, file = os.path.join(options.runs_dir, name), file_of(options.results, name)
        settings = choose(
            *(name, options.data_dir, os.path.join(options.runs_dir, "choice", name)),
            file_of(f"{os.path.normpath(options.results)}_settings", name),
        )
        wanted = runs.with_seeds(cells(name), options.seeds)
        results = runs.run_all(configs(wanted, settings, options.data_dir), runs_dir, file)
        judged = [cell for cell in results if cell.method in (SPARSE, DENSE)]
        twins = {cell: cell._replace(method=SPARSE) for cell in judged}
        runs.add_localisation(results, twins, runs_dir, file, periodic=SETS[name].ring)


def show(options: Any) -> str:
    """The table of the sets; draws the figure if its sets are among them."""
    results: dict[Cell, dict[str, Any]] = {}
    for name in options.sets:
        wanted = runs.with_seeds(cells(name), runs.MOST_SEEDS)
        results |= runs.kept(file_of(options.results, name), wanted)
    text = table(results)
    if not DRAWN.keys() <= set(options.sets):
        return text
    drawn = (os.path.join(name, str(cell)) for name, each in DRAWN.items() for cell in each)
    return text + runs.draw_finished(draw, options.runs_dir, options.figures, drawn)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/other_data",
        results="docs/results/other_data",
        data_dir="Folder of the spoken digits.",
        some_of={"sets": SETS},
    )
