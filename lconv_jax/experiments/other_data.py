"""β-lasso on data that are not photographs: accuracy, density, localisation and fields.

    python -m lconv_jax.experiments.other_data --choose --sets=nlgp,gp,mnist1d
    python -m lconv_jax.experiments.other_data --sets=nlgp,gp,mnist1d
    python -m lconv_jax.experiments.other_data --draw
    python -m lconv_jax.experiments.other_data --table

Each set is learned by s_fc under β-lasso and under SGD, and by s_local and s_conv under SGD, and
where there is an augmentation, with and without it; five seeds. A seed is the network's and, of
sets that are generated, not the data's. `--choose` finds the settings of each by one seed: the best
of eight on examples that are held out of training. `--table` prints the results that are kept, one
file a set (so that several processes can work on different sets), and `--draw` makes the figure of
learned fields from the run directories. Run it from the root of a clone: it reads configs/.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging

from lconv_jax import analysis, cache, data, train
from lconv_jax import config as config_lib
from lconv_jax.data import make_spoken_digits
from lconv_jax.experiments.runs import (
    add_localisation,
    first_kernel,
    get_config,
    read_kept,
    run_all,
    spread,
    with_overrides,
    write_kept,
)


class Set(NamedTuple):
    """A data set of the table."""

    config: str  # file under configs/, for β-lasso and for "sgd"
    validation: int  # training examples that are held out when settings are chosen
    changes: dict[str, Any]  # of every run
    augmentation: dict[str, Any]  # of the runs with augmentation; empty: there are no such
    chosen_for: Sequence[str] = ("s_fc", "s_local", "s_conv")  # others: as in the configuration
    ring: bool = False  # whether distances are measured around


# The networks and how they are trained: model.name and the argument of get_config.
METHODS = {
    "s_fc, β-lasso": ("s_fc", "beta_lasso"),
    "s_fc, SGD": ("s_fc", "sgd"),
    "s_local, SGD": ("s_local", "sgd"),
    "s_conv, SGD": ("s_conv", "sgd"),
}
# What is not augmented in its configuration's own way has no shifts.
_STILL = {"data.crop": 0}
SETS: dict[str, Set] = {
    "nlgp": Set("sfc_nlgp", 10_000, {}, {}, ring=True),
    "gp": Set("sfc_nlgp", 10_000, {"data.name": "gp"}, {}, ring=True),
    "nlgp_2d": Set("sfc_nlgp", 10_000, {"data.name": "nlgp_2d"}, {}, ring=True),
    "gp_2d": Set("sfc_nlgp", 10_000, {"data.name": "gp_2d"}, {}, ring=True),
    "planted": Set("sfc_planted", 2_000, {}, {}),
    "planted_sparse": Set("sfc_planted", 2_000, {"data.name": "planted:kind=sparse"}, {}),
    "planted_conv": Set(
        "sfc_planted", 4_000, {"data.name": "planted:kind=conv,units=2,examples=20000"}, {}
    ),
    "mnist1d": Set("sfc_mnist1d", 1_000, _STILL, {"data.crop": 8}),
    "words": Set("sfc_words", 4_000, _STILL, {"data.crop": 2}),
    "words_diacritics": Set("sfc_words", 4_000, _STILL | {"data.name": "words:diacritics=1"}, {}),
    # s_local and s_conv take a minute and a half there.
    "spoken_digits": Set("sfc_spoken_digits", 100, _STILL, {"data.crop": 3}, chosen_for=("s_fc",)),
    "dna_motifs": Set("sfc_dna_motifs", 1_600, _STILL, {"data.crop": 4}),
}
# On Gaussian fields s_fc is narrow, so that its few fields can be looked at. With its α of 1 a
# convolution would be a single filter, and s_local have one at a place.
_ALPHA_ON_RINGS = 8
# Settings are chosen among the products of these; of β-lasso, times the configuration's.
_SGD = {
    "optimizer.learning_rate": (0.1, 0.3),
    "optimizer.weight_decay": (0.001, 0.01, 0.03, 0.1),
}
_BETA_LASSO = {"optimizer.l1.conv": (0.25, 0.5, 1, 2), "optimizer.l1.fc": (0.25, 1)}


def run_name(method: str, augmented: bool, seed: int) -> str:
    """The name of a run in its set's results and in the folder of its runs."""
    return f"{method}{', augmented' if augmented else ''}, seed {seed}"


