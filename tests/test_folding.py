"""Exported networks against the models they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.test_util import check_grads

from lconv_jax import data, models
from lconv_jax.compression.folding import apply, fold, unpermute, weights, with_weights
from lconv_jax.mdl.network import Layer, Network, Term
from lconv_jax.training import inputs
from tests import tiny_config

DENSE = ("d_fc", "s_fc", "three_fc")
WINDOWED = tuple(name for name in models.NAMES if name not in DENSE)
SHAPES = ((8, 8, 1), (9, 7, 2), (11, 3))


def draw(model, shape, seed=0):
    """Variables of a model with nothing at its default."""
    random = np.random.default_rng(seed)

    def value(path, leaf):
        noise = random.standard_normal(leaf.shape)
        match path[-1].key:
            case "kernel":
                local = getattr(model, "kind", "") == "local" and leaf.ndim > 2
                fan_in = np.prod(leaf.shape[leaf.ndim // 2 - 1 if local else 0 : -1])
                # Large enough for differences between the images to reach the logits.
                noise = 2 * noise / np.sqrt(fan_in)
            case "scale":
                noise = 1 + 0.3 * noise
            case "var":
                noise = np.exp(noise / 2)
            case _:
                noise = 0.3 * noise
        return jnp.asarray(noise, leaf.dtype)

    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.tree_util.tree_map_with_path(value, jax.eval_shape(model.init, jax.random.key(0), x))


def made(name, shape, **settings):
    alpha = 12 if name == "three_fc" else 2
    model = models.create(name, alpha=alpha, num_classes=4, dropout=0.5, **settings)
    return model, draw(model, shape)


def stored(shape, count=5):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def assert_close(actual, expected, tolerance=1e-4):
    assert np.min(np.std(expected, axis=0)) > 1e-2  # logits that do not vary would prove little
    np.testing.assert_allclose(actual, expected, tolerance, tolerance * np.max(np.abs(expected)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", models.NAMES)
def test_the_network_computes_the_logits_of_the_model(name, shape):
    model, variables = made(name, shape)
    x = data.normalize(stored(shape))
    network = fold(model, variables, shape)
    kernels = [term.kernel for layer in network.layers for term in layer.terms]
    assert all(kernel.dtype == np.float64 for kernel in kernels)
    logits = jax.jit(lambda x: (apply(network, x), model.apply(variables, x, train=False)))
    assert_close(*logits(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_local", "resnet18"])
def test_in_float64_they_agree_to_rounding(name):
    with jax.enable_x64(True):
        model, variables = made(name, (9, 7, 2), dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        x = np.random.default_rng(2).standard_normal((5, 9, 7, 2))
        network = fold(model, variables, (9, 7, 2), input_code="fixed")
        assert_close(apply(network, x), model.apply(variables, x), 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [2, 5])
def test_resnet18_with_other_windows(kernel_size):
    model, variables = made("resnet18", (9, 7, 2), kernel_size=kernel_size)
    x = data.normalize(stored((9, 7, 2)))
    assert_close(apply(fold(model, variables, (9, 7, 2)), x), model.apply(variables, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_a_black_network_takes_bytes_over_their_scale(name):
    model, variables = made(name, (5, 7, 2))
    images = stored((5, 7, 2))
    network = fold(model, variables, (5, 7, 2), input_code="black")
    expected = model.apply(variables, data.normalize(images))
    assert network.input_code == "black"
    assert_close(apply(network, images / 63.75), expected)


@pytest.mark.parametrize("name", WINDOWED)
def test_black_is_refused_where_padding_would_change(name):
    model, variables = made(name, (8, 8, 1))
    with pytest.raises(ValueError, match=r"layer 1 reads the input.* padding"):
        fold(model, variables, (8, 8, 1), input_code="black")


@pytest.mark.slow
@pytest.mark.parametrize("code", ["centred", "black"])
@pytest.mark.parametrize("shape", [(5, 7, 2), (11, 3)])
@pytest.mark.parametrize("name", DENSE)
def test_unpermute_undoes_the_permutation_of_a_run(name, shape, code):
    config = tiny_config.get_config()
    config.data.permute = 1
    model, variables = made(name, shape)
    images = stored(shape)
    expected = model.apply(variables, inputs.make_preprocess(config, shape)(images))
    permuted = fold(model, variables, shape, input_code=code)
    network = unpermute(permuted, inputs.permutation(config.seed, shape))
    x = images / 63.75 if code == "black" else data.normalize(images)
    assert_close(apply(network, x), expected)
    assert not np.allclose(apply(permuted, x), expected, 1e-2)


def test_unpermute_moves_weights_and_changes_none():
    model, variables = made("three_fc", (2, 3, 2))
    network = fold(model, variables, (2, 3, 2))
    there = unpermute(network, np.array([4, 0, 5, 2, 1, 3]))
    back = unpermute(there, np.argsort([4, 0, 5, 2, 1, 3]))
    # Pixel 0 of the shuffled image is pixel 4: its two channels' rows, 0 and 1, become 8 and 9.
    first, moved = (each.layers[0].terms[0].kernel for each in (network, there))
    np.testing.assert_array_equal(moved[8:], np.concatenate([first[:2], first[4:6]]))
    jax.tree.map(np.testing.assert_array_equal, weights(back), weights(network))


@pytest.mark.parametrize("name", WINDOWED)
def test_unpermute_refuses_windows(name):
    model, variables = made(name, (8, 8, 1))
    network = fold(model, variables, (8, 8, 1))
    with pytest.raises(ValueError, match=r"layer 1 reads the input.* shuffled"):
        unpermute(network, np.arange(64))


@pytest.mark.parametrize("order", [np.arange(5), np.zeros(6, int), np.arange(1, 7)])
def test_unpermute_refuses_what_is_no_permutation(order):
    model, variables = made("three_fc", (2, 3, 2))
    with pytest.raises(ValueError, match=r"order must be a permutation of 0 … 5"):
        unpermute(fold(model, variables, (2, 3, 2)), order)


def test_export_refuses():
    model, variables = made("d_conv", (8, 8, 1))
    twin, _ = made("d_local", (8, 8, 1))
    with pytest.raises(ValueError, match=r"input_code must be one of centred.*'grey'"):
        fold(model, variables, (8, 8, 1), input_code="grey")
    with pytest.raises(ValueError, match=r"models\.create, got Dense"):
        fold(linen.Dense(4), variables, (8, 8, 1))
    with pytest.raises(ValueError, match=r"variables .*\['conv1'\]\['kernel'\]"):
        fold(twin, variables, (8, 8, 1))
    with pytest.raises(ValueError, match=r"variables .*\['fc1'\]\['kernel'\]"):
        fold(model, variables, (17, 17, 1))
    with pytest.raises(ValueError, match=r"variables .*\['batch_stats'\]"):
        fold(model, {"params": variables["params"]}, (8, 8, 1))


def test_apply_refuses_inputs_of_another_shape():
    model, variables = made("three_fc", (2, 6, 1))
    with pytest.raises(ValueError, match=r"inputs must be .*\(2, 6, 1\).*\(5, 6, 2, 1\)"):
        apply(fold(model, variables, (2, 6, 1)), np.zeros((5, 6, 2, 1), np.float32))


@pytest.mark.slow
def test_apply_by_hand():
    # relu(3 · 1 − 2 · 2 + 4) / 4 = 0.75 and relu(−3) = 0; positions summed: 0.75 + relu(4) / 4.
    first = Term("conv", 0, 1, np.array([[[3.0, -1.0], [-2.0, -1.0]]]))
    last = Term("dense", 1, 1, np.array([[8.0], [100.0]]))
    layers = Layer((first,), np.array([4.0, 0.0]), 2, True), Layer((last,), np.array([-1.0]), 3)
    network = Network((2, 2), "fixed", layers)
    inputs = np.array([[[1.0, 2.0], [0.0, 0.0]]])
    assert apply(network, inputs).tolist() == [[8 * 1.75 - 1]]


@pytest.mark.slow
def test_gradients_with_respect_to_weights():
    random = np.random.default_rng(3)
    normal = random.standard_normal
    terms = (
        Term("conv", 1, 2, normal((2, 3, 3, 4))),
        Term("local", 0, 2, normal((3, 2, 1, 1, 2, 4))),
    )
    layers = (
        Layer((Term("conv", 0, 1, normal((3, 3, 2, 3))),), normal(3), 1),
        Layer(terms, normal(4), 2, True),
        Layer(
            (Term("dense", 2, 1, normal((4, 3))), Term("dense", 0, 1, normal((40, 3)))), normal(3)
        ),
    )
    network, x = Network((5, 4, 2), "fixed", layers), normal((3, 5, 4, 2))

    def loss(tree):
        return jax.nn.logsumexp(apply(with_weights(network, tree), x), axis=-1).sum()

    with jax.enable_x64(True):
        tree = jax.tree.map(jnp.asarray, weights(network))
        check_grads(jax.jit(loss), (tree,), order=1, modes=["rev"], rtol=1e-5)
        gradients = jax.tree.leaves(jax.grad(loss)(tree))
        assert len(gradients) == 5 + 3
        assert all(np.any(gradient != 0) for gradient in gradients)


def test_weights_are_all_there_is_and_can_be_put_back():
    model, variables = made("resnet18", (8, 8, 1))
    network = fold(model, variables, (8, 8, 1))
    tree = weights(network)
    # 17 layers of convolution, eight of which add a shortcut, and one dense layer.
    assert len(tree) == 18
    assert sum(len(layer["kernels"]) for layer in tree) == 18 + 8
    doubled = with_weights(network, jax.tree.map(lambda leaf: 2 * leaf, tree))
    for leaf, twice in zip(
        jax.tree.leaves(weights(network)), jax.tree.leaves(weights(doubled)), strict=True
    ):
        np.testing.assert_array_equal(2 * leaf, twice)
    assert [layer.pool for layer in doubled.layers] == [False] * 16 + [True, False]
    with pytest.raises(ValueError, match="shorter"):
        with_weights(network, tree[:-1])
    with pytest.raises(ValueError, match="shorter"):
        with_weights(network, [tree[0] | {"kernels": []}, *tree[1:]])
