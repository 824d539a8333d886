"""Trains many settings at once: `python -m lconv_jax.sweep --config=FILE --grid KEY=V1,V2 …`.

Settings that share shapes train together, in one program that is mapped over them. Each has a run
directory as `lconv_jax.main` makes it, and they are ranked by validation accuracy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from numpy.typing import NDArray
from rich import console, table

from lconv_jax import config as config_lib
from lconv_jax import data, metrics, steps, train
from lconv_jax.checkpoint import Checkpoints
from lconv_jax.data.dataset import Source, random_per_class
from lconv_jax.main import parse_flags
from lconv_jax.workdir import CHECKPOINTS, open_workdir, read_summary, write_summary

SWEEP_FILE = "sweep.json"
# Keys that one program serves all values of; settings that differ in others train in turn.
_TRACED = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.l1.conv",
    "optimizer.l1.fc",
    "optimizer.beta",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.reference_lr_sum",
)
# Share of the memory that a program may take.
_MEMORY_SHARE = 0.7
# Columns of the printed ranking where there is no terminal, or a narrow one.
_WIDTH = 110


class Run(NamedTuple):
    """One setting and seed."""

    name: str  # of its run directory
    setting: dict[str, Any]  # the grid's keys and its values
    experiment: train.Experiment
    subset: NDArray[np.int32]  # the rows of all training examples that it trains on


class _Open(NamedTuple):
    """A run at work: its directory is locked, its files are open."""

    run: Run
    directory: str
    checkpoints: Checkpoints
    step: int
    state: Any  # of the last checkpoint, or None


def parse_grid(items: Sequence[str]) -> dict[str, list[Any]]:
    """{"optimizer.beta": [0.0, 10.0]} from ["optimizer.beta=0,10"]; values have the key's type.

    Raises:
      ConfigError: a key that is none, is given twice, or has a value of another type; the seed.
    """
    grid: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not text:
            raise config_lib.ConfigError(f"--grid {item}: give KEY=VALUE,VALUE,…")
        if key not in config_lib.KEYS:
            config_lib.validate({key: None})  # names the nearest key
        if key == "seed":
            raise config_lib.ConfigError("--grid seed=…: give --seeds, the number of seeds")
        if key in grid:
            raise config_lib.ConfigError(f"--grid {key}: given twice; list all values once")
        kind = type(config_lib.KEYS[key].default)
        try:
            grid[key] = [_value(kind, value) for value in text.split(",")]
        except ValueError:
            raise config_lib.ConfigError(
                f"--grid {item}: config.{key} must be {kind.__name__}, "
                f"{config_lib.KEYS[key].accepts}"
            ) from None
        if len(set(grid[key])) < len(grid[key]):
            raise config_lib.ConfigError(f"--grid {item}: a value is listed twice")
    return grid


def _value(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)


def make_runs(config: Any, grid: Mapping[str, Sequence[Any]], seeds: int) -> list[Run]:
    """Every setting of the grid with every seed, checked; nothing is compiled or written.

    Seeds count from the configuration's own.

    Raises:
      ConfigError, DataError: for the first setting that cannot be run; without a validation split.
    """
    if not config.data.validation:
        raise config_lib.ConfigError(
            "config.data.validation = 0: settings are ranked by validation accuracy; hold out "
            "some of the training examples, --config.data.validation=1000 say"
        )
    if config.train.shrink != "none":
        raise config_lib.ConfigError(
            f"config.train.shrink = {config.train.shrink!r}: settings that train together keep "
            "their shapes; set it to none"
        )
    flat = dict(config_lib.flatten(config))
    runs: list[Run] = []
    pools: dict[tuple[Any, ...], data.Dataset] = {}
    divided: dict[tuple[Any, ...], Any] = {}
    for values in itertools.product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        for seed in range(config.seed, config.seed + seeds):
            changed = config_lib.unflatten(flat | setting | {"seed": seed})
            config_lib.validate(changed)
            of = tuple(changed.data[name] for name in ("name", "data_dir", "examples"))
            if of not in pools:
                pools[of] = _load_pool(changed)
            part = (*of, changed.data.validation, seed)
            if part not in divided:
                divided[part] = _hold_out(pools[of], changed)
            dataset, subset = divided[part]
            name = ",".join(f"{key}={value}" for key, value in (setting | {"seed": seed}).items())
            experiment = train.prepare(changed, dataset)
            runs.append(Run(name.replace(os.sep, "_"), setting, experiment, subset))
    return runs


def _load_pool(config: Any) -> data.Dataset:
    """All training examples of a configuration, none held out, and the test set."""
    group = config.data
    pool = data.load(
        group.name,
        group.data_dir or None,
        examples=group.examples,
        stream=group.stream,
        device_limit_gib=group.device_limit_gib,
    )
    if data.is_streamed(pool.train):
        raise config_lib.ConfigError(
            f"config.data.stream = {group.stream!r}: settings that train together share a set on "
            f"the device, and {pool.name} would be streamed there; set it to never, if the "
            f"{data.nbytes(pool.train, pool.test) / 2**30:.1f} GiB fit"
        )
    return pool


def _hold_out(pool: data.Dataset, config: Any) -> tuple[data.Dataset, NDArray[np.int32]]:
    """The data of a configuration, and which of the pool's rows are its training set."""
    source = Source(pool.name, pool.num_classes, pool.train, pool.test, pool.name, pool.name)
    validation, seed = config.data.validation, config.seed
    dataset = data.divide(source, validation=validation, examples=0, seed=seed)
    each = validation // pool.num_classes
    held_out = random_per_class(pool.train.labels, pool.num_classes, each, seed)
    rows = np.setdiff1d(np.arange(len(pool.train.labels)), held_out)
    return dataset, rows.astype(np.int32)


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that one program can train, in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        flat = dict(config_lib.flatten(run.experiment.config))
        shared = {name: value for name, value in flat.items() if name not in _TRACED}
        numbers = sorted(run.experiment.plan.numbers)
        groups.setdefault(json.dumps([shared, numbers], sort_keys=True), []).append(run)
    return list(groups.values())


