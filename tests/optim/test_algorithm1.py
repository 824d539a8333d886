"""`beta_lasso` is Algorithm 1 of the paper, against a transcription in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lconv_jax import beta_lasso

pytestmark = pytest.mark.optimized

SHAPES = {
    "conv1": {"kernel": (27, 16), "bias": (16,)},
    "bn1": {"scale": (16,), "bias": (16,)},
    "fc1": {"kernel": (16, 5), "bias": (5,)},
}
L1 = {"conv": 2e-3, "fc": 5e-4}
BETA = 50.0


def random_tree(seed, scale=0.2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def gradient(params, target, noise):
    """Of a quadratic loss, plus noise; in NumPy, so that both sides see the same bits."""
    return jax.tree.map(
        lambda p, t, n: (np.float32(0.3) * (np.asarray(p) - t) + n).astype(np.float32),
        params,
        target,
        noise,
    )


def algorithm1(params, grads, learning_rate, l1, beta):
    """One step of Algorithm 1 with a λ per kind of layer, in float32."""
    lam = {"conv1": l1.get("conv"), "bn1": None, "fc1": l1.get("fc")}
    learning_rate, new = np.float32(learning_rate), {}
    for layer, leaves in params.items():
        new[layer] = {}
        for name, theta in leaves.items():
            grad = grads[layer][name]
            if lam[layer] is not None and name == "kernel":
                theta = theta - learning_rate * (grad + np.float32(lam[layer]) * np.sign(theta))
                theta[np.abs(theta) < np.float32(beta * lam[layer])] = 0
            else:
                theta = theta - learning_rate * grad
            new[layer][name] = theta
    return new


def assert_same(tree, expected):
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("l1", "beta", "steps"),
    [(L1, BETA, 200), (L1, 1.0, 50), (L1, 0.0, 50), ({"conv": 2e-3}, BETA, 50)],
    ids=str,
)
def test_steps_op_by_op_have_the_same_bits(l1, beta, steps):
    params, target = random_tree(0), random_tree(1)
    expected = jax.tree.map(np.copy, params)
    schedule = optax.cosine_decay_schedule(0.1, steps)
    tx = beta_lasso(schedule, l1, beta)
    with jax.disable_jit():
        params = jax.tree.map(jnp.asarray, params)
        state = tx.init(params)
        for step in range(steps):
            noise = random_tree(100 + step, 0.05)
            updates, state = tx.update(gradient(params, target, noise), state, params)
            params = optax.apply_updates(params, updates)
            grads = gradient(expected, target, noise)
            expected = algorithm1(expected, grads, schedule(step), l1, beta)
    assert_same(params, expected)
    zeros = np.mean(expected["conv1"]["kernel"] == 0)
    assert zeros == 0 if beta == 0 else zeros > 0
    assert np.all(expected["fc1"]["bias"] != 0)


def test_schedules_of_l1_and_beta_follow_the_steps():
    def l1(count):
        return 1e-3 * (1 + count)

    def beta(count):
        return jnp.where(count < 3, 0.0, 20.0)

    params, target = random_tree(0), random_tree(1)
    expected = jax.tree.map(np.copy, params)
    tx = beta_lasso(0.1, {"conv": l1, "fc": 5e-4}, beta)
    state = tx.init(params)
    with jax.disable_jit():
        for step in range(6):
            noise = random_tree(100 + step, 0.05)
            updates, state = tx.update(gradient(params, target, noise), state, params)
            params = optax.apply_updates(params, updates)
            now = {"conv": np.float32(1e-3) * np.float32(1 + step), "fc": np.float32(5e-4)}
            grads = gradient(expected, target, noise)
            expected = algorithm1(expected, grads, 0.1, now, np.float32(0 if step < 3 else 20))
            assert np.any(expected["conv1"]["kernel"] == 0) == (step >= 3)
    assert_same(params, expected)


@pytest.mark.parametrize("traced", [False, True])
def test_one_compiled_step_agrees_to_2_ulp(traced):
    def step(params, grads, learning_rate):
        tx = beta_lasso(learning_rate, L1, BETA)
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    params, grads = random_tree(2), random_tree(3, 1.0)
    with jax.disable_jit():
        expected = step(params, grads, 0.1)
    if traced:
        got = jax.jit(step)(params, grads, 0.1)
    else:
        got = jax.jit(lambda params, grads: step(params, grads, 0.1))(params, grads)
    old, new, reference = (
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, got, expected))
    )
    for path in old:
        ulp = np.spacing(np.maximum(np.abs(old[path]), np.abs(reference[path])))
        threshold = np.float32(BETA * L1["conv" if "conv" in path else "fc"])
        near = np.abs(np.maximum(np.abs(new[path]), np.abs(reference[path])) - threshold) <= 2 * ulp
        assert np.all((np.abs(new[path] - reference[path]) <= 2 * ulp) | near), path
        assert np.all(((new[path] == 0) == (reference[path] == 0)) | near), path


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_without_penalty_it_is_sgd(momentum, nesterov):
    params = random_tree(4)
    ours = beta_lasso(0.1, 0.0, 0.0, momentum=momentum, nesterov=nesterov)
    sgd = optax.sgd(0.1, momentum, nesterov)
    states = ours.init(params), sgd.init(params)
    for step in range(3):
        grads = random_tree(10 + step)
        updates, state = ours.update(grads, states[0], params)
        expected, sgd_state = sgd.update(grads, states[1], params)
        states = state, sgd_state
        assert_same(updates, expected)


def momentum_reference(theta, trace, grad, *, learning_rate, l1, beta, momentum, nesterov):
    trace = grad + np.float32(momentum) * trace
    step = grad + np.float32(momentum) * trace if nesterov else trace
    theta = theta - np.float32(learning_rate) * (step + np.float32(l1) * np.sign(theta))
    below = np.abs(theta) < np.float32(beta * l1)
    return np.where(below, np.float32(0), theta), np.where(below, np.float32(0), trace)


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_decoupled_and_cleared_where_a_weight_is_made_zero(nesterov):
    theta = np.random.default_rng(0).normal(0, 0.2, (20, 10)).astype(np.float32)
    expected, trace = theta, np.zeros_like(theta)
    hyper = {"learning_rate": 0.05, "l1": 1e-3, "beta": 80.0, "momentum": 0.9, "nesterov": nesterov}
    tx = beta_lasso(**hyper)
    params = {"w": jnp.asarray(theta)}
    state = tx.init(params)
    with jax.disable_jit():
        for step in range(30):
            grad = np.random.default_rng(step).normal(0, 0.1, theta.shape).astype(np.float32)
            updates, state = tx.update({"w": grad}, state, params)
            params = optax.apply_updates(params, updates)
            expected, trace = momentum_reference(expected, trace, grad, **hyper)
            np.testing.assert_array_equal(params["w"], expected)
            np.testing.assert_array_equal(state[0].trace["w"], trace)
    assert 0.1 < np.mean(expected == 0) < 0.9


@pytest.mark.slow
def test_momentum_of_what_is_not_regularised_stays():
    params = {"w": jnp.full((2, 2), 0.01), "b": jnp.zeros(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    tx = beta_lasso(0.1, 1e-3, momentum=0.9)
    trace, rest = tx.init(params)
    state = trace._replace(trace=jax.tree.map(jnp.ones_like, params)), rest
    updates, (trace, _) = tx.update(grads, state, jax.tree.map(lambda p: p * (p > 0.02), params))
    np.testing.assert_array_equal(trace.trace["b"], np.float32([0.9, 0.9]))
    # From 0 a step of −0.1 · 0.9 would pass the threshold 0.05 in size.
    np.testing.assert_array_equal(trace.trace["w"], np.full((2, 2), np.float32(0.9)))
    assert np.all(np.asarray(updates["w"]) != 0)


@pytest.mark.slow
def test_a_zero_does_not_come_back_by_old_momentum():
    params = {"w": jnp.full((1, 2), 0.06)}
    tx = beta_lasso(0.1, 1e-3, 50.0, momentum=0.9)
    state = tx.init(params)
    # With the momentum of the first gradient the second step would be 0.1 · (0.3 + 0.9 · 0.5), past
    # the threshold of 0.05; without it, it is 0.1 · 0.3.
    for grad in (0.5, 0.3, 0.3, 0.3):
        updates, state = tx.update({"w": jnp.full((1, 2), grad)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(params["w"], np.zeros((1, 2)))
        np.testing.assert_array_equal(state[0].trace["w"], np.zeros((1, 2)))
