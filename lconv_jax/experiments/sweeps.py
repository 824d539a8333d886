"""Sweeps: every setting of a grid trained with every seed, and ranked by validation accuracy.

Settings that differ only in numbers train together, in one vmapped program.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import statistics
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lconv_jax import config as config_lib
from lconv_jax import data, tables
from lconv_jax.config import with_overrides
from lconv_jax.errors import ConfigError, Stopped, TrainingError
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.host.signals import deferred_signals
from lconv_jax.rundir.directory import check_workdir, read_summary
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
            raise ConfigError(
                f"the grid's {key} has the values {list(values)}; give at least one value, and "
                "every value once"
            )
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
      Stopped: after a signal to stop, once all states are saved.
    """
    workdir = places.folder(workdir, "--workdir")
    settings = expand(config, grid, seeds)
    configs = [each for setting in settings for each in setting.configs]
    directories = [each for setting in settings for each in setting.directories(workdir)]
    setups = lanes.prepare_together(configs)
    for setup in setups:
        if data.is_streamed(setup.dataset.train):
            raise ConfigError(
                f"config.data.stream = {setup.config.data.stream!r}: settings that train "
                f"together share a set on the device, and {setup.dataset.name} would be "
                "streamed there; set it to never, if the device has room for it"
            )
    digests: dict[int, str] = {}
    runs = list(itertools.starmap(lanes.Run, zip(setups, directories, strict=True)))
    for each in runs:
        dataset = each.setup.dataset
        if id(dataset) not in digests:
            digests[id(dataset)] = data.digest(dataset)
        check_workdir(each.directory, each.setup.config, digests[id(dataset)])
    groups: dict[Any, list[lanes.Run]] = {}
    for each in runs:
        groups.setdefault(lanes.program_key(each.setup.config), []).append(each)

    def write() -> dict[str, Any]:
        result = collect(settings, workdir, command)
        os.makedirs(workdir, exist_ok=True)
        write_atomically(os.path.join(workdir, SWEEP_JSON), json.dumps(result, indent=1) + "\n")
        write_atomically(os.path.join(workdir, SWEEP_TABLE), markdown(result))
        report(result)
        return result

    with deferred_signals() as signals:
        for group in groups.values():
            for last in _train_group(group, most):
                write()
                # One that came as these were finished stopped nothing.
                if signals and not all(map(lanes.is_over, runs)):
                    raise Stopped(signals[0], last)
    return write()


def _train_group(runs: Sequence[lanes.Run], most: int) -> Iterator[int]:
    """Trains runs of one program, as many together as may be.

    Yields their last step whenever some are finished.
    """
    total = runs[0].setup.plan.total_steps
    if all(map(lanes.is_over, runs)):
        return
    if runs[0].setup.config.train.shrink != "none":
        # Networks that grow smaller each in their own way have no shape in common.
        for each in runs:
            if not lanes.is_over(each):
                try:
                    loop.train_and_evaluate(each.setup.config, each.directory)
                except TrainingError as error:
                    lanes.mark_diverged(each.directory, error)
                yield total
        return
    whole = lanes.load_whole(runs[0].setup.config)
    programs: dict[int, Any] = {}

    def program(size: int) -> Any:
        if size not in programs:
            experiments = [each.setup for each in runs[:size]]
            programs[size] = lanes.compile_together(experiments, whole)
        return programs[size]

    size = min(most or lanes.most_together(runs[0].setup), len(runs))
    while not most and size > 1:
        needed, available = lanes.bytes_needed(program(size)), lanes.bytes_available()
        if needed <= available:
            break
        size = max(1, min(size - 1, int(size * available / needed)))
    # The whole grid is divided into chunks, including finished runs: so a continued sweep calls
    # the same programs, and ends with the same bits.
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
