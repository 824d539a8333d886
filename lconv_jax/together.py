"""Runs that differ only in numbers, trained together by one vmapped program.

Each run has its own directory, as if it had been trained alone: configuration, metrics,
checkpoints, summary. `lconv_jax.main` continues any of them, and what it began is continued here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from lconv_jax import config as config_lib
from lconv_jax import data, json_files, memory, programs, sharding, steps, train
from lconv_jax.files import write_atomically
from lconv_jax.progress import make_progress
from lconv_jax.session import open_session
from lconv_jax.state import TrainState
from lconv_jax.workdir import open_workdir, read_summary, write_summary

DIVERGED_FILE = "diverged.json"
_ANY_NUMBER = 2**31
# A forward pass of a batch below which runs gain by training together on a CPU.
_CPU_FLOPS = 1e8
# Keys that runs of one program may differ in; momentum and weight decay where none is 0.
NUMBERS = frozenset(
    {
        "seed",
        "optimizer.learning_rate",
        "optimizer.l1.conv",
        "optimizer.l1.fc",
        "optimizer.beta",
        "optimizer.momentum",
        "optimizer.weight_decay",
        "optimizer.reference_lr_sum",
    }
)


class Run(NamedTuple):
    """One setting with one seed, and where it is kept."""

    experiment: programs.Experiment
    directory: str


class Lanes(NamedTuple):
    """What K runs of one program differ in, stacked."""

    numbers: dict[str, Any]  # those of the optimizer, [K] each
    seeds: Any  # uint32 [K]
    rows: Any  # int32 [K, N]: the training set of each, among all training examples
    orders: Any  # int32 [K, pixels] with data.permute, else None


def program_key(config: Any) -> tuple[Any, ...]:
    """Equal for configurations that one program can train."""
    fixed = (item for item in config_lib.flatten(config) if item[0] not in NUMBERS)
    return *fixed, bool(config.optimizer.momentum), bool(config.optimizer.weight_decay)


def prepare_together(configs: Sequence[Any]) -> list[programs.Experiment]:
    """`programs.prepare` of each configuration, with as little repeated as possible.

    Data are read once where the configurations choose the same examples, and a model is traced
    once for all that one program can train.

    Raises:
      ConfigError, DataError: naming what is wrong and what to do.
    """
    datasets: dict[Any, data.Dataset] = {}
    prepared: dict[Any, programs.Experiment] = {}
    experiments = []
    for config in map(config_lib.resolve, configs):
        which = (*config.data.items(), config.seed if config.data.validation else None)
        like = prepared.get(program_key(config))
        if like is None:
            experiment = programs.prepare(config, datasets.get(which))
            prepared[program_key(config)] = experiment
        else:
            if which not in datasets:
                datasets[which] = programs.load(config)
            dataset = datasets[which]
            config_lib.validate(config)
            size = len(dataset.train.labels)
            plan = steps.make_plan(config, size, like.state_shapes.params)
            experiment = like._replace(config=config, dataset=dataset, plan=plan)
        datasets[which] = experiment.dataset
        experiments.append(experiment)
    return experiments


def undivided(config: Any) -> data.Dataset:
    """The data set of a configuration with no example held out: what all its seeds choose from."""
    return data.load(config.data.name, config.data.data_dir or None, examples=config.data.examples)


def divided_rows(
    experiment: programs.Experiment, whole: data.Dataset
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the undivided training set that a run trains on, and those held out."""
    config = experiment.config
    return data.divide_rows(
        whole.train.labels, whole.num_classes, config.data.validation, config.seed, whole.name
    )


def make_lanes(experiments: Sequence[programs.Experiment], whole: data.Dataset) -> Lanes:
    """The lanes of experiments that have one `program_key`, as NumPy arrays."""
    first = experiments[0]
    # The numbers are rounded once, on the host, to the type that the update has.
    dtype = jnp.result_type(*jax.tree.leaves(first.state_shapes.params))
    orders = None
    if first.config.data.permute:
        shape = first.dataset.image_shape
        seeds = [steps.permutation_seed(each.config) for each in experiments]
        orders = np.stack([steps.permutation(seed, shape) for seed in seeds if seed is not None])
    return Lanes(
        {
            name: np.asarray([each.plan.numbers[name] for each in experiments], np.float64).astype(
                dtype
            )
            for name in first.plan.numbers
        },
        np.asarray([each.config.seed for each in experiments], np.uint32),
        np.stack([divided_rows(each, whole)[0] for each in experiments]).astype(np.int32),
        orders,
    )


