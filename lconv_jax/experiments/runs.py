"""What experiments share: runs, each resumable, results that are kept as they come, and commands.

An experiment is a module with

- `Cell`: a named tuple of what identifies a run, its seed last. Its `str` is the name of the run's
  directory and of its result;
- `cells(...)`: those of seed 0;
- `configs(cells, ...)`: the configuration of each;
- `table(results)` and `draw(...)`: of results by cell;
- `train_missing(options)` and `show(options)`: its command, of which the flags are the options.

The command trains what is missing, goes on with what was stopped, keeps each result, and prints and
draws all that are kept, of any seed; with --show it only prints and draws. Commands are run from
the root of a clone, as they read configs/. Nothing reads a name: what is to be known of a run is in
its cell.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import runpy
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from absl import app, flags
from numpy.typing import NDArray

from lconv_jax import analysis, data
from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.experiments import sweeps
from lconv_jax.host import cache, json_files
from lconv_jax.host.files import write_atomically
from lconv_jax.rundir.directory import read_summary
from lconv_jax.tables import markdown
from lconv_jax.terminal import commands
from lconv_jax.terminal.ending import run_errors_in_a_line
from lconv_jax.training import loop
from lconv_jax.training.exporting import restore_network

K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=NamedTuple)
V = TypeVar("V")
# The largest number of seeds of a run; kept results are looked for among these seeds.
MOST_SEEDS = 100
_KEPT = (
    "metrics",
    "weights",
    "effective",
    "num_examples",
    "versions",
    "device",
    "time/wall_seconds",
)


def get_config(name: str, *arguments: str, changes: Mapping[str, Any] | None = None) -> Any:
    """configs/`name`.py, its `get_config` called with the arguments, with dotted keys replaced.

    Raises:
      ValueError: there is no such file below the current directory.
    """
    file = os.path.join("configs", f"{name}.py")
    if not os.path.exists(file):
        raise ValueError(f"there is no {os.path.abspath(file)}; run this from the root of a clone")
    return with_overrides(runpy.run_path(file)["get_config"](*arguments), changes or {})


def with_seeds(cells: Iterable[C], seeds: int) -> list[C]:
    """The cells with `seeds` seeds, one seed after the other."""
    cells = list(cells)
    return [cell._replace(seed=seed) for seed in range(seeds) for cell in cells]


def over_seeds(results: Mapping[C, V]) -> dict[C, list[V]]:
    """The results of cells that differ in nothing but their seeds, by the cell of seed 0."""
    found: dict[C, list[V]] = {}
    for cell, result in results.items():
        found.setdefault(cell._replace(seed=0), []).append(result)
    return found


def read_kept(file: str) -> dict[str, Any]:
    """The results that a file keeps; none if it is not there."""
    if not os.path.exists(file):
        return {}
    return json_files.read(file, dict, "bring it back from a copy, or delete it")


def write_kept(file: str, results: Mapping[str, Any]) -> None:
    """Keeps results in a file, whose folder is made if need be."""
    os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
    write_atomically(file, json.dumps(results, indent=1) + "\n")


def keep(file: str, key: Hashable, result: Mapping[str, Any]) -> None:
    """Adds a result to a file, which is read anew: another process may have added some."""
    write_kept(file, read_kept(file) | {str(key): result})


def kept(file: str, keys: Iterable[K]) -> dict[K, dict[str, Any]]:
    """The results that a file keeps of these runs."""
    results = read_kept(file)
    return {key: results[str(key)] for key in keys if str(key) in results}


def require_data(name: str, data_dir: str) -> None:
    """Reports missing data before hours of training; arguments as in `lconv_jax.data.load`."""
    data.load(name, data_dir or None, stream="auto")


def run_all(
    configs: Mapping[K, Any],
    runs_dir: str,
    results_file: str,
    measure: Callable[[str], dict[str, Any]] | None = None,
) -> dict[K, dict[str, Any]]:
    """Runs each configuration in `runs_dir`/<name>; returns the results, also kept in a file.

    A run whose result the file holds, for the same configuration, is not repeated; one that was
    stopped is continued. Results of other names in the file are left as they are.

    Args:
      configs: by what identifies a run, such as a named tuple; its `str` is the run's name.
      runs_dir: where the run directories are.
      results_file: JSON, by name.
      measure: from a finished run's directory to what is kept beside the last metrics.
    """
    for key, config in configs.items():
        name, digest = str(key), config_lib.digest(config)
        if read_kept(results_file).get(name, {}).get("config_sha256") == digest:
            continue
        print(name, flush=True)
        run_dir = os.path.join(runs_dir, name)
        summary = loop.train_and_evaluate(config, run_dir)
        # The first layer's locality is there where that layer is dense.
        result = {key: summary[key] for key in _KEPT} | {"locality": summary.get("locality", [])}
        result |= measure(run_dir) if measure else {}
        keep(
            results_file,
            name,
            {"config": config_lib.changed(config), "config_sha256": digest, **result},
        )
    return kept(results_file, configs)


def choose(
    name: str,
    config: Any,
    grid: Mapping[str, Sequence[Any]],
    folder: str,
    file: str,
    by: str = "validation/accuracy",
) -> dict[str, Any]:
    """The best setting of a grid, found by a sweep below `folder`, and kept in a file by name.

    Each setting is kept once it is over. What the file has, for the same configuration and grid, is
    not found again, wherever the runs are by then.

    Returns:
      {"changes": the setting, "settings": all of them with their accuracies, and what they are
      chosen from and by}.

    Raises:
      ValueError: no setting finished; all diverged.
    """
    found = read_choice(name, config, grid, file, by)
    if "changes" in found:
        return found
    made_of = _made_of(config, grid, by)
    print(f"choice of {name}", flush=True)
    settings = found.get("settings", [])
    known = [setting["changes"] for setting in settings]
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    missing = [{key: [value] for key, value in p.items()} for p in points if p not in known]
    # Runs of another configuration, of the preset as it was say, are left as they are.
    workdir = os.path.join(folder, f"{name}, {config_lib.digest(config)[:8]}")
    # Settings train together where none is known yet.
    for part in missing if known else [grid]:
        before = settings

        def report(result: Mapping[str, Any], before: list[dict[str, Any]] = before) -> None:
            keep(file, name, made_of | {"settings": before + _over(result, by)})

        result = sweeps.run(config, workdir, part, report=report)
        settings = before + _over(result, by)
    finished = [setting for setting in settings if setting[by] is not None]
    if not finished:
        raise ValueError(f"{name}: every setting diverged; lower the learning rates of its grid")
    # Of equals the strongest penalty, which comes last.
    best = max(reversed(finished), key=lambda setting: setting[by])
    found = made_of | {"changes": best["changes"], "settings": settings}
    keep(file, name, found)
    return found


def read_choice(
    name: str,
    config: Any,
    grid: Mapping[str, Sequence[Any]],
    file: str,
    by: str = "validation/accuracy",
) -> dict[str, Any]:
    """What a file keeps of a choice of this configuration and grid, without "changes" if it is not
    ended; {} if there is nothing.
    """
    found = read_kept(file).get(name, {})
    return found if _made_of(config, grid, by).items() <= found.items() else {}


def _made_of(config: Any, grid: Mapping[str, Sequence[Any]], by: str) -> dict[str, Any]:
    return {
        "config_sha256": config_lib.digest(config),
        "grid": {key: list(values) for key, values in grid.items()},
        "chosen by": by,
    }


def _over(result: Mapping[str, Any], by: str) -> list[dict[str, Any]]:
    """The settings of a sweep that are finished or diverged, the latter with None."""
    return [
        {"changes": setting["changes"], by: setting[by]["mean"]}
        for setting in result["settings"]
        if all(by in run or "diverged" in run for run in setting["runs"])
    ]


def write_masks(folder: str, masks: Mapping[str, Any]) -> str:
    """Writes masks by layer as a file for `optimizer.masks`, named by its contents; its path."""
    digest = hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in masks.values()))
    path = os.path.join(folder, f"{digest.hexdigest()[:16]}.npz")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        contents = io.BytesIO()
        np.savez_compressed(contents, **masks)
        write_atomically(path, contents.getvalue())
    return path


def add_localisation(
    results: Mapping[K, dict[str, Any]],
    twins: Mapping[K, K],
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
    for key, sparse in twins.items():
        result, twin = results[key], results[sparse]
        made_of = [result["config_sha256"], twin["config_sha256"]]
        if result.get("localisation", {}).get("config_sha256") == made_of:
            continue
        kernel, shape = first_kernel(os.path.join(runs_dir, str(key)))
        kernels = {"whole": kernel}
        if sparse != key:
            live = twin["locality"][0]["units"]
            count = round(twin["metrics"]["sparsity/conv1/nonzeros"] / live)
            kernels["cut"] = analysis.cut(kernel, count)
        result["localisation"] = {"config_sha256": made_of, "all_units": kernel.shape[1]} | {
            name: analysis.localisation(each, shape, periodic=periodic)._asdict()
            | {"weights": np.count_nonzero(each) / kernel.shape[1]}
            for name, each in kernels.items()
        }
        keep(results_file, key, result)


def table(results: Mapping[K, Mapping[str, Any]]) -> str:
    """One Markdown row a run: accuracy, non-zeros of each layer, density, locality."""
    rows = []
    for key, result in results.items():
        last = result["metrics"]
        nonzeros = [f"{last[f'sparsity/{layer}/nonzeros']:,}" for layer in result["weights"]]
        validation = last.get("validation/accuracy")
        rows.append(
            [
                key,
                f"{last['eval/accuracy']:.2%}",
                "–" if validation is None else f"{validation:.2%}",
                " + ".join(nonzeros),
                f"{last['sparsity/density']:.1%}",
                " / ".join(f"{found['ratio']:.2f}" for found in result["locality"]) or "–",
            ]
        )
    head = ["run", "test accuracy", "validation", "non-zeros", "density", "locality"]
    return markdown(head, rows)


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in a format such as ".2f", the mean alone of one value."""
    if not values:
        return "–"
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):{form}}"


