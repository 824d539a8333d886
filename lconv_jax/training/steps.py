"""The compiled part of a run: what happens between two looks of the host.

Every random number is a function of (seed, purpose, epoch or step), and the order of the data of
(seed, epoch), so a run that was stopped anywhere continues as if it had not been.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lconv_jax import data, models, optim
from lconv_jax.config import ConfigError
from lconv_jax.data import policies
from lconv_jax.parallel import sharding
from lconv_jax.training.state import TrainState

# What a random key is for; a number, once given, keeps its meaning.
INIT, ORDER, AUGMENT, DROPOUT, STATISTICS, PERMUTATION = range(6)
# Keys of a policy and of the noise, which follow from that of the shifts; its draws count from 0.
_POLICY, _NOISE = 1, 2**32 - 1
# A state counts its steps in 32 bits.
_MOST_STEPS = 2**31 - 1
# Learning rates are added up one by one as far as that takes no time.
_MOST_ADDED = 2**22


class Plan(NamedTuple):
    """What follows from a configuration and the size of its training set."""

    steps_per_epoch: int
    total_steps: int
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    effective: dict[str, float]  # Ση, and for β-lasso λ, β, λ·Ση and β·λ as they are used
    numbers: dict[str, float]  # of `make_optimizer`


def key_for(seed: int, purpose: int, index: Any = 0) -> jax.Array:
    """The random key of (seed, purpose, epoch or step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def make_plan(config: Any, num_examples: int, params: Any) -> Plan:
    """The schedule and the optimizer of a run on `num_examples` training examples.

    Args:
      config: a validated configuration.
      num_examples: size of the training set; what is left of an epoch after whole batches is
        not used in it.
      params: the model's parameters, or their shapes: they say which layers there are.

    Raises:
      ConfigError: if the training set holds less than one batch.
    """
    batch_size, opt = config.train.batch_size, config.optimizer
    if num_examples < batch_size:
        raise ConfigError(
            f"config.train.batch_size = {batch_size} is more than the {num_examples} training "
            "examples; an epoch needs at least one whole batch"
        )
    steps_per_epoch = num_examples // batch_size
    total_steps = steps_per_epoch * config.train.epochs
    if total_steps > _MOST_STEPS:
        raise ConfigError(
            f"config.train.epochs = {config.train.epochs} of {steps_per_epoch} steps each are "
            f"{total_steps} steps, and {_MOST_STEPS} can be counted; train for "
            f"{_MOST_STEPS // steps_per_epoch} epochs at most"
        )
    numbers = {"learning_rate": float(opt.learning_rate)}
    numbers |= {name: float(opt[name]) for name in ("momentum", "weight_decay") if opt[name]}
    schedule, _ = make_optimizer("sgd", numbers, total_steps)
    lr_sum = _sum_rates(schedule, total_steps)
    effective = {"lr_sum": lr_sum}
    if opt.name == "beta_lasso":
        present = set(jax.tree.leaves(optim.layer_labels(params)))
        l1 = {label: float(opt.l1[label]) for label in ("conv", "fc") if label in present}
        if not any(l1.values()):
            raise ConfigError(
                f"config.optimizer.l1 = {dict(opt.l1)} regularises no layer of "
                f"{config.model.name}, which has {' and '.join(f'l1.{k}' for k in l1)}; set one"
            )
        beta = float(opt.beta)
        if opt.reference_lr_sum:
            l1, beta = optim.rescale_l1(
                l1, beta, lr_sum=lr_sum, reference_lr_sum=opt.reference_lr_sum
            )
        effective["beta"] = beta
        for label, value in l1.items():
            effective[f"l1.{label}"] = value
            effective[f"l1.{label} * lr_sum"] = value * lr_sum
            effective[f"l1.{label} * beta"] = value * beta
            numbers |= {f"l1.{label}": value, f"threshold.{label}": beta * value}
    _check_float32(numbers)
    schedule, tx = make_optimizer(opt.name, numbers, total_steps)
    return Plan(steps_per_epoch, total_steps, schedule, tx, effective, numbers)


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


def make_optimizer(
    name: str, numbers: Mapping[str, Any], total_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The schedule of η and the optimizer `name`, from numbers that may be traced.

    Args:
      name: "beta_lasso" or "sgd".
      numbers: `Plan.numbers`: learning_rate; momentum and weight_decay where there is any; and
        for β-lasso λ and βλ, as l1.conv, l1.fc, threshold.conv and threshold.fc, as far as the
        model has such layers.
      total_steps: over which a cosine takes η to 0.
    """
    schedule = optax.cosine_decay_schedule(numbers["learning_rate"], total_steps)
    momentum = numbers.get("momentum")
    if name == "sgd":
        method = optax.sgd(schedule, momentum)
    else:
        l1, threshold = (
            {key[len(kind) :]: value for key, value in numbers.items() if key.startswith(kind)}
            for kind in ("l1.", "threshold.")
        )
        method = optim.lasso(schedule, l1, threshold, momentum=momentum)
    if "weight_decay" in numbers:
        decay = optax.add_decayed_weights(
            numbers["weight_decay"],
            mask=lambda tree: jax.tree.map(lambda label: label != "none", optim.layer_labels(tree)),
        )
        method = optax.chain(decay, method)
    return schedule, method


def epoch_order(seed: Any, epoch: Any, size: int) -> jax.Array:
    """The order of the training examples in an epoch, int32 [size]; all may be traced but size."""
    return jax.random.permutation(key_for(seed, ORDER, epoch), size)


def permutation_seed(config: Any) -> int | None:
    """The seed of the permutation that `data.permute` asks for, or None where it asks for none."""
    permute = config.data.permute
    return None if permute == 0 else config.seed if permute == 1 else permute


def permutation(seed: int, image_shape: tuple[int, ...]) -> np.ndarray:
    """The order in which a run sees the pixels, of `permutation_seed`; channels stay together."""
    pixels = math.prod(image_shape[:-1])
    with jax.ensure_compile_time_eval():  # also where a program is being traced
        return np.asarray(jax.random.permutation(key_for(seed, PERMUTATION), pixels))


def make_arrange(
    config: Any, image_shape: tuple[int, ...], order: Any = None
) -> Callable[[jax.Array], jax.Array]:
    """The function from stored images [B, *image_shape] to the model's input: scale, permute.

    The permutation comes after augmentation, so that shifts and flips are those of real images;
    with `data.permute_first` see `make_augment`. `order`, which may be traced, takes the place of
    the configuration's own permutation.
    """
    seed = permutation_seed(config)
    if seed is None:
        return data.normalize
    order = permutation(seed, image_shape) if order is None else order
    return lambda images: _reordered(data.normalize(images), order)


def make_augment(config: Any, order: Any = None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (key, stored images) -> images of the configuration's augmentation.

    The policy of `data.augment`, then shift, flip and cutout, then noise; with noise the images
    are normalised, which `make_arrange` leaves as they are. With `data.permute_first` they are
    those of the permuted images, put back: what follows permutes, and the model sees permuted
    images that were changed.

    Args:
      config: of the run.
      order: takes the place of the configuration's own permutation, and may be traced.
    """
    shift = functools.partial(
        data.augment,
        crop=config.data.crop,
        flip=config.data.flip,
        cutout=config.data.cutout,
        cutout_fill=config.data.cutout_fill,
    )
    policy = policies.load(config.data.augment) if config.data.augment else None
    noise = config.data.noise
    seed = permutation_seed(config) if config.data.permute_first else None
    if policy is None and seed is None and not noise:
        return shift

    def change(key: jax.Array, images: jax.Array) -> jax.Array:
        if policy is not None:
            images = policies.augment(jax.random.fold_in(key, _POLICY), images, policy)
        return shift(key, images)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if seed is not None:
            there = permutation(seed, images.shape[1:]) if order is None else order
            changed = change(key, _reordered(images, there))
            images = _reordered(changed, jnp.argsort(jnp.asarray(there)))
        else:
            images = change(key, images)
        if not noise:
            return images
        draws = jax.random.normal(jax.random.fold_in(key, _NOISE), images.shape)
        return data.normalize(images) + noise * draws

    return augment


def _reordered(images: jax.Array, order: Any) -> jax.Array:
    """Images [B, *spatial, C] whose pixel i is pixel order[i] of the given ones."""
    flat = images.reshape(images.shape[0], -1, images.shape[-1])
    return flat[:, order].reshape(images.shape)


def count_nonzeros(kernel: jax.Array, axis: int = -1) -> jax.Array:
    """The number of non-zero entries, int32.

    Those along `axis` are counted in float32, exact up to 2²⁴ entries and a third faster on the
    CPU than `jnp.count_nonzero`, which every step pays for.
    """
    counts = jnp.sum((kernel != 0).astype(jnp.float32), axis=axis)
    return jnp.sum(counts.astype(jnp.int32))


def make_initial_state(
    config: Any, model: nn.Module, plan: Plan, image_shape: Any, seed: Any = None
) -> Any:
    """The function () -> TrainState at step 0; `seed` is as in `make_train_steps`."""
    seed = config.seed if seed is None else seed

    def initial_state() -> TrainState:
        inputs = jnp.zeros((2, *image_shape), jnp.float32)
        variables = model.init(key_for(seed, INIT), inputs, train=False)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, plan.tx.init(params))

    return initial_state


def make_train_steps(
    config: Any,
    model: nn.Module,
    plan: Plan,
    arrange: Callable[[jax.Array], jax.Array],
    mesh: jax.sharding.Mesh,
    *,
    with_metrics: bool = True,
    seed: Any = None,
    subset: Any = None,
    order: Any = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The function (state, train, count) -> (state, metrics) that takes `count` training steps.

    `train` is the training set, a `data.Split` whose batches are picked here by `epoch_order`, or a
    `data.Chunk` of batches that were picked so already. `count` is traced, so that one program
    serves an epoch and any part of it; it must not lead past the end of an epoch or of a chunk. The
    metrics are arrays [steps_per_epoch], filled up to `count`, of loss and accuracy (before each
    update), learning rate and each layer's non-zeros (after it); and `finite`, whether the state at
    the end holds neither NaN nor infinity.

    Args:
      config, model, plan, arrange, mesh: of the run.
      with_metrics: without, there is the loss alone.
      seed: takes the place of the configuration's, and may be traced, as the plan's optimizer may.
      subset: int32 [N], which may be traced; the training set is these rows of `train`.
      order: takes the place of the configuration's permutation, as in `make_augment`.
    """
    batch_size = config.train.batch_size
    seed = config.seed if seed is None else seed
    augment = make_augment(config, order)

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> Any:
        inputs = arrange(augment(key_for(seed, AUGMENT, state.step), images))

        def loss_fn(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                inputs,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key_for(seed, DROPOUT, state.step)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (updated["batch_stats"], jnp.mean(jnp.argmax(logits, -1) == labels))

        (loss, (batch_stats, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        updates, opt_state = plan.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        row = {"train/loss": loss}
        if with_metrics:
            row["train/accuracy"] = accuracy
            row["train/learning_rate"] = jnp.asarray(plan.schedule(state.step), jnp.float32)
            specs = sharding.kernel_specs(params, mesh.shape["model"])
            for name, kernel in models.kernels(params).items():
                # Summed first along an axis that is not split, so that only one number is sent.
                axis = 0 if "model" in specs[name][-1:] else -1
                row[f"sparsity/{name}/nonzeros"] = count_nonzeros(kernel, axis)
        return TrainState(state.step + 1, params, batch_stats, opt_state), row

    def batches(train: data.Split | data.Chunk, step: Any) -> Callable[[Any], Any]:
        """The function index -> images and labels of the batch `index` steps after `step`."""
        if isinstance(train, data.Chunk):
            at = step - train.first
            return lambda index: (train.images[at + index], train.labels[at + index])
        epoch, first = jnp.divmod(step, plan.steps_per_epoch)
        size = len(train.labels) if subset is None else len(subset)
        order = epoch_order(seed, epoch, size)
        order = order if subset is None else subset[order]

        def batch(index: Any) -> Any:
            chosen = jax.lax.dynamic_slice(order, ((first + index) * batch_size,), (batch_size,))
            chosen = jax.lax.with_sharding_constraint(chosen, sharding.batch_sharding(mesh))
            return train.images[chosen], train.labels[chosen]

        return batch

    def train_steps(state: TrainState, train: data.Split | data.Chunk, count: Any) -> Any:
        batch = batches(train, state.step)

        def body(index: Any, carry: Any) -> Any:
            state, rows = carry
            state, row = train_step(state, *batch(index))
            return state, {name: rows[name].at[index].set(value) for name, value in row.items()}

        row = jax.eval_shape(lambda state: train_step(state, *batch(0)), state)[1]
        rows = {name: jnp.zeros(plan.steps_per_epoch, leaf.dtype) for name, leaf in row.items()}
        state, rows = jax.lax.fori_loop(0, count, body, (state, rows))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)])
        return state, rows | {"finite": finite.all()}

    return train_steps
