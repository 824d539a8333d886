"""What all benchmarks share: taking turns, ratios of turns, the machine's name, table and JSON.

Times drift with the machine's load and clock, so a benchmark compares programs that take turns in
one process, and reports medians of ratios within a turn. Bare times are printed to give an idea.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import rich.box
import rich.console
import rich.table

FOLDER = pathlib.Path(__file__).parent
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Times(NamedTuple):
    """Seconds of each program, by name, one for each turn."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median over the turns."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, *others: str) -> float:
        """The median over the turns of `name`'s time by the sum of the others' in that turn."""
        below = zip(*(self.seconds[other] for other in others), strict=True)
        pairs = zip(self.seconds[name], below, strict=True)
        return statistics.median(above / sum(rest) for above, rest in pairs)


def interleave(
    programs: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warmup: int = 1,
    clock: str = "wall",
) -> Times:
    """Runs each program once a turn, for `rounds` turns after `warmup` that do not count.

    What a program returns is waited for if JAX made it. Each turn starts with another program, so
    that none always follows the same one. The clock is one of CLOCKS.
    """
    names, now = list(programs), CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begun = now()
            jax.block_until_ready(programs[name]())
            if turn >= warmup:
                seconds[name].append(now() - begun)
    return Times(seconds)


def hardware() -> str:
    """The accelerator, or the processor and the number of cores this process may use."""
    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{cores()} cores of an {names[0] if names else platform.processor() or 'unnamed CPU'}"


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(*packages: str) -> dict[str, str]:
    """The hardware and the versions that a result depends on; `packages` beside the usual ones."""
    versions = {name: metadata.version(name) for name in (*_PACKAGES, *packages)}
    return {"hardware": hardware(), "python": platform.python_version(), **versions}


def parse(
    doc: str | None,
    argv: Sequence[str] | None,
    *,
    name: str,
    rounds: int | None = None,
    models: Iterable[str] = (),
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """The flags that benchmarks have: --toy, --json, --rounds and --clock, --models.

    Args:
      doc: the benchmark's docstring, shown by --help.
      argv: the arguments, or None for those of the process.
      name: the benchmark's; --json without a path means `benchmarks/<name>.json`.
      rounds: turns unless --rounds says otherwise; with --toy, two. None: nothing takes turns.
      models: the names that --models accepts, and takes all of by default.
      add: adds the benchmark's own flags.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"benchmarks.{name}", description=doc, formatter_class=form)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, help=f"turns of each program (default {rounds})")
        parser.add_argument(
            "--clock",
            choices=CLOCKS,
            default="wall",
            help="cpu: this process's processor time, for a machine that is busy with other work; "
            "keep to one core (taskset -c 0), as threads that wait are counted too",
        )
    parser.add_argument("--toy", action="store_true", help="sizes of no interest, in seconds")
    default = FOLDER / f"{name}.json"
    parser.add_argument(
        "--json",
        nargs="?",
        type=pathlib.Path,
        const=default,
        help=f"write the result as JSON (without a path: benchmarks/{default.name})",
    )
    known = tuple(models)
    if known:
        parser.add_argument("--models", default=",".join(known), help="comma-separated names")
    add(parser)
    args = parser.parse_args(argv)
    if rounds is not None:
        if args.rounds is None:
            args.rounds = 2 if args.toy else rounds
        if args.rounds < 1:
            parser.error(f"--rounds={args.rounds} must be 1 or more")
    if known:
        args.models = tuple(args.models.split(","))
        unknown = [model for model in args.models if model not in known]
        if unknown:
            parser.error(f"--models has {unknown[0]!r}; accepted are {', '.join(known)}")
    return args


def show(title: str, rows: Mapping[str, Mapping[str, Any]], about: Mapping[str, str]) -> None:
    """Prints `rows`, mappings from column to value by the row's name, as one table.

    A row may lack columns: they stay empty. Below stand the hardware and the versions.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.MARKDOWN)
    table.add_column("")
    for column in columns:
        numbers = any(isinstance(row.get(column), int | float) for row in rows.values())
        table.add_column(column, justify="right" if numbers else "left")
    for name, row in rows.items():
        table.add_row(name, *(cell(row.get(column, "")) for column in columns))
    # Not the terminal's width: a table that is cut is of no use.
    console = rich.console.Console(width=240, highlight=False)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))


def cell(value: Any) -> str:
    """A value as a table shows it: numbers to three digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def result_of(args: argparse.Namespace, rows: Mapping[str, Any], *packages: str) -> dict[str, Any]:
    """What --json writes: the machine, how it was measured, and the rows."""
    how = {key: getattr(args, key) for key in ("rounds", "clock", "toy") if key in args}
    return {"machine": machine(*packages), **how, "models": dict(rows)}


def write_json(path: pathlib.Path | None, result: Mapping[str, Any]) -> None:
    """Writes the result, unless there is no path."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
