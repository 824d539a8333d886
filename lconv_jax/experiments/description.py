"""Which network describes Fashion-MNIST shortest: s_fc under β-lasso, and SGD's dense nets pruned.

    python -m lconv_jax.experiments.description --group=seeds
    python -m lconv_jax.experiments.description --group=epochs
    python -m lconv_jax.experiments.description --group=draw

`seeds` trains each network, shortens and describes it, five seeds each; `epochs` describes one run
of s_fc as it trains; `draw` makes the figures. Run it from the root of a clone: it reads configs/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags, logging

from lconv_jax import analysis, certify, mdl, metrics, train
from lconv_jax import config as config_lib
from lconv_jax.describe import code_lengths, describe, load_run
from lconv_jax.experiments.runs import get_config, read_kept, write_kept
from lconv_jax.mdl.network import count_errors
from lconv_jax.shorten import shorten
from lconv_jax.workdir import read_config, read_summary

# Raised when `shorten` or `describe` finds something else for the same network.
METHOD = 2
TITLES = {
    "sfc": "s_fc, β-lasso",
    "sfc_sgd": "s_fc, SGD",
    "sconv": "s_conv, SGD",
    "slocal": "s_local, SGD",
}


def run_one(config: Any, run_dir: str) -> dict[str, Any]:
    """Trains, shortens and describes; what is kept of it."""
    train.train_and_evaluate(config, run_dir)
    frontier = shorten(run_dir)
    file, certificate, origin, experiment = describe(run_dir)
    test = experiment.dataset.test
    short = mdl.decode(file)
    summary = read_summary(run_dir) or {}
    result = {
        "network": os.path.basename(origin),
        "bytes": len(file),
        "units": [len(layer.bias) for layer in short.layers],
        "nonzeros": [int(np.count_nonzero(t.kernel)) for la in short.layers for t in la.terms],
        "test_error": count_errors(short, np.asarray(test.images), test.labels) / len(test.labels),
        "bounds": certificate.bounds(),
        "codes": code_lengths(short),
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
    experiment, network, _ = load_run(run_dir)
    if certify.is_dense(network):
        return None
    delta = experiment.config.log.delta
    _, certificate = certify.shortest_description(network, experiment.dataset.train, delta)
    return certificate.bounds()["kl"]


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown row a model: means and standard deviations over its seeds."""
    rows = [
        "| network | seeds | kl bound | merely rounded | training error | test error | bits "
        "| weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, title in TITLES.items():
        found = [result for name, result in results.items() if name.startswith(f"{model}-")]
        if not found:
            continue

        def spread(values: list[float], digits: int = 3) -> str:
            deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
            return f"{np.mean(values):,.{digits}f} ± {deviation:,.{digits}f}"

        rounded = [r["rounded_kl_bound"] for r in found if r.get("rounded_kl_bound")]
        columns = [
            spread([r["mdl/kl_bound"] for r in found]),
            spread(rounded) if len(rounded) == len(found) else "–",
            spread([r["mdl/train_error"] for r in found]),
            spread([r["test_error"] for r in found]),
            spread([r["mdl/bits"] for r in found], 0),
            spread([sum(r["nonzeros"]) for r in found], 0),
        ]
        rows.append(f"| {title} | {len(found)} | " + " | ".join(columns) + " |")
    return "\n".join(rows)


def load_results(folder: str) -> dict[str, dict[str, Any]]:
    """The kept results, by run."""
    results = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".json"):
            results[name.removesuffix(".json")] = read_kept(os.path.join(folder, name))
    return results


def draw_frontier(results: Mapping[str, Mapping[str, Any]], path: str) -> None:
    """Training error against bits, with lines of equal bound."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5))
    bits, error = np.meshgrid(np.geomspace(800, 30_000, 120), np.linspace(0.05, 0.35, 100))
    bound = mdl.kl_bound(error, bits, 60_000, 0.05)
    lines = axis.contour(bits, error, bound, np.arange(0.2, 0.6, 0.05), colors="0.75", linewidths=1)
    axis.clabel(lines, fmt="bound %.2f", fontsize=8)
    for number, (model, title) in enumerate(TITLES.items()):
        found = [result for name, result in results.items() if name.startswith(f"{model}-")]
        for index, result in enumerate(found):
            rows = result["frontier"]
            axis.plot(
                [row["bits"] for row in rows],
                [row["train_error"] for row in rows],
                f"C{number}.-",
                linewidth=0.8,
                markersize=3,
                label=title if index == 0 else None,
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_epochs(run_dir: str, path: str) -> None:
    """Bits, bound and errors of one run against its epochs."""
    from matplotlib import pyplot as plt

    lines = metrics.read_metrics(run_dir)
    epochs = read_config(run_dir).train.epochs / lines[-1]["step"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_enum("group", "seeds", ("seeds", "epochs", "draw"), "Which runs.")
    flags.DEFINE_list("models", ["sfc", "sfc_sgd", "sconv", "slocal"], "Files under configs/mdl/.")
    flags.DEFINE_integer("seeds", 5, "Seeds of each.")
    flags.DEFINE_string("runs_dir", "runs/mdl", "Where the runs live.")
    flags.DEFINE_string("results", "docs/results/description", "Folder of kept results.")
    flags.DEFINE_string("figures", "docs/figures", "Folder of the figures.")
    flags.DEFINE_string("data_dir", "", "Folder of the IDX files.")


def main(argv: list[str]) -> None:
    del argv
    options = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    where = {"data__data_dir": options.data_dir}
    if options.group == "draw":
        import matplotlib

        matplotlib.use("Agg")
        results = load_results(options.results)
        print(table(results))
        draw_frontier(results, os.path.join(options.figures, "frontier.png"))
        run_dir = os.path.join(options.runs_dir, "sfc-epochs")
        if not metrics.read_metrics(run_dir):
            sys.exit(f"{run_dir} holds no run: --group=epochs makes it, for the second figure")
        draw_epochs(run_dir, os.path.join(options.figures, "bits_against_epoch.png"))
        return
    with train.errors_in_a_line():
        if options.group == "epochs":
            config = get_config("mdl/sfc", log__describe_every_epochs=1, **where)
            train.train_and_evaluate(config, os.path.join(options.runs_dir, "sfc-epochs"))
            return
        for seed in range(options.seeds):
            for model in options.models:
                name = f"{model}-seed{seed}"
                kept = os.path.join(options.results, f"{name}.json")
                config = get_config(f"mdl/{model}", seed=seed, **where)
                made_by = {"config_sha256": config_lib.digest(config), "method": METHOD}
                if made_by.items() <= read_kept(kept).items():
                    continue
                print(name, flush=True)
                result = run_one(config, os.path.join(options.runs_dir, name))
                write_kept(kept, made_by | result)
    print(table(load_results(options.results)))


if __name__ == "__main__":
    define_flags()
    app.run(main)
