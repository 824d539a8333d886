"""Figure 4: first-layer filters in colour: s_fc under SGD, s_fc under β-lasso, s_local.

    python -m lconv_jax.experiments.figure4 --preset=small --data=cifar10
    python -m lconv_jax.experiments.figure4 --preset=small --data=cifar100     (Figures 7 to 9)

Drawn at random among the units with at least 20 non-zero weights, from the run directories.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figures 4 and 7 to 9.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lconv_jax import analysis
from lconv_jax.experiments import paper
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.paper import BETA_LASSO, SGD, Cell, Preset, Study
from lconv_jax.experiments.runs import draw_finished, first_kernel
from lconv_jax.terminal.tables import markdown

PANELS = (("s_fc", SGD), ("s_fc", BETA_LASSO), ("s_local", SGD))
# Filters on a side of each panel.
SIDE = 6


def cells(sizes: Preset) -> list[Cell]:
    """The longest of these runs that table 2 has, too."""
    epochs = max(sizes.epochs["table2"])
    return [Cell(model, method, sizes.alpha[model], epochs) for model, method in PANELS]


def draw(panels: Mapping[Cell, Any], title: str, path: str) -> None:
    """One panel a network.

    Args:
      panels: filters [units, height, width, channels] of each.
      title: of the figure.
      path: PNG.
    """
    figure, axes = new_figure(1, len(panels), size=(5 * len(panels), 5.7))
    for axis, (cell, filters) in zip(axes, panels.items(), strict=True):
        chosen = analysis.choose_filters(filters, SIDE**2, min_nonzeros=20)
        scale = 480 // (SIDE * max(chosen.shape[1:3]))
        axis.imshow(analysis.tile(chosen, scale=max(1, scale)), interpolation="none")
        axis.set_title(f"{cell.model}, {cell.method}", fontsize=13)
        axis.axis("off")
    figure.suptitle(
        f"{title}. Grey is zero; a weight adds its colour or takes it away; each filter by its "
        "largest weight.",
        fontsize=10,
        y=0.02,
        va="bottom",
    )
    save(figure, path)


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """Draws the panels of seed 0 whose run directories are there; a row a run."""
    rows, panels = [], cells(study.sizes)
    for cell, result in results.items():
        count = result["metrics"]["sparsity/conv1/nonzeros"]
        ratio = result["locality"][0]["ratio"] if result["locality"] else None
        rows.append([cell, f"{count:,}", "–" if ratio is None else f"{ratio:.2f}"])

    def draw_panels(runs_dir: str, figures: str) -> None:
        kernels = {cell: first_kernel(os.path.join(runs_dir, str(cell))) for cell in panels}
        filters = {cell: analysis.first_layer_filters(*each) for cell, each in kernels.items()}
        draw(filters, study.title, study.figure(figures, "figure4"))

    text = markdown(["run", "first layer: non-zeros", "locality"], rows)
    return text + draw_finished(draw_panels, study.folder("runs"), figures, panels)


if __name__ == "__main__":
    paper.command(cells, show)
