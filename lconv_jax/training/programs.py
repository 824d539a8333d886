"""The compiled programs of a run: the initial state, training steps, evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax.parallel import sharding
from lconv_jax.training import evaluation, rng, streaming
from lconv_jax.training.setup import Setup, make_initial_state
from lconv_jax.training.state import TrainState
from lconv_jax.training.steps import make_train_steps


def initial_state(setup: Setup) -> TrainState:
    """The state at step 0, laid out over the mesh."""
    return make_initial(setup)(np.uint32(setup.config.seed))


def make_initial(setup: Setup) -> Callable[[Any], TrainState]:
    """The compiled function seed -> state at step 0. One that is kept serves all seeds."""

    @functools.partial(jax.jit, out_shardings=sharding.placement(setup.state_shapes))
    def initial(seed: jax.Array, start: dict[str, jax.Array]) -> TrainState:
        shape = setup.dataset.image_shape
        return make_initial_state(setup.model, setup.plan, shape, seed, start)()

    return lambda seed: initial(seed, setup.start)


def compile_train_steps(setup: Setup, **options: Any) -> Any:
    """The compiled (state, train, count) -> (state, metrics); its first argument is donated.

    Of a streamed set `train` is a chunk, as `streaming.training_feed` gives it. The options are
    those of `steps.make_train_steps`.
    """
    replicated = sharding.replicated(setup.mesh)
    placement = sharding.placement(setup.state_shapes)
    train = streaming.train_shapes(
        setup.config, setup.dataset.train, setup.plan.total_steps, setup.mesh
    )
    jitted = jax.jit(
        make_train_steps(setup, **options),
        donate_argnums=0,
        in_shardings=(placement, sharding.placement(train), replicated),
        out_shardings=(placement, replicated),
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    return jitted.lower(setup.state_shapes, train, count).compile()


def compile_evaluation(setup: Setup) -> Callable[..., dict[str, Any]]:
    """The function (state, train, split, key) -> metrics of `evaluation.make_evaluate`."""
    size = setup.config.train.batch_size
    return evaluation.make_evaluate(setup.model, setup.inputs, size, setup.mesh)


def evaluation_stats(setup: Setup, params: Any, batch_stats: Any, step: int) -> Any:
    """The BN statistics that the run evaluates its network of this step with."""
    size = setup.config.train.batch_size
    statistics = evaluation.make_statistics(setup.model, setup.inputs, size, setup.mesh)
    key = rng.key_for(setup.config.seed, rng.STATISTICS, step)
    return statistics(params, batch_stats, setup.dataset.train.images, key)


def forward_flops(setup: Setup) -> float:
    """Floating point operations of a forward pass of one batch, two for each multiply-add."""
    shapes, size = setup.state_shapes, setup.config.train.batch_size
    images = jax.ShapeDtypeStruct((size, *setup.dataset.image_shape), jnp.float32)
    variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    apply = functools.partial(setup.model.apply, train=False)
    costs: Any = jax.jit(apply).lower(variables, images).cost_analysis()
    return costs["flops"]
