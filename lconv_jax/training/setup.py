"""A configuration made concrete: data, inputs, model, optimizer, mesh. Nothing is compiled yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lconv_jax import config as config_lib
from lconv_jax import data, models
from lconv_jax.data.sources import registry
from lconv_jax.host import memory
from lconv_jax.optim import apply_masks
from lconv_jax.optim.registry import METHODS
from lconv_jax.parallel import sharding
from lconv_jax.training import hidden_units, rng, starting
from lconv_jax.training.inputs import Inputs, make_inputs
from lconv_jax.training.plan import Plan, make_plan
from lconv_jax.training.state import TrainState


class Setup(NamedTuple):
    """The parts of a run."""

    config: Any
    dataset: data.Dataset
    model: nn.Module
    plan: Plan
    inputs: Inputs
    mesh: jax.sharding.Mesh
    state_shapes: TrainState  # of jax.ShapeDtypeStruct, with shardings
    start: dict[str, Any]  # in the place of what is drawn, see `starting.read`
    frozen: frozenset[str]  # layers whose parameters stay


def prepare(
    config: Any,
    dataset: data.Dataset | None = None,
    *,
    must_fit: bool = True,
    begins: bool = True,
) -> Setup:
    """Loads the data, unless they are given, and builds model, optimizer and mesh.

    The configuration of the result is `config.resolve`d. With `must_fit`, a state that the memory
    here does not hold is refused; without, its programs can still be compiled and looked at. What
    `train.start` names is read if training may begin here, and is not needed for what is trained.

    Raises:
      ConfigError, DataError: naming what is wrong and what to do.
    """
    config_lib.validate(config)
    config = config_lib.resolve(config)
    dataset = load(config) if dataset is None else dataset
    # Traced here, so that an augmentation that the images do not allow is refused early.
    batch = jax.ShapeDtypeStruct((2, *dataset.image_shape), dataset.train.images.dtype)
    inputs = make_inputs(config, dataset.image_shape)
    jax.eval_shape(lambda x: inputs.augment(jax.random.key(0), x), batch)
    mesh = sharding.make_mesh(config.sharding.data, config.sharding.model)
    if config.train.batch_size % mesh.shape["data"]:
        raise config_lib.ConfigError(
            f"config.train.batch_size = {config.train.batch_size} is not a multiple of the "
            f"{mesh.shape['data']} devices it is split over"
        )
    model = models.create(
        config.model.name,
        alpha=config.model.alpha,
        num_classes=dataset.num_classes,
        kernel_size=config.model.kernel_size,
        dropout=config.model.dropout,
        dtype=jnp.dtype(config.model.dtype),
    )
    example = jax.ShapeDtypeStruct((2, *dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), example)
    plan = make_plan(config, len(dataset.train.labels), variables["params"])
    shapes = jax.eval_shape(make_initial_state(model, plan, dataset.image_shape, config.seed))
    if config.train.shrink != "none":
        hidden_units.check_optimizer(shapes.opt_state)
    shapes = laid_out(mesh, shapes)
    if must_fit:
        _check_memory(config, shapes)
    start = starting.read(config.train.start, shapes) if begins and config.train.start else {}
    frozen = starting.check_freeze(config.train.freeze, shapes.params)
    return Setup(config, dataset, model, plan, inputs, mesh, shapes, start, frozen)


def _check_memory(config: Any, shapes: TrainState) -> None:
    """Raises ConfigError for a state that, with the gradients, no memory here holds."""
    device = memory.device_bytes()
    there = memory.host_bytes() if device is None else device
    needed = memory.largest_share(shapes) + memory.largest_share(shapes.params)
    if needed > there:
        weights = sum(kernel.size for kernel in models.kernels(shapes.params).values())
        raise config_lib.ConfigError(
            f"config.model.alpha = {config.model.alpha}: {config.model.name} has {weights:,} "
            f"weights here, and state and gradients take {needed:,} bytes of the {there:,} that "
            f"{'this machine' if device is None else 'a device'} has. Lower config.model.alpha, or "
            "split the weights over more devices with config.sharding.model"
        )


def load(config: Any, given: data.Dataset | None = None) -> data.Dataset:
    """The data that a configuration names, or the given data, divided as it says."""
    division = {
        "validation": config.data.validation,
        "examples": config.data.examples,
        "seed": config.seed,
        "stream": config.data.stream,
        "device_limit_gib": config.data.device_limit_gib,
        "surrogate": config.data.surrogate,
    }
    if given is not None:
        return data.given(given, **division)
    return data.load(
        config.data.name,
        config.data.data_dir or None,
        size=config.data.size,
        channels=config.data.channels,
        **division,
    )


def prepare_given(config: Any, given: data.Dataset) -> Setup:
    """As `prepare`, with data that a program made, which the configuration then says.

    Raises:
      ConfigError, DataError: naming what is wrong and what to do.
    """
    config_lib.validate(config)
    if config.data.size or config.data.channels:
        raise config_lib.ConfigError(
            f"config.data.size = {config.data.size}, config.data.channels = "
            f"{config.data.channels}: they are for images that are read, and these are given; set "
            "both to 0"
        )
    named = {"data.name": registry.GIVEN, "data.data_dir": ""}
    config = config_lib.with_overrides(config, named)
    return prepare(config, load(config, given))


def laid_out(mesh: jax.sharding.Mesh, shapes: Any) -> Any:
    """Shapes with the sharding that arrays of these shapes have."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.state_sharding(mesh, shapes),
    )


def make_initial_state(
    model: nn.Module,
    plan: Plan,
    image_shape: tuple[int, ...],
    seed: Any,
    start: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[], TrainState]:
    """The function () -> TrainState at step 0; the seed, and what it starts from, may be traced."""

    def initial_state() -> TrainState:
        inputs = jnp.zeros((2, *image_shape), jnp.float32)
        variables = model.init(rng.key_for(seed, rng.INIT), inputs, train=False)
        params, batch_stats = (
            starting.take_over(variables[field], start.get(field, {}))
            for field in ("params", "batch_stats")
        )
        _, tx = plan.make(plan.numbers, seed)
        opt_state = tx.init(params)
        if METHODS[plan.optimizer].masked:
            params = apply_masks(params, opt_state)
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state)

    return initial_state