def compile_together(runs: Sequence[Run], pool: data.Split) -> Any:
    """The compiled (states, pool, count) -> (states, metrics) of runs of one group.

    States and metrics have a leading axis of the runs; the states are donated.
    """
    experiment = runs[0].experiment
    config, shape = experiment.config, experiment.dataset.image_shape
    numbers = {
        name: jnp.asarray([run.experiment.plan.numbers[name] for run in runs])
        for name in experiment.plan.numbers
    }
    seeds = jnp.asarray([run.experiment.config.seed for run in runs], jnp.uint32)
    subsets = jnp.asarray(np.stack([run.subset for run in runs]))
    orders = None
    if config.data.permute:
        orders = jnp.asarray(
            np.stack([steps.permutation(run.experiment.config.seed, shape) for run in runs])
        )

    def one(numbers: Any, seed: Any, subset: Any, order: Any, state: Any, pool: Any, count: Any):
        schedule, tx = steps.make_optimizer(
            config.optimizer.name, numbers, experiment.plan.total_steps
        )
        take = steps.make_train_steps(
            config,
            experiment.model,
            experiment.plan._replace(schedule=schedule, tx=tx),
            steps.make_arrange(config, shape, order),
            experiment.mesh,
            seed=seed,
            subset=subset,
        )
        return take(state, pool, count)

    axes = (0, 0, 0, None if orders is None else 0, 0, None, None)
    together = jax.vmap(one, in_axes=axes)

    def advance(states: Any, pool: Any, count: Any) -> Any:
        return together(numbers, seeds, subsets, orders, states, pool, count)

    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(runs), *leaf.shape), leaf.dtype),
        experiment.state_shapes,
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.jit(advance, donate_argnums=0).lower(shapes, pool, count).compile()