def compile_together(experiments: Sequence[programs.Experiment], whole: data.Dataset) -> Any:
    """The compiled (states, lanes, train, count) -> (states, metrics) of K runs.

    It does for each run what `programs.compile_train_steps` does, with states and metrics stacked;
    `train` is the undivided training set. Its first argument is donated.
    """
    config, dataset, model, plan, mesh, _ = experiments[0]

    def one(state: TrainState, lane: Lanes, split: data.Split, count: Any) -> Any:
        schedule, tx = steps.make_optimizer(config.optimizer.name, lane.numbers, plan.total_steps)
        arrange = steps.make_arrange(config, dataset.image_shape, lane.orders)
        own_plan = plan._replace(schedule=schedule, tx=tx)
        function = steps.make_train_steps(
            *(config, model, own_plan, arrange, mesh),
            seed=lane.seeds,
            subset=lane.rows,
            order=lane.orders,
        )
        return function(state, split, count)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def one_of_one(states: TrainState, lanes: Lanes, split: data.Split, count: Any) -> Any:
        state, lane = jax.tree.map(lambda leaf: leaf[0], (states, lanes))
        return jax.tree.map(lambda leaf: leaf[None], one(state, lane, split, count))

    # A vmap over one keeps batched gathers, with which small networks take half as long again.
    several = len(experiments) > 1
    states = _stacked_shapes(experiments)
    placement = jax.tree.map(lambda leaf: leaf.sharding, states)
    everywhere = sharding.replicated(mesh)
    jitted = jax.jit(
        jax.vmap(one, in_axes=(0, 0, None, None)) if several else one_of_one,
        donate_argnums=0,
        in_shardings=(placement, everywhere, everywhere, everywhere),
        out_shardings=(placement, everywhere),
    )
    lanes = make_lanes(experiments, whole)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return jitted.lower(states, shapes(lanes), shapes(whole.train), count).compile()


def bytes_needed(program: Any) -> int:
    """Device memory that a compiled program takes while it runs, by its own account."""
    found = program.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes


def bytes_available() -> int:
    """Memory that a program may take: three quarters of a device's, half of a host's."""
    device = memory.device_bytes()
    return memory.host_bytes() // 2 if device is None else device * 3 // 4


def worthwhile(experiment: programs.Experiment) -> int:
    """The most runs that one program should train, were there memory for any number.

    On a CPU, where a batched product is no faster than one after the other, only networks so small
    that the time goes into calling operations gain (docs/sweep.md).
    """
    if jax.default_backend() != "cpu":
        return _ANY_NUMBER
    return _ANY_NUMBER if programs.forward_flops(experiment) < _CPU_FLOPS else 1


def is_over(run: Run) -> bool:
    """Whether nothing is left to do: the run is finished, or it diverged."""
    return read_summary(run.directory) is not None or read_diverged(run.directory) is not None


def read_diverged(directory: str | os.PathLike[str]) -> str | None:
    """Why the run of a directory cannot go on, or None if nothing is known against it."""
    path = os.path.join(directory, DIVERGED_FILE)
    if not os.path.exists(path):
        return None
    remedy = "delete it, and the run is continued from its last checkpoint"
    return json_files.read(path, {"message": str}, remedy)["message"]


def mark_diverged(directory: str, error: train.TrainingError) -> None:
    """Says in a run's directory that it cannot go on, and why."""
    logging.warning("%s: %s", directory, error)
    record = json.dumps({"message": str(error)}, indent=2)
    write_atomically(os.path.join(directory, DIVERGED_FILE), record + "\n")


def train_together(runs: Sequence[Run], whole: data.Dataset, program: Any) -> None:
    """Trains runs to their end, or continues them; each leaves a summary or `DIVERGED_FILE`.

    A run that diverges does not stop the others. What is computed for one does not depend on how
    far the others are: runs that are over, or further on, are computed along and not looked at.

    Args:
      runs: of one `program_key`.
      whole: their undivided data.
      program: `compile_together` of their experiments, in this order.

    Raises:
      ConfigError: a directory holds another run or is in use.
      train.Stopped: after a signal to stop, once the states are saved.
    """
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(train.deferred_signals())
        lanes = [_open(stack, run, index) for index, run in enumerate(runs)]
        _train(lanes, whole, program, signals)


