"""β-lasso on data that are not photographs: accuracy, density, localisation and fields.

    python -m lconv_jax.experiments.other_data --sets=nlgp,gp,mnist1d
    python -m lconv_jax.experiments.other_data --draw
    python -m lconv_jax.experiments.other_data --table

Each set is learned by s_fc under β-lasso and under SGD, and by s_local and s_conv under SGD, and
where there is an augmentation, with and without it; five seeds. A seed is the network's and, of
sets that are generated, not the data's. `--table` prints the results that are kept, one file a set
(so that several processes can work on different sets), and `--draw` makes the figure of learned
fields from the run directories. Run it from the root of a clone: it reads configs/.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging

from lconv_jax import analysis, cache, data, train
from lconv_jax.experiments.runs import add_localisation, first_kernel, get_config, run_all, spread


class Set(NamedTuple):
    """A data set of the table."""

    config: str  # file under configs/, for β-lasso and for "sgd"
    changes: dict[str, Any]  # of every run
    augmentation: dict[str, Any]  # of the runs with augmentation; empty: there are no such
    # SGD's learning rate and weight decay, and β-lasso's λ of the first layer and of dense ones,
    # without and with augmentation; empty: the configuration's.
    sgd: tuple[tuple[float, float], ...] = ()
    l1: tuple[tuple[float, float], ...] = ()
    ring: bool = False  # whether distances are measured around


# The networks and how they are trained: model.name and the argument of get_config.
METHODS = {
    "s_fc, β-lasso": ("s_fc", "beta_lasso"),
    "s_fc, SGD": ("s_fc", "sgd"),
    "s_local, SGD": ("s_local", "sgd"),
    "s_conv, SGD": ("s_conv", "sgd"),
}
# What the numbers of `Set.sgd` and `Set.l1` are.
_TUNED = {
    "sgd": ("optimizer__learning_rate", "optimizer__weight_decay"),
    "beta_lasso": ("optimizer__l1__conv", "optimizer__l1__fc"),
}
# What is not augmented in its configuration's own way has no shifts.
_STILL = {"data__crop": 0}
SETS: dict[str, Set] = {
    "nlgp": Set("sfc_nlgp", {}, {}, ring=True),
    "gp": Set("sfc_nlgp", {"data__name": "gp"}, {}, ring=True),
    "nlgp_2d": Set("sfc_nlgp", {"data__name": "nlgp_2d"}, {}, ring=True),
    "gp_2d": Set("sfc_nlgp", {"data__name": "gp_2d"}, {}, ring=True),
    "planted": Set("sfc_planted", {}, {}, sgd=((0.1, 0.1),)),
    "planted_sparse": Set(
        "sfc_planted", {"data__name": "planted:kind=sparse"}, {}, sgd=((0.1, 0.03),)
    ),
    "planted_conv": Set(
        "sfc_planted",
        {"data__name": "planted:kind=conv,units=2,examples=20000"},
        {},
        sgd=((0.1, 0.1),),
        l1=((5e-4, 5e-4),),
    ),
    "mnist1d": Set(
        "sfc_mnist1d",
        _STILL,
        {"data__crop": 8},
        sgd=((0.3, 0.01), (0.3, 0.001)),
        l1=((2e-3, 5e-4), (1e-3, 1e-4)),
    ),
    "words": Set(
        "sfc_words",
        _STILL,
        {"data__crop": 2},
        sgd=((0.1, 0.1), (0.1, 0.01)),
        l1=((4e-4, 5e-5), (1e-4, 5e-5)),
    ),
    "words_diacritics": Set(
        "sfc_words", _STILL | {"data__name": "words:diacritics=1"}, {}, sgd=((0.1, 0.1),)
    ),
    "spoken_digits": Set("sfc_spoken_digits", _STILL, {"data__crop": 3}),
    "dna_motifs": Set("sfc_dna_motifs", _STILL, {"data__crop": 4}, sgd=((0.3, 0.03), (0.1, 0.03))),
}


def run_name(method: str, augmented: bool, seed: int) -> str:
    """The name of a run in its set's results and in the folder of its runs."""
    return f"{method}{', augmented' if augmented else ''}, seed {seed}"


def configs(name: str, seeds: int, data_dir: str = "") -> dict[str, Any]:
    """The runs of a set, by name: all methods with one seed, then with the next."""
    chosen, runs = SETS[name], {}
    for seed in range(seeds):
        for method, (model, optimizer) in METHODS.items():
            for augmented in (False, True) if chosen.augmentation else (False,):
                changes = chosen.changes | (chosen.augmentation if augmented else {})
                changes = changes | {"model__name": model, "seed": seed}
                if tuned := chosen.sgd if optimizer == "sgd" else chosen.l1:
                    changes |= dict(zip(_TUNED[optimizer], tuned[augmented], strict=True))
                if name == "spoken_digits":
                    changes["data__data_dir"] = data_dir
                config = get_config(chosen.config, optimizer, **changes)
                runs[run_name(method, augmented, seed)] = config
    return runs


