import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from benchmarks.conv_in_loop import CANDIDATES
from lconv_jax.models import layers, window_taps

SIDES = st.lists(st.integers(1, 7), min_size=1, max_size=2).map(tuple)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 6])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_product_in_bfloat16_rounds_its_factors_and_nothing_else(batch, rows):
    a, b, g = normal(0, *batch, rows, 300), normal(1, *batch, 300, 7), normal(2, *batch, rows, 7)

    def rounded(array):
        return np.asarray(array.astype(jnp.bfloat16), np.float64)

    y, pull_back = jax.vjp(lambda a, b: layers.product(a, b, jnp.bfloat16), a, b)
    grad_a, grad_b = pull_back(g)
    assert {each.dtype for each in (y, grad_a, grad_b)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y, rounded(a) @ rounded(b), rtol=1e-4, atol=1e-4)
    for grad, expected in (
        (grad_a, rounded(g) @ rounded(b).swapaxes(-1, -2)),
        (grad_b, rounded(a).swapaxes(-1, -2) @ rounded(g)),
    ):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(sides=SIDES, kernel_size=st.integers(1, 5), stride=st.integers(1, 3))
def test_every_candidate_of_the_benchmark_is_the_same_function(sides, kernel_size, stride):
    window = (kernel_size,) * len(sides)
    x = normal(0, 2, *sides, 3)
    outputs = layers.output_sides(sides, stride)
    kernels = {"conv": normal(1, *window, 3, 2), "local": normal(1, *outputs, *window, 3, 2)}
    for kind, candidates in CANDIDATES.items():
        first, *others = [
            jax.jit(function, static_argnums=2)(x, kernels[kind], stride)
            for _, _, function in candidates
        ]
        assert first.shape == (2, *outputs, 2)
        for other in others:
            close(other, first)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(sides=SIDES, kernel_size=st.integers(1, 5), stride=st.integers(1, 3))
def test_local_convolution_reads_each_window_with_its_own_kernel(sides, kernel_size, stride):
    window = (kernel_size,) * len(sides)
    x = normal(0, 2, *sides, 3)
    kernel = normal(1, *layers.output_sides(sides, stride), *window, 3, 2)
    taps = window_taps(sides, window, stride)
    inputs = np.asarray(x).reshape(2, -1, 3)
    weights = np.asarray(kernel).reshape(*taps.shape, 3, 2)
    expected = np.zeros((2, taps.shape[0], 2))
    for position, tap in zip(*np.nonzero(taps >= 0), strict=True):
        expected[:, position] += inputs[:, taps[position, tap]] @ weights[position, tap]
    actual = jax.jit(layers.local_convolve, static_argnums=2)(x, kernel, stride)
    close(actual.reshape(expected.shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(9,), (8, 5)])
def test_shared_convolution_takes_the_parameters_of_flax_conv(sides):
    x = normal(0, 2, *sides, 3)
    ours = layers.Conv(4, 3, stride=2)
    theirs = nn.Conv(4, (3,) * len(sides), strides=2, use_bias=False)
    variables = theirs.init(jax.random.key(0), x)
    expected = jax.tree.map(jnp.shape, variables)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == expected
    close(ours.apply(variables, x), theirs.apply(variables, x))


def test_gradients_are_those_of_lax_convolution():
    x, kernel = normal(0, 2, 7, 6, 3), normal(1, 3, 3, 3, 2)
    gradients = [
        jax.jit(jax.grad(lambda *a, f=f: jnp.sin(f(*a, 2)).sum(), (0, 1)))(x, kernel)
        for f in (layers.convolve, layers.lax_convolve)
    ]
    jax.tree.map(close, *gradients)


@pytest.mark.parametrize(("platform", "uses_xla"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_accelerators_keep_xla_convolutions_and_store_no_unfolded_input(platform, uses_xla):
    def gradient(x, kernel):
        return jax.grad(lambda *a: jnp.sin(layers.convolve(*a, 1)).sum(), (0, 1))(x, kernel)

    program = export.export(jax.jit(gradient), platforms=[platform])(
        normal(0, 2, 8, 8, 7), normal(1, 3, 3, 7, 2)
    ).mlir_module()
    assert ("stablehlo.convolution" in program) == uses_xla
    unfolded = f"x{3 * 3 * 7}xf32>"
    assert (unfolded in program) != uses_xla


@pytest.mark.slow
def test_a_local_kernel_starts_at_the_scale_of_its_shared_twin():
    x = jnp.zeros((1, 12, 12, 8))
    shared, local = (
        layers.Conv(64, 3, shared=shared).init(jax.random.key(0), x)["params"]["kernel"]
        for shared in (True, False)
    )
    # 9 · 8 inputs to each unit, and twelve times twelve positions change nothing about it.
    assert np.std(shared) == pytest.approx((9 * 8) ** -0.5, rel=0.05)
    assert np.std(local) == pytest.approx((9 * 8) ** -0.5, rel=0.05)


@pytest.mark.slow
def test_batch_norm_is_flax_batch_norm_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    # Ordinary, constant and near-constant units, and means far from zero.
    x = rng.normal(size=(32, 4, 6)) * [1, 0, 1e-5, 3, 1, 1] + [0, 2, 5, -1, 300, 0]
    x, cotangent = jnp.asarray(x, jnp.float32), jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)
    variables = theirs.init(jax.random.key(0), x)
    variables["params"]["scale"] = jnp.asarray(rng.normal(size=6), jnp.float32)

    def gradient(bn):
        def loss(params, x):
            y, updated = bn.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(y * cotangent), (y, updated)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)

    ours = layers.BatchNorm(use_running_average=False, momentum=0.9)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, variables
    )
    for actual, expected in zip(*map(jax.tree.leaves, map(gradient, (ours, theirs))), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    fixed = [
        bn.clone(use_running_average=True).apply(variables, x, mutable=[])[0]
        for bn in (ours, theirs)
    ]
    np.testing.assert_allclose(*fixed, rtol=1e-6)
