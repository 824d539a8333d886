"""What a configuration is made into: data, model, optimizer, mesh, and the compiled programs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from lconv_jax import config as config_lib
from lconv_jax import data, evaluate, memory, models, optim, sharding, shrink, steps, stream
from lconv_jax.state import TrainState


class Experiment(NamedTuple):
    """A configuration made concrete. Nothing is compiled yet."""

    config: Any
    dataset: data.Dataset
    model: nn.Module
    plan: steps.Plan
    mesh: jax.sharding.Mesh
    state_shapes: TrainState  # of jax.ShapeDtypeStruct, with shardings


def prepare(
    config: Any, dataset: data.Dataset | None = None, *, must_fit: bool = True
) -> Experiment:
    """Loads the data, unless they are given, and builds model, optimizer and mesh.

    The experiment's configuration is `config.resolve`d. With `must_fit`, a state that the memory
    here does not hold is refused; without, its programs can still be compiled and looked at.

    Raises:
      ConfigError, DataError: naming what is wrong and what to do.
    """
    config_lib.validate(config)
    config = config_lib.resolve(config)
    dataset = load(config) if dataset is None else dataset
    # Traced here, so that an augmentation that the images do not allow is refused early.
    batch = jax.ShapeDtypeStruct((2, *dataset.image_shape), dataset.train.images.dtype)
    jax.eval_shape(lambda x: steps.make_augment(config)(jax.random.key(0), x), batch)
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
    inputs = jax.ShapeDtypeStruct((2, *dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), inputs)
    plan = steps.make_plan(config, len(dataset.train.labels), variables["params"])
    shapes = jax.eval_shape(steps.make_initial_state(config, model, plan, dataset.image_shape))
    if config.train.shrink != "none":
        shrink.check_optimizer(shapes.opt_state)
    shapes = laid_out(mesh, shapes)
    if must_fit:
        _check_memory(config, shapes)
    return Experiment(config, dataset, model, plan, mesh, shapes)


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


def load(config: Any) -> data.Dataset:
    """The data of a configuration."""
    return data.load(
        config.data.name,
        config.data.data_dir or None,
        validation=config.data.validation,
        examples=config.data.examples,
        seed=config.seed,
        stream=config.data.stream,
        device_limit_gib=config.data.device_limit_gib,
    )


def laid_out(mesh: jax.sharding.Mesh, shapes: Any) -> Any:
    """Shapes with the sharding that arrays of these shapes have."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.state_sharding(mesh, shapes),
    )


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0, laid out over the mesh."""
    config, dataset, model, plan, _, shapes = experiment
    make = steps.make_initial_state(config, model, plan, dataset.image_shape)
    placement = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(make, out_shardings=placement)()


def compile_train_steps(experiment: Experiment, **options: Any) -> Any:
    """The compiled (state, train, count) -> (state, metrics); its first argument is donated.

    Of a streamed set `train` is a chunk, as `stream.training_feed` gives it.
    """
    config, dataset, model, plan, mesh, shapes = experiment
    arrange = steps.make_arrange(config, dataset.image_shape)
    function = steps.make_train_steps(config, model, plan, arrange, mesh, **options)
    everywhere = sharding.replicated(mesh)
    placement = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    train = stream.train_shapes(config, dataset.train, plan.total_steps, mesh)
    jitted = jax.jit(
        function,
        donate_argnums=0,
        in_shardings=(placement, jax.tree.map(lambda leaf: leaf.sharding, train), everywhere),
        out_shardings=(placement, everywhere),
    )
    return jitted.lower(shapes, train, jax.ShapeDtypeStruct((), jnp.int32)).compile()


def compile_evaluation(experiment: Experiment) -> Callable[..., dict[str, Any]]:
    """The function (state, train, split, key) -> metrics of `evaluate.make_evaluate`."""
    config = experiment.config
    arrange = steps.make_arrange(config, experiment.dataset.image_shape)
    return evaluate.make_evaluate(
        experiment.model,
        steps.make_augment(config),
        arrange,
        config.train.batch_size,
        experiment.mesh,
    )


def forward_flops(experiment: Experiment) -> float:
    """Floating point operations of a forward pass of one batch, two for each multiply-add."""
    model, shapes = experiment.model, experiment.state_shapes
    size = experiment.config.train.batch_size
    images = jax.ShapeDtypeStruct((size, *experiment.dataset.image_shape), jnp.float32)
    variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    lowered = jax.jit(functools.partial(model.apply, train=False)).lower(variables, images)
    costs: Any = lowered.cost_analysis()
    return costs["flops"]


def _hidden(experiment: Experiment) -> tuple[shrink.Hidden, ...]:
    return shrink.hidden_layers(experiment.model, experiment.dataset.image_shape)


def stored_shapes(experiment: Experiment) -> TrainState:
    """The shapes of a checkpoint: the original ones, and which units the network had."""
    shapes = experiment.state_shapes
    if experiment.config.train.shrink == "none":
        return shapes
    kept = {
        layer.name: jax.ShapeDtypeStruct(
            (layer.units,), bool, sharding=sharding.replicated(experiment.mesh)
        )
        for layer in _hidden(experiment)
    }
    return dataclasses.replace(shapes, kept=kept)


def restricted(
    experiment: Experiment, state: TrainState, kept: Mapping[str, NDArray[np.int64]]
) -> tuple[Experiment, TrainState]:
    """The experiment and the state with the units `kept` of each dense hidden layer only.

    `experiment` may be restricted already, by units of its own; `kept` counts the units that
    `state` has.
    """
    before = dict(experiment.model.kept)
    original = {
        name: np.asarray(before[name])[index] if before else index for name, index in kept.items()
    }
    hidden = _hidden(experiment)

    def restrict(state: TrainState) -> TrainState:
        return shrink.restrict(hidden, experiment.plan.tx, state, kept)

    shapes = laid_out(experiment.mesh, jax.eval_shape(restrict, state))
    model = experiment.model.clone(
        kept=tuple((name, tuple(index.tolist())) for name, index in original.items())
    )
    placement = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    state = jax.jit(restrict, out_shardings=placement)(state)
    return experiment._replace(model=model, state_shapes=shapes), state


def make_expand(experiment: Experiment, current: Experiment) -> Callable[[TrainState], TrainState]:
    """The function from a state of `current` to one at the shapes it was restricted from."""
    if experiment.config.train.shrink == "none":
        return lambda state: state
    hidden, shapes = _hidden(experiment), stored_shapes(experiment)
    placement = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    kept = {layer.name: np.arange(layer.units) for layer in hidden}
    kept |= {name: np.asarray(index) for name, index in current.model.kept}

    @functools.partial(jax.jit, out_shardings=placement)
    def expand(state: TrainState) -> TrainState:
        return shrink.expand(hidden, experiment.plan.tx, state, shapes, kept)

    return expand


def smaller(
    experiment: Experiment, state: TrainState, train: data.Split
) -> dict[str, NDArray[np.int64]] | None:
    """The units to go on with, if leaving the others out is allowed and worth while."""
    config, plan = experiment.config, experiment.plan
    if config.train.shrink == "none":
        return None
    hidden = _hidden(experiment)
    labels = optim.layer_labels(state.params)
    thresholds = {
        layer.reader: plan.effective[f"l1.{label} * beta"]
        for layer in hidden
        if layer.normalised and (label := labels[layer.reader]["kernel"])
    }

    def choose(limits: Mapping[str, float]) -> dict[str, NDArray[np.int64]] | None:
        frozen = config.train.shrink == "frozen"
        dead = shrink.dead_units(hidden, state, limits=limits, frozen=frozen)
        return shrink.choose(hidden, state.params, dead)

    # The limits cost a step, and mostly nothing hangs on them.
    if choose(dict.fromkeys(thresholds, np.inf)) is None:
        return None
    # The batch of the next step, as it will be.
    step, size = int(state.step), config.train.batch_size
    epoch, first = divmod(step, plan.steps_per_epoch)
    order = np.asarray(steps.epoch_order(config.seed, epoch, len(train.labels)))
    batch = data.read(train, order[first * size : (first + 1) * size])
    key = steps.key_for(config.seed, steps.AUGMENT, step)
    arrange = steps.make_arrange(config, experiment.dataset.image_shape)
    inputs = arrange(steps.make_augment(config)(key, jnp.asarray(batch.images)))
    labels_B = jnp.asarray(batch.labels)
    rate = float(plan.schedule(step))
    return choose(shrink.output_limits(experiment.model, state, inputs, labels_B, thresholds, rate))
