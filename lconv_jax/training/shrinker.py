"""The network of a run that grows smaller as it trains (`train.shrink`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lconv_jax import data, optim
from lconv_jax.parallel import sharding
from lconv_jax.training import hidden_units, rng
from lconv_jax.training.setup import Setup, laid_out
from lconv_jax.training.state import TrainState


class Shrinker:
    """Which units of the dense hidden layers a run goes on with, if it leaves any out.

    States are stored at the original shapes, and train at those of `current`. Without
    `train.shrink` the two are the same.

    Attributes:
      setup: the run's own, with all units.
      current: with the units that are there.
    """

    def __init__(self, setup: Setup):
        self.setup = self.current = setup
        self._expand: Callable[[TrainState], TrainState] | None = None

    @property
    def _hidden(self) -> tuple[hidden_units.Hidden, ...]:
        return hidden_units.hidden_layers(self.setup.model, self.setup.dataset.image_shape)

    @property
    def stored_shapes(self) -> TrainState:
        """The shapes of a checkpoint: the original ones, and which units the network had."""
        shapes = self.setup.state_shapes
        if self.setup.config.train.shrink == "none":
            return shapes
        replicated = sharding.replicated(self.setup.mesh)
        kept = {
            layer.name: jax.ShapeDtypeStruct((layer.units,), bool, sharding=replicated)
            for layer in self._hidden
        }
        return dataclasses.replace(shapes, kept=kept)

    def resume(self, state: TrainState) -> TrainState:
        """The state to train on with, from a stored or an initial one."""
        if state.kept is None:
            return state
        kept = {name: np.flatnonzero(mask) for name, mask in jax.device_get(state.kept).items()}
        return self.restrict(dataclasses.replace(state, kept=None), kept)

    def shrink(self, state: TrainState, train: data.Split) -> TrainState | None:
        """The state without the units that are dead, None if leaving them out is not worth while.

        Args:
          state: of `current`, at the beginning of an epoch.
          train: the training set.
        """
        kept = None if self.setup.config.train.shrink == "none" else self.choose(state, train)
        return None if kept is None else self.restrict(state, kept)

    @property
    def units(self) -> dict[str, int]:
        """How many units each layer of `current` has, once some are left out; else {}."""
        return {
            name: len(index)
            for name, index in dict(getattr(self.current.model, "kept", ())).items()
        }

    def expand(self, state: TrainState) -> TrainState:
        """A state of `current` at the original shapes."""
        if self.setup.config.train.shrink == "none":
            return state
        if self._expand is None:
            hidden, shapes = self._hidden, self.stored_shapes
            kept = {layer.name: np.arange(layer.units) for layer in hidden}
            kept |= {name: np.asarray(index) for name, index in self.current.model.kept}

            @functools.partial(jax.jit, out_shardings=sharding.placement(shapes))
            def expand(state: TrainState) -> TrainState:
                return hidden_units.expand(hidden, self.setup.plan.tx, state, shapes, kept)

            self._expand = expand
        return self._expand(state)

    def restrict(self, state: TrainState, kept: Mapping[str, NDArray[np.int64]]) -> TrainState:
        """The state with the units `kept` only, which are counted among those it has."""
        before, hidden = dict(self.current.model.kept), self._hidden
        original = {
            name: np.asarray(before[name])[index] if before else index
            for name, index in kept.items()
        }

        def restrict(state: TrainState) -> TrainState:
            return hidden_units.restrict(hidden, self.setup.plan.tx, state, kept)

        shapes = laid_out(self.setup.mesh, jax.eval_shape(restrict, state))
        model = self.setup.model.clone(
            kept=tuple((name, tuple(index.tolist())) for name, index in original.items())
        )
        state = jax.jit(restrict, out_shardings=sharding.placement(shapes))(state)
        self.current = self.current._replace(model=model, state_shapes=shapes)
        self._expand = None
        return state

    def choose(self, state: TrainState, train: data.Split) -> dict[str, NDArray[np.int64]] | None:
        """The units to go on with, if leaving the others out is allowed and worth while."""
        config, plan, hidden = self.setup.config, self.setup.plan, self._hidden
        labels = optim.layer_labels(state.params)
        thresholds = {
            layer.reader: plan.effective[f"l1.{label} * beta"]
            for layer in hidden
            if layer.normalised and (label := labels[layer.reader]["kernel"])
        }

        def choose(limits: Mapping[str, float]) -> dict[str, NDArray[np.int64]] | None:
            frozen = config.train.shrink == "frozen"
            dead = hidden_units.dead_units(hidden, state, limits=limits, frozen=frozen)
            return hidden_units.choose(hidden, state.params, dead)

        # The limits cost a step, and mostly nothing hangs on them.
        if choose(dict.fromkeys(thresholds, np.inf)) is None:
            return None
        # The batch of the next step, as it will be.
        step, size = int(state.step), config.train.batch_size
        epoch, first = divmod(step, plan.steps_per_epoch)
        order = np.asarray(rng.epoch_order(config.seed, epoch, len(train.labels)))
        batch = data.read(train, order[first * size : (first + 1) * size])
        augment, preprocess = self.setup.inputs
        key = rng.key_for(config.seed, rng.AUGMENT, step)
        inputs_B = preprocess(augment(key, jnp.asarray(batch.images)))
        labels_B = jnp.asarray(batch.labels)
        rate = float(plan.schedule(step))
        model = self.current.model
        return choose(
            hidden_units.output_limits(model, state, inputs_B, labels_B, thresholds, rate)
        )
