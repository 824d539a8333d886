"""Variables of models, for their tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def variables_of():
    """Random variables of a model with nothing at its default, drawn without compiling `init`."""

    def variables_of(model, x, seed=0):
        random = np.random.default_rng(seed)

        def draw(path, leaf):
            noise = random.standard_normal(leaf.shape)
            if path[-1].key == "kernel":
                value = noise / np.sqrt(leaf.size / leaf.shape[-1])
            elif path[-1].key in ("scale", "var"):
                value = np.exp(0.3 * noise)
            else:
                value = 0.3 * noise
            return jnp.asarray(value, leaf.dtype)

        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
        return jax.tree_util.tree_map_with_path(draw, shapes)

    return variables_of
