"""Which network describes Fashion-MNIST shortest: pruned after training, or trained for its file.

    python -m lconv_jax.experiments.description --group=seeds
    python -m lconv_jax.experiments.description --group=epochs

`seeds` trains each network, shortens and describes it, five seeds each; `--models=sconv_rate` takes
only these. `epochs` describes one run of s_fc as it trains, and its figure is made from the run
directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lconv_jax import analysis, mdl
from lconv_jax import config as config_lib
from lconv_jax.compression import certify, rate_search, search
from lconv_jax.describe import code_lengths, describe
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.rundir import metrics
from lconv_jax.rundir.directory import read_config, read_summary
from lconv_jax.shorten import shorten
from lconv_jax.tables import markdown
from lconv_jax.training import loop
from lconv_jax.training.exporting import restore_network

# Raised when `shorten` or `describe` finds something else for the same network.
METHOD = 2


class Model(NamedTuple):
    """A network, how it is trained, and how it is shortened."""

    title: str
    config: str  # file under configs/mdl/
    changes: Mapping[str, Any] = MappingProxyType({})
    options: search.Options | rate_search.Options = search.DEFAULTS


_RATE = rate_search.Options(steps=2500, start=500, prices=(8e-5, 1.2e-4, 1.6e-4, 2.2e-4, 3e-4))
# Dense at first, and small enough that pruning to `start` loses little.
_SMALL = {"model.alpha": 2, "train.epochs": 8}
MODELS = {
    "sfc": Model("s_fc, β-lasso", "sfc"),
    "sfc_sgd": Model("s_fc, SGD", "sfc_sgd"),
    "sconv": Model("s_conv, SGD", "sconv"),
    "slocal": Model("s_local, SGD", "slocal"),
    "sfc_rate": Model("s_fc, β-lasso, for its file", "sfc", options=_RATE),
    "sconv_rate": Model("s_conv, for its file", "sconv", _SMALL, _RATE),
    "slocal_rate": Model("s_local, for its file", "slocal", _SMALL, _RATE),
    "dconv_rate": Model("d_conv, for its file", "sconv", {**_SMALL, "model.name": "d_conv"}, _RATE),
    "three_fc_rate": Model(
        *("three_fc, for its file", "sconv"),
        {**_SMALL, "model.name": "three_fc", "model.alpha": 64},
        _RATE,
    ),
}


class Cell(NamedTuple):
    """A run: a network, and a seed."""

    model: str  # a key of MODELS
    by_epoch: bool = False  # described as it trains, with its run directory for a result
    seed: int = 0

    def __str__(self) -> str:
        """The name of its run directory, and of the file of its result."""
        return f"{self.model}-epochs" if self.by_epoch else f"{self.model}-seed{self.seed}"


BY_EPOCH = Cell("sfc", by_epoch=True)


def cells(models: Iterable[str]) -> list[Cell]:
    """The networks that are shortened."""
    return [Cell(model) for model in models]


def configs(cells: Iterable[Cell], data_dir: str = "") -> dict[Cell, Any]:
    """The configuration of each run."""
    found = {}
    for cell in cells:
        model = MODELS[cell.model]
        changes = {**model.changes, "seed": cell.seed, "data.data_dir": data_dir}
        changes["log.describe_every_epochs"] = int(cell.by_epoch)
        found[cell] = runs.get_config(f"mdl/{model.config}", changes=changes)
    return found


def run_one(
    config: Any, run_dir: str, options: search.Options | rate_search.Options
) -> dict[str, Any]:
    """Trains, shortens and describes a run; returns the result that is kept."""
    loop.train_and_evaluate(config, run_dir)
    frontier = shorten(run_dir, options)
    file, certificate, origin, setup, _ = describe(run_dir)
    test = setup.dataset.test
    short = mdl.decode(file)
    errors = mdl.count_errors(short, np.asarray(test.images), test.labels)
    summary = read_summary(run_dir) or {}
    result = {
        "network": os.path.basename(origin),
        "bytes": len(file),
        "units": [len(layer.bias) for layer in short.layers],
        "nonzeros": [int(np.count_nonzero(t.kernel)) for la in short.layers for t in la.terms],
        "test_error": errors / len(test.labels),
        "bounds": certificate.bounds(),
        "codes": code_lengths(short) | {"shortest": 8 * len(file)},
        "frontier": [{k: v for k, v in row.items() if k != "file"} for row in frontier],
        "rounded_kl_bound": rounded_bound(run_dir),
        "trained_test_error": 1 - summary["metrics"]["eval/accuracy"],
        "versions": summary["versions"],
        "device": summary["device"],
    } | certificate.metrics()
    first = short.layers[0].terms[0]
    if first.kind == "dense":
        found = analysis.structure(first.kernel, short.input_shape)
        result["structure"] = [each._asdict() for each in found]
    return result


def rounded_bound(run_dir: str) -> float | None:
    """The kl bound of a run's network, merely rounded; None for a dense one."""
    experiment, network, _ = restore_network(run_dir)
    if certify.is_dense(network):
        return None
    delta = experiment.config.log.delta
    _, certificate = certify.shortest_description(network, experiment.dataset.train, delta)
    return certificate.bounds()["kl"]


def result_file(folder: str, cell: Cell) -> str:
    """The file of a run's result, in the folder of kept results."""
    return os.path.join(folder, f"{cell}.json")


