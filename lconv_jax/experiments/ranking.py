"""Do weights, bits and bounds rank networks as their test errors do? From kept results alone.

    python -m lconv_jax.experiments.ranking

The networks are those of the comparison (`lconv_jax.experiments.compare`): of all methods, as they
were trained and cut to few weights, on one data set. Kendall's τ is taken over the networks of one
seed, as those of one method with several seeds are no independent witnesses: over all of them, and
over groups of about equal training error, in which a bound can know nothing else. 1 means the same
order, 0 none.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from lconv_jax.experiments import compare, runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.tables import markdown

RESULTS = "docs/results/compare"
# Networks are divided by training error into so many groups of equal size.
GROUPS = 3


class Point(NamedTuple):
    """A network that was rounded and written as a file."""

    name: str  # the method's; of a network that was cut, with "cut" behind it
    seed: int
    weights: float  # share of all that are not zero
    bits: float
    bound: float
    training: float  # errors of the network in the file
    test: float


MEASURES: dict[str, Callable[[Point], float]] = {
    "weights": lambda point: point.weights,
    "bits": lambda point: point.bits,
    "bound": lambda point: point.bound,
    "training error": lambda point: point.training,
}


def points(bench: str, folder: str = RESULTS) -> list[Point]:
    """The networks that are kept of a bench; of s_fc."""
    study = compare.Study(bench, results=folder)
    found = []
    for cell, result in runs.kept(
        study.file(), runs.with_seeds(compare.cells(), runs.MOST_SEEDS)
    ).items():
        last = result["metrics"]
        whole = result["description"], last["sparsity/density"], last["eval/accuracy"]
        rows = [(cell.method, *whole)]
        if "cut" in result:
            cut = result["cut"]
            rows.append(
                (f"{cell.method}, cut", cut["description"], cut["density"], cut["accuracy"])
            )
        for name, described, weights, accuracy in rows:
            found.append(
                Point(
                    *(name, cell.seed, weights, described["mdl/bits"], described["mdl/kl_bound"]),
                    *(described["mdl/train_error"], 1 - accuracy),
                )
            )
    return found


def by_training_error(found: Sequence[Point], groups: int = GROUPS) -> list[list[Point]]:
    """The points in groups of equal size, by training error."""
    ordered = sorted(found, key=lambda point: point.training)
    edges = np.linspace(0, len(ordered), groups + 1).round().astype(int)
    return [ordered[low:high] for low, high in itertools.pairwise(edges)]


def tau(found: Sequence[Point], measure: Callable[[Point], float]) -> float:
    """Kendall's τ-b of a measure with the test error; NaN of fewer than three points."""
    if len(found) < 3:
        return float("nan")
    return float(stats.kendalltau(list(map(measure, found)), [p.test for p in found]).statistic)


def table(found: Sequence[Point]) -> str:
    """Markdown: a row a measure, τ over all networks of a seed and within groups, over seeds."""
    seeds = sorted({point.seed for point in found})
    rows: list[list[Any]] = []
    for name, measure in MEASURES.items():
        over_all, within = [], []
        for seed in seeds:
            mine = [point for point in found if point.seed == seed]
            over_all.append(tau(mine, measure))
            inside = [tau(group, measure) for group in by_training_error(mine)]
            within.append(float(np.nanmean(inside)) if np.isfinite(inside).any() else np.nan)
        rows.append([name, *(runs.spread(_finite(each), ".2f") for each in (over_all, within))])
    head = ["measure", "τ with the test error", f"within {GROUPS} groups of equal training error"]
    return markdown(head, rows)


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def draw(benches: dict[str, Sequence[Point]], path: str) -> None:
    """Test error against bits, a mark a network; the shade is the training error."""
    figure, axes = new_figure(1, len(benches), (5.2 * len(benches), 4.2), squeeze=False)
    for axis, (bench, found) in zip(axes.flat, benches.items(), strict=True):
        marks = axis.scatter(
            [point.bits / 1000 for point in found],
            [100 * point.test for point in found],
            c=[100 * point.training for point in found],
            cmap="viridis",
            s=18,
        )
        axis.set(xscale="log", xlabel="kilobits of the file", ylabel="test error, %", title=bench)
        figure.colorbar(marks, ax=axis, label="training error of the file, %")
    save(figure, path)


def show(options: Any) -> str:
    """The tables of all benches that are kept; draws the figure."""
    benches = {bench: points(bench) for bench in compare.BENCHES}
    benches = {bench: found for bench, found in benches.items() if found}
    if not benches:
        return "No result of the comparison is kept yet."
    draw(dict(benches), os.path.join(options.figures, "ranking.png"))
    return "\n\n".join(f"{bench}\n\n{table(found)}" for bench, found in benches.items())


if __name__ == "__main__":
    runs.command(None, show)
