"""Time and memory of a list of runs, from their sizes and a short timing on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lconv_jax import data, models
from lconv_jax.parallel import distributed, sharding
from lconv_jax.tables import markdown
from lconv_jax.training import lanes, programs
from lconv_jax.training.setup import Setup, load, prepare

# A program is timed for about this long, after a first call that is not counted.
_SECONDS = 2.0


class Job(NamedTuple):
    """Runs of one configuration."""

    name: str
    config: Any
    runs: int


class Cost(NamedTuple):
    """Of a training program."""

    weights: int
    flops: float  # of a step: three times those of the forward pass
    bytes: int  # that the program takes, by its own account, the training set among them
    seconds: float  # of a step; NaN if it does not fit into this machine's memory


def measure(experiment: Setup) -> Cost:
    """Compiles a training program, and times a few steps of it if it fits."""
    kernels = models.kernels(experiment.state_shapes.params)
    weights = sum(kernel.size for kernel in kernels.values())
    flops = 3 * programs.forward_flops(experiment)
    run_steps = programs.compile_train_steps(experiment)
    needed = lanes.bytes_needed(run_steps)
    if needed > lanes.bytes_available() or data.is_streamed(experiment.dataset.train):
        return Cost(weights, flops, needed, math.nan)
    split = distributed.put(experiment.dataset.train, sharding.replicated(experiment.mesh))
    state = programs.initial_state(experiment)
    count, seconds = 1, 0.0
    for _ in range(2):
        begun = time.monotonic()
        state, _ = jax.block_until_ready(run_steps(state, split, np.int32(count)))
        seconds = (time.monotonic() - begun) / count
        if seconds > _SECONDS:
            break
        left = experiment.plan.steps_per_epoch - count
        count = max(1, min(left, int(_SECONDS / seconds)))
    return Cost(weights, flops, needed, seconds)


def table(jobs: Sequence[Job]) -> str:
    """A Markdown row a job, with the sum of their times; evaluation is not counted.

    Programs of one `lanes.program_key` but for their length are timed once.
    """
    if not jobs:
        return "Nothing is missing."
    rows = []
    measured: dict[Any, Cost] = {}
    datasets: dict[Any, data.Dataset] = {}
    hours = 0.0
    for job in jobs:
        config = job.config
        which = (*config.data.items(),)
        dataset = datasets[which] if which in datasets else load(config)
        datasets[which] = dataset
        like = _like(config)
        if like not in measured:
            measured[like] = measure(prepare(config, dataset))
        cost = measured[like]
        steps = len(dataset.train.labels) // config.train.batch_size * config.train.epochs
        took = job.runs * steps * cost.seconds / 3600
        hours += took
        shown = [
            job.name + (f", {job.runs} settings" if job.runs > 1 else ""),
            f"{cost.weights:,}",
            f"{cost.flops / 1e9:,.1f}",
            f"{job.runs * steps:,}",
            f"{cost.bytes / 2**20:,.0f}",
            "does not fit here" if math.isnan(cost.seconds) else f"{cost.seconds:.3g}",
            "–" if math.isnan(took) else f"{took:.2f}",
        ]
        rows.append(shown)
    total = "unknown here" if math.isnan(hours) else f"about {hours:.1f} hours of training steps"
    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    head = ["runs", "weights", "GFLOP a step", "steps", "memory, MiB", "s a step", "hours"]
    return f"{markdown(head, rows)}\n\nIn all {total} on {device}."


def _like(config: Any) -> tuple[Any, ...]:
    free = {"train.epochs", "data.validation"}
    return tuple(
        item
        for item in lanes.program_key(config)
        if not (isinstance(item, tuple) and (item[0] in free or item[0].startswith("log.")))
    )
