"""The host's part of a run: call the compiled loop, write what came out, save, evaluate."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from numpy.typing import NDArray

from lconv_jax import (
    analysis,
    cache,
    certify,
    commands,
    data,
    distributed,
    errors,
    failures,
    metrics,
    models,
    programs,
    run_facts,
    sharding,
    steps,
    stream,
)
from lconv_jax import config as config_lib
from lconv_jax.checkpoint import Checkpoints
from lconv_jax.progress import make_progress
from lconv_jax.session import Session, open_session
from lconv_jax.state import TrainState
from lconv_jax.workdir import CHECKPOINTS, open_workdir, read_summary, write_summary

# What people, terminals, schedulers and limits send: each ends a process that does not hear it.
STOPPING = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
# One call of the compiled loop is bounded to about this, so that a signal is answered in time.
SECONDS_PER_CALL = 10.0
# Largest levels that a description on the way is tried with; `lconv_jax.describe` tries more.
_DEPTHS = (3, 7, 15)
# Units of the first layer that pictures and histograms are made of.
_SHOWN_UNITS = 4096


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says what was kept and what to do."""


class Stopped(Exception):  # noqa: N818, an order to stop is not an error
    """The run was told to stop, and saved its state first."""

    def __init__(self, signum: int, step: int):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved at step {step}; the same command continues the run")
        self.signum = signum