@dataclasses.dataclass
class _Lane:
    """A run at work. Until `joins` it is not looked at, and never if that is infinite."""

    index: int
    experiment: programs.Experiment
    directory: str
    joins: float = math.inf
    state: TrainState | None = None  # that it joins with, on the host; None for the initial one
    started: float = 0.0
    session: Any = None

    def diverge(self, error: train.TrainingError) -> None:
        mark_diverged(self.directory, error)
        self.joins = math.inf


def _open(stack: contextlib.ExitStack, run: Run, index: int) -> _Lane:
    experiment, config = run.experiment, run.experiment.config
    directory = stack.enter_context(
        open_workdir(run.directory, config, data.digest(experiment.dataset))
    )
    lane = _Lane(index, experiment, directory)
    if is_over(run):
        return lane
    shapes, total = experiment.state_shapes, experiment.plan.total_steps
    session = open_session(directory, config.checkpoint.keep, shapes, total)
    lane.session, state = stack.enter_context(session)
    train.write_data(experiment, directory)
    lane.joins, lane.state = lane.session.step, jax.device_get(state)
    lane.started = time.monotonic() - lane.session.writer.last.get("time/seconds", 0.0)
    return lane


def _train(lanes: Sequence[_Lane], whole: data.Dataset, program: Any, signals: list[int]) -> None:
    """Brings all lanes to their end; writes, evaluates and saves as it goes."""
    experiments = [lane.experiment for lane in lanes]
    config, plan, mesh = experiments[0].config, experiments[0].plan, experiments[0].mesh
    everywhere = sharding.replicated(mesh)
    split, test = jax.device_put((whole.train, whole.test), everywhere)
    stacked = jax.device_put(make_lanes(experiments, whole), everywhere)
    evaluate = _make_evaluation(whole, split, test, mesh)
    states, put, take = make_states(experiments)
    initial = _make_initial(experiments[0])
    per_epoch, total = plan.steps_per_epoch, plan.total_steps
    step, limit = 0, 1

    def is_due(every: int) -> bool:
        return step == total or (every > 0 and step % (per_epoch * every) == 0)

    with make_progress(total, per_epoch) as show:
        while waiting := [lane for lane in lanes if lane.joins < math.inf]:
            # Where those at work have all diverged, it goes on from where the next one was left.
            step = max(step, int(min(lane.joins for lane in waiting)))
            for lane in waiting:
                if lane.joins == step:
                    if lane.state is None:
                        lane.state = initial(np.uint32(lane.experiment.config.seed))
                    states, lane.state = put(states, lane.index, lane.state), None
            active = [lane for lane in waiting if lane.joins <= step]
            if step == total:
                break
            joining = (int(lane.joins) - step for lane in waiting if lane.joins > step)
            count = min(per_epoch - step % per_epoch, limit, *joining)
            begun = time.monotonic()
            states, on_device = program(states, stacked, split, jnp.int32(count))
            fetched = jax.device_get(on_device)
            seconds = time.monotonic() - begun
            limit = max(1, int(train.SECONDS_PER_CALL * count / seconds))

            before, step = step, step + count
            rate = count * config.train.batch_size / seconds
            shown = []
            for lane in active:
                experiment, writer = lane.experiment, lane.session.writer
                rows = {name: values[lane.index] for name, values in fetched.items()}
                try:
                    last = train.write_steps(experiment, rows, before, count, lane.session)
                    result: dict[str, Any] = {}
                    if is_due(config.log.eval_every_epochs):
                        state = take(states, lane.index)
                        due = train.due_splits(config, step == total)
                        result |= evaluate(lane, state, step, due)
                        result["time/examples_per_second"] = rate
                        result["time/seconds"] = time.monotonic() - lane.started
                        train.write_weights(experiment, state, writer, step)
                    if config.log.describe_every_epochs and is_due(
                        config.log.describe_every_epochs
                    ):
                        result |= train.describe(experiment, take(states, lane.index))
                except train.TrainingError as error:
                    lane.diverge(error)
                    continue
                if result:
                    writer.write(step, result)
                    writer.write_board(step, result)
                if signals or is_due(config.checkpoint.every_epochs):
                    lane.session.save(step, take(states, lane.index))
                shown.append(writer.last | last)
            if shown:
                show(step, _means(shown))
            if signals and step < total:
                raise train.Stopped(signals[0], step)
    for lane in lanes:
        if lane.joins <= total:
            state = take(states, lane.index)
            summary = train.summarise(lane.experiment, state, lane.session, lane.started)
            summary["time/together"] = len(lanes)
            write_summary(lane.directory, summary)


