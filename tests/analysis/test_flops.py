"""Operations against hand counts, and against XLA's own count of the dense network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import analysis, models

# Output positions of each convolution on 8 × 8 pixels.
D_POSITIONS = (64, 16, 16, 4, 4, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("s_conv", {"conv1": 16, "fc1": 1, "fc2": 1}),
        ("s_local", {"conv1": 1, "fc1": 1, "fc2": 1}),
        ("s_fc", {"conv1": 1, "fc1": 1, "fc2": 1}),
        ("d_conv", {f"conv{i}": n for i, n in enumerate(D_POSITIONS, 1)} | {"fc1": 1, "fc2": 1}),
        ("d_fc", {f"conv{i}": 1 for i in range(1, 9)} | {"fc1": 1, "fc2": 1}),
        ("three_fc", {"fc1": 1, "fc2": 1, "fc3": 1}),
    ],
)
def test_a_convolution_s_weight_is_used_at_each_position(name, uses):
    assert models.count_uses(name, 2, (8, 8, 3), 10) == uses


def test_a_residual_network_s_uses_are_its_positions():
    uses = models.count_uses("resnet18", 1, (8, 8, 3), 10)
    assert uses["conv1"] == uses["block1/conv2"] == 64
    assert uses["block3/conv1"] == uses["block3/conv_shortcut"] == uses["block4/conv2"] == 16
    assert uses["block8/conv2"] == uses["fc1"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", models.NAMES)
def test_the_dense_network_has_as_many_as_xla_counts(name):
    shape, alpha = (8, 8, 3), 16 if name == "three_fc" else 2
    args = (name, alpha, shape, 10)
    found = analysis.inference_flops(models.count_uses(*args), models.count_weights(*args))
    model = models.create(name, alpha=alpha, num_classes=10)
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    counted = jax.jit(model.apply).lower(variables, x).cost_analysis()["flops"]
    # XLA counts normalisation and activations too.
    units = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["batch_stats"]))
    positions = 64 if name in ("d_conv", "d_local", "resnet18") else 16
    assert found <= counted <= 1.02 * found + 20 * units * positions


def test_training_is_counted_by_hand():
    uses, sizes = {"a": 4, "b": 1}, {"a": 10, "b": 100}
    nonzeros = {"a": np.array([10, 5]), "b": np.array([50, 20])}
    sparse, dense = [2 * (40 + 50), 2 * (20 + 20)], 2 * (40 + 100)

    def count(**options):
        return analysis.training_flops(uses, sizes, nonzeros, batch_size=8, **options)

    assert count() == 8 * 3 * sum(sparse)
    assert count(dense_gradients=True) == 8 * (2 * sum(sparse) + 2 * dense)
    assert count(dense_gradients=[False, True]) == 8 * (3 * sparse[0] + 2 * sparse[1] + dense)
    assert count(dense_forward=True) == 8 * 2 * 3 * dense
    assert count(per_weight=6.0) == 8 * 3 * sum(sparse) + 2 * 6 * 110
