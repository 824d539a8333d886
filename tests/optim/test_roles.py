"""What is a weight: in the trees of the libraries people use, and by names alone."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.tree_util import keystr, tree_leaves_with_path

from lconv_jax import (
    group_soft_threshold,
    hard_concrete,
    hard_concrete_eval_params,
    hard_threshold,
    layer_labels,
    spred,
)
from lconv_jax.optim import (
    apply_masks,
    magnitude_pruning,
    masks_of,
    random_masks,
    saliency_pruning,
    sparse_evolution,
)
from lconv_jax.optim.labels import weight_labels
from lconv_jax.optim.strengths import is_gap

KEY, IDS = jax.random.key(0), jnp.zeros((2, 5), jnp.int32)


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.LayerNorm()(nn.Dense(4)(x)), None


class Linen(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(10, 4)(ids)
        x = nn.MultiHeadDotProductAttention(2, normalize_qk=True)(x, x)
        stack = nn.scan(
            LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = stack()(x, None)
        x = nn.BatchNorm(use_running_average=True)(nn.GroupNorm(2)(x))
        x = nn.ConvLocal(4, (3,))(nn.ConvTranspose(4, (3,))(nn.Conv(4, (3,))(x)))
        x = nn.WeightNorm(nn.Dense(4))(nn.PReLU()(nn.RMSNorm()(x)))
        return nn.DenseGeneral((2, 2))(nn.RNN(nn.LSTMCell(4))(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(3, 4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, 4, rngs=rngs, decode=False)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)])
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(4, rngs=rngs)
        self.cell = nnx.GRUCell(4, 4, rngs=rngs)


class Equinox(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    layers: eqx.nn.Sequential
    ln: eqx.nn.Linear  # a name that would tell of a normalisation
    after: eqx.nn.LayerNorm  # one that does not
    batch: eqx.nn.BatchNorm
    cell: eqx.nn.GRUCell
    normed: eqx.nn.WeightNorm

    def __init__(self, key):
        self.embed = eqx.nn.Embedding(3, 4, key=key)
        self.attention = eqx.nn.MultiheadAttention(2, 4, use_query_bias=True, key=key)
        conv, act = eqx.nn.Conv2d(1, 2, 3, key=key), eqx.nn.PReLU()
        self.layers = eqx.nn.Sequential([conv, act, eqx.nn.RMSNorm((3, 4))])
        self.ln = eqx.nn.Linear(4, 4, key=key)
        self.after = eqx.nn.LayerNorm((4, 3))
        self.batch = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.cell = eqx.nn.GRUCell(4, 4, key=key)
        self.normed = eqx.nn.WeightNorm(eqx.nn.Linear(4, 4, key=key))


@hk.transform_with_state
def haiku(ids):
    x = hk.MultiHeadAttention(2, 2, w_init=hk.initializers.RandomNormal())(
        *3 * [hk.Embed(10, 4)(ids)]
    )
    x = hk.LayerNorm(-1, True, True)(hk.nets.MLP([4, 4])(x))
    x = hk.BatchNorm(True, True, 0.9)(hk.Conv1D(4, 3)(hk.Bias()(x)), is_training=True)
    x = hk.experimental.layer_stack(2)(lambda x: hk.RMSNorm(-1)(hk.Linear(4)(x)))(x)
    cell = hk.GRU(4)
    return hk.dynamic_unroll(cell, x, cell.initial_state(5))


def nnx_params(key):
    return nnx.state(Nnx(nnx.Rngs(key)), nnx.Param)


def equinox_params(key):
    return eqx.filter(eqx.nn.make_with_state(Equinox)(key)[0], eqx.is_inexact_array)


KERNELS = ("'kernel']", "'embedding']")
LIBRARIES = {
    "linen": (lambda key: Linen().init(key, IDS)["params"], KERNELS),
    "nnx": (lambda key: nnx.to_pure_dict(nnx_params(key)), KERNELS),
    "nnx.State": (nnx_params, ("'kernel'].value", "'embedding'].value")),
    "equinox": (
        equinox_params,
        (
            ".embed.weight",
            "_proj.weight",
            ".layers[0].weight",
            ".ln.weight",
            ".cell.weight_ih",
            ".cell.weight_hh",
            ".layer.weight",
        ),
    ),
    "haiku": (lambda key: haiku.init(key, IDS)[0], ("'w']", "'w_i']", "'w_h']", "'embeddings']")),
}


@pytest.mark.parametrize("stacked", [0, 1, 2])
@pytest.mark.parametrize("library", LIBRARIES)
def test_trees_of_libraries(library, stacked):
    """And of several seeds at once, whose leaves have more dimensions and the same roles."""
    make, weights = LIBRARIES[library]
    params = jax.eval_shape(make, KEY)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((2,) * stacked + leaf.shape, leaf.dtype), params
    )
    found = {keystr(path): label for path, label in tree_leaves_with_path(weight_labels(params))}
    assert found == {path: "weight" if path.endswith(weights) else "none" for path in found}
    assert set(found.values()) == {"weight", "none"}
    assert all(any(path.endswith(name) for path in found) for name in weights)


# What ones become without a gradient.
PENALTIES = {
    "groups": lambda: group_soft_threshold(0.5),
    "gates": lambda: hard_concrete(optax.sgd(0.1), 1.0, drop_rate=0.9),
    "products": lambda: spred(optax.sgd(0.1), 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_penalties_move_weights_and_nothing_else(library, penalty):
    make, weights = LIBRARIES[library]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(make, KEY))
    tx = PENALTIES[penalty]()

    @jax.jit
    def moved(params):
        state = tx.init(params)
        if penalty == "gates":
            new = hard_concrete_eval_params(state, params)
        else:
            updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
            new = optax.apply_updates(params, updates)
        return jax.tree.map(lambda leaf: jnp.any(leaf != 1), new)

    found = moved(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for path, leaf in tree_leaves_with_path(found):
        assert leaf == keystr(path).endswith(weights), keystr(path)


# With density 1/2, all layers alike.
MASKED = {
    "static": lambda inner: random_masks(inner, 0.5, distribution="uniform", seed=0),
    "magnitude": lambda inner: magnitude_pruning(
        inner, 0.5, distribution="uniform", begin=0, end=2, every=1
    ),
    "saliency": lambda inner: saliency_pruning(
        inner, 0.5, distribution="uniform", begin=0, end=2, every=2
    ),
    "evolution": lambda inner: sparse_evolution(inner, 0.5, distribution="uniform", every=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", MASKED)
@pytest.mark.parametrize(
    ("library", "dtype"),
    [*((library, jnp.float32) for library in LIBRARIES), ("haiku", jnp.bfloat16)],
)
def test_masks_hold_half_of_the_weights_and_nothing_else(library, method, dtype):
    params = jax.eval_shape(LIBRARIES[library][0], KEY)
    keys = iter(jax.random.split(KEY, 1000))
    params = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape, dtype), params)
    labels = weight_labels(params)
    inner = optax.adam(0.01)
    tx = MASKED[method](inner)

    @jax.jit
    def both(params, trained, plain, state):
        grads = jax.tree.map(jnp.cos, params)
        updates, state = tx.update(grads, state, trained)
        trained = optax.apply_updates(trained, updates)
        updates, plain = inner.update(grads, plain, params)
        return optax.apply_updates(params, updates), trained, plain, state

    plain, state = jax.jit(lambda params: (inner.init(params), tx.init(params)))(params)
    trained = apply_masks(params, state)
    for _ in range(4):
        params, trained, plain, state = both(params, trained, plain, state)
    for label, leaf, other, mask in zip(
        *(jax.tree.leaves(tree) for tree in (labels, trained, params)),
        jax.tree.leaves(masks_of(state), is_leaf=is_gap),
        strict=True,
    ):
        assert leaf.dtype == dtype
        if label == "weight":
            assert int(mask.sum()) == round(leaf.size / 2)
            assert not jnp.any(jnp.where(mask, 0, leaf))
        else:
            assert is_gap(mask)
            # Adam's quotient is rounded as the compiler likes.
            assert jnp.allclose(leaf, other, rtol=0.01, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "weight"),
    [
        # Own names, of any number of dimensions.
        *((("layer", name), False) for name in ("bias", "b", "scale", "offset", "gamma", "beta")),
        *((("layer", name), False) for name in ("b1", "bias_ih", "attn_bias", "b_out", "fc1_b")),
        *(
            (("layer", name), False)
            for name in ("kernel_scale", "Dense_0/kernel/scale", "logScale")
        ),
        *(
            (("layer", name), True)
            for name in ("kernel", "w", "W1", "w_b", "bias_kernel", "lora_b")
        ),
        *(
            (("layer", name), True)
            for name in ("weight", "weight_hh", "query", "value", "B", "table")
        ),
        # Layers' names.
        *(((name, "weight"), False) for name in ("ln", "ln_f", "norm1", "bn_conv1", "RMSNorm_0")),
        *(((name, "kernel"), False) for name in ("attention_norm", "batchnorm", "query_ln", "bn")),
        *(((name, "weight"), True) for name in ("normal_head", "norm_proj", "abnormal", "line")),
        *(((name, "kernel"), True) for name in ("bias", "debias", "scale", "scale_net", "inner")),
        (("ln",), False),
        (("ffn_norm",), False),
        # Containers further up.
        (("bias", "layer", "kernel"), True),
        (("scale", "layer", "weight"), True),
        (("norm_net", "layer", "weight"), True),
        (("bn_free", "attention", "value"), True),
        (("kernel", "layer", "bias"), False),
        (("conv1", "norm", "weight"), False),
        # Indices take the name around them.
        (("biases", 0), False),
        (("ln", 1), False),
        (("norms", 0, "weight"), False),
        (("norm_net", "layers", 0), True),
        # One key for the whole path.
        (("net/~/norm_1", "w"), False),
        (("norm_net/~/linear", "w"), True),
        (("layers.0.input_layernorm.weight",), False),
        (("norm_net.layers.0.weight",), True),
        ((("norm", "weight"),), False),
        ((("norm_net", "linear", "weight"),), True),
    ],
    ids=str,
)
def test_names(path, weight):
    tree = jnp.ones((3, 4))
    for name in reversed(path):
        tree = [tree] * (name + 1) if isinstance(name, int) else {name: tree}
    assert set(jax.tree.leaves(weight_labels(tree))) == {"weight" if weight else "none"}


def test_the_number_of_dimensions_decides_where_no_name_tells():
    matrix, vector = jnp.ones((3, 4)), jnp.ones(4)
    assert weight_labels([(matrix, vector)]) == [("weight", "none")]
    assert weight_labels(matrix) == "weight"
    assert weight_labels({"fc1": [matrix, vector]}) == {"fc1": ["weight", "none"]}
    assert weight_labels({"layer": {"weight": vector}}) == {"layer": {"weight": "none"}}
    # A linear model's.
    assert weight_labels({"w": vector, "b": jnp.zeros(())}) == {"w": "weight", "b": "none"}


def test_what_is_no_number_is_left_alone():
    tree = {"w": jnp.ones((2, 2), jnp.int32), "key": jax.random.split(KEY, (2, 2)), "kernel": None}
    assert weight_labels(tree) == {"w": "none", "key": "none", "kernel": None}
    # Equinox's modules have functions among their leaves.
    labels = weight_labels(eqx.nn.MLP(4, 4, 4, 1, key=KEY))
    assert (labels.layers[0].weight, labels.activation) == ("weight", "none")


def test_a_mapping_takes_the_same_leaves():
    stacked = {"kernel": jnp.ones((3, 4, 4)), "bias": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}
    norm = {"scale": jnp.ones((3, 4)), "weight": jnp.ones((3, 4))}
    params = {
        "conv_net": {"conv1": stacked, "conv1_norm": norm, "head": stacked},
        "scale": {"fc1": stacked},
        "net/~/conv_2": {"w": jnp.ones((3, 4)), "b": jnp.ones((3, 4))},
    }
    labels = dict.fromkeys(stacked, "none")
    assert layer_labels(params) == {
        "conv_net": {
            "conv1": labels | {"kernel": "conv"},
            "conv1_norm": dict.fromkeys(norm, "none"),
            "head": labels,
        },
        "scale": {"fc1": labels | {"kernel": "fc"}},
        "net/~/conv_2": {"w": "conv", "b": "none"},
    }


def test_groups_of_partition_keep_their_roles():
    """Where modules have gaps, their classes still tell."""
    layers = [eqx.nn.LayerNorm((4, 3)), eqx.nn.Linear(4, 4, use_bias=False, key=KEY)]
    tx = optax.partition(
        {"sparse": hard_threshold(10.0), "rest": optax.sgd(0.1)}, ["sparse", "sparse", "rest"]
    )
    params = eqx.filter([*layers, layers[1]], eqx.is_array)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    norm, sparse, rest = optax.apply_updates(params, updates)
    assert norm.weight.all()
    assert rest.weight.all()
    assert not sparse.weight.any()