def kept(folder: str, cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """The results of these runs that a folder keeps."""
    found = {cell: runs.read_kept(result_file(folder, cell)) for cell in cells}
    return {cell: result for cell, result in found.items() if result}


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """One Markdown row a model: means and standard deviations over its seeds."""
    rows = []
    for cell, found in runs.over_seeds(results).items():
        rounded = [r["rounded_kl_bound"] for r in found if r.get("rounded_kl_bound")]
        rows.append(
            [
                MODELS[cell.model].title,
                len(found),
                runs.spread([r["mdl/kl_bound"] for r in found], ".3f"),
                runs.spread(rounded, ".3f") if len(rounded) == len(found) else "–",
                runs.spread([r["mdl/train_error"] for r in found], ".3f"),
                runs.spread([r["test_error"] for r in found], ".3f"),
                runs.spread([r["mdl/bits"] for r in found], ",.0f"),
                runs.spread([sum(r["nonzeros"]) for r in found], ",.0f"),
            ]
        )
    head = ["network", "seeds", "kl bound", "merely rounded", "training error", "test error"]
    return markdown([*head, "bits", "weights"], rows)


def draw_frontier(results: Mapping[Cell, Mapping[str, Any]], figures: str) -> None:
    """Training error against bits, with lines of equal bound."""
    figure, axis = new_figure(1, 1, size=(8, 5))
    bits, error = np.meshgrid(np.geomspace(800, 30_000, 120), np.linspace(0.05, 0.35, 100))
    bound = mdl.kl_bound(error, bits, 60_000, 0.05)
    lines = axis.contour(bits, error, bound, np.arange(0.2, 0.6, 0.05), colors="0.75", linewidths=1)
    axis.clabel(lines, fmt="bound %.2f", fontsize=8)
    groups = runs.over_seeds(results)
    for number, (name, model) in enumerate(MODELS.items()):
        found = groups.get(Cell(name), [])
        for index, result in enumerate(found):
            rows = result["frontier"]
            axis.plot(
                [row["bits"] for row in rows],
                [row["train_error"] for row in rows],
                f"C{number}.-",
                linewidth=0.8,
                markersize=3,
                label=model.title if index == 0 else None,
            )
            axis.plot(result["mdl/bits"], result["mdl/train_error"], f"C{number}o", markersize=7)
    axis.set(
        xscale="log",
        xlim=(800, 30_000),
        ylim=(0.05, 0.35),
        xlabel="length of the file, bits",
        ylabel="training error of the decoded network",
        title="Fashion-MNIST, δ = 0.05; the smallest bound of each seed is marked",
    )
    axis.legend()
    save(figure, os.path.join(figures, "frontier.png"))


def draw_epochs(runs_dir: str, figures: str) -> None:
    """Bits, bound and errors of one run against its epochs."""
    run_dir = os.path.join(runs_dir, str(BY_EPOCH))
    lines = metrics.read_metrics(run_dir)
    epochs = read_config(run_dir).train.epochs / lines[-1]["step"]
    figure, (left, right) = new_figure(1, 2, size=(10, 3.8))
    at, bits = metrics.column(lines, "mdl/bits")
    left.semilogy(at * epochs, bits, ".-", label="the file")
    at, bits = metrics.column(lines, "mdl/estimate_bits")
    left.semilogy(at * epochs, bits, color="0.7", label="Theorem 2's estimate, 32 bits a value")
    left.set(xlabel="epoch", ylabel="bits", title="Length of the description")
    left.legend()
    for name, label in {"kl_bound": "kl bound", "train_error": "training error, decoded"}.items():
        at, values = metrics.column(lines, f"mdl/{name}")
        right.plot(at * epochs, values, ".-", label=label)
    at, accuracy = metrics.column(lines, "eval/accuracy")
    right.plot(at * epochs, 1 - accuracy, "--", label="test error, as trained")
    right.set(xlabel="epoch", ylabel="error", title="What it proves", ylim=(0, 1.02))
    right.legend()
    save(figure, os.path.join(figures, "bits_against_epoch.png"))


def train_missing(options: Any) -> None:
    """Trains, shortens and describes what is missing."""
    if options.group == "epochs":
        (config,) = configs([BY_EPOCH], options.data_dir).values()
        loop.train_and_evaluate(config, os.path.join(options.runs_dir, str(BY_EPOCH)))
        return
    wanted = configs(runs.with_seeds(cells(options.models), options.seeds), options.data_dir)
    for cell, config in wanted.items():
        file = result_file(options.results, cell)
        shortened_by = MODELS[cell.model].options
        made_by = {"config_sha256": config_lib.digest(config), "method": METHOD}
        if shortened_by != search.DEFAULTS:
            # As JSON has it, to be compared with what is kept.
            made_by["options"] = json.loads(json.dumps(shortened_by._asdict()))
        if not made_by.items() <= runs.read_kept(file).items():
            print(cell, flush=True)
            run_dir = os.path.join(options.runs_dir, str(cell))
            runs.write_kept(file, made_by | run_one(config, run_dir, shortened_by))


def show(options: Any) -> str:
    """The table of `seeds`, with its figure; or the figure of `epochs`."""
    if options.group == "epochs":
        return runs.draw_finished(draw_epochs, options.runs_dir, options.figures, [BY_EPOCH])
    results = kept(options.results, runs.with_seeds(cells(MODELS), runs.MOST_SEEDS))
    if results:
        draw_frontier(results, options.figures)
    return table(results)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/mdl",
        results="docs/results/description",
        data_dir="Folder of the IDX files.",
        some_of={"models": MODELS},
        groups=("seeds", "epochs"),
    )
