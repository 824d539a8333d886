"""The host's loop of a run, or of several: call the compiled steps, write, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging

from lconv_jax import config as config_lib
from lconv_jax import data, models
from lconv_jax.errors import Stopped, TrainingError
from lconv_jax.host import cache
from lconv_jax.host.signals import deferred_signals
from lconv_jax.parallel import distributed
from lconv_jax.rundir import facts, metrics
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, open_workdir, read_summary, write_summary
from lconv_jax.rundir.session import Session, open_session
from lconv_jax.terminal.progress import make_progress
from lconv_jax.training import exporting, record
from lconv_jax.training.lone import Lone
from lconv_jax.training.setup import Setup, prepare, prepare_given
from lconv_jax.training.state import TrainState

# One call of the compiled steps is bounded to about this, so that a signal is answered in time.
SECONDS_PER_CALL = 10.0


def train_and_evaluate(
    config: Any, workdir: str | os.PathLike[str], dataset: data.Dataset | None = None
) -> dict[str, Any]:
    """Runs the experiment `config` in `workdir`, or continues it, and returns its summary.

    Writes config.json, metrics.jsonl, TensorBoard events, checkpoints/<step>/, filters.png and
    summary.json. A run that was stopped or killed and is called again ends with the same bits.
    With several processes (see `distributed`) all call this; the first one writes, and `workdir`
    is on a file system that all see, for the checkpoints.

    Args:
      config: as `config.base_config` makes it.
      workdir: the run directory; it is made if need be.
      dataset: data that a program made (see `data.from_arrays`), in the place of those that
        config.data.name names. The run directory says so, by the name "given". The run is
        continued with the same data only, given again; their digests are compared.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      TrainingError: if the loss or a weight is no longer finite; the last checkpoint is kept.
      Stopped: after a signal to stop (`host.signals.STOPPING`), once the state is saved.
    """
    started = time.monotonic()
    setup = distributed.together(
        lambda: prepare(config) if dataset is None else prepare_given(config, dataset)
    )
    config = setup.config
    digest = data.digest(setup.dataset)
    # Where the data are may differ from host to host.
    same = {k: v for k, v in config_lib.flatten(config) if k != "data.data_dir"}
    distributed.check_same("configuration or data", f"{sorted(same.items())} {digest}")
    with contextlib.ExitStack() as stack:
        compiling = stack.enter_context(cache.CompileClock())
        directory = distributed.together(
            lambda: stack.enter_context(_claim(workdir, config, digest))
        )
        shared = distributed.from_first(directory)
        signals = stack.enter_context(deferred_signals())
        summary = distributed.together(lambda: read_summary(directory))
        summary = json.loads(distributed.from_first(json.dumps(summary)))
        total = setup.plan.total_steps
        if summary is not None:  # finished: nothing is changed
            if total not in Checkpoints(os.path.join(shared, CHECKPOINTS)).steps():
                logging.warning("%s is finished, but its last checkpoint is gone", shared)
            return summary
        program = stack.enter_context(Lone(setup))
        run = open_run(stack, setup, directory, program.stored_shapes, started, shared=shared)
        logging.info("%s; step %d of %d", directory, run.session.step, total)
        train([run], program, signals)
        summary = run.summarise(program.take(0))
        summary["time/compile_seconds"] = compiling.seconds
        return write_summary(directory, summary)


def _claim(
    workdir: str | os.PathLike[str], config: Any, digest: str
) -> contextlib.AbstractContextManager[str]:
    """The run directory, for the process that writes it; for others one that goes away again."""
    if distributed.is_first():
        return open_workdir(workdir, config, digest)
    return tempfile.TemporaryDirectory()


@dataclasses.dataclass
class Run:
    """A run at work.

    Attributes:
      setup: what it is made of.
      session: its directory, metrics and checkpoints.
      started: when it began, on the monotonic clock, less what earlier sessions spent.
      index: its place among the runs that train together.
      joins: the step at which it joins the others; infinite once the run is over.
      state: the state that it joins with; None for the initial state, and once it has joined.
    """

    setup: Setup
    session: Session
    started: float
    index: int = 0
    joins: float = math.inf
    state: TrainState | None = None

    def summarise(self, state: TrainState) -> dict[str, Any]:
        """The contents of summary.json, once the run is finished; also draws filters.png."""
        return record.summarise(self.setup, state, self.session, self.started)


def open_run(
    stack: contextlib.ExitStack,
    setup: Setup,
    directory: str,
    shapes: TrainState,
    started: float,
    *,
    shared: str | None = None,
    index: int = 0,
) -> Run:
    """A run that goes on from its newest checkpoint, or begins.

    Args:
      stack: is left when the run is no longer at work.
      setup: of the run.
      directory: where this process writes, claimed already.
      shapes: of a checkpoint.
      started: now, on the monotonic clock.
      shared: the directory of the checkpoints, where it is another one.
      index: the run's place among those that train together.

    Raises:
      CheckpointError: see `open_session`.
    """
    keep, total = setup.config.checkpoint.keep, setup.plan.total_steps
    session, state = stack.enter_context(open_session(directory, keep, shapes, total, shared))
    record.write_data(setup, directory)
    started -= session.writer.last.get("time/seconds", 0.0)
    return Run(setup, session, started, index, session.step, state)


class Program(Protocol):
    """A compiled program that trains runs on the devices. Runs are named by their index."""

    def put(self, index: int, state: TrainState | None) -> None:
        """Lets a run join, with a stored state, or with its initial one."""

    def most(self, step: int) -> int:
        """The most steps that `advance` may take next, from this step on; asked before it."""

    def advance(self, step: int, count: int) -> Sequence[Mapping[str, Any]]:
        """Takes steps; returns each run's metrics, as `steps.make_train_steps` gives them."""

    def take(self, index: int) -> TrainState:
        """A run's state, as it is stored."""

    def evaluate(self, index: int, split: str, step: int) -> dict[str, Any] | None:
        """The result of `evaluation.make_evaluate` for a run on a split; None if it is empty."""

    def shrink(self) -> dict[str, int]:
        """Removes dead units; returns metrics with the remaining units if any were removed."""