def train_and_evaluate(config: Any, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs the experiment `config` in `workdir`, or continues it, and returns its summary.

    Writes config.json, metrics.jsonl, TensorBoard events, checkpoints/<step>/, filters.png and
    summary.json. A run that was stopped or killed and is called again ends with the same bits.
    With several processes (see `distributed`) all call this; the first one writes, and `workdir`
    is on a file system that all see, for the checkpoints.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      TrainingError: if the loss or a weight is no longer finite; the last checkpoint is kept.
      Stopped: after a signal to stop (`STOPPING`), once the state is saved.
    """
    started = time.monotonic()
    experiment = distributed.together(lambda: programs.prepare(config))
    config = experiment.config
    digest = data.digest(experiment.dataset)
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
        shapes, total = programs.stored_shapes(experiment), experiment.plan.total_steps
        if summary is not None:  # finished: whatever else is there, nothing is changed
            if total not in Checkpoints(os.path.join(shared, CHECKPOINTS)).steps():
                logging.warning("%s is finished, but its last checkpoint is gone", shared)
            return summary
        session, state = stack.enter_context(
            open_session(directory, config.checkpoint.keep, shapes, total, shared)
        )
        write_data(experiment, directory)
        logging.info("%s; step %d of %d", directory, session.step, total)
        started -= session.writer.last.get("time/seconds", 0.0)
        if state is None:
            state = programs.initial_state(experiment)
        state = _train(experiment, session, state, signals, started)
        summary = summarise(experiment, state, session, started)
        summary["time/compile_seconds"] = compiling.seconds
        return write_summary(directory, summary)


def _claim(
    workdir: str | os.PathLike[str], config: Any, digest: str
) -> contextlib.AbstractContextManager[str]:
    """The run directory, for the process that writes it; for others one that goes away again."""
    if distributed.is_first():
        return open_workdir(workdir, config, digest)
    return tempfile.TemporaryDirectory()


def _train(
    experiment: programs.Experiment,
    session: Session,
    state: TrainState,
    signals: list[int],
    started: float,
) -> TrainState:
    """Takes the remaining steps; writes, evaluates and saves as it goes.

    `started` is when the run began, on the monotonic clock, less what earlier processes spent.
    """
    config, plan, writer, step = experiment.config, experiment.plan, session.writer, session.step
    if step == plan.total_steps:
        return state
    everywhere = sharding.replicated(experiment.mesh)
    splits = {
        name: split if data.is_streamed(split) else distributed.put(split, everywhere)
        for name in ("train", "validation", "test")
        for split in [getattr(experiment.dataset, name)]
    }
    current = experiment
    if state.kept is not None:
        masks = jax.device_get(state.kept)
        current, state = programs.restricted(
            experiment,
            dataclasses.replace(state, kept=None),
            {name: np.flatnonzero(mask) for name, mask in masks.items()},
        )
    run_steps = programs.compile_train_steps(current)
    run_evaluation = programs.compile_evaluation(current)
    expand = programs.make_expand(experiment, current)
    per_epoch, limit = plan.steps_per_epoch, 1
    feeding = stream.training_feed(config, splits["train"], plan.total_steps, experiment.mesh, step)
    with make_progress(plan.total_steps, per_epoch) as show, feeding as feed:
        while step < plan.total_steps:
            begun = time.monotonic()
            batches, most = feed(step)
            count = min(per_epoch - step % per_epoch, limit, most)
            state, on_device = run_steps(state, batches, np.int32(count))
            fetched = jax.device_get(on_device)
            seconds = time.monotonic() - begun

            last = write_steps(experiment, fetched, step, count, session)
            step += count

            finished = step == plan.total_steps
            if finished or step % (per_epoch * config.log.eval_every_epochs) == 0:
                due = due_splits(config, finished)
                result = evaluate_splits(
                    *(run_evaluation, state, splits, due, config.seed, step),
                    directory=session.directory if finished else None,
                )
                result["time/examples_per_second"] = count * config.train.batch_size / seconds
                result["time/seconds"] = time.monotonic() - started
                writer.write(step, result)
                writer.write_board(step, result)
                write_weights(experiment, expand(state), writer, step)
            every = per_epoch * config.log.describe_every_epochs
            if every and (finished or step % every == 0):
                result = describe(experiment, expand(state))
                writer.write(step, result)
                writer.write_board(step, result)
            show(step, writer.last | last)
            kept = None
            if not finished and step % per_epoch == 0:
                kept = programs.smaller(current, state, splits["train"])
            if kept is not None:
                current, state = programs.restricted(current, state, kept)
                run_steps = programs.compile_train_steps(current)
                run_evaluation = programs.compile_evaluation(current)
                expand = programs.make_expand(experiment, current)
                units = {f"units/{name}": len(index) for name, index in kept.items()}
                writer.write(step, units)
                logging.info("step %d: goes on with %s", step, units)
            # All processes stop where one is told to, and take calls of one length.
            signum, slowest = distributed.highest(signals[0] if signals else 0, seconds)
            limit = max(1, int(SECONDS_PER_CALL * count / slowest))
            if finished or signum or step % (per_epoch * config.checkpoint.every_epochs) == 0:
                session.save(step, expand(state))
            if signum and not finished:
                raise Stopped(int(signum), step)
    return expand(state)


def write_steps(
    experiment: programs.Experiment,
    fetched: dict[str, Any],
    step: int,
    count: int,
    session: Session,
) -> dict[str, Any]:
    """Writes the metrics of the `count` steps after `step`, and returns those of the last.

    Raises:
      TrainingError: if a loss or the state at the end is not finite.
    """
    plan, log, writer = experiment.plan, experiment.config.log, session.writer
    rows = {name: values[:count] for name, values in fetched.items() if name != "finite"}
    _check_finite(rows["train/loss"], bool(fetched["finite"]), step, session.saved)
    lines = _lines(experiment, rows)
    for at, line in enumerate(lines, start=step + 1):
        if at % log.every_steps == 0 or at == plan.total_steps:
            writer.write(at, line)
    if (step + count) % plan.steps_per_epoch == 0:
        writer.write_board(step + count, lines[-1])
    return lines[-1]


def write_data(experiment: programs.Experiment, directory: str) -> None:
    """Writes data.json of the run in a directory (see `run_facts.write_data`)."""
    seed, dataset = steps.permutation_seed(experiment.config), experiment.dataset
    order = None if seed is None else steps.permutation(seed, dataset.image_shape)
    run_facts.write_data(directory, dataset, order)


def due_splits(config: Any, finished: bool) -> tuple[str, ...]:
    """The splits that an evaluation is of: validation, and test as far as `log.test` allows."""
    test = config.log.test == "always" or (config.log.test == "end" and finished)
    return ("test", "validation") if test else ("validation",)


def evaluate_splits(
    run_evaluation: Callable[..., dict[str, Any]],
    state: TrainState,
    splits: Mapping[str, data.Split],
    due: Sequence[str],
    seed: int,
    step: int,
    directory: str | None = None,
) -> dict[str, float]:
    """The metrics of those splits that are `due` and not empty: of "test" under "eval/".

    With a `directory`, that of the run, confusion.json is written there.

    Raises:
      TrainingError: if a loss is not finite.
      OSError: confusion.json cannot be written.
    """
    key = steps.key_for(seed, steps.STATISTICS, step)
    result: dict[str, float] = {}
    confusion: dict[str, Any] = {}
    for split in due:
        name = metrics.PREFIXES[split]
        if len(splits[split].labels):
            found = run_evaluation(state, splits["train"], splits[split], key)
            if not np.isfinite(found["loss"]):
                raise TrainingError(
                    f"the loss on the {split} set is not finite at step {step}; the state is "
                    f"not saved, the checkpoint before it is kept. Lower "
                    "config.optimizer.learning_rate and start in another --workdir"
                )
            result |= {f"{name}/{what}": found[what] for what in ("loss", "accuracy")}
            confusion[split] = found["confusion"]
    if directory is not None and confusion:
        run_facts.write_confusion(directory, step, confusion)
    return result


def describe(experiment: programs.Experiment, state: TrainState) -> dict[str, float]:
    """The certificate of the network as it is, rounded: metrics `mdl/bits`, `mdl/kl_bound`, …"""
    config, dataset, model, _, mesh, _ = experiment
    network = certify.export_state(config, model, dataset, mesh, distributed.fetch(state))
    _, certificate = certify.shortest_description(
        network, dataset.train, config.log.delta, depths=_DEPTHS, refine=False
    )
    return certificate.metrics()


def _lines(experiment: programs.Experiment, rows: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One dictionary of metrics a step, with what follows from the counts of non-zeros."""
    kernels = models.kernels(experiment.state_shapes.params)
    total = sum(kernel.size for kernel in kernels.values())
    counts = [rows[f"sparsity/{name}/nonzeros"].astype(np.int64) for name in kernels]
    nonzeros = np.sum(counts, axis=0)
    log = experiment.config.log
    columns = rows | {"sparsity/density": nonzeros / total}
    columns |= metrics.description_estimate(
        nonzeros,
        1 - rows["train/accuracy"].astype(np.float64),
        total=total,
        num_examples=len(experiment.dataset.train.labels),
        bits=log.bits_per_value,
        delta=log.delta,
    )
    return [
        {name: values[index].item() for name, values in columns.items()}
        for index in range(len(nonzeros))
    ]


def _check_finite(losses: NDArray[Any], finite: bool, step: int, saved: int) -> None:
    """Raises TrainingError, naming the first step at fault, unless all is finite."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    if wrong.size == 0 and finite:
        return
    # Without a step whose loss shows it, it is the last one's update that went wrong, or BN
    # statistics that training does not read.
    at = step + (wrong[0] + 1 if wrong.size else len(losses))
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
    raise TrainingError(
        f"the {'loss' if wrong.size else 'state'} is not finite at "
        f"step {at}; nothing of it was "
        f"saved, {kept}. Lower config.optimizer.learning_rate, or check the data for extreme "
        "values, and start in another --workdir"
    )


def write_weights(
    experiment: programs.Experiment, state: TrainState, writer: metrics.MetricsWriter, step: int
) -> None:
    """Adds histograms of the layers' weights and a picture of filters to the TensorBoard events."""
    kernels = models.kernels(state.params)
    filters = _first_filters(experiment, _first(kernels))
    writer.write_weights(step, kernels, analysis.picture(analysis.choose_filters(filters, 64)))


def _first(kernels: Mapping[str, Any]) -> Any:
    """The kernel of the layer that sees the image."""
    return kernels["conv1"] if "conv1" in kernels else kernels["fc1"]


def _first_filters(experiment: programs.Experiment, kernel: jax.Array) -> NDArray[np.float32]:
    """First-layer filters [units, H, W, C] as images, the permutation of pixels undone."""
    stride = -(-kernel.shape[-1] // _SHOWN_UNITS)
    weights = _unpermuted(experiment, distributed.fetch(kernel[..., ::stride]))
    return analysis.first_layer_filters(weights, experiment.dataset.image_shape)


def _unpermuted(experiment: programs.Experiment, weights: NDArray[Any]) -> NDArray[Any]:
    """A dense first layer's weights with their rows in the order of the original pixels."""
    config, image_shape = experiment.config, experiment.dataset.image_shape
    seed = steps.permutation_seed(config)
    if seed is None or weights.ndim != 2:
        return weights
    by_pixel = weights.reshape(-1, image_shape[-1], weights.shape[-1])
    back = np.argsort(steps.permutation(seed, image_shape))
    return by_pixel[back].reshape(weights.shape)


def summarise(
    experiment: programs.Experiment, state: TrainState, session: Session, started: float
) -> dict[str, Any]:
    """Draws filters.png and collects what summary.json says; for `started` see `_train`."""
    kernels = models.kernels(state.params)
    first = _first(kernels)
    filters = analysis.choose_filters(_first_filters(experiment, first), 64)
    analysis.save_filters(filters, os.path.join(session.directory, "filters.png"))
    summary = {
        "metrics": dict(session.writer.last),
        "weights": {name: kernel.size for name, kernel in kernels.items()},
        "effective": experiment.plan.effective,
        "num_examples": len(experiment.dataset.train.labels),
        "config_sha256": config_lib.digest(experiment.config),
        "data_sha256": data.digest(experiment.dataset),
        "time/wall_seconds": time.monotonic() - started,
        "resumed_at_step": session.step,
        "sessions": session.history,
    }
    if experiment.config.train.shrink != "none":
        summary["shrink"] = experiment.config.train.shrink
    if first.ndim == 2:
        weights = _unpermuted(experiment, distributed.fetch(first))
        image_shape = experiment.dataset.image_shape
        found = [analysis.locality(weights, image_shape, min_nonzeros=least) for least in (1, 10)]
        summary["locality"] = [each._asdict() for each in found if each.units]
    return summary


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """A list that signals to stop are added to, for the loop to act on between two calls.

    Those are `STOPPING`, as far as they are not ignored, as SIGHUP is under nohup. A second SIGINT
    does at once what it did before. Within another such block it is that one's list. Off the main
    thread signals are left as they are.
    """
    outer = [getattr(signal.getsignal(each), "received", None) for each in STOPPING]
    if found := [each for each in outer if each is not None]:
        yield found[0]
        return
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    note.received = received  # type: ignore[attr-defined]
    before = {
        number: handler
        for number in STOPPING
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Ends the program with one line for what a user can mend, and with a status that tells.

    Ctrl-C ends it at once, where it does not stop a run that saves its state first, and nothing is
    printed after that line.
    """
    kept = "what was saved is kept; when {}, the same command continues the run"
    try:
        with _quiet_end():
            yield
    except Stopped as stopped:
        if distributed.is_first():
            print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("interrupted: what was saved is kept; the same command continues", file=sys.stderr)
        distributed.leave(128 + signal.SIGINT)
    except (ValueError, TrainingError) as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except OSError as error:
        remedy = kept.format("the disk or the path is mended")
        print(f"error: {error}\n{remedy}", file=sys.stderr)
        distributed.leave(1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if commands.is_out_of_memory(error):
            print(
                f"error: there is not enough memory ({errors.first_line(error)})\n"
                f"{kept.format('there is more')}; or lower config.model.alpha or "
                "config.train.batch_size, in another --workdir",
                file=sys.stderr,
            )
        elif distributed.is_lost(error):
            print(
                f"error: another process is gone ({errors.first_line(error)})\nwhat was saved "
                "is kept; the same commands, for all processes, continue the run",
                file=sys.stderr,
            )
        else:
            raise
        distributed.leave(1)


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C and the end of the program print no more than is meant to be printed."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        # An exception would come up anywhere: in a callback that ignores it, or among threads that
        # go on writing. A run is safe from being killed at any moment.
        before = signal.signal(signal.SIGINT, _quit)
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
        atexit.register(failures.say_no_more)


def _quit(signum: int, frame: Any) -> None:
    show_cursor = b"\n\x1b[?25h" if os.isatty(2) else b""
    os.write(
        2,
        show_cursor + b"interrupted: what was saved is kept; the same command continues the run\n",
    )
    os._exit(128 + signum)
