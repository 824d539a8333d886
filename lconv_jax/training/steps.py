"""The compiled part of a run: training steps, many in one call, without the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lconv_jax import data, models
from lconv_jax.parallel import sharding
from lconv_jax.training import rng
from lconv_jax.training.inputs import make_inputs
from lconv_jax.training.setup import Setup
from lconv_jax.training.starting import freeze_updates
from lconv_jax.training.state import TrainState


class Lane(NamedTuple):
    """The differences between runs of one program: of one run, or of K with a leading axis K.

    Attributes:
      numbers: arguments of the optimizer's transformation, as in `Plan.numbers`.
      seed: uint32.
      rows: int32 [N], the training set of the run among all training examples.
      order: int32 [pixels], the permutation of `data.permute`; None without.
    """

    numbers: dict[str, Any]
    seed: Any
    rows: Any
    order: Any


def count_nonzeros(kernel: jax.Array, axis: int = -1) -> jax.Array:
    """The number of non-zero entries, int32.

    Those along `axis` are counted in float32, exact up to 2²⁴ entries and a third faster on the
    CPU than `jnp.count_nonzero`, which every step pays for.
    """
    counts = jnp.sum((kernel != 0).astype(jnp.float32), axis=axis)
    return jnp.sum(counts.astype(jnp.int32))


def make_train_steps(
    setup: Setup, lane: Lane | None = None, *, with_metrics: bool = True
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The function (state, train, count) -> (state, metrics) that takes `count` training steps.

    `train` is the training set, a `data.Split` whose batches are picked here by `rng.epoch_order`,
    or a `data.Chunk` of batches that were picked so already. `count` is traced, so that one program
    serves an epoch and any part of it; it must not lead past the end of an epoch or of a chunk. The
    metrics are arrays [steps_per_epoch], filled up to `count`, of loss and accuracy (before each
    update), learning rate and each layer's non-zeros (after it); and `finite`, whether the state at
    the end holds neither NaN nor infinity.

    Args:
      setup: of the run.
      lane: replaces the setup's own, and may be traced.
      with_metrics: without, there is the loss alone.
    """
    config, model, plan = setup.config, setup.model, setup.plan
    inputs, mesh = setup.inputs, setup.mesh
    batch_size, seed = config.train.batch_size, config.seed
    if lane is not None:
        schedule, tx = plan.make(lane.numbers, lane.seed)
        plan, seed = plan._replace(schedule=schedule, tx=tx), lane.seed
        inputs = make_inputs(config, setup.dataset.image_shape, lane.order)

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> Any:
        key = rng.key_for(seed, rng.AUGMENT, state.step)
        inputs_B = inputs.preprocess(inputs.augment(key, images))

        def loss_fn(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                inputs_B,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": rng.key_for(seed, rng.DROPOUT, state.step)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (updated["batch_stats"], jnp.mean(jnp.argmax(logits, -1) == labels))

        (loss, (batch_stats, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        updates, opt_state = plan.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, freeze_updates(updates, setup.frozen))
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
        if lane is None:
            order = rng.epoch_order(seed, epoch, len(train.labels))
        else:
            order = lane.rows[rng.epoch_order(seed, epoch, len(lane.rows))]

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
