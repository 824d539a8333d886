"""Runs that differ only in numbers, trained together by one vmapped program.

Each run has its own directory, as if it had been trained alone: configuration, metrics,
checkpoints, summary. `lconv_jax.main` continues any of them, and runs that it began are continued
here.
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
from lconv_jax import data
from lconv_jax.errors import TrainingError
from lconv_jax.host import memory
from lconv_jax.host.files import write_atomically
from lconv_jax.host.signals import deferred_signals
from lconv_jax.optim.registry import METHODS, OPTIONAL
from lconv_jax.parallel import sharding
from lconv_jax.rundir.directory import (
    DIVERGED_FILE,
    open_workdir,
    read_diverged,
    read_summary,
    write_summary,
)
from lconv_jax.training import loop, programs, rng
from lconv_jax.training.inputs import make_inputs, permutation_seed, pixel_order
from lconv_jax.training.plan import make_plan
from lconv_jax.training.setup import Setup, load, prepare
from lconv_jax.training.state import TrainState
from lconv_jax.training.steps import Lane, make_train_steps

_ANY_NUMBER = 2**31
# A forward pass of a batch below which runs gain by training together on a CPU.
_CPU_FLOPS = 1e8
# Keys that runs of one program may differ in, those of `OPTIONAL` where none is 0.
NUMBERS = frozenset(
    {"seed"} | {f"optimizer.{key}" for method in METHODS.values() for key in method.keys}
)


class Run(NamedTuple):
    """One setting with one seed, and where it is kept."""

    setup: Setup
    directory: str


def program_key(config: Any) -> tuple[Any, ...]:
    """Equal for configurations that one program can train."""
    fixed = (item for item in config_lib.flatten(config) if item[0] not in NUMBERS)
    return *fixed, *(bool(config.optimizer[key]) for key in OPTIONAL)


def prepare_together(configs: Sequence[Any]) -> list[Setup]:
    """`setup.prepare` of each configuration, with as little repeated as possible.

    Data are read once where the configurations choose the same examples, and a model is traced
    once for all that one program can train.

    Raises:
      ConfigError, DataError: naming what is wrong and what to do.
    """
    datasets: dict[Any, data.Dataset] = {}
    prepared: dict[Any, Setup] = {}
    setups = []
    for config in map(config_lib.resolve, configs):
        which = (*config.data.items(), config.seed if config.data.validation else None)
        like = prepared.get(program_key(config))
        if like is None:
            setup = prepare(config, datasets.get(which))
            prepared[program_key(config)] = setup
        else:
            if which not in datasets:
                datasets[which] = load(config)
            dataset = datasets[which]
            config_lib.validate(config)
            plan = make_plan(config, len(dataset.train.labels), like.state_shapes.params)
            inputs = make_inputs(config, dataset.image_shape)
            setup = like._replace(config=config, dataset=dataset, plan=plan, inputs=inputs)
        datasets[which] = setup.dataset
        setups.append(setup)
    return setups


def load_whole(config: Any) -> data.Dataset:
    """The data set of a configuration with no example held out; every seed draws from it."""
    return data.load(
        config.data.name,
        config.data.data_dir or None,
        examples=config.data.examples,
        size=config.data.size,
        channels=config.data.channels,
        surrogate=config.data.surrogate,
    )


def divided_rows(setup: Setup, whole: data.Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the whole training set that a run trains on, and the held-out rows."""
    config = setup.config
    return data.divide_rows(
        whole.train.labels, whole.num_classes, config.data.validation, config.seed, whole.name
    )


def make_lanes(setups: Sequence[Setup], whole: data.Dataset) -> Lane:
    """The lanes of setups that have one `program_key`, stacked, as NumPy arrays."""
    first = setups[0]
    # The numbers are rounded once, on the host, to the type that the update has.
    dtype = jnp.result_type(*jax.tree.leaves(first.state_shapes.params))
    orders = None
    if first.config.data.permute:
        shape = first.dataset.image_shape
        orders = np.asarray([pixel_order(each.config, shape) for each in setups])

    def number(name: str) -> NDArray[Any]:
        return np.asarray([each.plan.numbers[name] for each in setups], np.float64).astype(dtype)

    return Lane(
        {name: number(name) for name in first.plan.numbers},
        np.asarray([each.config.seed for each in setups], np.uint32),
        np.stack([divided_rows(each, whole)[0] for each in setups]).astype(np.int32),
        orders,
    )


def compile_together(setups: Sequence[Setup], whole: data.Dataset) -> Any:
    """The compiled (states, lanes, train, count) -> (states, metrics) of K runs.

    It does for each run what `programs.compile_train_steps` does, with states and metrics stacked;
    `train` is the whole training set. Its first argument is donated.
    """
    first = setups[0]

    def one(state: TrainState, lane: Lane, split: data.Split, count: Any) -> Any:
        return make_train_steps(first, lane)(state, split, count)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def one_of_one(states: TrainState, lanes: Lane, split: data.Split, count: Any) -> Any:
        state, lane = jax.tree.map(lambda leaf: leaf[0], (states, lanes))
        return jax.tree.map(lambda leaf: leaf[None], one(state, lane, split, count))

    # A vmap over one keeps batched gathers, with which small networks take half as long again.
    several = len(setups) > 1
    states = _stacked_shapes(setups)
    placement = sharding.placement(states)
    replicated = sharding.replicated(first.mesh)
    jitted = jax.jit(
        jax.vmap(one, in_axes=(0, 0, None, None)) if several else one_of_one,
        donate_argnums=0,
        in_shardings=(placement, replicated, replicated, replicated),
        out_shardings=(placement, replicated),
    )
    lanes = make_lanes(setups, whole)
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