def configs(
    name: str,
    seeds: int,
    data_dir: str = "",
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The runs of a set, by name: all methods with one seed, then with the next.

    Args:
      name: a key of SETS.
      seeds: how many.
      data_dir: folder of the spoken digits.
      chosen: what `choose` returned; None for the settings of the configurations.
    """
    chosen = chosen or {}
    of_set, runs = SETS[name], {}
    for seed in range(seeds):
        for method, (model, optimizer) in METHODS.items():
            for augmented in (False, True) if of_set.augmentation else (False,):
                config = get_config(of_set.config, optimizer)
                changes = of_set.changes | (of_set.augmentation if augmented else {})
                changes = changes | {"model.name": model, "seed": seed}
                if of_set.ring and model != "s_fc":
                    changes["model.alpha"] = _ALPHA_ON_RINGS
                if name == "spoken_digits":
                    changes["data.data_dir"] = data_dir
                run = run_name(method, augmented, seed)
                changes |= chosen.get(run_name(method, augmented, 0), {}).get("changes", {})
                runs[run] = with_overrides(config, changes)
    return runs


def choose(name: str, data_dir: str, runs_dir: str, file: str) -> dict[str, dict[str, Any]]:
    """Trains each method with eight settings; what was best on examples held out, by run of seed 0.

    Of spoken digits voices are held out, as those for testing are others, too. The accuracy of each
    setting is returned beside the best, and kept in `file`; what it has is not repeated.
    """
    kept = read_kept(file)
    for run, config in _to_choose(name, data_dir).items():
        made_of = _made_of(name, config)
        if made_of.items() <= kept.get(run, {}).items():
            continue
        print(run, flush=True)
        of_set, optimizer, by = SETS[name], config.optimizer.name, made_of["chosen by"]
        written = f"--config=configs/{of_set.config}.py:{optimizer}"
        command = [sys.executable, "-m", "lconv_jax.sweep", written]
        base = dict(config_lib.flatten(get_config(of_set.config, optimizer)))
        for key, value in config_lib.flatten(config):
            command += [f"--config.{key}={value}"] if value != base[key] else []
        for key, values in made_of["grid"].items():
            command += ["--grid", f"{key}={','.join(map(str, values))}"]
        folder = os.path.join(runs_dir, f"{run}, {made_of['config_sha256'][:8]}")
        _run([*command, f"--workdir={folder}"])
        settings = [
            {"changes": setting["changes"], by: setting[by]["mean"]}
            for setting in read_kept(os.path.join(folder, "sweep.json"))["settings"]
        ]
        # Of equals the strongest penalty, which comes last; None: it diverged.
        best = max(reversed(settings), key=lambda setting: setting[by] or 0)
        kept[run] = made_of | {"changes": best["changes"], "settings": settings}
        write_kept(file, kept)
    return kept


def check_chosen(name: str, chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError where `choose` has not returned the settings, or has for others."""
    for run, config in _to_choose(name).items():
        if not _made_of(name, config).items() <= chosen.get(run, {}).items():
            raise ValueError(
                f"{name}: no settings were chosen for {run!r}, or for another configuration; "
                f"choose them with --choose --sets={name}"
            )


def _to_choose(name: str, data_dir: str = "") -> dict[str, Any]:
    """The runs of seed 0 whose settings are chosen, with examples held out."""
    of_set = SETS[name]
    held_out: dict[str, Any] = {"data.validation": of_set.validation}
    if name == "spoken_digits":
        testing = sorted(make_spoken_digits.VOICES)[4::5]
        held_out["data.name"] = f"{name}:without={'+'.join(testing)}"
    return {
        run: with_overrides(config, held_out)
        for run, config in configs(name, 1, data_dir).items()
        if config.model.name in of_set.chosen_for
    }


def _made_of(name: str, config: Any) -> dict[str, Any]:
    """What the settings of a configuration are chosen from, and by what."""
    if config.optimizer.name == "sgd":
        grid = {key: list(values) for key, values in _SGD.items()}
    else:
        flat = dict(config_lib.flatten(config))
        grid = {key: [flat[key] * each for each in _BETA_LASSO[key]] for key in _BETA_LASSO}
    return {
        "config_sha256": config_lib.digest(config),
        "grid": grid,
        "chosen by": "eval/accuracy" if name == "spoken_digits" else "validation/accuracy",
    }


def _run(command: Sequence[str]) -> None:
    """Runs a command that saves its state when it is stopped, and stops with it."""
    with train.deferred_signals() as signals:
        process = subprocess.Popen(command)
        while process.poll() is None:
            if signals:
                process.terminate()
                process.wait()
            time.sleep(0.1)
    if signals:
        sys.exit("stopped; the same command goes on from here")
    if process.returncode:
        sys.exit(process.returncode)  # it has said why


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
    flags.DEFINE_string("settings", "docs/results/other_data_settings", "Folder of those chosen.")
    flags.DEFINE_bool("choose", False, "Only choose the settings.")
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
    files, settings = (
        {name: os.path.join(folder, f"{name}.json") for name in names}
        for folder in (options.results, options.settings)
    )
    with train.errors_in_a_line():
        if options.draw:
            draw(names, options.runs_dir, options.figure)
            return
        if options.choose:
            for name in names:
                folder = os.path.join(options.runs_dir, "choice", name)
                choose(name, options.data_dir, folder, settings[name])
            return
        if not options.table:
            runs = {}
            for name in names:
                chosen = read_kept(settings[name])
                check_chosen(name, chosen)
                runs[name] = configs(name, options.seeds, options.data_dir, chosen)
                # What is missing is said before hours of training.
                first = next(iter(runs[name].values()))
                data.load(first.data.name, first.data.data_dir)
            cache.enable(cache.default_directory())
            for name in names:
                folder = os.path.join(options.runs_dir, name)
                results = run_all(runs[name], folder, files[name])
                twins = {run: run.replace("SGD", "β-lasso") for run in results if "s_fc" in run}
                add_localisation(results, twins, folder, files[name], periodic=SETS[name].ring)
        print(table({name: found for name in names if (found := read_kept(files[name]))}))


if __name__ == "__main__":
    define_flags()
    app.run(main)
