"""Labels by layer name, and how labels reach leaves."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.core import FrozenDict

from lconv_jax import add_l1_subgradient, beta_lasso, layer_labels

MATRIX, VECTOR = jnp.ones((2, 3)), jnp.ones(3)

PARAMS = {
    "conv1": {"kernel": MATRIX, "bias": VECTOR},
    "conv2": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones((4, 4, 2))},
    "bn1": {"scale": VECTOR, "bias": VECTOR},
    "fc1": {"kernel": MATRIX},
    "embed": {"table": MATRIX},
}
LABELS = {
    "conv1": {"kernel": "conv", "bias": "none"},
    "conv2": {"kernel": "conv", "bias": "none"},
    "bn1": {"scale": "none", "bias": "none"},
    "fc1": {"kernel": "fc"},
    "embed": {"table": "none"},
}


def test_names_decide():
    assert layer_labels(PARAMS) == LABELS


def test_shapes_and_tracers_will_do():
    assert layer_labels(jax.eval_shape(lambda: PARAMS)) == LABELS
    jax.jit(lambda params: (layer_labels(params) == LABELS) or pytest.fail("labels"))(PARAMS)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        (("fc_head", "conv1", "kernel"), "conv"),
        (("conv_stem", "fc", "kernel"), "fc"),
        (("conv1", "bn", "kernel"), "none"),
        (("conv1", "block", "kernel"), "none"),
        (("scale", "conv1", "kernel"), "conv"),
        (("bn_free_net", "conv1", "w"), "conv"),
        (("conv1",), "conv"),
        (("block", "kernel"), "none"),
        (("deconv1", "kernel"), "none"),
        (("conv1", "scale"), "none"),
    ],
)
def test_the_nearest_component_decides(path, label):
    tree, expected = MATRIX, label
    for name in reversed(path):
        tree, expected = {name: tree}, {name: expected}
    assert layer_labels(tree) == expected


def test_containers():
    frozen = layer_labels(FrozenDict({"conv1": {"kernel": MATRIX}}))
    assert frozen == FrozenDict({"conv1": {"kernel": "conv"}})
    assert layer_labels(({"conv1": [MATRIX, VECTOR]}, None)) == ({"conv1": ["conv", "none"]}, None)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(2, rngs=rngs)
        self.fcs = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])


@pytest.mark.slow
def test_nnx_state():
    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    labels = nnx.to_pure_dict(layer_labels(state))
    assert labels["conv1"] == {"kernel": "conv", "bias": "none"}
    assert labels["bn1"] == {"scale": "none", "bias": "none"}
    assert labels["fcs"] == {i: {"kernel": "fc", "bias": "none"} for i in (0, 1)}


def regularised(tx, params):
    """Where the L1 subgradient of weights of one changes a gradient of zero."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    return jax.tree.map(lambda update: float(update.max()), updates)


@pytest.mark.slow
def test_a_number_takes_all_weights_by_default():
    got = regularised(add_l1_subgradient(0.5), PARAMS)
    assert got == {
        layer: {name: 0.5 * (name in ("kernel", "table")) for name in leaves}
        for layer, leaves in PARAMS.items()
    }


def test_a_mapping_takes_layer_labels_and_leaves_other_labels_alone():
    got = regularised(add_l1_subgradient({"conv": 0.5, "fc": 0.25}), PARAMS)
    assert got == jax.tree.map({"conv": 0.5, "fc": 0.25, "none": 0.0}.get, LABELS)
    got = regularised(add_l1_subgradient({"fc": 0.25}), PARAMS)
    assert got == jax.tree.map({"conv": 0.0, "fc": 0.25, "none": 0.0}.get, LABELS)


@pytest.mark.parametrize("as_function", [False, True])
def test_labels_may_be_a_prefix(as_function):
    prefix = {"conv1": "a", "conv2": "none", "bn1": "none", "fc1": {"kernel": "b"}, "embed": "c"}
    labels = (lambda params: prefix) if as_function else prefix
    got = regularised(add_l1_subgradient({"a": 0.5, "b": 0.25}, labels), PARAMS)
    assert jax.tree.leaves(got["conv1"]) == [0.5, 0.5]
    assert got["fc1"]["kernel"] == 0.25
    assert not any(jax.tree.leaves([got["conv2"], got["bn1"], got["embed"]]))
    got = regularised(add_l1_subgradient(0.5, labels), PARAMS)
    assert got["embed"]["table"] == 0.5
    assert not any(jax.tree.leaves([got["conv2"], got["bn1"]]))


def test_one_label_for_all():
    got = regularised(add_l1_subgradient(0.5, "all"), PARAMS)
    assert set(jax.tree.leaves(got)) == {0.5}


def test_labels_are_read_from_parameters_and_never_stored():
    seen = []

    def labels(params):
        seen.append(params)
        return layer_labels(params)

    tx = beta_lasso(0.1, {"conv": 0.5}, labels=labels, momentum=0.9)
    state = tx.init(PARAMS)
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array)
    step = jax.jit(tx.update)
    for _ in range(3):
        _, state = step(jax.tree.map(jnp.zeros_like, PARAMS), state, PARAMS)
    count = len(seen)
    step(jax.tree.map(jnp.zeros_like, PARAMS), state, PARAMS)
    assert len(seen) == count