def most_together(setup: Setup) -> int:
    """The largest number of runs that one program should train, with unlimited memory.

    On a CPU, a batched product is no faster than single products in turn. Only very small networks
    gain, whose time is spent on calling operations (docs/sweep.md).
    """
    if jax.default_backend() != "cpu":
        return _ANY_NUMBER
    return _ANY_NUMBER if programs.forward_flops(setup) < _CPU_FLOPS else 1


def is_over(run: Run) -> bool:
    """Whether nothing is left to do: the run is finished, or it diverged."""
    return read_summary(run.directory) is not None or read_diverged(run.directory) is not None


def mark_diverged(directory: str, error: TrainingError) -> None:
    """Says in a run's directory that it cannot go on, and why."""
    logging.warning("%s: %s", directory, error)
    record = json.dumps({"message": str(error)}, indent=2)
    write_atomically(os.path.join(directory, DIVERGED_FILE), record + "\n")


def train_together(runs: Sequence[Run], whole: data.Dataset, program: Any) -> None:
    """Trains runs to their end, or continues them; each leaves a summary or `DIVERGED_FILE`.

    A run that diverges does not stop the others. The results of a run do not depend on the progress
    of the others: finished runs and runs ahead take part in the computation, and their results are
    ignored.

    Args:
      runs: of one `program_key`.
      whole: their data, with no example held out.
      program: `compile_together` of their setups, in this order.

    Raises:
      ConfigError: a directory holds another run or is in use.
      Stopped: after a signal to stop, once the states are saved.
    """
    together = Together([run.setup for run in runs], whole, program)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(deferred_signals())
        at_work = {}
        for index, (setup, directory) in enumerate(runs):
            workdir = open_workdir(directory, setup.config, data.digest(setup.dataset))
            path = stack.enter_context(workdir)
            if not is_over(runs[index]):
                shapes, started = setup.state_shapes, time.monotonic()
                at_work[path] = loop.open_run(stack, setup, path, shapes, started, index=index)
                at_work[path].state = jax.device_get(at_work[path].state)
        if not at_work:
            return

        def on_divergence(run: loop.Run, error: TrainingError) -> None:
            mark_diverged(run.session.directory, error)

        loop.train(list(at_work.values()), together, signals, on_divergence)
        for path, run in at_work.items():
            if run.joins < math.inf:
                summary = run.summarise(together.take(run.index))
                summary["time/together"] = len(runs)
                write_summary(path, summary)


class Together:
    """A `loop.Program` of K runs.

    Args:
      setups: of the runs.
      whole: their data, with no example held out.
      program: `compile_together` of the setups.
    """

    def __init__(self, setups: Sequence[Setup], whole: data.Dataset, program: Any):
        self._setups, self._whole, self._program = setups, whole, program
        replicated = sharding.replicated(setups[0].mesh)
        self._train, self._test = jax.device_put((whole.train, whole.test), replicated)
        self._lanes = jax.device_put(make_lanes(setups, whole), replicated)
        self._states, self._put, self._take = make_states(setups)
        self._initial = programs.make_initial(setups[0])
        # Only a permutation of the pixels is part of the compiled program.
        self._evaluations: dict[int | None, Any] = {}
        self._choose = jax.jit(
            lambda split, rows: jax.tree.map(lambda leaf: leaf[rows], split),
            out_shardings=replicated,
        )

    def put(self, index: int, state: TrainState | None) -> None:
        if state is None:
            state = self._initial(np.uint32(self._setups[index].config.seed))
        self._states = self._put(self._states, index, state)

    def most(self, step: int) -> int:
        return self._setups[0].plan.total_steps

    def advance(self, step: int, count: int) -> Sequence[Mapping[str, Any]]:
        self._states, on_device = self._program(
            self._states, self._lanes, self._train, jnp.int32(count)
        )
        fetched = jax.device_get(on_device)
        return [
            {name: values[index] for name, values in fetched.items()}
            for index in range(len(self._setups))
        ]

    def take(self, index: int) -> TrainState:
        return self._take(self._states, index)

    def evaluate(self, index: int, split: str, step: int) -> dict[str, Any] | None:
        setup = self._setups[index]
        kept, held_out = divided_rows(setup, self._whole)
        if split == "validation" and not len(held_out):
            return None
        seed = permutation_seed(setup.config)
        if seed not in self._evaluations:
            self._evaluations[seed] = programs.compile_evaluation(setup)
        on = self._test if split == "test" else self._choose(self._train, held_out)
        key = rng.key_for(setup.config.seed, rng.STATISTICS, step)
        train = self._choose(self._train, kept)
        return self._evaluations[seed](self.take(index), train, on, key)

    def shrink(self) -> dict[str, int]:
        return {}


def _stacked_shapes(setups: Sequence[Setup]) -> TrainState:
    """The shapes of K states in one, split over devices as each alone would be."""
    K = len(setups)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (K, *leaf.shape),
            leaf.dtype,
            sharding=NamedSharding(leaf.sharding.mesh, P(None, *leaf.sharding.spec)),
        ),
        setups[0].state_shapes,
    )


def make_states(
    setups: Sequence[Setup],
) -> tuple[TrainState, Callable[..., TrainState], Callable[..., TrainState]]:
    """Stacked states of zeros, the function that puts a run's in, and the one that takes it out.

    put(states, index, state) -> states, the first donated; take(states, index) -> state. A state
    that is put in brings the others to its step, so that those of no run stay within the epoch.
    """
    stacked = _stacked_shapes(setups)
    placement = sharding.placement(stacked)
    placement_of_one = sharding.placement(setups[0].state_shapes)

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
