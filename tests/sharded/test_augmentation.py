"""A policy acts on each image where it is: nothing is sent, and the bits are one device's."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives
from lconv_jax.data.augmentation import policies
from lconv_jax.parallel import sharding


@pytest.mark.optimized
def test_a_policy_sends_nothing():
    place = NamedSharding(sharding.make_mesh(8, 1), P("data"))
    noise = np.random.default_rng(0).integers(0, 256, (32, 12, 14, 3))
    images = (noise.cumsum(1) // (1 + np.arange(12)[:, None, None])).astype(np.uint8)
    policy = policies.load("autoaugment")

    def augment(images):
        return policies.augment(jax.random.key(0), images, policy)

    split = jax.jit(augment, in_shardings=place, out_shardings=place).lower(images).compile()
    assert not collectives.read(split.as_text())
    results = np.asarray(split(jax.device_put(images, place)))
    np.testing.assert_array_equal(results, jax.jit(augment)(images))
    assert (results != images).any((1, 2, 3)).sum() > 16
