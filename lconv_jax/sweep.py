"""Trains many settings and ranks them by validation accuracy.

    python -m lconv_jax.sweep --config=FILE --workdir=DIRECTORY \\
        --grid optimizer.l1.conv=1e-4,3e-4,1e-3 --grid optimizer.beta=0,1,10 --seeds=3

Settings that differ only in numbers train together, in one vmapped program.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import shlex
import statistics
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import config_flags
from rich import box
from rich import table as rich_table

from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax import main as main_lib
from lconv_jax.config import ConfigError
from lconv_jax.experiments.runs import with_overrides
from lconv_jax.host import cache, places
from lconv_jax.host.files import write_atomically
from lconv_jax.parallel import distributed
from lconv_jax.rundir.workdir import check_workdir, read_summary
from lconv_jax.terminal import commands, tables
from lconv_jax.training import lanes, loop

# What file systems take.
_LONGEST_NAME = 255
# A grid of more is a slip.
_MOST_RUNS = 10_000
SWEEP_JSON, SWEEP_TABLE = "sweep.json", "sweep.md"
# What is shown of each run, by the name of its metric, and the first is what settings rank by.
COLUMNS = {
    "validation accuracy": "validation/accuracy",
    "test accuracy": "eval/accuracy",
    "density": "sparsity/density",
}


class Setting(NamedTuple):
    """A point of the grid: what it changes, and its configuration for each seed."""

    changes: dict[str, Any]
    configs: list[Any]

    def directories(self, workdir: str) -> list[str]:
        """The run directory of each seed."""
        name = ",".join(f"{key}={shown(value)}" for key, value in self.changes.items())
        name = urllib.parse.quote(name or "as-configured", "=,", errors="surrogateescape")
        folder = os.path.join(workdir, name)
        return [os.path.join(folder, f"seed={config.seed}") for config in self.configs]


def shown(value: Any) -> str:
    """A value of a configuration key, as the command line reads it."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Keys with their values, from texts "KEY=VALUE,VALUE,…".

    Raises:
      ConfigError: a text is not of that form, a key is unknown or named twice, or a value is not
        of the key's type.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals:
            raise ConfigError(f"--grid {text}: it must be KEY=VALUE,VALUE,…")
        config_lib.check_name(key)
        if key in grid:
            raise ConfigError(f"--grid {text}: {key} has values already; give them all in one")
        # A value that has commas is quoted: data.name='"nlgp:length=64,seed=1",digits'.
        try:
            (found,) = csv.reader([values]) if values else ([""],)
        except (csv.Error, ValueError) as error:
            raise ConfigError(f"--grid {config_lib.brief(text)}: {error}") from error
        grid[key] = [_parse(key, value) for value in found]
    return grid


def _parse(key: str, text: str) -> Any:
    kind = type(config_lib.KEYS[key].default)
    readers: dict[type, Callable[[str], Any]] = {
        bool: lambda text: {"true": True, "false": False}[text.lower()],
        int: int,
        float: float,
        str: str,
    }
    try:
        return readers[kind](text.strip())
    except (KeyError, ValueError):
        accepts = config_lib.KEYS[key].accepts
        got = config_lib.brief(text)
        raise ConfigError(f"--grid {key}: {got} must be {kind.__name__}, {accepts}") from None


def expand(config: Any, grid: Mapping[str, Sequence[Any]], seeds: int = 1) -> list[Setting]:
    """The product of the grid's values, each a validated configuration for each of `seeds` seeds.

    Raises:
      ConfigError: naming the key at fault, what it got and what it accepts.
    """
    if "seed" in grid:
        raise ConfigError("seed is no key of a grid; --seeds=N takes N of them from config.seed on")
    typed: dict[str, list[Any]] = {}
    for key, values in grid.items():
        config_lib.check_name(key)
        to_float = type(config_lib.KEYS[key].default) is float
        typed[key] = [float(v) if to_float and type(v) is int else v for v in values]
        if not typed[key] or len(set(typed[key])) < len(typed[key]):
            raise ConfigError(f"the grid's {key} has the values {list(values)}; each once, and one")
    number = seeds * math.prod(map(len, typed.values()))
    if number > _MOST_RUNS:
        raise ConfigError(
            f"the grid's values and --seeds={seeds} make {number} runs; {_MOST_RUNS} are possible. "
            "Give fewer"
        )
    settings = []
    for values in itertools.product(*typed.values()):
        changes = dict(zip(typed, values, strict=True))
        configs = [
            with_overrides(config, changes | {"seed": config.seed + index})
            for index in range(seeds)
        ]
        for each in configs:
            config_lib.validate(each)
            if not each.data.validation:
                raise ConfigError(
                    "config.data.validation = 0, but settings are ranked by validation accuracy; "
                    "set it to a number of training examples to hold out, such as a tenth of them"
                )
        settings.append(Setting(changes, configs))
        name = os.path.dirname(settings[-1].directories("")[0])
        if len(name) > _LONGEST_NAME:
            raise ConfigError(
                f"the grid's {len(typed)} keys make the name of a directory of {len(name)} "
                f"characters, {name[:60]}…; {_LONGEST_NAME} are possible. Give fewer keys"
            )
    return settings


