"""Whether a sparse first layer is faster than a dense one, and when a sparse step is exact.

    python -m benchmarks.sparse_layer RUN_DIR [--rounds=15] [--json]

For each checkpoint of a run of a dense net under β-lasso: the time of the first layer's forward
product on one batch as it is, as gathered sums over each unit's inputs, and by
jax.experimental.sparse, with its indices given and with finding them; and the share of weights
whose regrowth the norms of inputs and of gradients rule out in this step, so that the backward
product may leave them out:

    η · ‖x_i − c_i‖ · ‖δ_j‖ < β·λ    implies that a zero w_ij stays zero,

with any constant c_i, since under BN of each unit Σ_b δ_bj = 0. Beside it, the share that in fact
stays below β·λ, which no screening can exceed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import linen as nn
from jax.experimental import sparse
from numpy.typing import NDArray

from benchmarks import common
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, read_config
from lconv_jax.training import rng
from lconv_jax.training.setup import prepare
from lconv_jax.training.shrinker import Shrinker


def gradient_of_outputs(experiment: Any, state: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """δ [B, units]: the gradient of the loss with respect to the first layer's product."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def loss_fn(shift: jax.Array) -> jax.Array:
        def shifted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            first = isinstance(context.module, nn.Dense) and context.module.name == "conv1"
            return out + shift if first else out

        with nn.intercept_methods(shifted):
            logits, _ = experiment.model.apply(variables, x, True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return jax.grad(loss_fn)(jnp.zeros((len(y), state.params["conv1"]["kernel"].shape[1])))


def padded_support(kernel: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Each unit's inputs and weights [K, units], filled up with zero weights to the longest."""
    longest = max(1, int((kernel != 0).sum(0).max()))
    order = np.argsort(kernel == 0, axis=0, kind="stable")[:longest]
    return order.astype(np.int32), np.take_along_axis(kernel, order, 0)


@jax.jit
def gathered(x_IxB: jax.Array, index_KxU: jax.Array, weights_KxU: jax.Array) -> jax.Array:
    """Σ_k w_ku x[index_ku], [units, B], one of each unit's inputs at a time."""

    def add(k: Any, total: jax.Array) -> jax.Array:
        return total + weights_KxU[k][:, None] * x_IxB[index_KxU[k]]

    units = index_KxU.shape[1]
    return jax.lax.fori_loop(0, len(index_KxU), add, jnp.zeros((units, x_IxB.shape[1])))


def measure(experiment: Any, state: Any, rounds: int) -> dict[str, Any]:
    """One checkpoint's times and shares."""
    config, size = experiment.config, experiment.config.train.batch_size
    split = jax.tree.map(lambda leaf: jnp.asarray(leaf[:size]), experiment.dataset.train)
    key = rng.key_for(config.seed, rng.AUGMENT, int(state.step))
    augment, preprocess = experiment.inputs
    x = preprocess(augment(key, split.images))
    x_BxI = x.reshape(size, -1)
    kernel = state.params["conv1"]["kernel"]
    index, weights = (jnp.asarray(part) for part in padded_support(np.asarray(kernel)))
    x_IxB = jnp.asarray(x_BxI.T)
    coordinates = sparse.BCOO.fromdense(kernel.T)
    dense, spread = jax.jit(jnp.matmul), jax.jit(lambda matrix, x: matrix @ x)
    # Weights come and go, so that a step has to find where they are before it can use it.
    room = 2 * len(coordinates.data)
    found = jax.jit(lambda kernel, x: sparse.BCOO.fromdense(kernel.T, nse=room) @ x)
    np.testing.assert_allclose(
        gathered(x_IxB, index, weights).T, dense(x_BxI, kernel), rtol=1e-3, atol=1e-3
    )
    times = common.interleave(
        {
            "dense": lambda: dense(x_BxI, kernel),
            "gathered": lambda: gathered(x_IxB, index, weights),
            "BCOO": lambda: spread(coordinates, x_IxB),
            "BCOO, indices found": lambda: found(kernel, x_IxB),
        },
        rounds,
        warmup=2,
    )
    delta = np.asarray(gradient_of_outputs(experiment, state, x, split.labels))
    inputs = np.asarray(x_BxI)
    from_mean = np.linalg.norm(inputs - inputs.mean(0), axis=0)
    learns = np.linalg.norm(delta, axis=0) > 0
    threshold = experiment.plan.effective["l1.conv * beta"]
    rate = float(experiment.plan.schedule(state.step))
    bound = rate * from_mean[:, None] * np.linalg.norm(delta, axis=0)[None, learns]
    step = rate * np.abs(inputs.T @ delta[:, learns])
    return {
        "learning rate": rate,
        "non-zeros": int(np.count_nonzero(kernel)),
        "density": float(np.count_nonzero(kernel) / kernel.size),
        "longest unit": int(index.shape[0]),
        **{f"{name}, ms": 1e3 * times.median(name) for name in times.seconds},
        "ruled out by norms": float((bound < threshold).mean()),
        "below the threshold": float((step < threshold).mean()),
        "units ruled out whole": float((bound < threshold).all(0).mean()),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument("run_dir", help="the --workdir of a run of a dense net")

    args = common.parse(__doc__, argv, name="sparse_layer", rounds=15, add=add)
    logging.set_verbosity(logging.WARNING)
    try:
        experiment = prepare(read_config(args.run_dir))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    checkpoints = Checkpoints(os.path.join(args.run_dir, CHECKPOINTS))
    rows = {}
    for step in checkpoints.steps()[: 1 if args.toy else None]:
        state = checkpoints.restore_step(step, Shrinker(experiment).stored_shapes)
        rows[f"step {step:,}"] = measure(experiment, state, args.rounds)
    result = common.result_of(args, rows)
    common.show("A sparse first layer", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
