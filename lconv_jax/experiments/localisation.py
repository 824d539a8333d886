"""Whether fields are local because of the data or because of the penalty.

    python -m lconv_jax.experiments.localisation --group=signals
    python -m lconv_jax.experiments.localisation --group=exponential
    python -m lconv_jax.experiments.localisation --group=images
    python -m lconv_jax.experiments.localisation --group=draw

Ingrosso and Goldt ("Data-driven emergence of convolutional structure in neural networks", PNAS
2022) find that plain SGD on a fully connected net makes local fields where the inputs are
translation invariant and not Gaussian, and none on Gaussian inputs of the same covariance. Here are
both, for SGD with weight decay and for β-lasso, with s_fc: nlgp and gp in one dimension (`signals`;
`exponential` with a covariance exp(−d/ξ)) or two (`images`). A seed is that of the data too, so
that runs are independent. SGD's weights are also judged when all but the largest of each unit are
cut away, as many as β-lasso leaves: whether its fields are local for no other reason than that they
are sparse. `draw` makes the figures from the run directories of seed 0. Run it from the root of a
clone: it reads configs/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging

from lconv_jax import analysis, train
from lconv_jax.experiments.runs import (
    add_localisation,
    first_kernel,
    get_config,
    run_all,
    spread,
    with_overrides,
)

OPTIMIZERS = {"sgd": "SGD", "beta_lasso": "β-lasso"}
SOURCES = {
    "signals": {"nlgp": "NLGP", "gp": "GP"},
    "exponential": {"nlgp_exp": "NLGP, exponential", "gp_exp": "GP, exponential"},
    "images": {"nlgp_2d": "NLGP, 2-D", "gp_2d": "GP, 2-D"},
}
# Where the data set's name is another.
DATA = {"nlgp_exp": "nlgp:power=1,xi2=3,", "gp_exp": "gp:power=1,xi2=3,"}
_MEASURED = ("spread", "null_spread", "ratio", "ipr")


def configs(group: str, seeds: int) -> dict[str, Any]:
    """The runs of a group, by name."""
    return {
        f"{source}, {optimizer}, seed {seed}": with_overrides(
            get_config("sfc_nlgp", optimizer),
            {"seed": seed, "data.name": f"{DATA.get(source, source + ':')}seed={seed}"},
        )
        for source in SOURCES[group]
        for optimizer in OPTIMIZERS
        for seed in range(seeds)
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown row a cell: means and standard deviations over its seeds."""
    rows = [
        "| data | training | seeds | test accuracy | weights a unit | spread | shuffled | ratio "
        "| IPR |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    titles = {source: title for group in SOURCES.values() for source, title in group.items()}
    for source, title in titles.items():
        for optimizer, method in OPTIMIZERS.items():
            cell = f"{source}, {optimizer}, seed"
            found = [result for name, result in results.items() if name.startswith(cell)]
            for key, suffix in {"whole": "", "cut": ", cut"}.items():
                measured = [r["localisation"][key] for r in found if key in r["localisation"]]
                if not measured:
                    continue
                accuracy = [r["metrics"]["eval/accuracy"] for r in found]
                weights = [m["weights"] for m in measured]
                columns = [
                    "–" if suffix else spread(accuracy, ".1%"),
                    spread(weights, ".1f"),
                    *(spread([m[each] for m in measured], ".2f") for each in _MEASURED),
                ]
                rows.append(
                    f"| {title} | {method}{suffix} | {len(measured)} | {' | '.join(columns)} |"
                )
    return "\n".join(rows)


def draw(runs_dir: str, figures: str, group: str) -> None:
    """Fields of the four cells side by side: of each the first nine live units of seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    os.makedirs(figures, exist_ok=True)
    size = (6.6, 7.4) if group == "images" else (10.6, 6.4)
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained")
    for row, (optimizer, method) in enumerate(OPTIMIZERS.items()):
        for column, (source, title) in enumerate(SOURCES[group].items()):
            kernel, shape = first_kernel(os.path.join(runs_dir, f"{source}, {optimizer}, seed 0"))
            ratio = analysis.localisation(kernel, shape, periodic=True).ratio
            filters = analysis.first_layer_filters(kernel[:, kernel.any(0)][:, :9], shape)
            axis = axes[row, column]
            if group == "images":
                axis.imshow(analysis.tile(filters, scale=16), interpolation="none")
            else:
                axis.imshow(analysis.draw_signals(filters, scale=2))
            axis.set_title(f"{title}, {method}\nspread {ratio:.2f} of shuffled", fontsize=11)
            axis.axis("off")
    names = {"signals": "", "exponential": "_exponential", "images": "_2d"}
    figure.savefig(os.path.join(figures, f"localisation{names[group]}.png"), dpi=150)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_enum("group", "signals", (*SOURCES, "draw"), "Which runs.")
    flags.DEFINE_integer("seeds", 5, "Runs of each cell.", lower_bound=1)
    flags.DEFINE_string("runs_dir", "runs/localisation", "Where the runs live.")
    flags.DEFINE_string("results", "docs/results/localisation.json", "Kept results.")
    flags.DEFINE_string("figures", "docs/figures", "Folder of the figures.")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    if options.group == "draw":
        drawn = False
        for group, sources in SOURCES.items():
            names = [f"{source}, {method}, seed 0" for source in sources for method in OPTIMIZERS]
            if all(os.path.isdir(os.path.join(options.runs_dir, name)) for name in names):
                draw(options.runs_dir, options.figures, group)
                drawn = True
        if not drawn:
            sys.exit(f"error: {options.runs_dir} has no whole group of runs; train one first")
        return
    with train.errors_in_a_line():
        results = run_all(configs(options.group, options.seeds), options.runs_dir, options.results)
        twins = {name: name.replace("sgd", "beta_lasso") for name in results}
        add_localisation(results, twins, options.runs_dir, options.results, periodic=True)
    print(table(results))


if __name__ == "__main__":
    define_flags()
    app.run(main)
