"""Run by test_distributed.py in each of two processes: trains in float64, with each of two layouts.

    python -m tests.two_processes PORT PROCESS_ID DIRECTORY

The first process writes each layout's losses, and digests of what all processes hold together.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax.parallel import distributed, sharding
from lconv_jax.rundir import checkpoint
from lconv_jax.training import programs
from lconv_jax.training.setup import prepare
from tests import tiny_config
from tests.helpers import in_dtype

EPOCHS = 4


def losses_and_digests(data, model):
    """Of a few epochs over data × model devices."""
    sharding.MIN_SPLIT_SIZE = 2**12
    config = tiny_config.get_config()
    config.model.alpha = 16
    config.sharding.data, config.sharding.model = data, model
    experiment = in_dtype(prepare(config), jnp.float64)
    run, state = programs.compile_train_steps(experiment), programs.initial_state(experiment)
    digests = checkpoint.leaf_digests(state)
    split = distributed.put(experiment.dataset.train, sharding.replicated(experiment.mesh))
    losses = []
    for _ in range(EPOCHS):
        state, rows = run(state, split, np.int32(experiment.plan.steps_per_epoch))
        losses += np.asarray(rows["train/loss"]).tolist()
    return losses, digests


def main(port, process_id, directory):
    jax.config.update("jax_enable_x64", True)
    distributed.initialize(f"localhost:{port}", 2, int(process_id), timeout=120)
    found = {f"{data}x{model}": losses_and_digests(data, model) for data, model in [(2, 1), (1, 2)]}
    if distributed.is_first():
        pathlib.Path(directory, "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
