import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax.models import NAMES, create

IMAGES, SIGNALS = (9, 7, 3), (11, 2)
# The d-family is the code of the s-family with more layers.
ONE_OF_EACH = ("s_conv", "s_local", "s_fc", "three_fc", "resnet18")


def batch(shape, size=6, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).standard_normal((size, *shape)), dtype)


@pytest.fixture
def make(variables_of):
    def make(name, shape=IMAGES, **arguments):
        model = create(name, **{"alpha": 2, "num_classes": 5, **arguments})
        return model, variables_of(model, batch(shape))

    return make


def train(model, variables, x, seed=0):
    return model.apply(
        variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)}
    )


def observed(model, variables, x):
    """What a training step changes, and what each module computes in it."""

    @jax.jit
    def run(variables):
        return model.apply(
            *(variables, x),
            train=True,
            capture_intermediates=True,
            mutable=["intermediates", "batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )[1]

    return run(variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_training_changes_statistics_and_every_parameter_has_a_gradient(name, make):
    model, variables = make(name)
    x = batch(IMAGES)

    def loss(params):
        logits, updated = train(model, {**variables, "params": params}, x)
        return jnp.sin(logits).sum(), (logits, updated)

    gradient, (logits, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (6, 5)
    assert logits.dtype == jnp.float32
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    old, new = map(jax.tree.leaves, (variables["batch_stats"], updated["batch_stats"]))
    assert all(jnp.any(a != b) for a, b in zip(old, new, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_signals_are_images_with_one_side(name, make):
    model, variables = make(name, SIGNALS)
    x = batch(SIGNALS)
    logits = jax.jit(model.apply)(variables, x)
    assert logits.shape == (6, 5)

    def widened(path, leaf, like):
        if leaf.shape == like.shape:
            return leaf
        # Of a window around a column of pixels, all but the middle column is padding.
        local = len(leaf.shape) > 3
        axis = 3 if local else 1
        middle = like.shape[axis] // 2
        wide = jnp.zeros(like.shape).at[(slice(None),) * axis + (middle,)]
        return wide.set(leaf[:, None] if local else leaf)

    column = x[:, :, None]
    like = jax.eval_shape(model.init, jax.random.key(0), column)
    square = jax.tree_util.tree_map_with_path(widened, variables, like)
    actual = jax.jit(model.apply)(square, column)
    np.testing.assert_allclose(actual, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_last_layer_has_a_bias_and_every_other_a_normalisation(name, make):
    _, variables = make(name)
    modules = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        *module, parameter = (key.key for key in path)
        modules.setdefault("/".join(module), {})[parameter] = leaf
    layers = {k: v for k, v in modules.items() if k.split("/")[-1].startswith(("conv", "fc"))}
    norms = set(modules) - set(layers)
    (last,) = (k for k, v in layers.items() if "bias" in v)
    assert last == max(k for k in layers if k.startswith("fc"))
    expected = {"/".join([*p, f"bn_{n}"]) for *p, n in (k.split("/") for k in layers if k != last)}
    assert norms == expected
    if name.startswith("d_"):
        assert set(layers) == {*(f"conv{i}" for i in range(1, 9)), "fc1", "fc2"}
    if name.startswith("s_"):
        assert set(layers) == {"conv1", "fc1", "fc2"}
    if name == "three_fc":
        assert set(layers) == {"fc1", "fc2", "fc3"}


def test_kernel_shapes_of_the_shallow_twins(make):
    shapes = {
        kind: make(f"s_{kind}")[1]["params"]["conv1"]["kernel"].shape
        for kind in ("conv", "local", "fc")
    }
    assert shapes == {
        "conv": (9, 9, 3, 2),
        "local": (5, 4, 9, 9, 3, 2),
        "fc": (9 * 7 * 3, 5 * 4 * 2),
    }


@pytest.mark.parametrize(("name", "units"), [("s_conv", 2), ("s_local", 2), ("s_fc", 40)])
def test_normalisation_is_per_channel_or_per_unit(name, units, make):
    _, variables = make(name)
    assert variables["params"]["bn_conv1"]["scale"].shape == (units,)
    assert variables["batch_stats"]["bn_conv1"]["mean"].shape == (units,)


@pytest.mark.slow
def test_resnet_kernel_size_changes_all_but_the_shortcuts(make):
    _, variables = make("resnet18", kernel_size=5)
    kernels = {
        jax.tree_util.keystr(path): leaf.shape[:2]
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if leaf.ndim == 4
    }
    assert len(kernels) == 20
    assert {k for k, v in kernels.items() if v == (1, 1)} == {
        f"['block{i}']['conv_shortcut']['kernel']" for i in (3, 5, 7)
    }
    assert set(kernels.values()) == {(1, 1), (5, 5)}


@pytest.mark.slow
def test_a_resnet_block_adds_its_input(make):
    model, variables = make("resnet18")
    x = batch(IMAGES)
    # Where its second normalisation gives 0, a block that keeps its shape is the identity.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[-2].key == "bn_conv2" else leaf, variables["params"]
    )
    variables = {**variables, "params": params}
    _, state = jax.jit(
        lambda v: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"])
    )(variables)
    outputs = [state["intermediates"][f"block{i}"]["__call__"][0] for i in (1, 2, 3, 4)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])
    assert jnp.any(outputs[0] > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(name, make):
    model, variables = make(name, dtype=jnp.bfloat16)
    x = batch(IMAGES)
    logits, updated = jax.jit(lambda v: train(model, v, x))(variables)
    leaves = jax.tree.leaves((variables, updated, logits))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    exact = jax.jit(lambda v: train(model.clone(dtype=jnp.float32), v, x)[0])(variables)
    # Rounded products were used, and nothing but rounding changed.
    assert jnp.any(logits != exact)
    assert jnp.linalg.norm(logits - exact) < 0.25 * jnp.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_conv", "s_fc", "three_fc", "resnet18"])
def test_dropout_acts_in_training_only(name, make):
    model, variables = make(name, dropout=0.5)
    x = batch(IMAGES)
    plain = model.clone(dropout=0.0)
    evaluated, expected = (jax.jit(m.apply)(variables, x) for m in (model, plain))
    np.testing.assert_array_equal(evaluated, expected)
    run = jax.jit(lambda seed: train(model, variables, x, seed)[0])
    first, again, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first, again)
    assert jnp.any(first != other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("s_fc", 2), ("d_conv", 2), ("three_fc", 2), ("resnet18", 1)]
)
def test_dropout_stands_before_the_last_two_dense_layers(name, count, make):
    model, variables = make(name, dropout=0.9)
    state = observed(model, variables, batch(IMAGES))
    dropped = [v for k, v in state["intermediates"].items() if k.startswith("Dropout")]
    assert len(dropped) == count
    assert all(np.mean(np.asarray(v["__call__"][0]) == 0) > 0.8 for v in dropped)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_momentum_zero_stores_the_statistics_of_the_batch(name, make):
    model, variables = make(name)
    x = batch(IMAGES)
    state = observed(model.clone(bn_momentum=0.0), variables, x)
    fresh = {"batch_stats": state["batch_stats"]}
    layer = "fc1" if name == "three_fc" else "conv1"
    output = np.asarray(state["intermediates"][layer]["__call__"][0], np.float64)
    axes = tuple(range(output.ndim - 1))
    stored = fresh["batch_stats"][f"bn_{layer}"]
    np.testing.assert_allclose(stored["mean"], output.mean(axes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stored["var"], output.var(axes), rtol=1e-4, atol=1e-6)
    # Evaluated with these statistics, the batch gives what it gave in training.
    expected = state["intermediates"]["__call__"][0]
    actual = jax.jit(model.apply)({**variables, **fresh}, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_variance_of_a_nearly_constant_unit_does_not_cancel(make):
    model, variables = make("three_fc", bn_momentum=0.0)
    # Each unit is 1000 give or take 0.01: in float32 E[x²] − E[x]² would be off by about 0.1.
    x = jnp.stack([jnp.full(IMAGES, 1000 + d, jnp.float32) for d in (-0.01, 0.01)])
    kernel = jnp.zeros_like(variables["params"]["fc1"]["kernel"]).at[0].set(1.0)
    params = {**variables["params"], "fc1": {"kernel": kernel}}
    updated = jax.jit(lambda v: train(model, v, x)[1])({**variables, "params": params})
    np.testing.assert_allclose(updated["batch_stats"]["bn_fc1"]["var"], 1e-4, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_float64_is_float64_throughout(name, variables_of):
    with jax.enable_x64(True):
        model = create(name, alpha=1, num_classes=3, dtype=jnp.float64)
        x = batch((5, 4, 2), dtype=jnp.float64)
        variables = variables_of(model, x)
        output = jax.jit(lambda v: train(model, v, x))(variables)
        assert {a.dtype for a in jax.tree.leaves((variables, output))} == {jnp.dtype("float64")}


def test_unknown_name_is_answered_with_the_nearest_and_all():
    with pytest.raises(ValueError, match="did you mean 's_fc'") as error:
        create("s-fc", alpha=1, num_classes=2)
    assert all(name in str(error.value) for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "alpha must be an integer ≥ 1, got 0"),
        ({"alpha": 1.5}, "alpha must be an integer ≥ 1, got 1.5"),
        ({"alpha": True}, "alpha must be an integer"),
        ({"num_classes": 1}, "num_classes must be an integer ≥ 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\)"),
        ({"bn_momentum": -0.1}, r"bn_momentum must be in \[0, 1\]"),
        ({"dtype": jnp.int8}, "dtype must be a floating point type"),
        ({"kernel_size": 5}, "kernel_size is an argument of resnet18 only"),
        ({"kernel_size": 0}, "kernel_size must be an integer ≥ 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create("s_conv", **{"alpha": 1, "num_classes": 2, **arguments})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [np.zeros((2, 5, 5, 1), np.uint8), np.zeros((2, 5), np.float32)])
def test_integer_images_and_flat_inputs_are_refused(name, x):
    model = create(name, alpha=1, num_classes=2)
    with pytest.raises(ValueError, match="floating point images"):
        model.init(jax.random.key(0), x)