def first_kernel(run_dir: str) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """The first layer's weights [inputs, units] of a finished run, and the shape of its inputs."""
    _, network, _ = restore_network(run_dir)
    return np.asarray(network.layers[0].terms[0].kernel), network.input_shape


def draw_finished(
    draw: Callable[[str, str], None], runs_dir: str, figures: str, keys: Iterable[Hashable]
) -> str:
    """Calls `draw(runs_dir, figures)` if these runs are finished; says which is not otherwise."""
    for run_dir in (os.path.join(runs_dir, str(key)) for key in keys):
        if read_summary(run_dir) is None:
            return f"\nA figure is not drawn: {run_dir} holds no finished run."
    draw(runs_dir, figures)
    return ""


def command(
    train_missing: Callable[[Any], None] | None,
    show: Callable[[Any], str],
    *,
    runs_dir: str = "",
    results: str = "",
    seeds: int = 5,
    data_dir: str = "",
    some_of: Mapping[str, Iterable[str]] | None = None,
    groups: Iterable[str] = (),
    define_more: Callable[[], None] = lambda: None,
) -> None:
    """The command of an experiment: trains what is missing, and says what is kept.

    Args:
      train_missing: from the flags' values; not called with --show. None: nothing is trained, and
        --figures is the only flag.
      show: from the flags' values to what is printed; draws what there is to draw.
      runs_dir, results, seeds: defaults of the flags.
      data_dir: what the folder of that flag holds; "": there is no such flag.
      some_of: by name, flags that take some of these names, all by default.
      groups: what --group takes, the first by default; none: there is no such flag.
      define_more: defines further flags.
    """

    def define_flags() -> None:
        flags.DEFINE_string("figures", "docs/figures", "Folder of the figures.")
        if train_missing:
            flags.DEFINE_integer("seeds", seeds, "Seeds of each run.", 1, MOST_SEEDS)
            flags.DEFINE_string("runs_dir", runs_dir, "Where the runs live.")
            flags.DEFINE_string("results", results, "Kept results.")
            flags.DEFINE_bool("show", False, "Only print and draw what is kept.")
        if data_dir:
            flags.DEFINE_string("data_dir", "", data_dir)
        for name, accepted in (some_of or {}).items():
            known = dict.fromkeys(accepted)
            flags.DEFINE_list(name, list(known), f"Some of {', '.join(known)}; all by default.")
            flags.register_validator(
                name,
                lambda given, known=known: bool(given) and known.keys() >= set(given),
                f"it takes some of {', '.join(known)}",
            )
        if groups:
            flags.DEFINE_enum("group", next(iter(groups)), list(groups), "Which runs.")
        define_more()

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
        options = flags.FLAGS
        with run_errors_in_a_line():
            if train_missing and not options.show:
                cache.enable(None)
                train_missing(options)
            commands.say(show(options))

    commands.launch(main, define_flags)
