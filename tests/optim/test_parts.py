"""The parts one by one, against closed forms and other ways to compute them."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import add_l1_subgradient, hard_threshold, rescale_l1, soft_threshold

pytestmark = pytest.mark.optimized

values = st.floats(-10, 10, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, (3, 4), elements=values)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(params=arrays, grads=arrays, l1=st.floats(0, 2))
def test_subgradient_is_the_gradient_of_the_penalty(params, grads, l1):
    tx = add_l1_subgradient(l1)
    updates, _ = tx.update(grads, tx.init(params), params)
    penalty = jax.grad(lambda p: l1 * jnp.sum(jnp.abs(p)))(jnp.asarray(params))
    smooth = params != 0
    np.testing.assert_array_equal(updates[smooth], (grads + penalty)[smooth])
    np.testing.assert_array_equal(updates[~smooth], grads[~smooth])


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(params=arrays, updates=arrays, threshold=st.floats(0, 10))
def test_hard_threshold_is_that_of_numpy(params, updates, threshold):
    tx = hard_threshold(threshold)
    got, _ = tx.update(updates, tx.init(params), params)
    moved = params + updates
    expected = np.where(np.abs(moved) < np.float32(threshold), np.float32(0), moved)
    np.testing.assert_array_equal(optax.apply_updates(params, got), expected)
    kept = expected != 0
    np.testing.assert_array_equal(got[kept], updates[kept])


@settings(max_examples=10, deadline=None)
@given(params=arrays, updates=arrays, threshold=st.floats(0, 10))
def test_soft_threshold_is_the_proximal_operator(params, updates, threshold):
    tx = soft_threshold(threshold)
    got, _ = tx.update(updates, tx.init(params), params)
    new, moved = np.asarray(optax.apply_updates(params, got)), params + updates
    exact = np.sign(moved) * np.maximum(np.abs(moved) - np.float32(threshold), 0)
    np.testing.assert_allclose(new, exact, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(new[np.abs(moved) <= np.float32(threshold)], 0)


def test_iterative_soft_thresholding_solves_the_lasso():
    """Of an orthogonal design, whose solution is the soft threshold of least squares."""
    target, l1 = jnp.array([[2.0, -0.3, 0.5, -1.5, 0.0]]), 0.5
    tx = optax.chain(optax.scale_by_learning_rate(0.3), soft_threshold(0.3 * l1))
    params = jnp.full(target.shape, 0.1)
    state = tx.init(params)
    step = jax.jit(tx.update)
    for _ in range(100):
        updates, state = step(params - target, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, [[1.5, 0.0, 0.0, -1.0, 0.0]], atol=1e-6)
    assert np.array_equal(params == 0, [[False, True, True, False, True]])


def test_soft_threshold_of_a_schedule_of_learning_rates():
    schedule = optax.linear_schedule(0.5, 0.0, 5)
    tx = optax.chain(optax.scale_by_learning_rate(schedule), soft_threshold(schedule))
    params = jnp.ones((1, 1))
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(jnp.zeros((1, 1)), state, params)
        np.testing.assert_allclose(updates, -min(float(schedule(step)), params[0, 0]), rtol=1e-6)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("make", [add_l1_subgradient, hard_threshold, soft_threshold])
@pytest.mark.parametrize(("param", "update"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_types(make, param, update):
    tx, params = make(0.5), jnp.full((1, 3), 0.1, param)
    updates, _ = jax.jit(tx.update)(jnp.full((1, 3), 0.2, update), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    assert new.dtype == params.dtype
    assert updates.dtype == jnp.float32
    if make is not add_l1_subgradient:
        assert not new.any()


@pytest.mark.parametrize("l1", [2e-5, {"conv": 2e-5, "fc": 1e-6}], ids=str)
def test_rescale_l1_keeps_budget_and_threshold(l1):
    new_l1, new_beta = rescale_l1(l1, 50.0, lr_sum=490.0, reference_lr_sum=19600.0)
    for old, new in zip(jax.tree.leaves(l1), jax.tree.leaves(new_l1), strict=True):
        assert new == pytest.approx(40 * old)
        assert new * 490.0 == pytest.approx(old * 19600.0)
        assert new * new_beta == pytest.approx(old * 50.0)
    assert rescale_l1(l1, 50.0, lr_sum=7.0, reference_lr_sum=7.0) == (l1, 50.0)