def _fitting(runs: Sequence[Run], pool: data.Split, most: int) -> tuple[Any, int]:
    """A program for as many of the runs as memory allows, and how many these are."""
    count = min(len(runs), most or len(runs))
    while True:
        program = compile_together(runs[:count], pool)
        sizes = program.memory_analysis()
        needed = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
        allowed = int(_MEMORY_SHARE * _memory())
        if needed <= allowed or count == 1:
            return program, count
        count = max(1, min(count - 1, count * allowed // needed))


def _memory() -> int:
    """Bytes of memory of the device."""
    found = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(found.get("bytes_limit", host))


def sweep(
    config: Any,
    workdir: str | os.PathLike[str],
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 1,
    together: int = 0,
) -> list[dict[str, Any]]:
    """Trains every setting of a grid, and ranks them by validation accuracy.

    A sweep that was stopped or killed goes on from each run's last checkpoint; runs that are
    finished are not repeated. A run whose loss is no longer finite ends there; the others go on.

    Args:
      config: what all settings start from.
      workdir: has a run directory for each setting and seed, and `sweep.json`.
      grid: config keys, and the values of each.
      seeds: how many of each setting.
      together: at most so many runs in one program; 0 is as many as memory allows.

    Returns:
      A row for each setting, best first, as `rank` makes it.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      Stopped: after SIGTERM or SIGINT, once all states are saved.
    """
    runs = make_runs(config, grid, seeds)
    os.makedirs(workdir, exist_ok=True)
    with train.deferred_signals() as signals:
        for group in group_runs(runs):
            _train_group(group, workdir, together, signals)
    rows = rank(runs, workdir)
    record = {"grid": {key: list(values) for key, values in grid.items()}, "settings": rows}
    path = os.path.join(workdir, SWEEP_FILE)
    metrics.write_atomically(path, json.dumps(record, indent=2) + "\n")
    return rows


def _train_group(
    group: list[Run], workdir: str | os.PathLike[str], most: int, signals: list[int]
) -> None:
    """Trains the unfinished runs of a group, those that are equally far together."""
    group = [run for run in group if not _is_finished(os.path.join(workdir, run.name))]
    if not group:
        return
    pool = jax.device_put(_load_pool(group[0].experiment.config).train)
    programs: dict[int, Any] = {}
    while group:
        if len(group) not in programs:
            program, count = _fitting(group, pool, most)
            programs[count] = program
        count = max(size for size in programs if size <= len(group))
        with contextlib.ExitStack() as stack:
            opened = [_open(stack, run, workdir) for run in group[:count]]
            equal = [each for each in opened if each.step == opened[0].step]
            if len(equal) not in programs:
                programs[len(equal)] = compile_together([each.run for each in equal], pool)
            _train_together(equal, programs[len(equal)], pool, signals)
        done = {each.run.name for each in equal}
        group = [run for run in group if run.name not in done]


def _is_finished(directory: str) -> bool:
    return read_summary(directory) is not None


def _open(stack: contextlib.ExitStack, run: Run, workdir: str | os.PathLike[str]) -> _Open:
    experiment = run.experiment
    directory = stack.enter_context(
        open_workdir(
            os.path.join(workdir, run.name), experiment.config, data.digest(experiment.dataset)
        )
    )
    keep = experiment.config.checkpoint.keep
    checkpoints = stack.enter_context(Checkpoints(os.path.join(directory, CHECKPOINTS), keep))
    step, state = checkpoints.restore(experiment.state_shapes) or (0, None)
    return _Open(run, directory, checkpoints, step, state)


def _train_together(
    opened: Sequence[_Open], program: Any, pool: data.Split, signals: list[int]
) -> None:
    """Takes the remaining steps of runs that are equally far, and finishes them."""
    experiment = opened[0].run.experiment
    config, plan, step = experiment.config, experiment.plan, opened[0].step
    started = time.monotonic()
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_start, opened))
    live = dict(enumerate(opened))
    evaluations = _evaluations(opened)
    with contextlib.ExitStack() as stack:
        writers = [metrics.MetricsWriter(each.directory, through_step=step) for each in opened]
        for writer in writers:
            stack.callback(writer.close)
        per_epoch, limit, saved = plan.steps_per_epoch, 1, step
        while step < plan.total_steps and live:
            count = min(per_epoch - step % per_epoch, limit)
            begun = time.monotonic()
            states, on_device = program(states, pool, jnp.int32(count))
            fetched = jax.device_get(on_device)
            seconds = time.monotonic() - begun
            limit = max(1, int(train.SECONDS_PER_CALL * count / seconds))
            step += count
            finished = step == plan.total_steps
            evaluates = finished or step % (per_epoch * config.log.eval_every_epochs) == 0
            saves = finished or signals or step % (per_epoch * config.checkpoint.every_epochs) == 0
            for index, each in list(live.items()):
                run, writer = each.run.experiment, writers[index]
                own = {name: values[index] for name, values in fetched.items()}
                state = jax.tree.map(lambda leaf, index=index: leaf[index], states)
                try:
                    train.write_steps(run, own, step - count, count, saved, writer)
                    if evaluates:
                        splits, seed = _splits(each.run, pool), run.config.seed
                        result = train.evaluate_splits(
                            evaluations[index], state, splits, seed, step
                        )
                        rate = len(opened) * count * config.train.batch_size / seconds
                        result["time/examples_per_second"] = rate
                        result["time/seconds"] = time.monotonic() - started
                        writer.write(step, result)
                        writer.write_board(step, result)
                        train.write_weights(run, state, writer, step)
                except train.TrainingError as error:
                    # A summary says where the run ended, so that it is not tried again.
                    write_summary(each.directory, {"diverged": str(error)})
                    del live[index]
                    continue
                if saves:
                    writer.flush()
                    each.checkpoints.save(step, state)
                if finished:
                    summary = train.summarise(run, state, writer.last, each.directory)
                    write_summary(each.directory, summary | {"trained_together": len(opened)})
            saved = step if saves else saved
            if signals and not finished:
                raise train.Stopped(signals[0], step)


