"""Whether fields are local because of the data or because of the penalty.

    python -m lconv_jax.experiments.localisation --group=signals
    python -m lconv_jax.experiments.localisation --group=exponential
    python -m lconv_jax.experiments.localisation --group=images

Ingrosso and Goldt ("Data-driven emergence of convolutional structure in neural networks", PNAS
2022) find that plain SGD on a fully connected net makes local fields where the inputs are
translation invariant and not Gaussian, and none on Gaussian inputs of the same covariance. Here are
both, for SGD with weight decay and for β-lasso, with s_fc: nlgp and gp in one dimension (`signals`;
`exponential` with a covariance exp(−d/ξ)) or two (`images`). A seed is that of the data too, so
that runs are independent. SGD's weights are also judged when all but the largest of each unit are
cut away, as many as β-lasso leaves: whether its fields are local for no other reason than that they
are sparse. The figure of each group is made from the run directories of seed 0.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lconv_jax import analysis
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import fields, new_figure, save
from lconv_jax.terminal.tables import markdown

OPTIMIZERS = {"sgd": "SGD", "beta_lasso": "β-lasso"}


class Source(NamedTuple):
    """Where the data are from."""

    group: str  # a key of FIGURES
    title: str
    data: str  # data.name, up to the seed


SOURCES = {
    "nlgp": Source("signals", "NLGP", "nlgp:"),
    "gp": Source("signals", "GP", "gp:"),
    "nlgp_exp": Source("exponential", "NLGP, exponential", "nlgp:power=1,xi2=3,"),
    "gp_exp": Source("exponential", "GP, exponential", "gp:power=1,xi2=3,"),
    "nlgp_2d": Source("images", "NLGP, 2-D", "nlgp_2d:"),
    "gp_2d": Source("images", "GP, 2-D", "gp_2d:"),
}
# The file of each group's figure, and its size in inches.
FIGURES = {
    "signals": ("localisation.png", (10.6, 6.4)),
    "exponential": ("localisation_exponential.png", (10.6, 6.4)),
    "images": ("localisation_2d.png", (6.6, 7.4)),
}
_MEASURED = ("spread", "null_spread", "ratio", "ipr")


class Cell(NamedTuple):
    """A run: its data, how it is trained, and a seed."""

    source: str  # a key of SOURCES
    optimizer: str  # a key of OPTIMIZERS
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return f"{self.source}, {self.optimizer}, seed {self.seed}"


def cells(group: str) -> list[Cell]:
    """Both optimizers on both sources of a group."""
    sources = [name for name, source in SOURCES.items() if source.group == group]
    return [Cell(source, optimizer) for source in sources for optimizer in OPTIMIZERS]


def configs(cells: Iterable[Cell]) -> dict[Cell, Any]:
    """The configuration of each run."""
    found = {}
    for cell in cells:
        name = f"{SOURCES[cell.source].data}seed={cell.seed}"
        changes = {"seed": cell.seed, "data.name": name}
        found[cell] = runs.get_config("sfc_nlgp", cell.optimizer, changes=changes)
    return found


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """One Markdown row a source and optimizer: means and standard deviations over seeds."""
    rows = []
    for cell, found in runs.over_seeds(results).items():
        for key, suffix in {"whole": "", "cut": ", cut"}.items():
            measured = [r["localisation"][key] for r in found if key in r.get("localisation", {})]
            if measured:
                accuracy = [r["metrics"]["eval/accuracy"] for r in found]
                rows.append(
                    [
                        SOURCES[cell.source].title,
                        OPTIMIZERS[cell.optimizer] + suffix,
                        len(measured),
                        "–" if suffix else runs.spread(accuracy, ".1%"),
                        runs.spread([m["weights"] for m in measured], ".1f"),
                        *(runs.spread([m[each] for m in measured], ".2f") for each in _MEASURED),
                    ]
                )
    head = ["data", "training", "seeds", "test accuracy", "weights a unit", "spread", "shuffled"]
    return markdown([*head, "ratio", "IPR"], rows)


def draw(group: str, runs_dir: str, figures: str) -> None:
    """Fields of the four cells side by side: of each the first nine live units of seed 0."""
    name, size = FIGURES[group]
    figure, axes = new_figure(2, 2, size)
    for axis, cell in zip(axes.T.flat, cells(group), strict=True):
        kernel, shape = runs.first_kernel(os.path.join(runs_dir, str(cell)))
        ratio = analysis.localisation(kernel, shape, periodic=True).ratio
        live = kernel[:, kernel.any(0)][:, :9]
        axis.imshow(fields(analysis.first_layer_filters(live, shape)))
        title = f"{SOURCES[cell.source].title}, {OPTIMIZERS[cell.optimizer]}"
        axis.set_title(f"{title}\nspread {ratio:.2f} of shuffled", fontsize=11)
        axis.axis("off")
    save(figure, os.path.join(figures, name), dpi=150)


def train_missing(options: Any) -> None:
    """Trains what is missing of a group, and localises its fields."""
    wanted = configs(runs.with_seeds(cells(options.group), options.seeds))
    results = runs.run_all(wanted, options.runs_dir, options.results)
    twins = {cell: cell._replace(optimizer="beta_lasso") for cell in results}
    runs.add_localisation(results, twins, options.runs_dir, options.results, periodic=True)


def show(options: Any) -> str:
    """The table of a group; draws its figure."""
    drawn = cells(options.group)
    results = runs.kept(options.results, runs.with_seeds(drawn, runs.MOST_SEEDS))
    draw_group = functools.partial(draw, options.group)
    return table(results) + runs.draw_finished(draw_group, options.runs_dir, options.figures, drawn)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/localisation",
        results="docs/results/localisation.json",
        groups=FIGURES,
    )
