"""Does s_fc find the inputs that a hidden network reads? β-lasso against SGD, by kind of network.

    python -m lconv_jax.experiments.planted

The table has precision and recall of the learned first layers beside chance. The figure is made
from the run directories of seed 0. Every seed has a teacher of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis
from lconv_jax.data.sources import planted
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.parallel import distributed
from lconv_jax.tables import markdown
from lconv_jax.training.exporting import restore

OPTIMIZERS = {"beta_lasso": "β-lasso", "sgd": "SGD"}
INPUTS = {"independent": 0, "correlated": 3}


class Kind(NamedTuple):
    """A kind of teacher."""

    options: str  # of data.name
    weight_decay: float  # of SGD: chosen by validation, as for the table of `other_data`
    changes: Mapping[str, Any] = {}


# A filter at 60 places is learned place by place: it takes more signals, and as many steps.
KINDS = {
    "local": Kind("kind=local", 0.1),
    "conv": Kind("kind=conv,units=2,examples=20000", 0.1, {"train.epochs": 50}),
    "sparse": Kind("kind=sparse", 0.03),
}
WINDOW = planted.DEFAULTS["window"]
_DRAWN_UNITS = 8


class Cell(NamedTuple):
    """A run: its teacher and inputs, how it is trained, and a seed."""

    kind: str  # a key of KINDS
    inputs: str  # a key of INPUTS
    optimizer: str  # a key of OPTIMIZERS
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return f"{self.kind}, {self.inputs}, {self.optimizer}, seed {self.seed}"


# The runs whose fields are drawn, by kind of teacher.
DRAWN = {kind: [Cell(kind, "independent", each) for each in OPTIMIZERS] for kind in KINDS}


def cells() -> list[Cell]:
    """Both optimizers on every kind of teacher and inputs."""
    return list(itertools.starmap(Cell, itertools.product(KINDS, INPUTS, OPTIMIZERS)))


def configs(cells: Iterable[Cell]) -> dict[Cell, Any]:
    """The configuration of each run."""
    found = {}
    for cell in cells:
        kind, correlation = KINDS[cell.kind], INPUTS[cell.inputs]
        changes = {
            **kind.changes,
            "data.name": f"planted:{kind.options},correlation={correlation},seed={cell.seed}",
            "seed": cell.seed,
            "optimizer.weight_decay": kind.weight_decay if cell.optimizer == "sgd" else 0.0,
        }
        found[cell] = runs.get_config("sfc_planted", cell.optimizer, changes=changes)
    return found


def first_layer(run_dir: str) -> tuple[NDArray[np.float32], planted.Teacher]:
    """The weights [L, units] of the first layer's units that are read, and the run's teacher."""
    setup, state, _ = restore(run_dir)
    params = distributed.fetch(state.params)
    kernel, reader = (np.asarray(params[layer]["kernel"]) for layer in ("conv1", "fc1"))
    return kernel[:, (reader != 0).any(1)], planted.teacher(setup.config.data.name)


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
    return {"recovery": found}


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """One Markdown row a case, means over seeds; a number in brackets is that of chance."""
    rows = []
    for cell, found in runs.over_seeds(results).items():
        recovered = [
            each["recovery"]["largest" if cell.optimizer == "sgd" else "all"] for each in found
        ]
        shares = []
        for match in ("best", "one_to_one"):
            for what in ("precision", "recall"):
                mine = np.nanmean([each[match][what] for each in recovered])
                null = np.nanmean([each[f"{match}_null"][what] for each in recovered])
                shares.append(f"{mine:.2f} ({null:.2f})")
        rows.append(
            [
                *(cell.kind, cell.inputs, OPTIMIZERS[cell.optimizer]),
                runs.spread([each["metrics"]["eval/accuracy"] for each in found], ".1%"),
                f"{np.mean([each['metrics']['sparsity/density'] for each in found]):.1%}",
                f"{np.mean([each['units'] for each in recovered]):.0f}",
                *shares,
            ]
        )
    head = ["teacher", "inputs", "method", "test accuracy", "density", "units"]
    head += ["precision", "recall", "one-to-one precision", "one-to-one recall"]
    return markdown(head, rows)


def draw(runs_dir: str, figures: str) -> None:
    """The teacher's fields beside those of the learned units matched to them, one-to-one."""
    figure, axes = new_figure(3, 3, size=(10, 5.4), sharex=True, sharey=True)
    titles = ("teacher", *(f"matched, {title}" for title in OPTIMIZERS.values()))
    for row, (kind, drawn) in zip(axes, DRAWN.items(), strict=True):
        layers = (first_layer(os.path.join(runs_dir, str(cell))) for cell in drawn)
        for axis, fields in zip(row, matched_fields(*layers), strict=True):
            peak = np.abs(fields).max(1, keepdims=True)
            shown = fields / np.where(peak > 0, peak, 1)
            axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="none")
            axis.set_yticks(np.arange(len(fields) + 1) - 0.5, minor=True)
            axis.set_yticks([])
            axis.grid(which="minor", axis="y", color="0.8", linewidth=0.6)
            axis.tick_params(which="both", left=False)
        row[0].set_ylabel(f"{kind}\nunits")
    for top, bottom, title in zip(axes[0], axes[-1], titles, strict=True):
        top.set_title(title)
        bottom.set_xlabel("input")
    save(figure, os.path.join(figures, "planted.png"))


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


def train_missing(options: Any) -> None:
    """Trains and measures what is missing."""
    wanted = configs(runs.with_seeds(cells(), options.seeds))
    runs.run_all(wanted, options.runs_dir, options.results, measure)


def show(options: Any) -> str:
    """The table; draws the figure."""
    text = table(runs.kept(options.results, runs.with_seeds(cells(), runs.MOST_SEEDS)))
    drawn = itertools.chain(*DRAWN.values())
    return text + runs.draw_finished(draw, options.runs_dir, options.figures, drawn)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show), runs_dir="runs/planted", results="docs/results/planted.json"
    )
