"""Figure 4: first-layer filters in colour: s_fc under SGD, s_fc under β-lasso, s_local.

β-lasso twice: with the λ that is best on validation, and with the strongest of the grid.

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
from lconv_jax.experiments.paper import BETA_LASSO, SGD, SPARSE, Cell, Preset, Study
from lconv_jax.experiments.runs import first_kernel
from lconv_jax.rundir.directory import read_summary
from lconv_jax.tables import markdown

PANELS = (("s_fc", SGD), ("s_fc", BETA_LASSO), ("s_fc", SPARSE), ("s_local", SGD))
# Filters on a side of each panel.
SIDE = 6


def cells(sizes: Preset) -> list[Cell]:
    """The longest of these runs that table 2 has, too."""
    epochs = max(sizes.epochs["table2"])
    return [Cell(model, method, sizes.alpha[model], epochs) for model, method in PANELS]


def draw(panels: Mapping[str, Any], title: str, path: str) -> None:
    """One panel a network.

    Args:
      panels: filters [units, height, width, channels] of each, by the panel's title.
      title: of the figure.
      path: PNG.
    """
    figure, axes = new_figure(1, len(panels), size=(5 * len(panels), 6.1), squeeze=False)
    for axis, (name, filters) in zip(axes.flat, panels.items(), strict=True):
        chosen = analysis.choose_filters(filters, SIDE**2, min_nonzeros=20)
        scale = 480 // (SIDE * max(chosen.shape[1:3]))
        axis.imshow(analysis.tile(chosen, scale=max(1, scale)), interpolation="none")
        axis.set_title(name, fontsize=13)
        axis.axis("off")
    figure.suptitle(
        f"{title}. Grey is zero; a weight adds its colour or takes it away.\n"
        "Each filter is divided by its largest weight.",
        fontsize=10,
        y=0.02,
        va="bottom",
    )
    save(figure, path)


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """Draws the panels of seed 0 whose run directories are there; a row a run."""
    rows, panels, text = [], {}, ""
    for cell, result in results.items():
        count = result["metrics"]["sparsity/conv1/nonzeros"]
        ratio = result["locality"][0]["ratio"] if result["locality"] else None
        rows.append([cell, f"{count:,}", "–" if ratio is None else f"{ratio:.2f}"])
    for cell in cells(study.sizes):
        run_dir = os.path.join(study.folder("runs"), str(cell))
        if cell not in results or read_summary(run_dir) is None:
            text += f"\nA panel is not drawn: {run_dir} holds no finished run."
            continue
        last, weights = results[cell]["metrics"], results[cell]["weights"]
        share = last["sparsity/conv1/nonzeros"] / weights["conv1"]
        name = f"{cell.model}, {cell.method}\n{last['eval/accuracy']:.1%}, {share:.0%} of weights"
        panels[name] = analysis.first_layer_filters(*first_kernel(run_dir))
    if panels:
        draw(panels, study.title, study.figure(figures, "figure4"))
    return markdown(["run", "first layer: non-zeros", "locality"], rows) + text


if __name__ == "__main__":
    paper.command(cells, show)
