"""Figure 5: accuracy of resnet18 against the side of its kernels, under SGD and β-lasso.

    python -m lconv_jax.experiments.figure5 --preset=small --data=cifar10

Settings are chosen with kernels of side 3 and kept for the others.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figure 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lconv_jax.experiments import paper
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.paper import BETA_LASSO, SGD, Cell, Preset, Study
from lconv_jax.experiments.runs import spread
from lconv_jax.terminal.tables import markdown

METHODS = (SGD, BETA_LASSO)


def cells(sizes: Preset) -> list[Cell]:
    """Both methods with each kernel, small kernels first."""
    return [
        Cell("resnet18", method, sizes.alpha["resnet18"], epochs, kernel)
        for epochs in sizes.epochs["figure5"]
        for kernel in sizes.kernels
        for method in METHODS
    ]


def accuracies(results: Mapping[Cell, Mapping[str, Any]]) -> dict[tuple[int, str], list[float]]:
    """Test accuracy in %, over seeds, by kernel side and method."""
    found: dict[tuple[int, str], list[float]] = {}
    for cell, result in results.items():
        values = found.setdefault((cell.kernel_size, cell.method), [])
        values.append(100 * result["metrics"]["eval/accuracy"])
    return found


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a kernel side: test accuracy in % of both methods, and density."""
    found = accuracies(results)
    rows = []
    for kernel in sorted({kernel for kernel, _ in found}):
        density = [
            100 * result["metrics"]["sparsity/density"]
            for cell, result in results.items()
            if (cell.kernel_size, cell.method) == (kernel, BETA_LASSO)
        ]
        values = (spread(found.get((kernel, method), []), ".2f") for method in METHODS)
        rows.append([kernel, *values, spread(density, ".1f")])
    return markdown(["kernel", *METHODS, "density, %"], rows)


def draw(results: Mapping[Cell, Mapping[str, Any]], title: str, path: str) -> None:
    """One line a method."""
    figure, axis = new_figure(1, 1, size=(5.5, 4))
    found = accuracies(results)
    for method in METHODS:
        at = sorted(kernel for kernel, each in found if each == method)
        means = [np.mean(found[kernel, method]) for kernel in at]
        axis.plot(at, means, "o-", label=method)
    alpha = max(cell.alpha for cell in results)
    axis.set(
        xlabel="kernel side",
        ylabel="test accuracy, %",
        title=f"{title}, resnet18, α = {alpha}",
        xticks=sorted({kernel for kernel, _ in found}),
    )
    axis.legend()
    save(figure, path)


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """The table; draws the figure."""
    if results:
        draw(results, study.title, study.figure(figures, "figure5"))
    return table(results)


if __name__ == "__main__":
    paper.command(cells, show)
