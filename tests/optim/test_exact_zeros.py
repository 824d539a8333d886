"""No step leaves a regularised weight between zero and its threshold, however it is compiled."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import beta_lasso, hard_threshold
from lconv_jax.optim.threshold import next_param

pytestmark = pytest.mark.optimized

LEARNING_RATE, L1, BETA = 0.1, 1.3e-3, 7.0
THRESHOLD = np.float32(BETA * L1)
SIZE = 1 << 18


def near_the_threshold(dtype, grad_dtype, size=SIZE):
    """Weights and gradients whose next step ends within a few ulp of ±threshold."""
    rng = np.random.default_rng(0)
    ulp = float(jnp.finfo(dtype).eps) * THRESHOLD
    ends = (THRESHOLD + rng.integers(-4, 5, size) * ulp * rng.random(size)) * rng.choice(
        [-1, 1], size
    )
    grads = jnp.asarray(rng.normal(size=(size // 256, 256)), grad_dtype)
    starts = ends.reshape(grads.shape) + LEARNING_RATE * np.asarray(grads, np.float64)
    return jnp.asarray(starts + LEARNING_RATE * L1 * np.sign(starts), dtype), grads


def assert_none_between(params, threshold=THRESHOLD):
    sizes = np.abs(np.asarray(params, np.float64))
    between = (sizes > 0) & (sizes < np.float32(threshold))
    assert not between.any(), f"{between.sum()} of {between.size}, as {sizes[between][:3]}"


def scheduled(value):
    return lambda count: value * jnp.cos(0.0 * count)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("kind", ["constant", "traced", "schedule"])
@pytest.mark.parametrize(
    ("dtype", "grad_dtype", "steps"),
    [
        (jnp.float32, jnp.float32, 1),
        (jnp.float32, jnp.float32, 3),
        (jnp.float32, jnp.bfloat16, 1),
        (jnp.float32, jnp.float16, 3),
        (jnp.bfloat16, jnp.float32, 1),
        (jnp.bfloat16, jnp.bfloat16, 3),
        (jnp.bfloat16, jnp.float16, 1),
        (jnp.float16, jnp.bfloat16, 1),
    ],
)
def test_weights_near_the_threshold(dtype, grad_dtype, steps, kind, momentum):
    def run(params, grads, learning_rate, l1):
        if kind == "schedule":
            learning_rate, l1 = scheduled(learning_rate), scheduled(l1)
        elif kind == "constant":
            learning_rate, l1 = LEARNING_RATE, L1
        tx = beta_lasso(learning_rate, l1, BETA, momentum=momentum)
        state = tx.init(params)
        for _ in range(steps):
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    params, grads = near_the_threshold(dtype, grad_dtype)
    new = jax.jit(run)(params, grads, LEARNING_RATE, L1)
    assert new.dtype == dtype
    assert_none_between(new)
    assert 0.02 < np.mean(np.asarray(new == 0)) < 0.98


def test_the_test_is_of_the_parameter_as_it_will_be():
    """The compiled sum alone, where a fused multiply-add would be the natural code."""

    def moved(params, grads):
        return next_param(-LEARNING_RATE * grads, params)[0]

    params, grads = near_the_threshold(jnp.float32, jnp.float32, 1 << 20)
    with jax.disable_jit():
        expected = params + (-LEARNING_RATE * grads)
    np.testing.assert_array_equal(jax.jit(moved)(params, grads), expected)


@pytest.mark.slow
def test_a_loop_on_the_device():
    params, grads = near_the_threshold(jnp.float32, jnp.float32, 1 << 14)
    tx = beta_lasso(LEARNING_RATE, L1, BETA)

    @jax.jit
    def run(params):
        def body(carry, key):
            params, state = carry
            noise = 0.3 * jax.random.normal(key, params.shape)
            updates, state = tx.update(grads + noise, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.min(jnp.where(params == 0, jnp.inf, jnp.abs(params)))

        carry = params, tx.init(params)
        keys = jax.random.split(jax.random.key(0), 50)
        return jax.lax.scan(body, carry, keys, unroll=5)

    (_, _), smallest = run(params)
    assert np.all(np.asarray(smallest) >= THRESHOLD)


finite = {"allow_nan": False, "allow_infinity": False}


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(data=st.data(), shape=st.sampled_from([(1, 1), (3, 4), (2, 1, 3)]))
def test_any_values(data, shape):
    values = hnp.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32, **finite))
    params, updates = data.draw(values), data.draw(values)
    threshold = data.draw(st.floats(0, 2e3, **finite))
    tx = hard_threshold(threshold)
    got, _ = tx.update(updates, tx.init(params), params)
    moved = params + updates
    # XLA on CPU takes subnormal numbers for zero.
    expected = np.where(np.abs(moved) < np.float32(threshold), -params, updates)
    normal = np.abs(moved) >= np.finfo(np.float32).tiny
    np.testing.assert_array_equal(np.asarray(got)[normal], expected[normal])
    assert_none_between(optax.apply_updates(params, got), threshold)


def test_zeros_are_positive_and_exact():
    params = {"w": jnp.array([[0.3, -0.3, 1e-30, -0.0]])}
    grads = {"w": jnp.array([[0.1, 0.1, 0.0, -0.0]])}
    tx = beta_lasso(0.1, 0.1, 10.0)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    new = np.asarray(optax.apply_updates(params, updates)["w"])
    assert new.tobytes() == np.zeros((1, 4), np.float32).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_what_is_not_finite_stays_visible(dtype, momentum):
    params = jnp.array([[1.0, 1.0, 1.0, jnp.nan, jnp.inf, 0.001]], dtype)
    grads = jnp.array([[jnp.nan, jnp.inf, -jnp.inf, 1.0, 1.0, 0.0]], dtype)
    tx = beta_lasso(0.1, 0.01, 50.0, momentum=momentum)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    new = np.asarray(optax.apply_updates(params, updates), np.float32)
    assert np.isnan(new[0, [0, 3]]).all()
    assert not np.isfinite(new[0, [1, 2, 4]]).any()
    assert new[0, 5] == 0


@pytest.mark.slow
def test_bfloat16_keeps_zeros_but_does_not_shrink():
    """What the documentation warns of: λη is less than half a bfloat16's spacing."""
    start = jnp.full((2, 2), 0.01, jnp.bfloat16).at[0, 0].set(0)
    tx = beta_lasso(0.1, 1e-5, 50.0)

    def run(params):
        state = tx.init(params)
        for _ in range(20):
            updates, state = tx.update(jnp.zeros_like(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    np.testing.assert_array_equal(run(start), start)
    masters = run(start.astype(jnp.float32))
    np.testing.assert_allclose(masters[1], start[1].astype(jnp.float32) - 20 * 1e-6, rtol=1e-4)
    assert masters[0, 0] == 0


def test_an_average_of_parameters_is_outside_of_the_guarantee():
    """What the documentation warns of: where weights become zero, their average is small."""
    params = {"w": jnp.array([[0.1]])}
    tx, ema = beta_lasso(0.1, 1e-3, 50.0), optax.ema(0.9, debias=False)
    state, average = tx.init(params), ema.init(params)
    for grad in (0.0, 0.9):
        updates, state = tx.update({"w": jnp.array([[grad]])}, state, params)
        params = optax.apply_updates(params, updates)
        mean, average = ema.update(params, average)
    assert params["w"] == 0
    assert 0 < mean["w"] < 0.05


def test_without_a_threshold_a_step_onto_zero_keeps_its_momentum():
    """Nothing was cut off there: the weight moves on, as with any optimizer's momentum."""
    tx = beta_lasso(1.0, 0.25, beta=0.0, momentum=0.5)
    params = {"fc": {"kernel": jnp.array([[1.0, -2.0]])}}
    # Every number is a binary fraction: −(gradient + λ·sign) is exactly −weight for the first.
    grads = {"fc": {"kernel": jnp.array([[0.75, 0.5]])}}
    updates, state = tx.update(grads, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["fc"]["kernel"], [[0.0, -2.25]])
    np.testing.assert_array_equal(
        optax.tree.get(state, "trace")["fc"]["kernel"], grads["fc"]["kernel"]
    )
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, grads), state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["fc"]["kernel"], [[-0.375, -2.25 - 0.25 + 0.25]])
