"""Runs that train together over eight devices compute what each alone computes there."""

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax.config import with_overrides
from lconv_jax.parallel import sharding
from lconv_jax.training import lanes, programs
from tests import tiny_config


def test_together_over_many_devices(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 2**13)  # a narrow matrix is split, too
    assert jax.device_count() == 8
    base = {"data.validation": 200, "model.alpha": 16, "sharding.data": 4, "sharding.model": 2}
    configs = [
        with_overrides(tiny_config.get_config(), base | {"seed": seed, "optimizer.beta": beta})
        for seed, beta in ((0, 5.0), (1, 10.0))
    ]
    experiments = lanes.prepare_together(configs)
    whole = lanes.load_whole(configs[0])
    program = lanes.compile_together(experiments, whole)
    states, put, _ = lanes.make_states(experiments)
    for index, experiment in enumerate(experiments):
        states = put(states, index, programs.initial_state(experiment))
    kernel = states.params["conv1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 64, 128), "split over the model axis"
    differing = lanes.make_lanes(experiments, whole)
    _, rows = program(states, differing, jax.device_put(whole.train), jnp.int32(4))
    for index, experiment in enumerate(experiments):
        run = programs.compile_train_steps(experiment)
        split = jax.device_put(experiment.dataset.train)
        _, want = run(programs.initial_state(experiment), split, jnp.int32(4))
        np.testing.assert_allclose(rows["train/loss"][index], want["train/loss"], rtol=1e-4)
