"""Proximal steps against their definitions, another library's solutions and closed forms."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso

from lconv_jax import (
    elastic_net_threshold,
    group_soft_threshold,
    reweighted_soft_threshold,
    soft_threshold,
)
from lconv_jax.models import layers


def lengths(weights, axis):
    return np.sqrt(np.sum(weights**2, axis)).sum()


# The transformation of a strength t, and its penalty of w where the step began at `start`.
STEPS = {
    "soft": (soft_threshold, lambda t, w, start: t * np.abs(w).sum()),
    "elastic net": (
        lambda t: elastic_net_threshold(t, t / 2),
        lambda t, w, start: t * np.abs(w).sum() + t / 4 * np.sum(w**2),
    ),
    "outputs": (group_soft_threshold, lambda t, w, start: t * np.sqrt(3) * lengths(w, 0)),
    "inputs": (
        lambda t: group_soft_threshold(t, "inputs"),
        lambda t, w, start: t * np.sqrt(4) * lengths(w, 1),
    ),
    "reweighted": (
        lambda t: reweighted_soft_threshold(t, 0.5),
        lambda t, w, start: t * np.sum(np.abs(w) * 0.5 / (np.abs(start) + 0.5)),
    ),
}
arrays = hnp.arrays(np.float32, (3, 4), elements=st.floats(-3, 3, width=32, allow_subnormal=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=20, deadline=None)
@given(start=arrays, update=arrays, strength=st.floats(0, 3), seed=st.integers(0, 99))
def test_a_step_is_the_minimum_of_its_definition(name, start, update, strength, seed):
    """½‖w − x‖² + penalty(w) is 1-strongly convex, so that it is ½‖w − w*‖² above its minimum."""
    make, penalty = STEPS[name]
    tx = make(strength)
    updates, _ = tx.update(update, tx.init(start), start)
    found = np.float64(optax.apply_updates(start, updates))
    end = np.float64(start + update)

    def objective(weights):
        return np.sum((weights - end) ** 2) / 2 + penalty(strength, weights, start)

    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-3, 1, (20, 1, 1))
    near = found + scales * rng.normal(size=(20, 3, 4)) * (rng.random((20, 3, 4)) < 0.5)
    for other in (*near, end, np.zeros((3, 4))):
        gap = objective(other) - objective(found)
        assert gap >= np.sum((other - found) ** 2) / 2 - 1e-4


def minimise(tx, gradient, shape, steps=3000):
    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]

    return np.asarray(run(jnp.full(shape, 0.1)))


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 10)) @ (np.eye(10) + 0.2 * rng.normal(size=(10, 10)))
    truth = rng.normal(size=(10, 3)) * (np.arange(10) % 3 == 0)[:, None]
    return inputs, inputs @ truth + 0.1 * rng.normal(size=(60, 3))


@pytest.mark.parametrize("name", ["lasso", "elastic net", "group lasso"])
def test_gradient_steps_lead_to_the_solution_of_scikit_learn(regression, name):
    inputs, targets = regression
    exact = {"fit_intercept": False, "tol": 1e-12, "max_iter": 100_000}
    rate = 1 / np.linalg.norm(inputs.T @ inputs / 60, 2)
    if name == "lasso":
        after, solver, targets = soft_threshold(0.1 * rate), Lasso(0.1, **exact), targets[:, :1]
    elif name == "elastic net":
        after = elastic_net_threshold(0.1 * rate, 0.3 * rate)
        solver, targets = ElasticNet(0.4, l1_ratio=0.25, **exact), targets[:, :1]
    else:
        # A feature's weights for all tasks are what leaves one input.
        after = group_soft_threshold(0.1 * rate, "inputs")
        solver = MultiTaskLasso(0.1 * np.sqrt(3), **exact)
    expected = solver.fit(inputs, targets).coef_.reshape(-1, 10).T
    inputs, targets = jnp.float32(inputs), jnp.float32(targets)
    found = minimise(
        optax.chain(optax.sgd(rate), after),
        lambda params: inputs.T @ (inputs @ params - targets) / 60,
        expected.shape,
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert 0 < np.mean(found == 0) < 1


def test_group_lasso_of_outputs():
    """Of an orthogonal design: each unit's least squares, shortened by λ√n."""
    target = np.array([[3.0, 0.3, 0.0], [4.0, -0.4, 1.0]], np.float32)
    tx = optax.chain(optax.sgd(0.3), group_soft_threshold(0.3 * 0.5))
    found = minimise(tx, lambda params: params - target, target.shape, steps=200)
    shorter = np.maximum(0, 1 - 0.5 * np.sqrt(2) / np.array([5.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, target * shorter, atol=1e-6)
    assert np.array_equal(found.any(0), [True, False, True])


@pytest.mark.parametrize("target", [0.9, 1.5, 3.0])
def test_reweighted_thresholds_lead_to_a_root(target):
    """Of w − a + λε / (w + ε), the derivative of ½(w − a)² + λε log(1 + w/ε)."""
    l1, epsilon = 0.5, 0.4
    tx = optax.chain(optax.sgd(0.3), reweighted_soft_threshold(0.3 * l1, epsilon))
    found = minimise(tx, lambda params: params - jnp.array([[target, 0.3]]), (1, 2), steps=500)
    root = (target - epsilon + np.sqrt((target + epsilon) ** 2 - 4 * l1 * epsilon)) / 2
    np.testing.assert_allclose(found, [[root, 0.0]], atol=1e-5)
    assert found[0, 1] == 0
    assert found[0, 0] > target - l1  # less biased than the lasso's


def test_a_large_epsilon_is_the_soft_threshold():
    params, update = jnp.array([[1.0, -2.0, 0.2]]), jnp.array([[0.0, 1.0, 0.5]])
    found, expected = (
        tx.update(update, optax.EmptyState(), params)[0]
        for tx in (reweighted_soft_threshold(0.3, 1e9), soft_threshold(0.3))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def only_group_of(kernel, groups, index):
    """The kernel with 1 in the group of `index`, and 0 elsewhere."""
    tx = group_soft_threshold(0.1, groups)

    @jax.jit
    def step(kernel):
        start = jnp.full_like(kernel, 1e-3).at[index].set(10.0)
        updates, _ = tx.update(jnp.zeros_like(start), optax.EmptyState(), start)
        return (optax.apply_updates(start, updates) != 0).astype(kernel.dtype)

    return step(kernel)


SIDES = {"dense": (), "convolution": (5, 4), "local": (5, 4), "signal": (6,)}


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["outputs", "inputs"])
@pytest.mark.parametrize("kind", SIDES)
def test_groups_are_what_enters_or_leaves_a_unit(kind, groups):
    """Seen from outside: which inputs such a group alone reads, and which outputs it makes."""
    sides, is_local = SIDES[kind], kind == "local"
    x = jnp.ones((1, *sides, 3))
    if kind == "dense":
        layer, index = layers.dense(2, name="dense", dtype=jnp.float32), (1, 0)
    else:
        layer = layers.Conv(2, kernel_size=3, shared=not is_local)
        index = (2, 1, 1, 1, 1, 0) if is_local else (1,) * len(sides) + (1, 0)
    shape = jax.eval_shape(layer.init, jax.random.key(1), x)["params"]["kernel"].shape
    group = only_group_of(jnp.ones(shape), groups, index)

    @jax.jit
    def reads_and_writes(x):
        y, pull = jax.vjp(lambda x: layer.apply({"params": {"kernel": group}}, x), x)
        return pull(jnp.ones_like(y))[0][0] != 0, y[0] != 0

    reads, writes = reads_and_writes(x)
    expected_reads, expected_writes = np.zeros((*sides, 3), bool), np.zeros((*sides, 2), bool)
    units = 2 if groups == "outputs" else 3
    if is_local:
        units *= 20 if groups == "outputs" else 20 * 9
        expected_reads[(slice(1, 4), slice(0, 3)) if groups == "outputs" else (2, 1, 1)] = True
        expected_writes[(2, 1, 0) if groups == "outputs" else (2, 1)] = True
    else:
        expected_reads[... if groups == "outputs" else (..., 1)] = True
        expected_writes[(..., 0) if groups == "outputs" else ...] = True
    np.testing.assert_array_equal(reads, expected_reads)
    np.testing.assert_array_equal(writes, expected_writes)
    assert group.sum() * units == group.size


@pytest.mark.slow
def test_groups_of_other_layouts():
    kernel = jnp.ones((3, 2, 4, 4))  # Equinox: [out, in, *window]
    found = only_group_of(kernel, lambda kernel: range(1, kernel.ndim), (1, 0, 0, 0))
    np.testing.assert_array_equal(found, kernel.at[jnp.array([0, 2])].set(0))
    # A linear model of one output, [in].
    vector = {"w": jnp.array([3.0, 4.0])}
    for groups, expected in (("outputs", [2.4, 3.2]), ("inputs", [3 - 0.5**0.5, 4 - 0.5**0.5])):
        tx = group_soft_threshold(0.5**0.5, groups)
        updates, _ = tx.update(optax.tree.zeros_like(vector), tx.init(vector), vector)
        np.testing.assert_allclose(vector["w"] + updates["w"], expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("grad_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", STEPS)
def test_zeros_are_positive_and_exact(name, dtype, grad_dtype):
    params = jnp.array([[0.3, -0.3, 1e-7, -0.0]], dtype)
    tx = STEPS[name][0](1.0)
    updates, _ = jax.jit(tx.update)(jnp.full((1, 4), -0.1, grad_dtype), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    assert new.dtype == dtype
    assert updates.dtype == jnp.promote_types(dtype, grad_dtype)
    assert np.asarray(new).tobytes() == bytes(new.nbytes)


@pytest.mark.parametrize("name", STEPS)
def test_what_is_not_finite_stays_visible(name):
    params = jnp.array([[1.0, jnp.nan], [jnp.inf, 1.0]])
    tx = STEPS[name][0](0.1)
    updates, _ = tx.update(jnp.array([[jnp.nan, 0.0], [0.0, -jnp.inf]]), tx.init(params), params)
    assert not np.isfinite(optax.apply_updates(params, updates)).any()


def test_schedules_and_labels_of_each_strength():
    params = {"conv1": {"kernel": jnp.ones((1, 1))}, "fc1": {"kernel": jnp.ones((1, 1))}}
    tx = elastic_net_threshold({"conv": optax.linear_schedule(0.5, 0.0, 1)}, {"fc": 1.0})
    state, zeros = tx.init(params), optax.tree.zeros_like(params)
    for expected in ([0.5, 0.5], [1.0, 0.5]):
        updates, state = tx.update(zeros, state, params)
        new = optax.apply_updates(params, updates)
        assert [leaf.item() for leaf in jax.tree.leaves(new)] == expected


def test_errors():
    for epsilon in (0.0, -1.0, float("inf"), float("nan"), None, "1", {"conv": 1.0}, abs):
        with pytest.raises(ValueError, match=r"^epsilon must be a finite number above 0, got"):
            reweighted_soft_threshold(0.1, epsilon)
    for groups in ("rows", None, 1):
        with pytest.raises(ValueError, match=r'groups must be "outputs", "inputs" or a function'):
            group_soft_threshold(0.1, groups)
    with pytest.raises(ValueError, match=r"^l2 must be a finite number"):
        elastic_net_threshold(0.1, -0.1)
    with pytest.raises(ValueError, match=r"^l2 has the key 'fc'"):
        elastic_net_threshold(0.1, {"fc": 0.1}).init({"conv1": {"kernel": jnp.ones((2, 2))}})
