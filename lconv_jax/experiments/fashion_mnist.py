"""β-lasso against SGD on Fashion-MNIST: accuracy, non-zeros, locality, filters.

    python -m lconv_jax.experiments.fashion_mnist --group=tune
    python -m lconv_jax.experiments.fashion_mnist --group=seeds
    python -m lconv_jax.experiments.fashion_mnist --group=others
    python -m lconv_jax.experiments.fashion_mnist --group=full --data_dir=FOLDER_OF_IDX_FILES
    python -m lconv_jax.experiments.fashion_mnist --group=draw

`tune` compares settings on 2 000 validation images held out of the 10 000; the test accuracy it
prints chose nothing. `seeds` repeats the main job, `others` asks what changes with the pixels
permuted and with a convolution, `full` trains on all 60 000 images, `draw` makes the figures
from the run directories of the others. Run it from the root of a clone: it reads configs/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags, logging

from lconv_jax import metrics, train
from lconv_jax.experiments.runs import get_config, run_all, spread, table
from lconv_jax.workdir import read_config

_GROUPS = ("tune", "seeds", "others", "full", "draw")

SEEDS = {"beta_lasso": range(5), "sgd": range(3), "sgd, weight decay": range(3)}


def configs(group: str, data_dir: str = "") -> dict[str, Any]:
    """The runs of a group, by name."""
    small, full = "sfc_fashion_mnist", "sfc_fashion_mnist_full"
    runs: dict[str, Any] = {}
    if group == "tune":
        settings: dict[str, tuple[str, Mapping[str, Any]]] = {
            "as configured": ("beta_lasso", {}),
            "crop 2": ("beta_lasso", {"data__crop": 2}),
            "crop 4": ("beta_lasso", {"data__crop": 4}),
            "beta 10": ("beta_lasso", {"optimizer__beta": 10.0}),
            "sgd": ("sgd", {}),
            "sgd, crop 1": ("sgd", {"data__crop": 1}),
        }
        for name, (optimizer, changes) in settings.items():
            runs[f"tune: {name}"] = get_config(small, optimizer, data__validation=2000, **changes)
    elif group == "seeds":
        for method, seeds in SEEDS.items():
            optimizer = method.partition(",")[0]
            changes = {"optimizer__weight_decay": 1e-3} if "weight decay" in method else {}
            for seed in seeds:
                runs[f"{method}, seed {seed}"] = get_config(small, optimizer, seed=seed, **changes)
    elif group == "others":
        runs["beta_lasso, pixels permuted"] = get_config(small, "beta_lasso", data__permute=1)
        runs["beta_lasso, beta 10"] = get_config(small, "beta_lasso", optimizer__beta=10.0)
        runs["s_conv, sgd"] = get_config(small, "sgd", model__name="s_conv", train__epochs=100)
    elif group == "full":
        where = {"data__data_dir": data_dir}
        runs["full: beta_lasso"] = get_config(full, "beta_lasso", **where)
        runs["full: sgd"] = get_config(full, "sgd", **where)
    return runs


def over_seeds(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and standard deviation of the test accuracy over the seeds of each method."""
    lines = []
    for method in SEEDS:
        found = [r for name, r in results.items() if name.startswith(f"{method}, seed")]
        accuracy = spread([r["metrics"]["eval/accuracy"] for r in found], ".2%")
        density = np.mean([r["metrics"]["sparsity/density"] for r in found])
        lines.append(
            f"{method}: test accuracy {accuracy}, density {density:.1%}, {len(found)} seeds"
        )
    return "\n".join(lines)


def draw(runs_dir: str, figures: str) -> None:
    """Filters side by side, and non-zeros, accuracy and density against epoch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    os.makedirs(figures, exist_ok=True)
    panels = {
        "SGD": "sgd, seed 0",
        "β-lasso, β = 50": "beta_lasso, seed 0",
        "β-lasso, β = 10": "beta_lasso, beta 10",
        "β-lasso, pixels permuted, mapped back": "beta_lasso, pixels permuted",
    }
    figure, axes = plt.subplots(2, 2, figsize=(10, 10.6))
    for axis, (title, run) in zip(axes.flat, panels.items(), strict=True):
        axis.imshow(plt.imread(os.path.join(runs_dir, run, "filters.png")))
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(os.path.join(figures, "filters.png"), dpi=110)

    lines = metrics.read_metrics(os.path.join(runs_dir, "beta_lasso, seed 0"))
    dense = metrics.read_metrics(os.path.join(runs_dir, "sgd, seed 0"))
    epochs = read_config(os.path.join(runs_dir, "beta_lasso, seed 0")).train.epochs
    epochs /= lines[-1]["step"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for layer in ("conv1", "fc1", "fc2"):
        at, nonzeros = metrics.column(lines, f"sparsity/{layer}/nonzeros")
        left.semilogy(at * epochs, nonzeros, label=layer, linewidth=1)
    left.set(xlabel="epoch", ylabel="non-zero weights", title="Non-zeros per layer, β-lasso")
    left.legend()
    for name, logged, style in (("β-lasso", lines, "-"), ("SGD", dense, "--")):
        at, accuracy = metrics.column(logged, "eval/accuracy")
        right.plot(at * epochs, 100 * accuracy, f"C0{style}", label=f"test accuracy, {name}")
    right.set(xlabel="epoch", ylabel="test accuracy, %", title="Accuracy and density")
    density_axis = right.twinx()
    at, density = metrics.column(lines, "sparsity/density")
    density_axis.plot(at * epochs, 100 * density, "C1", linewidth=1, label="density, β-lasso")
    density_axis.set(ylabel="density, %", ylim=(0, None))
    handles = right.get_legend_handles_labels()[0] + density_axis.get_legend_handles_labels()[0]
    right.legend(handles=handles, loc="center right")
    figure.tight_layout()
    figure.savefig(os.path.join(figures, "training.png"), dpi=110)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_enum("group", "seeds", _GROUPS, "Which runs.")
    flags.DEFINE_string("runs_dir", "runs/fashion_mnist", "Where the runs live.")
    flags.DEFINE_string("results", "docs/results/fashion_mnist.json", "Kept results.")
    flags.DEFINE_string("figures", "docs/figures", "Folder of the figures.")
    flags.DEFINE_string("data_dir", "", "Folder of the full set, for --group=full.")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with train.errors_in_a_line():
        if options.group == "draw":
            draw(options.runs_dir, options.figures)
            return
        results = run_all(
            configs(options.group, options.data_dir),
            options.runs_dir,
            options.results,
        )
    print(table(results))
    if options.group == "seeds":
        print(over_seeds(results))


if __name__ == "__main__":
    define_flags()
    app.run(main)
