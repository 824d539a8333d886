"""Table 2: s_fc under SGD and under β-lasso with β = 0, 1 and 50, beside other networks.

And, which the paper has not, s_fc with the strongest λ of the grid in the first layer.

    python -m lconv_jax.experiments.table2 --preset=small --data=cifar10
    python -m lconv_jax.experiments.table2 --preset=small --models=s_fc --methods=SGD,50 --seeds=3

Every method has a grid of as many settings, chosen from by validation. Rows of other work are
quoted from the paper.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Table 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lconv_jax.experiments import paper
from lconv_jax.experiments.paper import BETA_LASSO, SGD, SPARSE, Cell, Preset, Study
from lconv_jax.experiments.runs import over_seeds, read_kept, spread
from lconv_jax.tables import markdown

# Model and training, with the paper's accuracy in % on CIFAR-10, CIFAR-100 and SVHN.
PUBLISHED: dict[tuple[str, str], tuple[float, float, float]] = {
    ("s_conv", SGD): (87.05, 62.51, 93.38),
    ("s_local", SGD): (85.86, 62.03, 93.98),
    ("three_fc", SGD): (75.12, 50.75, 86.02),
    ("s_fc", SGD): (78.63, 51.43, 91.80),
    ("s_fc", "β-lasso, β = 0"): (82.45, 55.58, 93.80),
    ("s_fc", "β-lasso, β = 1"): (82.52, 55.96, 93.66),
    ("s_fc", BETA_LASSO): (85.19, 59.56, 94.07),
}
# Fully connected networks of other work, as the paper quotes them.
QUOTED: dict[str, tuple[float | None, float | None, float | None]] = {
    "SGD without augmentation (Neyshabur et al. 2019)": (58.1, None, 84.3),
    "Adam / RMSProp (Mukkamala & Hein 2017)": (72.2, 39.3, None),
    "SET (Mocanu et al. 2018)": (74.84, None, None),
    "deep convolutional teacher (Urban et al. 2017)": (74.3, None, None),
    "unsupervised pre-training, ZAE (Lin et al. 2016)": (78.62, None, None),
}


def cells(sizes: Preset) -> list[Cell]:
    """SGD and β = 50 first, the short runs before the long ones, then the others."""
    first: list[Cell] = []
    then: list[Cell] = []
    for epochs in sizes.epochs["table2"]:
        for model, method in PUBLISHED:
            cell = Cell(model, method, sizes.alpha[model], epochs)
            main = model == "s_fc" and method in (SGD, BETA_LASSO)
            (first if main else then).append(cell)
    then.append(Cell("s_fc", SPARSE, sizes.alpha["s_fc"], max(sizes.epochs["table2"])))
    return [*first, *sorted(then, key=lambda cell: (cell.model != "s_fc", cell.epochs))]


def table(study: Study, results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a model and method, and quoted ones; accuracies in %.

    "window" is the mean side of the smallest window with half of a unit's squared weights, and in
    brackets that of shuffled weights.
    """
    head = ["model", "training", "α", "epochs", "test accuracy, %", "non-zeros by layer"]
    head += ["density, %", "locality", "window", "paper, 4000 epochs, %"]
    rows = []
    column, groups = list(paper.DATA).index(study.data), over_seeds(results)
    for model, method in [*PUBLISHED, ("s_fc", SPARSE)]:
        published = PUBLISHED.get((model, method))
        for cell, found in groups.items():
            if (cell.model, cell.method) != (model, method):
                continue
            last = found[0]["metrics"]
            layers = [last[f"sparsity/{layer}/nonzeros"] for layer in found[0]["weights"]]
            ratios = [each["locality"][0]["ratio"] for each in found if each["locality"]]
            windows = [each["fields"]["window"] for each in found if "fields" in each]
            columns = [
                model,
                method,
                str(cell.alpha),
                str(cell.epochs),
                spread([100 * each["metrics"]["eval/accuracy"] for each in found], ".2f"),
                " + ".join(f"{count:,}" for count in layers),
                spread([100 * each["metrics"]["sparsity/density"] for each in found], ".2f"),
                spread(ratios, ".2f"),
                spread([each["mean"] for each in windows], ".1f")
                + (f" ({np.mean([each['null_mean'] for each in windows]):.1f})" if windows else ""),
                f"{published[column]:.2f}" if published else "–",
            ]
            rows.append(columns)
    for training, values in QUOTED.items():
        if values[column] is not None:
            rows.append(["MLP", training, *["–"] * 7, f"{values[column]:.2f}"])
    return markdown(head, rows)


def choices(study: Study) -> str:
    """The settings tried for each method with their accuracies on examples held out."""
    kept = read_kept(study.file("-choices"))
    rows = []
    for name in dict.fromkeys(cell.choice for cell in cells(study.sizes)):
        for rank, setting in enumerate(kept.get(name, {}).get("settings", [])):
            by = setting["validation/accuracy"]
            values = ", ".join(f"{key} = {value:g}" for key, value in setting["changes"].items())
            shown = "diverged" if by is None else f"{by:.2%}"
            rows.append([name if rank == 0 else "", values, shown])
    return markdown(["chosen for", "setting", "validation"], rows) if rows else ""


def show(study: Study, results: Mapping[Cell, Mapping[str, Any]], figures: str) -> str:
    """The table, and what the settings were chosen from."""
    del figures
    return f"{table(study, results)}\n\n{choices(study)}"


if __name__ == "__main__":
    paper.command(cells, show)
