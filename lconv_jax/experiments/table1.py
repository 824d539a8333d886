"""Table 1: seven networks under SGD, each with the best settings of its grid.

    python -m lconv_jax.experiments.table1 --preset=small --data=cifar10

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lconv_jax.experiments import paper
from lconv_jax.experiments.paper import Cell, Preset, Study
from lconv_jax.experiments.runs import spread
from lconv_jax.terminal.tables import markdown

MODELS = ("d_conv", "d_local", "d_fc", "s_conv", "s_local", "s_fc", "three_fc")
# Millions of weights, and test accuracy in % after 400 and 4000 epochs, as the paper has them.
PUBLISHED_WEIGHTS = dict(zip(MODELS, (1.45, 3.42, 256, 138, 147, 256, 256), strict=True))
PUBLISHED = {
    "cifar10": {
        "d_conv": (88.84, 89.79),
        "d_local": (86.13, 86.07),
        "d_fc": (64.78, 63.62),
        "s_conv": (84.14, 87.05),
        "s_local": (81.52, 85.86),
        "s_fc": (72.77, 78.63),
        "three_fc": (69.19, 75.12),
    },
    "cifar100": {
        "d_conv": (63.73, 62.26),
        "d_local": (58.58, 55.71),
        "d_fc": (36.61, 35.51),
        "s_conv": (59.48, 62.51),
        "s_local": (56.64, 62.03),
        "s_fc": (47.72, 51.43),
        "three_fc": (44.95, 50.75),
    },
    "svhn_cropped": {
        "d_conv": (95.65, 95.86),
        "d_local": (95.71, 95.85),
        "d_fc": (92.52, 90.97),
        "s_conv": (92.34, 93.38),
        "s_local": (92.51, 93.98),
        "s_fc": (88.64, 91.80),
        "three_fc": (85.98, 86.02),
    },
}


def cells(sizes: Preset) -> list[Cell]:
    """Every network under SGD, the short runs first."""
    return [
        Cell(model, paper.SGD, sizes.alpha[model], epochs)
        for epochs in sizes.epochs["table1"]
        for model in MODELS
    ]


def table(study: Study, results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a network: weights and test accuracy, ours beside the paper's."""
    lengths = study.sizes.epochs["table1"]
    head = ["model", "α", "weights, M", *(f"{n} epochs, %" for n in lengths), "paper: weights, M"]
    head += ["400 epochs, %", "4000 epochs, %"]
    rows = []
    for model in MODELS:
        weights = {
            sum(result["weights"].values()) / 1e6
            for cell, result in results.items()
            if cell.model == model
        }
        rows.append(
            [
                model,
                str(study.sizes.alpha[model]),
                *([f"{max(weights):.3g}"] if weights else ["–"]),
                *(spread(accuracies(results, model, epochs), ".2f") for epochs in lengths),
                f"{PUBLISHED_WEIGHTS[model]:g}",
                *(f"{value:.2f}" for value in PUBLISHED[study.data][model]),
            ]
        )
    return markdown(head, rows)


def accuracies(results: Mapping[Cell, Mapping[str, Any]], model: str, epochs: int) -> list[float]:
    """Test accuracies in % of a network's runs of this length, one a seed."""
    return [
        100 * result["metrics"]["eval/accuracy"]
        for cell, result in results.items()
        if (cell.model, cell.epochs) == (model, epochs)
    ]


def order(study: Study, results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """The networks from best to worst, ours and the paper's, after the longest runs of ours."""
    longest = max(study.sizes.epochs["table1"])
    mean = {
        model: sum(values) / len(values)
        for model in MODELS
        if (values := accuracies(results, model, longest))
    }
    published = {model: PUBLISHED[study.data][model][0] for model in mean}
    ours, theirs = (
        " > ".join(sorted(each, key=lambda model: -each[model])) for each in (mean, published)
    )
    return f"ours:          {ours}\npaper, 400 ep: {theirs}"


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """The table and the order of the networks."""
    del figures
    return f"{table(study, results)}\n\n{order(study, results)}"


if __name__ == "__main__":
    paper.command(cells, show)
