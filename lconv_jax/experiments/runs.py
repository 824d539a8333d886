"""Runs of an experiment: each in its own directory, resumable, its result kept as it comes."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis, json_files, train
from lconv_jax import config as config_lib
from lconv_jax.describe import load_run
from lconv_jax.metrics import write_atomically

_KEPT = (
    "metrics",
    "weights",
    "effective",
    "num_examples",
    "versions",
    "device",
    "time/wall_seconds",
)


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of a configuration with dotted keys replaced."""
    flat = dict(config_lib.flatten(config)) | dict(overrides)
    return config_lib.unflatten(flat)


def get_config(name: str, *arguments: str, **overrides: Any) -> Any:
    """configs/`name`.py, with overrides whose dots are written as two underscores."""
    config = runpy.run_path(os.path.join("configs", f"{name}.py"))["get_config"](*arguments)
    return with_overrides(config, {key.replace("__", "."): v for key, v in overrides.items()})


def read_kept(file: str) -> dict[str, Any]:
    """The results that a file keeps; none if it is not there."""
    if not os.path.exists(file):
        return {}
    return json_files.read(file, dict, "bring it back from a copy, or delete it")


def write_kept(file: str, results: Mapping[str, Any]) -> None:
    """Keeps results in a file, whose folder is made if need be."""
    os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
    write_atomically(file, json.dumps(results, indent=1) + "\n")


def run_all(
    configs: Mapping[str, Any], runs_dir: str, results_file: str
) -> dict[str, dict[str, Any]]:
    """Runs each configuration in `runs_dir`/<name>; returns name -> result, also kept in a file.

    A run whose result the file holds, for the same configuration, is not repeated; one that was
    stopped is continued. Results of other names in the file are left as they are.
    """
    results = read_kept(results_file)
    for name, config in configs.items():
        digest = config_lib.digest(config)
        if results.get(name, {}).get("config_sha256") == digest:
            continue
        print(name, flush=True)
        summary = train.train_and_evaluate(config, os.path.join(runs_dir, name))
        base = dict(config_lib.flatten(config_lib.base_config()))
        changed = {
            key: value
            for key, value in config_lib.flatten(config)
            if value != base[key] and not config_lib.is_free(key)
        }
        # The first layer's locality is there where that layer is dense.
        kept = {key: summary[key] for key in _KEPT} | {"locality": summary.get("locality", [])}
        results[name] = {"config": changed, "config_sha256": digest, **kept}
        write_kept(results_file, results)
    return {name: results[name] for name in configs}


def add_localisation(
    results: Mapping[str, dict[str, Any]],
    twins: Mapping[str, str],
    runs_dir: str,
    results_file: str,
    *,
    periodic: bool,
) -> None:
    """Adds the localisation of runs' first layers to their results, and to the results' file.

    Args:
      results: what `run_all` returned.
      twins: the runs to judge, each with its sparse twin, a sparse run with itself. Other runs are
        also judged when their weights are cut to the mean number that a live unit of the twin has.
      runs_dir: where the runs are.
      results_file: what `run_all` wrote.
      periodic: whether the inputs lie on a ring or torus.
    """
    kept = read_kept(results_file)
    for name, sparse in twins.items():
        result, twin = results[name], results[sparse]
        made_of = [result["config_sha256"], twin["config_sha256"]]
        if result.get("localisation", {}).get("config_sha256") == made_of:
            continue
        kernel, shape = first_kernel(os.path.join(runs_dir, name))
        kernels = {"whole": kernel}
        if sparse != name:
            live = twin["locality"][0]["units"]
            count = round(twin["metrics"]["sparsity/conv1/nonzeros"] / live)
            kernels["cut"] = analysis.cut(kernel, count)
        result["localisation"] = {"config_sha256": made_of, "all_units": kernel.shape[1]} | {
            key: analysis.localisation(each, shape, periodic=periodic)._asdict()
            | {"weights": np.count_nonzero(each) / kernel.shape[1]}
            for key, each in kernels.items()
        }
        write_kept(results_file, kept | dict(results))


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown row a run: accuracy, non-zeros of each layer, density, locality."""
    rows = [
        "| run | test accuracy | validation | non-zeros | density | locality |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        last = result["metrics"]
        nonzeros = " + ".join(
            f"{last[f'sparsity/{layer}/nonzeros']:,}" for layer in result["weights"]
        )
        validation = last.get("validation/accuracy")
        shown = "–" if validation is None else f"{validation:.2%}"
        ratios = " / ".join(f"{found['ratio']:.2f}" for found in result["locality"])
        rows.append(
            f"| {name} | {last['eval/accuracy']:.2%} | {shown} | {nonzeros} | "
            f"{last['sparsity/density']:.1%} | {ratios or '–'} |"
        )
    return "\n".join(rows)


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in a format such as ".2f", the mean alone of one value."""
    if not values:
        return "–"
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):{form}}"


def first_kernel(run_dir: str) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """The first layer's weights [inputs, units] of a finished run, and the shape of its inputs."""
    _, network, _ = load_run(run_dir)
    return np.asarray(network.layers[0].terms[0].kernel), network.input_shape