def run(
    config: Any,
    workdir: str | os.PathLike[str],
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 1,
    most: int = 0,
    command: Sequence[str] = ("--config=FILE",),
    report: Callable[[Mapping[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Trains every setting of a grid with every seed, or continues; returns what sweep.json says.

    Each run has a directory of its own under `workdir`, which is what `loop.train_and_evaluate`
    would have made of it. Runs that are finished are not repeated; a run that diverged is marked
    by a file diverged.json there, and stays as it is until that file is deleted. Also written, and
    brought up to date whenever runs are finished: sweep.json and sweep.md, the ranking.

    Args:
      config: what is common to all settings; `data.validation` must be above 0.
      workdir: the directory of the sweep.
      grid: values of dotted configuration keys, such as {"optimizer.beta": [0, 1, 10]}.
      seeds: seeds of each setting, from `config.seed` on.
      most: most runs that train together; 0 for as many as pay and as memory allows.
      command: arguments of `lconv_jax.main` that give `config`, for the command in the result.
      report: is called with what sweep.json says, whenever runs are finished.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      loop.Stopped: after a signal to stop, once all states are saved.
    """
    workdir = places.folder(workdir, "--workdir")
    settings = expand(config, grid, seeds)
    configs = [each for setting in settings for each in setting.configs]
    directories = [each for setting in settings for each in setting.directories(workdir)]
    experiments = lanes.prepare_together(configs)
    for experiment in experiments:
        if data.is_streamed(experiment.dataset.train):
            raise ConfigError(
                f"config.data.stream = {experiment.config.data.stream!r}: settings that train "
                f"together share a set on the device, and {experiment.dataset.name} would be "
                "streamed there; set it to never, if the device has room for it"
            )
    digests: dict[int, str] = {}
    runs = list(itertools.starmap(lanes.Run, zip(experiments, directories, strict=True)))
    for each in runs:
        dataset = each.experiment.dataset
        if id(dataset) not in digests:
            digests[id(dataset)] = data.digest(dataset)
        check_workdir(each.directory, each.experiment.config, digests[id(dataset)])
    groups: dict[Any, list[lanes.Run]] = {}
    for each in runs:
        groups.setdefault(lanes.program_key(each.experiment.config), []).append(each)

    def write() -> dict[str, Any]:
        result = collect(settings, workdir, command)
        os.makedirs(workdir, exist_ok=True)
        write_atomically(os.path.join(workdir, SWEEP_JSON), json.dumps(result, indent=1) + "\n")
        write_atomically(os.path.join(workdir, SWEEP_TABLE), markdown(result))
        report(result)
        return result

    with loop.deferred_signals() as signals:
        for group in groups.values():
            for last in _train_group(group, most):
                write()
                # One that came as these were finished stopped nothing.
                if signals and not all(map(lanes.is_over, runs)):
                    raise loop.Stopped(signals[0], last)
    return write()


def _train_group(runs: Sequence[lanes.Run], most: int) -> Iterator[int]:
    """Trains runs of one program, as many together as may be.

    Yields their last step whenever some are finished.
    """
    total = runs[0].experiment.plan.total_steps
    if all(map(lanes.is_over, runs)):
        return
    if runs[0].experiment.config.train.shrink != "none":
        # Networks that grow smaller each in their own way have no shape in common.
        for each in runs:
            if not lanes.is_over(each):
                try:
                    loop.train_and_evaluate(each.experiment.config, each.directory)
                except loop.TrainingError as error:
                    lanes.mark_diverged(each.directory, error)
                yield total
        return
    whole = lanes.undivided(runs[0].experiment.config)
    programs: dict[int, Any] = {}

    def program(size: int) -> Any:
        if size not in programs:
            experiments = [each.experiment for each in runs[:size]]
            programs[size] = lanes.compile_together(experiments, whole)
        return programs[size]

    size = min(most or lanes.worthwhile(runs[0].experiment), len(runs))
    while not most and size > 1:
        needed, available = lanes.bytes_needed(program(size)), lanes.bytes_available()
        if needed <= available:
            break
        size = max(1, min(size - 1, int(size * available / needed)))
    # Chunks are those of the whole grid, whatever is over already: a sweep that is continued
    # calls the same programs, and ends with the same bits.
    count = math.ceil(len(runs) / size)
    for index in range(count):
        chunk = runs[index * len(runs) // count : (index + 1) * len(runs) // count]
        if not all(map(lanes.is_over, chunk)):
            lanes.train_together(chunk, whole, program(len(chunk)))
            yield total


def collect(
    settings: Sequence[Setting], workdir: str, command: Sequence[str] = ("--config=FILE",)
) -> dict[str, Any]:
    """The ranking of the settings by what their run directories say.

    Settings with a run that diverged or is not finished come after all others.
    """
    ranked: list[dict[str, Any]] = []
    for setting in settings:
        runs: list[dict[str, Any]] = []
        for config, directory in zip(setting.configs, setting.directories(workdir), strict=True):
            measured = [
                name
                for name in COLUMNS.values()
                if name != "eval/accuracy" or config.log.test != "never"
            ]
            summary = read_summary(directory, measured)
            found: dict[str, Any] = {
                "seed": config.seed,
                "directory": os.path.relpath(directory, workdir),
            }
            if summary is not None:
                found |= {name: summary["metrics"][name] for name in measured}
            elif (message := lanes.read_diverged(directory)) is not None:
                found["diverged"] = message
            runs.append(found)
        over_seeds = {}
        for name in COLUMNS.values():
            values = [run[name] for run in runs if name in run]
            over_seeds[name] = {
                "mean": statistics.fmean(values) if values else None,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
            }
        ranked.append({"changes": setting.changes, **over_seeds, "runs": runs})
    by = COLUMNS["validation accuracy"]

    def rank(setting: dict[str, Any]) -> tuple[bool, float]:
        whole = all(by in run for run in setting["runs"])
        return not whole, -(setting[by]["mean"] or 0.0)

    ranked.sort(key=rank)
    first = ranked[0]
    best = None
    if not rank(first)[0]:
        changes = [f"--config.{key}={shown(value)}" for key, value in first["changes"].items()]
        alone = ["python", "-m", "lconv_jax.main", *command, *changes]
        best = {
            "changes": first["changes"],
            "command": shlex.join([*alone, f"--workdir={os.path.join(workdir, 'best')}"]),
        }
    return {"ranked by": by, "settings": ranked, "best": best}


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The ranking as text, with a row of headings first."""
    keys = list(result["settings"][0]["changes"])
    short = [key.partition(".")[2] for key in keys]
    lines = [["", *(short if len(set(short)) == len(keys) else keys), *COLUMNS, "runs"]]
    for place, setting in enumerate(result["settings"], 1):
        runs = setting["runs"]
        diverged = sum("diverged" in run for run in runs)
        finished = sum(result["ranked by"] in run for run in runs)
        counts = [f"{finished} of {len(runs)}" if finished < len(runs) else str(finished)]
        counts += [f"{diverged} diverged"] if diverged else []
        lines.append(
            [
                str(place),
                *(shown(setting["changes"][key]) for key in keys),
                *(_spread(**setting[name]) for name in COLUMNS.values()),
                ", ".join(counts),
            ]
        )
    return lines


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.2%}" if sd is None else f"{mean:.2%} ± {sd:.2%}"


def markdown(result: Mapping[str, Any]) -> str:
    """The ranking as a Markdown table, with the best setting's command."""
    head, *body = rows(result)
    text = tables.markdown(head, body) + "\n"
    return text + (f"\n    {result['best']['command']}\n" if result["best"] else "")


def define_flags() -> None:
    main_lib.define_flags()
    flags.DEFINE_multi_string(
        "grid", [], "KEY=VALUE,VALUE,… of a configuration key; given again, the product of all."
    )
    flags.DEFINE_integer("seeds", 1, "Seeds of each setting, from config.seed on.", 1)
    flags.DEFINE_integer(
        "together", 0, "Most runs that train together; 0: as many as pay and as memory allows.", 0
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    for name in main_lib.PROCESS_FLAGS:
        if given[name].present:
            raise ConfigError(
                f"--{name}: a sweep is one process, on all its devices; for several processes "
                "train single settings with lconv_jax.main"
            )
    flag = given["config"]
    command = [f"--config={config_flags.get_config_filename(flag)}"]
    command += [
        f"--config.{key}={shown(value)}"
        for key, value in config_flags.get_override_values(flag).items()
    ]
    with loop.errors_in_a_line():
        places.folder(given.workdir, "--workdir")
        distributed.initialize()
        cache.enable(given.compilation_cache)
        result = run(
            given.config,
            given.workdir,
            parse_grid(given.grid),
            seeds=given.seeds,
            most=given.together,
            command=command,
        )
    head, *body = rows(result)
    grid = rich_table.Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for line in body:
        grid.add_row(*line)
    # A file has no width to fit.
    commands.show(grid, width=200)
    if result["best"] is None:
        sys.exit(
            "error: no setting finished with all seeds; see diverged.json in their directories"
        )
    commands.say(f"the best alone: {result['best']['command']}")


if __name__ == "__main__":
    commands.launch(main, define_flags)