def _means(lasts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over the runs of each metric that all of them have."""
    names = set.intersection(*(set(last) for last in lasts))
    return {name: float(np.mean([last[name] for last in lasts])) for name in names}


def _make_evaluation(
    whole: data.Dataset, split: data.Split, test: data.Split, mesh: jax.sharding.Mesh
) -> Callable[[_Lane, TrainState, int, Sequence[str]], dict[str, float]]:
    """The function (lane, state, step, due splits) -> metrics, compiled once for all lanes."""
    # Only a permutation of the pixels is part of the compiled program.
    compiled: dict[int | None, Any] = {}

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def choose(split: data.Split, rows: jax.Array) -> data.Split:
        return jax.tree.map(lambda leaf: leaf[rows], split)

    def evaluate(lane: _Lane, state: TrainState, step: int, due: Sequence[str]) -> dict[str, float]:
        experiment, seed = lane.experiment, lane.experiment.config.seed
        key = steps.permutation_seed(experiment.config)
        if key not in compiled:
            compiled[key] = programs.compile_evaluation(experiment)
        kept, held_out = divided_rows(experiment, whole)
        splits = {"train": choose(split, kept), "validation": choose(split, held_out), "test": test}
        finished = step == experiment.plan.total_steps
        return train.evaluate_splits(
            *(compiled[key], state, splits, due, seed, step),
            directory=lane.directory if finished else None,
        )

    return evaluate


def _stacked_shapes(experiments: Sequence[programs.Experiment]) -> TrainState:
    """The shapes of K states in one, split over devices as each alone would be."""
    K = len(experiments)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (K, *leaf.shape),
            leaf.dtype,
            sharding=NamedSharding(leaf.sharding.mesh, P(None, *leaf.sharding.spec)),
        ),
        experiments[0].state_shapes,
    )


def make_states(
    experiments: Sequence[programs.Experiment],
) -> tuple[TrainState, Callable[..., TrainState], Callable[..., TrainState]]:
    """Stacked states of zeros, the function that puts a run's in, and the one that takes it out.

    put(states, index, state) -> states, the first donated; take(states, index) -> state. A state
    that is put in brings the others to its step, so that those of no run stay within the epoch.
    """
    stacked = _stacked_shapes(experiments)
    placement = jax.tree.map(lambda leaf: leaf.sharding, stacked)
    placement_of_one = jax.tree.map(lambda leaf: leaf.sharding, experiments[0].state_shapes)

    @functools.partial(jax.jit, out_shardings=placement)
    def empty() -> TrainState:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stacked)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=placement)
    def put(states: TrainState, index: Any, state: TrainState) -> TrainState:
        states = jax.tree.map(lambda all_, one: all_.at[index].set(one), states, state)
        return dataclasses.replace(states, step=jnp.full_like(states.step, state.step))

    @functools.partial(jax.jit, out_shardings=placement_of_one)
    def take(states: TrainState, index: Any) -> TrainState:
        return jax.tree.map(lambda leaf: leaf[index], states)

    return empty(), put, take


def _make_initial(experiment: programs.Experiment) -> Callable[[Any], TrainState]:
    """The compiled function seed -> state at step 0 of runs that one program trains."""
    config, dataset, model, plan, _, shapes = experiment
    placement = jax.tree.map(lambda leaf: leaf.sharding, shapes)

    @functools.partial(jax.jit, out_shardings=placement)
    def initial(seed: jax.Array) -> TrainState:
        return steps.make_initial_state(config, model, plan, dataset.image_shape, seed)()

    return initial