def train(
    runs: Sequence[Run],
    program: Program,
    signals: Sequence[int],
    on_divergence: Callable[[Run, TrainingError], None] | None = None,
) -> None:
    """Brings runs to their end; writes, evaluates and saves as it goes.

    The results of a run do not depend on the progress of the others. A run that joins later takes
    part in the computation before it joins, and its results until then are ignored.

    Args:
      runs: of one program and one number of steps.
      program: takes their steps.
      signals: signals to stop, as they come in.
      on_divergence: is told of a run that cannot go on; the others go on without it. None: the
        error is raised.

    Raises:
      TrainingError: see `on_divergence`.
      Stopped: after a signal to stop, once the states are saved.
    """
    config, plan = runs[0].setup.config, runs[0].setup.plan
    per_epoch, total = plan.steps_per_epoch, plan.total_steps
    step, limit = 0, 1
    with make_progress(_title(runs), total, per_epoch) as show:
        while waiting := [run for run in runs if run.joins < math.inf]:
            # If all active runs have diverged, continue from the step of the next waiting run.
            step = max(step, int(min(run.joins for run in waiting)))
            for run in waiting:
                if run.joins == step:
                    program.put(run.index, run.state)
                    run.state = None
            active = [run for run in waiting if run.joins <= step]
            if step == total:
                return
            joining = (int(run.joins) - step for run in waiting if run.joins > step)
            begun = time.monotonic()
            count = min(per_epoch - step % per_epoch, limit, program.most(step), *joining)
            rows = program.advance(step, count)
            seconds = time.monotonic() - begun

            shown = []
            for run in active:
                try:
                    shown.append(_look(run, program, rows[run.index], step, count, seconds))
                except TrainingError as error:
                    if on_divergence is None:
                        raise
                    run.joins = math.inf
                    on_divergence(run, error)
            step += count
            active = [run for run in active if run.joins < math.inf]
            if shown:
                show(step, _means(shown), _is_due(step, plan, config.log.eval_every_epochs))
            if step < total and step % per_epoch == 0 and (units := program.shrink()):
                for run in active:
                    run.session.writer.write(step, units)
                logging.info("step %d: goes on with %s", step, units)
            # All processes stop where one is told to, and take calls of one length.
            signum, slowest = distributed.highest(signals[0] if signals else 0, seconds)
            limit = max(1, int(SECONDS_PER_CALL * count / slowest))
            if signum or _is_due(step, plan, config.checkpoint.every_epochs):
                for run in active:
                    run.session.save(step, program.take(run.index))
            if signum and step < total:
                raise Stopped(int(signum), step)


