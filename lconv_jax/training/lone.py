"""A run that trains alone: its data may be streamed, its network may shrink."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lconv_jax import data
from lconv_jax.parallel import distributed, sharding
from lconv_jax.training import programs, rng, streaming
from lconv_jax.training.setup import Setup
from lconv_jax.training.shrinker import Shrinker
from lconv_jax.training.state import TrainState


class Lone(contextlib.ExitStack):
    """A `loop.Program` of one run, over all devices and processes. Compiled when first needed."""

    def __init__(self, setup: Setup):
        super().__init__()
        self._setup, self._shrinker = setup, Shrinker(setup)
        self._state: Any = None
        self._feed: Any = None
        self._batches: Any = None
        self._compile()

    @property
    def stored_shapes(self) -> TrainState:
        """The shapes of a checkpoint."""
        return self._shrinker.stored_shapes

    def _compile(self) -> None:
        current = self._shrinker.current
        self._run_steps = functools.cache(lambda: programs.compile_train_steps(current))
        self._evaluation = functools.cache(lambda: programs.compile_evaluation(current))

    @functools.cached_property
    def _splits(self) -> dict[str, data.Split]:
        replicated = sharding.replicated(self._setup.mesh)
        splits = {
            name: getattr(self._setup.dataset, name) for name in ("train", "validation", "test")
        }
        return {
            name: split if data.is_streamed(split) else distributed.put(split, replicated)
            for name, split in splits.items()
        }

    def put(self, index: int, state: TrainState | None) -> None:
        state = programs.initial_state(self._setup) if state is None else state
        self._state = self._shrinker.resume(state)
        self._compile()

    def most(self, step: int) -> int:
        if self._feed is None:
            total, mesh = self._setup.plan.total_steps, self._setup.mesh
            train = self._splits["train"]
            feed = streaming.training_feed(self._setup.config, train, total, mesh, step)
            self._feed = self.enter_context(feed)
        self._batches, most = self._feed(step)
        return most

    def advance(self, step: int, count: int) -> Sequence[Mapping[str, Any]]:
        self._state, rows = self._run_steps()(self._state, self._batches, np.int32(count))
        return [jax.device_get(rows)]

    def take(self, index: int) -> TrainState:
        return self._shrinker.expand(self._state)

    def evaluate(self, index: int, split: str, step: int) -> dict[str, Any] | None:
        if not len(self._splits[split].labels):
            return None
        key = rng.key_for(self._setup.config.seed, rng.STATISTICS, step)
        return self._evaluation()(self._state, self._splits["train"], self._splits[split], key)

    def shrink(self) -> dict[str, int]:
        state = self._shrinker.shrink(self._state, self._splits["train"])
        if state is None:
            return {}
        self._state = state
        self._compile()
        return {f"units/{name}": count for name, count in self._shrinker.units.items()}
