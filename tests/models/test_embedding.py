import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.models import (
    create,
    dense_from_local,
    embed,
    local_from_dense,
    local_from_shared,
    project,
    shared_from_local,
    window_taps,
)
from lconv_jax.models.families import ConvFamily, ConvShape, d_convs, s_convs

KINDS = ("conv", "local", "fc")
# An odd image with channels, a signal, and a side smaller than the window.
SHALLOW = (ConvShape(2, 2, 9),)
MIXED = (ConvShape(2, 1, 3), ConvShape(3, 2, 4))
CASES = [
    (MIXED, (9, 6, 2)),
    (MIXED, (13, 3)),
    (SHALLOW, (3, 5, 1)),
    pytest.param(s_convs(2), (9, 6, 2), marks=pytest.mark.slow),
    pytest.param(d_convs(2), (9, 6, 2), marks=pytest.mark.slow),
    pytest.param(d_convs(2), (13, 3), marks=pytest.mark.slow),
    pytest.param(d_convs(2), (3, 5, 1), marks=pytest.mark.slow),
]
GEOMETRY = {
    "sides": st.lists(st.integers(1, 6), min_size=1, max_size=2).map(tuple),
    "kernel_size": st.integers(1, 5),
    "stride": st.integers(1, 3),
    "channels": st.integers(1, 3),
}


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def twins(convs, shape, dtype=jnp.float32):
    """The three models of a family, and a batch for them."""
    models = {kind: ConvFamily(kind, convs, hidden=8, num_classes=4, dtype=dtype) for kind in KINDS}
    return models, jnp.asarray(normal((6, *shape)), dtype)


def assert_trees_close(actual, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-7), actual, expected)


def relative(actual, expected):
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


@pytest.mark.slow
@pytest.mark.parametrize(("convs", "shape"), CASES)
@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-4), (True, 1e-10)])
def test_twins_compute_the_same_logits(convs, shape, x64, tolerance, variables_of):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        models, x = twins(convs, shape, dtype)
        variables = variables_of(models["conv"], x)
        conv, local, fc = (models[kind] for kind in KINDS)

        def training(model, variables):
            return model.apply(variables, x, train=True, mutable=["batch_stats"])

        @jax.jit
        def outputs(variables):
            as_local = embed(variables, conv, local, shape)
            as_dense = embed(variables, conv, fc, shape)
            through = embed(as_local, local, fc, shape)
            logits = conv.apply(variables, x), local.apply(as_local, x), fc.apply(as_dense, x)
            trained = training(conv, variables), training(local, as_local)
            return logits, trained, (as_dense, through)

        logits, ((expected, stats), (actual, updated)), dense = outputs(variables)
        assert logits[0].dtype == dtype
        assert np.std(logits[0]) > 1e-3
        assert relative(logits[1], logits[0]) < tolerance
        assert relative(logits[2], logits[0]) < tolerance
        # In training mode a dense twin would normalise each unit by itself.
        assert relative(actual, expected) < tolerance
        assert_trees_close(updated, stats, 1e-4)
        jax.tree.map(np.testing.assert_array_equal, *dense)


@pytest.mark.parametrize(("convs", "shape"), CASES)
def test_an_embedding_has_exactly_the_parameters_of_the_larger_twin(convs, shape, variables_of):
    models, x = twins(convs, shape)
    variables = variables_of(models["conv"], x)
    for kind in KINDS:
        embedded = jax.eval_shape(
            lambda v, kind=kind: embed(v, models["conv"], models[kind], shape), variables
        )
        expected = jax.eval_shape(models[kind].init, jax.random.key(0), x)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (embedded, expected)]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize(("convs", "shape"), CASES)
def test_projecting_an_embedded_network_gives_it_back(convs, shape, variables_of):
    models, x = twins(convs, shape)
    local = variables_of(models["local"], x)
    conv = jax.jit(lambda v: project(v, models["local"], models["conv"], shape))(local)
    for small, large in (("conv", "local"), ("conv", "fc"), ("local", "fc")):
        # A side smaller than the window leaves taps of the shared kernel without any input:
        # starting from a projection, they are 0 and have nothing to lose.
        start = jax.jit(lambda v, small=small: embed(v, models["conv"], models[small], shape))(conv)

        @jax.jit
        def there_and_back(start, small=models[small], large=models[large]):
            return project(embed(start, small, large, shape), large, small, shape)

        assert_trees_close(there_and_back(start), start)