def table(kept: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Results by set as Markdown: mean and standard deviation of the test accuracy over the seeds.

    Density is that of β-lasso; the others are dense. Spread is that of s_fc's first layer over that
    of shuffled weights: under β-lasso, and under SGD cut to as many weights.
    """
    head = ["set", *METHODS, "density", "spread", "spread, SGD cut", "seeds"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, results in kept.items():
        for augmented in (False, True):
            starts = {m: run_name(m, augmented, 0).removesuffix("0") for m in METHODS}
            found = {
                method: [result for run, result in results.items() if run.startswith(start)]
                for method, start in starts.items()
            }
            sparse = found["s_fc, β-lasso"]
            if not sparse:
                continue
            density = [100 * each["metrics"]["sparsity/density"] for each in sparse]
            # Localisation is added when all runs of a set are there.
            ratios, ratios_cut = (
                [each["localisation"][what]["ratio"] for each in runs if "localisation" in each]
                for what, runs in (("whole", sparse), ("cut", found["s_fc, SGD"]))
            )
            cells = [
                name + ", augmented" * augmented,
                *(
                    spread([100 * each["metrics"]["eval/accuracy"] for each in runs], ".1f")
                    for runs in found.values()
                ),
                spread(density, ".1f"),
                spread(ratios, ".2f"),
                spread(ratios_cut, ".2f"),
                str(min(map(len, found.values()))),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(names: Sequence[str], runs_dir: str, path: str) -> None:
    """First-layer fields of seed 0 of each set, under SGD and under β-lasso: nine units each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pictures = {}
    for name in names:
        for method in ("SGD", "β-lasso"):
            run = run_name(f"s_fc, {method}", bool(SETS[name].augmentation), 0)
            filters = analysis.first_layer_filters(*first_kernel(os.path.join(runs_dir, name, run)))
            chosen = analysis.choose_filters(filters, 9, min_nonzeros=5)
            one_dimensional = chosen.shape[1] == 1
            draw_filters = analysis.draw_signals if one_dimensional else analysis.tile
            pictures[f"{name}: {method}"] = draw_filters(chosen, scale=2 if one_dimensional else 4)
    heights = [shown.shape[0] / shown.shape[1] for shown in list(pictures.values())[::2]]
    figure, axes = plt.subplots(
        len(names),
        2,
        figsize=(10.4, sum(5 * height + 0.4 for height in heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, shown) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(shown, interpolation="antialiased")
        axis.set_title(title, fontsize=12)
        axis.axis("off")
    figure.savefig(path, dpi=120)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_list("sets", None, f"Some of {', '.join(SETS)}; all by default.")
    flags.DEFINE_integer("seeds", 5, "Seeds of each.", lower_bound=1)
    flags.DEFINE_string("data_dir", "", "Folder of the spoken digits.")
    flags.DEFINE_string("runs_dir", "runs/other_data", "Where the runs live.")
    flags.DEFINE_string("results", "docs/results/other_data", "Folder of kept results.")
    flags.DEFINE_string("figure", "docs/figures/other_data.png", "PNG of learned fields.")
    flags.DEFINE_bool("draw", False, "Draw the figure from the run directories.")
    flags.DEFINE_bool("table", False, "Print the results that are kept.")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    names = options.sets or list(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown:
        sys.exit(f"--sets has {unknown[0]!r}; accepted are {', '.join(SETS)}")
    files = {name: os.path.join(options.results, f"{name}.json") for name in names}
    try:
        if options.draw:
            draw(names, options.runs_dir, options.figure)
            return
        if not options.table:
            _run(names, files)
        kept = {}
        for name in names:
            if os.path.exists(files[name]):
                with open(files[name], encoding="utf-8") as stored:
                    kept[name] = json.load(stored)
    except train.Stopped as stopped:
        sys.exit(str(stopped))
    except (ValueError, OSError, train.TrainingError) as error:
        sys.exit(f"error: {error}")
    print(table(kept))


def _run(names: Sequence[str], files: Mapping[str, str]) -> None:
    options = flags.FLAGS
    runs = {name: configs(name, options.seeds, options.data_dir) for name in names}
    for each in runs.values():
        # What is missing is said before hours of training.
        first = next(iter(each.values()))
        data.load(first.data.name, first.data.data_dir)
    cache.enable(cache.default_directory())
    for name in names:
        folder = os.path.join(options.runs_dir, name)
        results = run_all(runs[name], folder, files[name])
        twins = {run: run.replace("SGD", "β-lasso") for run in results if run.startswith("s_fc")}
        add_localisation(results, twins, folder, files[name], periodic=SETS[name].ring)


if __name__ == "__main__":
    define_flags()
    app.run(main)
