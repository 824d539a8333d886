"""Figure 2: accuracy against the number of weights, for four kinds of network under SGD.

    python -m lconv_jax.experiments.figure2 --preset=small --data=cifar10
    python -m lconv_jax.experiments.figure2 --preset=small --data=cifar100     (Figure 6)

On the right: for each accuracy on training batches, the fewest weights that reach it, and what
that network has on the test set. The claim is that fewer weights at the same training accuracy
mean a higher test accuracy, whatever the kind.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figures 2 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lconv_jax.experiments import paper
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.paper import Cell, Preset, Study
from lconv_jax.terminal.tables import markdown

# Accuracies on training batches whose smallest networks are compared.
TARGETS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)


class Point(NamedTuple):
    """One network: its weights and accuracies."""

    model: str
    weights: int
    train: float  # of augmented batches at the end of training
    test: float


def cells(sizes: Preset) -> list[Cell]:
    """Every width of the four networks under SGD, narrow ones first."""
    return [
        Cell(model, paper.SGD, alpha, epochs)
        for epochs in sizes.epochs["figure2"]
        for model, widths in sizes.widths.items()
        for alpha in widths
    ]


def points(results: Mapping[Cell, Mapping[str, Any]]) -> list[Point]:
    """One for each result, by model and number of weights."""
    return sorted(
        Point(
            cell.model,
            sum(result["weights"].values()),
            result["train/accuracy"],
            result["metrics"]["eval/accuracy"],
        )
        for cell, result in results.items()
    )


def fewest(found: list[Point], model: str, target: float) -> Point | None:
    """The smallest network of a kind whose training accuracy reaches the target."""
    reach = [each for each in found if each.model == model and each.train >= target]
    return min(reach, key=lambda each: each.weights, default=None)


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a network."""
    rows = (
        [each.model, f"{each.weights:,}", f"{each.train:.2%}", f"{each.test:.2%}"]
        for each in points(results)
    )
    return markdown(["model", "weights", "training, %", "test, %"], rows)


def draw(results: Mapping[Cell, Mapping[str, Any]], title: str, path: str) -> None:
    """Accuracy against weights, and the fewest weights for a training accuracy."""
    found = points(results)
    figure, (left, right) = new_figure(1, 2, size=(10.5, 4.2))
    for number, model in enumerate(sorted({each.model for each in found})):
        mine = [each for each in found if each.model == model]
        weights = [each.weights for each in mine]
        left.semilogx(weights, [100 * p.test for p in mine], f"C{number}o-", label=model)
        left.semilogx(weights, [100 * p.train for p in mine], f"C{number}.--", linewidth=0.8)
        smallest = [p for target in TARGETS if (p := fewest(found, model, target))]
        right.semilogx(
            [p.weights for p in smallest],
            [100 * p.test for p in smallest],
            f"C{number}o",
            label=model,
        )
    for target in TARGETS:
        across = [p for model in {p.model for p in found} if (p := fewest(found, model, target))]
        if len(across) > 1:
            across.sort(key=lambda each: each.weights)
            right.semilogx(
                [p.weights for p in across],
                [100 * p.test for p in across],
                color="0.8",
                zorder=0,
            )
            last = across[-1]
            right.annotate(f"{target:.0%}", (last.weights, 100 * last.test), fontsize=7)
    left.set(
        xlabel="weights", ylabel="accuracy, %", title=f"{title}: test (solid), training (dashed)"
    )
    right.set(
        xlabel="fewest weights", ylabel="test accuracy, %", title="same training accuracy: grey"
    )
    left.legend()
    right.legend()
    save(figure, path)


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """The table; draws the figure."""
    if results:
        draw(results, study.title, study.figure(figures, "figure2"))
    return table(results)


if __name__ == "__main__":
    paper.command(cells, show)