@pytest.mark.slow
def test_a_dense_network_projects_onto_its_local_twin_whichever_way(variables_of):
    shape = (7, 5, 2)
    models, x = twins(SHALLOW, shape)
    dense = variables_of(models["fc"], x)
    local = project(dense, models["fc"], models["local"], shape)
    assert_trees_close(
        project(local, models["local"], models["conv"], shape),
        project(dense, models["fc"], models["conv"], shape),
    )
    # Running variances are pooled: that of a mixture of the units that share a channel.
    stats = dense["batch_stats"]["bn_conv1"]
    mean, var = (stats[k].reshape(4 * 3, 2) for k in ("mean", "var"))
    expected = (var + mean**2).mean(0) - mean.mean(0) ** 2
    np.testing.assert_allclose(local["batch_stats"]["bn_conv1"]["var"], expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(**GEOMETRY)
def test_taps_are_the_windows_of_a_same_convolution(sides, kernel_size, stride, channels):
    taps = window_taps(sides, (kernel_size,) * len(sides), stride)
    axes = []
    for side in sides:
        outputs = -(-side // stride)
        before = max((outputs - 1) * stride + kernel_size - side, 0) // 2
        axes.append(np.arange(outputs)[:, None] * stride - before + np.arange(kernel_size))
    expected = []
    for position in np.ndindex(*(len(axis) for axis in axes)):
        for tap in np.ndindex(*(kernel_size,) * len(sides)):
            at = [axis[p, t] for axis, p, t in zip(axes, position, tap, strict=True)]
            inside = all(0 <= i < side for i, side in zip(at, sides, strict=True))
            expected.append(np.ravel_multi_index(at, sides) if inside else -1)
    np.testing.assert_array_equal(taps.ravel(), expected)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(**GEOMETRY)
def test_projections_are_orthogonal_and_idempotent(sides, kernel_size, stride, channels):
    window = (kernel_size,) * len(sides)
    outputs = window_taps(sides, window, stride).shape[0]
    dense = normal((np.prod(sides) * channels, outputs * 2), dtype=np.float32)

    def on_local(dense):
        return dense_from_local(local_from_dense(dense, sides, window, stride), sides, stride)

    def on_shared(dense):
        shared = shared_from_local(local_from_dense(dense, sides, window, stride), sides, stride)
        return dense_from_local(local_from_shared(shared, sides, stride), sides, stride)

    for projection in (on_local, on_shared):
        projected = projection(dense)
        np.testing.assert_allclose(projection(projected), projected, rtol=1e-5, atol=1e-6)
        # The residual is orthogonal to whatever the smaller family can express.
        other = projection(normal(dense.shape, seed=1))
        cosine = np.vdot(dense - projected, other) / (
            np.linalg.norm(dense) * np.linalg.norm(other) + 1e-30
        )
        assert abs(cosine) < 1e-5


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(**GEOMETRY)
def test_a_local_kernel_comes_back_without_its_padding_taps(sides, kernel_size, stride, channels):
    window = (kernel_size,) * len(sides)
    taps = window_taps(sides, window, stride)
    outputs = tuple(-(-side // stride) for side in sides)
    local = normal((*outputs, *window, channels, 2))
    back = local_from_dense(dense_from_local(local, sides, stride), sides, window, stride)
    inside = (taps >= 0).reshape(*outputs, *window, 1, 1)
    np.testing.assert_array_equal(back, np.where(inside, local, 0))


@pytest.mark.slow
def test_embedding_is_compiled_and_leaves_its_argument_alone(variables_of):
    shape = (9, 6, 2)
    models, x = twins(SHALLOW, shape)
    variables = variables_of(models["conv"], x)
    before = jax.tree.map(np.array, variables)
    eager = embed(variables, models["conv"], models["fc"], shape)
    compiled = jax.jit(lambda v: embed(v, models["conv"], models["fc"], shape))(variables)
    jax.tree.map(np.testing.assert_array_equal, compiled, eager)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_only_twins_in_the_right_order_are_accepted(variables_of):
    shape = (9, 6, 2)
    models, x = twins(SHALLOW, shape)
    variables = variables_of(models["conv"], x)
    with pytest.raises(ValueError, match="conv → local → fc, got local → conv"):
        embed(variables, models["local"], models["conv"], shape)
    with pytest.raises(ValueError, match="fc → local → conv, got conv → fc"):
        project(variables, models["conv"], models["fc"], shape)
    wider = models["fc"].clone(hidden=9)
    with pytest.raises(ValueError, match="same alpha"):
        embed(variables, models["conv"], wider, shape)
    with pytest.raises(ValueError, match="families have twins, got ThreeFC"):
        embed(variables, models["conv"], create("three_fc", alpha=2, num_classes=4), shape)
    with pytest.raises(ValueError, match=r"\['params'\].* is \(30, 8\), expected \(70, 8\)"):
        embed(variables, models["conv"], models["fc"], (9, 13, 2))