def _start(opened: _Open) -> Any:
    return train.initial_state(opened.run.experiment) if opened.state is None else opened.state


def _splits(run: Run, pool: data.Split) -> dict[str, data.Split]:
    dataset = run.experiment.dataset
    own = jax.tree.map(lambda leaf: leaf[run.subset], pool)
    return {"train": own, "validation": dataset.validation, "test": dataset.test}


def _evaluations(opened: Sequence[_Open]) -> list[Any]:
    """The evaluation of each run; one compiled function serves all, unless pixels are permuted."""
    made: dict[int, Any] = {}
    keys = [run.config.seed if run.config.data.permute else 0 for run in _experiments(opened)]
    for key, experiment in zip(keys, _experiments(opened), strict=True):
        if key not in made:
            made[key] = train.compile_evaluation(experiment)
    return [made[key] for key in keys]


def _experiments(opened: Sequence[_Open]) -> list[train.Experiment]:
    return [each.run.experiment for each in opened]


def rank(runs: Sequence[Run], workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """One row for each setting, best mean validation accuracy first, those that diverged last.

    A row has the setting; "validation", "test" and "density" as {"mean", "sd", "values"} over the
    seeds that finished; the number of "seeds" and how many "diverged"; and "directories".
    """
    by_setting: dict[str, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(json.dumps(run.setting), []).append(run)
    rows = []
    for same in by_setting.values():
        found = [read_summary(os.path.join(workdir, run.name)) or {} for run in same]
        ends = [summary["metrics"] for summary in found if "metrics" in summary]
        row: dict[str, Any] = {"setting": same[0].setting}
        for name, metric in (
            ("validation", "validation/accuracy"),
            ("test", "eval/accuracy"),
            ("density", "sparsity/density"),
        ):
            values = [end[metric] for end in ends]
            spread = statistics.stdev(values) if len(values) > 1 else None
            mean = statistics.mean(values) if values else None
            row[name] = {"mean": mean, "sd": spread, "values": values}
        row["seeds"], row["diverged"] = len(same), len(same) - len(ends)
        row["directories"] = [run.name for run in same]
        rows.append(row)
    return sorted(rows, key=lambda row: (row["diverged"], -(row["validation"]["mean"] or 0)))


def make_table(rows: Sequence[Mapping[str, Any]]) -> table.Table:
    """The ranking, for a terminal."""
    keys = list(rows[0]["setting"])
    names = [*(key.partition(".")[2] or key for key in keys)]
    shown = table.Table(*names, "validation", "test", "density", "seeds")
    for column in shown.columns:
        column.no_wrap = True

    def text(found: Mapping[str, Any]) -> str:
        if found["mean"] is None:
            return "–"
        return f"{found['mean']:.4f}" + (f" ± {found['sd']:.4f}" if found["sd"] else "")

    for row in rows:
        seeds = str(row["seeds"]) + (f", {row['diverged']} diverged" if row["diverged"] else "")
        values = [
            f"{row['setting'][key]:g}"
            if isinstance(row["setting"][key], float)
            else str(row["setting"][key])
            for key in keys
        ]
        shown.add_row(*values, *(text(row[n]) for n in ("validation", "test", "density")), seeds)
    return shown


_GRID = flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE,…; may be given several times.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds of each setting.", 1)
_TOGETHER = flags.DEFINE_integer(
    "together", 0, "Runs in one program at most; 0: as many as memory allows.", 0
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        rows = sweep(
            flags.FLAGS.config,
            flags.FLAGS.workdir,
            parse_grid(_GRID.value),
            seeds=_SEEDS.value,
            together=_TOGETHER.value,
        )
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    terminal = console.Console()
    terminal.width = max(terminal.width, _WIDTH)
    terminal.print(make_table(rows))
    print(f"runs and {SWEEP_FILE}: {flags.FLAGS.workdir}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