def _title(runs: Sequence[Run]) -> str:
    """The network, the optimizer, the data and the length of the training, in a line."""
    setup, several = runs[0].setup, f"{len(runs)} runs of " if len(runs) > 1 else ""
    model, dataset, plan = setup.config.model, setup.dataset, setup.plan
    weights = sum(kernel.size for kernel in models.kernels(setup.state_shapes.params).values())
    at = min(run.joins for run in runs)
    device = jax.devices()[0].device_kind
    return (
        f"{several}{model.name}, α = {model.alpha}, {weights:,} weights, by "
        f"{setup.config.optimizer.name} on {dataset.name}: {len(dataset.train.labels):,} examples, "
        f"{dataset.num_classes} classes; {setup.config.train.epochs} epochs of "
        f"{plan.steps_per_epoch:,} steps on {setup.mesh.size} × {device}"
        + (f", from step {at:,}" if at else "")
    )


def _is_due(step: int, plan: Any, every_epochs: int) -> bool:
    """Whether something that is done every n-th epoch, and at the end, is due; never for 0."""
    at_end = step == plan.total_steps
    return every_epochs > 0 and (at_end or step % (plan.steps_per_epoch * every_epochs) == 0)


def _look(
    run: Run, program: Program, rows: Mapping[str, Any], step: int, count: int, seconds: float
) -> dict[str, Any]:
    """Writes the metrics of the `count` steps after `step`; evaluates and saves if it is time.

    Returns:
      The newest value of each metric.

    Raises:
      TrainingError: if a loss or the state is not finite.
    """
    setup, writer, log = run.setup, run.session.writer, run.setup.config.log
    last = record.write_steps(setup, dict(rows), step, count, run.session)
    step += count
    result: dict[str, Any] = {}
    if _is_due(step, setup.plan, log.eval_every_epochs):
        result |= _evaluate(run, program, step)
        result["time/examples_per_second"] = count * setup.config.train.batch_size / seconds
        result["time/seconds"] = time.monotonic() - run.started
        record.write_weights(setup, program.take(run.index), writer, step)
    if _is_due(step, setup.plan, log.describe_every_epochs):
        result |= exporting.describe(setup, program.take(run.index))
    if result:
        writer.write(step, result)
        writer.write_board(step, result)
    writer.push()
    return writer.last | last


def _due_splits(log: Any, finished: bool) -> tuple[str, ...]:
    """The splits that an evaluation is of: validation, and test as far as `log.test` allows."""
    test = log.test == "always" or (log.test == "end" and finished)
    return ("test", "validation") if test else ("validation",)


def _evaluate(run: Run, program: Program, step: int) -> dict[str, float]:
    """The metrics of the splits that are due: of "test" under "eval/". At the end also confusions.

    Raises:
      TrainingError: if a loss is not finite.
      OSError: confusion.json cannot be written.
    """
    finished = step == run.setup.plan.total_steps
    result: dict[str, float] = {}
    confusion: dict[str, Any] = {}
    for split in _due_splits(run.setup.config.log, finished):
        found = program.evaluate(run.index, split, step)
        if found is None:
            continue
        if not np.isfinite(found["loss"]):
            raise TrainingError(
                f"the loss on the {split} set is not finite at step {step}; the state is not "
                f"saved, the checkpoint before it is kept. {record.DIVERGED}"
            )
        name, confusion[split] = metrics.PREFIXES[split], found["confusion"]
        result |= {f"{name}/{what}": found[what] for what in ("loss", "accuracy")}
    if finished and confusion:
        facts.write_confusion(run.session.directory, step, confusion)
    return result


def _means(lasts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over the runs of each metric that all of them have."""
    names = set.intersection(*(set(last) for last in lasts))
    return {name: float(np.mean([last[name] for last in lasts])) for name in names}
