"""Figure 3: non-zero weights of each layer of s_fc under β-lasso, against the epoch.

    python -m lconv_jax.experiments.figure3 --preset=small --data=cifar10

With lines at the weights that s_local and s_conv of the same α have in that layer.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lconv_jax.experiments import paper
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.paper import BETA_LASSO, Cell, Preset, Study
from lconv_jax.models import count_weights
from lconv_jax.terminal.tables import markdown

LAYERS = {"conv1": "layer 1", "fc1": "layer 2", "fc2": "layer 3"}


def cells(sizes: Preset) -> list[Cell]:
    """The longest run of s_fc under β-lasso that table 2 has, too."""
    return [Cell("s_fc", BETA_LASSO, sizes.alpha["s_fc"], max(sizes.epochs["table2"]))]


def twins(cell: Cell, classes: int) -> dict[str, dict[str, int]]:
    """Weights by layer of the local and the convolutional twin, on CIFAR's images."""
    names = ("s_local", "s_conv")
    return {name: count_weights(name, cell.alpha, (32, 32, 3), classes) for name in names}


def table(study: Study, results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a layer: all weights, non-zeros at the end, and the twins' weights."""
    head = ["run", "layer", "weights", "non-zeros at the end", "fewest", "s_local", "s_conv"]
    rows = []
    for cell, result in results.items():
        other = twins(cell, _classes(study))
        for layer, title in LAYERS.items():
            counts = result["curves"][f"sparsity/{layer}/nonzeros"]
            numbers = (
                *(result["weights"][layer], counts[-1], min(counts)),
                *(other[name][layer] for name in ("s_local", "s_conv")),
            )
            rows.append([cell, title, *(f"{n:,}" for n in numbers)])
    return markdown(head, rows)


def draw(cell: Cell, result: Mapping[str, Any], title: str, classes: int, path: str) -> None:
    """One panel a layer."""
    figure, axes = new_figure(1, 3, size=(11, 3.6))
    step = np.asarray(result["curves"]["step"])
    epoch = step * cell.epochs / step[-1]
    other = twins(cell, classes)
    for axis, (layer, name) in zip(axes, LAYERS.items(), strict=True):
        axis.semilogy(epoch, result["curves"][f"sparsity/{layer}/nonzeros"], linewidth=1)
        for style, (twin, weights) in zip(("--", ":"), other.items(), strict=True):
            axis.axhline(weights[layer], color="0.4", linestyle=style, linewidth=1, label=twin)
        axis.set(xlabel="epoch", title=name)
    axes[0].set(ylabel="non-zero weights")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{title}: s_fc, α = {cell.alpha}, {cell.method}", fontsize=11)
    save(figure, path)


def _classes(study: Study) -> int:
    return 100 if study.data == "cifar100" else 10


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """The table; draws the run of seed 0."""
    for cell, result in results.items():
        if cell.seed == 0:
            path = study.figure(figures, "figure3")
            draw(cell, result, study.title, _classes(study), path)
    return table(study, results)


if __name__ == "__main__":
    paper.command(cells, show)
