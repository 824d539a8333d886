"""The steps, the schedule and the optimizer of a configuration and its data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lconv_jax.errors import ConfigError
from lconv_jax.optim.registry import METHODS, Given
from lconv_jax.training import rng

# A state counts its steps in 32 bits.
_MOST_STEPS = 2**31 - 1
# Learning rates are added up one by one as far as that takes no time.
_MOST_ADDED = 2**22


class Plan(NamedTuple):
    """The steps of a run, its schedule and its optimizer."""

    optimizer: str  # its name in `optim.registry.METHODS`
    steps_per_epoch: int
    total_steps: int
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    effective: dict[str, float]  # as in `optim.registry.Hyperparams`
    numbers: dict[str, float]  # arguments of the optimizer's transformation, as there
    # (numbers, seed) -> schedule of η and transformation; both arguments may be traced.
    make: Callable[[Mapping[str, Any], Any], tuple[optax.Schedule, optax.GradientTransformation]]


def make_plan(config: Any, num_examples: int, params: Any) -> Plan:
    """The plan of a run on `num_examples` training examples.

    Args:
      config: a validated configuration.
      num_examples: size of the training set; what is left of an epoch after whole batches is
        not used in it.
      params: the model's parameters, or their shapes: they say which layers there are.

    Raises:
      ConfigError: if the training set holds less than one batch, there are too many steps, or the
        optimizer's keys do not fit the model or float32.
    """
    batch_size, opt = config.train.batch_size, config.optimizer
    if num_examples < batch_size:
        raise ConfigError(
            f"config.train.batch_size = {batch_size} is more than the {num_examples} training "
            "examples; an epoch needs at least one whole batch, so set it to "
            f"{num_examples} or less"
        )
    steps_per_epoch = num_examples // batch_size
    total_steps = steps_per_epoch * config.train.epochs
    if total_steps > _MOST_STEPS:
        raise ConfigError(
            f"config.train.epochs = {config.train.epochs} with {steps_per_epoch} steps per epoch "
            f"make {total_steps} steps, and at most {_MOST_STEPS} can be counted; train for "
            f"{_MOST_STEPS // steps_per_epoch} epochs at most"
        )
    lr_sum = _sum_rates(make_schedule(float(opt.learning_rate), total_steps), total_steps)
    make = functools.partial(_make_optimizer, opt, total_steps)
    try:
        numbers, effective = METHODS[opt.name].hyperparams(config, params, lr_sum)
        _check_float32(numbers)
        schedule, tx = make(numbers, config.seed)
        if METHODS[opt.name].masked:
            jax.eval_shape(tx.init, params)  # densities and structures that do not fit the layers
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Plan(opt.name, steps_per_epoch, total_steps, schedule, tx, effective, numbers, make)


def make_schedule(learning_rate: Any, total_steps: int) -> optax.Schedule:
    """A cosine that takes η, which may be traced, to 0 over the run."""
    return optax.cosine_decay_schedule(learning_rate, total_steps)


def _make_optimizer(
    opt: Any, total_steps: int, numbers: Mapping[str, Any], seed: Any
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The schedule of η and the optimizer of a configuration, with these numbers and this seed."""
    method = METHODS[opt.name]
    settings = {key: opt[key] for key in method.settings}
    rounds = method.rounds(settings, total_steps) if method.rounds else None
    once = make_schedule(numbers["learning_rate"], rounds.steps if rounds else total_steps)
    schedule = once if rounds is None else lambda step: once(rounds.position(step))
    own_seed = rng.seed_for(seed, rng.OPTIMIZER) if method.random else None
    return schedule, method.make(Given(once, numbers, settings, own_seed, total_steps))


def _sum_rates(schedule: optax.Schedule, total_steps: int) -> float:
    """Ση over all steps of a cosine, in float64."""
    if total_steps <= _MOST_ADDED:
        return float(np.sum(np.asarray(schedule(np.arange(total_steps)), np.float64)))
    # The cosines of a half turn in equal steps, the last one left out, sum to 1.
    return float(schedule(0)) * (total_steps + 1) / 2


def _check_float32(numbers: Mapping[str, float]) -> None:
    """Raises ConfigError for a number of the optimizer that float32 takes for 0 or infinity."""
    range_ = np.finfo(np.float32)
    for name, value in numbers.items():
        if value and not range_.tiny <= value <= range_.max:
            raise ConfigError(
                f"config.optimizer: {name} would be {value:g}, and float32 holds 0 and "
                f"{range_.tiny:g} … {range_.max:g}; choose other l1, beta and reference_lr_sum"
            )
