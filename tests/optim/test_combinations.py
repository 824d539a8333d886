"""Inside what optax and JAX put around an optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze

from lconv_jax import (
    add_l1_subgradient,
    beta_lasso,
    group_soft_threshold,
    hard_concrete,
    hard_concrete_eval_params,
    hard_threshold,
    layer_labels,
    lottery_ticket,
    magnitude_pruning,
    rigl,
    spred,
)

THRESHOLD = 0.05
L1, BETA = 1e-3, 50.0


@functools.cache
@jax.ensure_compile_time_eval()  # arrays, though the first call may be while a function is traced
def make_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "conv1": {
            "kernel": 0.1 * jax.random.normal(keys[0], (8, 16)),
            "bias": 0.01 * jax.random.normal(keys[1], (16,)),
        },
        "fc1": {
            "kernel": 0.1 * jax.random.normal(keys[2], (16, 4)),
            "bias": 0.01 * jax.random.normal(keys[3], (4,)),
        },
    }


@functools.cache
@jax.ensure_compile_time_eval()
def make_grads(seed):
    return jax.tree.map(lambda leaf: 3 * leaf, make_params(100 + seed))


def weights(params):
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    ).astype(np.float64)


def assert_sparse(params, threshold=THRESHOLD):
    sizes = np.abs(weights(params))
    assert 0.05 < np.mean(sizes == 0) < 0.95
    assert np.all((sizes == 0) | (sizes >= np.float32(threshold)))
    for leaf in jax.tree.leaves(params):
        assert leaf.ndim == 2 or np.all(np.asarray(leaf) != 0)


def assert_close(tree, expected, rtol=1e-5, atol=1e-7):
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol, atol)


def train(tx, params, steps=5, wrap=jax.jit):
    @wrap
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for index in range(steps):
        params, state = step(params, state, make_grads(index))
    return params, state


PLAIN = {
    "schedules": lambda: beta_lasso(
        optax.cosine_decay_schedule(0.1, 100), {"conv": lambda count: L1 + 0 * count, "fc": L1}
    ),
    "momentum": lambda: beta_lasso(0.1, L1, momentum=0.9, nesterov=True),
}


# What is not elementwise, or has a state of its own. They have no smallest size of weights.
OTHERS = {
    "groups": lambda: optax.chain(optax.sgd(0.1), group_soft_threshold(0.03)),
    "gates": lambda: hard_concrete(optax.sgd(0.1, momentum=0.9), 0.1),
    "products": lambda: spred(optax.sgd(0.1, momentum=0.9), 0.1),
    "pruned": lambda: magnitude_pruning(optax.adam(1e-2), 0.3, begin=1, end=3),
    "rigl": lambda: rigl(optax.sgd(0.1, momentum=0.9), 0.3, every=2, end=100),
    "ticket": lambda: lottery_ticket(optax.adam(1e-2), 0.3, rounds=1, steps_per_round=3),
}


@pytest.fixture(params=PLAIN)
def make(request):
    return PLAIN[request.param]


@pytest.fixture(params=PLAIN | OTHERS)
def make_any(request):
    return (PLAIN | OTHERS)[request.param]


def is_plain(make):
    return make in PLAIN.values()


@pytest.mark.slow
def test_parts_make_the_whole():
    parts = optax.chain(
        add_l1_subgradient(L1), optax.scale_by_learning_rate(0.1), hard_threshold(BETA * L1)
    )
    whole, _ = train(beta_lasso(0.1, L1, BETA), make_params())
    assert_close(train(parts, make_params())[0], whole, rtol=0, atol=0)
    assert_sparse(whole)


@pytest.mark.slow
def test_donated_buffers(make_any):
    expected, _ = train(make_any(), make_params())
    params = jax.tree.map(jnp.copy, make_params())
    first = jax.tree.leaves(params)
    got, _ = train(make_any(), params, wrap=lambda fn: jax.jit(fn, donate_argnums=(0, 1)))
    assert_close(got, expected, rtol=0, atol=0)
    assert all(leaf.is_deleted() for leaf in first)


@pytest.mark.slow
def test_vmap_is_a_loop(make_any):
    tx = make_any()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), make_params(0), make_params(1))

    def step(params, grads):
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    got = jax.jit(jax.vmap(step, (0, None)))(stacked, make_grads(0))
    for index in (0, 1):
        expected = jax.jit(step)(make_params(index), make_grads(0))
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], got), expected)
    if is_plain(make_any):
        assert_sparse(jax.tree.map(lambda leaf: leaf[0], got))


def test_vmap_over_strengths():
    def step(l1):
        tx = beta_lasso(0.1, {"conv": l1, "fc": L1}, BETA)
        updates, _ = tx.update(make_grads(0), tx.init(make_params()), make_params())
        return optax.apply_updates(make_params(), updates)

    got = jax.jit(jax.vmap(step))(jnp.array([0.0, L1, 4 * L1]))
    counts = jnp.count_nonzero(got["conv1"]["kernel"], axis=(1, 2))
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [optax.scale_by_adam(), optax.clip_by_global_norm(0.5), optax.add_decayed_weights(1e-2)],
    ids=["adam", "clip", "decay"],
)
def test_after_what_changes_gradients(before, make):
    params = make_params()
    got, _ = train(optax.chain(before, make()), params)
    assert_sparse(got)
    after = make()
    by_hand, states = params, (before.init(params), after.init(params))
    change, step = jax.jit(before.update), jax.jit(after.update)
    for index in range(5):
        updates, changed = change(make_grads(index), states[0], by_hand)
        updates, stepped = step(updates, states[1], by_hand)
        by_hand, states = optax.apply_updates(by_hand, updates), (changed, stepped)
    assert_close(got, by_hand, rtol=1e-3, atol=1e-6)


def test_the_penalty_is_outside_of_adam():
    """A weight with no gradient shrinks by ηλ, and not by Adam's step."""
    params, grads = {"w": jnp.ones((1, 2))}, {"w": jnp.zeros((1, 2))}
    tx = optax.chain(optax.scale_by_adam(), beta_lasso(0.1, L1))
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * L1, rtol=1e-6)


@pytest.mark.slow
def test_after_a_whole_optimizer_it_climbs():
    """What the documentation warns of."""
    tx = optax.chain(optax.adam(0.1), beta_lasso(0.1, 0.0))
    params = jnp.ones((1, 1))
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates[0, 0] > 0


def test_partition(make):
    params = make_params()

    def kinds(params):
        return jax.tree.map(lambda leaf: "sparse" if leaf.ndim == 2 else "rest", params)

    tx = optax.partition({"sparse": make(), "rest": optax.adam(1e-3)}, kinds)
    got, _ = train(tx, params)
    expected, _ = train(make(), params)
    assert_close(got["conv1"]["kernel"], expected["conv1"]["kernel"])
    assert_close(got["fc1"]["kernel"], expected["fc1"]["kernel"])
    adam, _ = train(optax.adam(1e-3), params)
    assert_close(got["fc1"]["bias"], adam["fc1"]["bias"])


def test_partition_by_layer_labels():
    tx = optax.partition(
        {
            "conv": beta_lasso(0.1, L1),
            "fc": beta_lasso(0.1, {"fc": 2 * L1}),
            "none": optax.sgd(0.1),
            "unused": beta_lasso(0.1, L1),
        },
        layer_labels,
    )
    expected, _ = train(beta_lasso(0.1, {"conv": L1, "fc": 2 * L1}), make_params())
    assert_close(train(tx, make_params())[0], expected)


def test_masked():
    params = make_params()
    mask = {"conv1": True, "fc1": False}
    tx = optax.chain(optax.masked(hard_threshold(THRESHOLD), mask))
    tx = optax.chain(optax.scale_by_learning_rate(0.1), tx)
    got, _ = train(tx, params)
    assert_sparse({"conv1": got["conv1"]})
    assert_close(got["fc1"], train(optax.sgd(0.1), params)[0]["fc1"])


@pytest.mark.slow
def test_multi_steps_outside(make_any):
    params = make_params()
    tx = optax.MultiSteps(make_any(), every_k_schedule=2)
    state = tx.init(params)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p))
    inner = make_any()
    expected, inner_state = params, inner.init(params)
    for index in range(6):
        updates, state = step(make_grads(index), state, params)
        new = optax.apply_updates(params, updates)
        if index % 2 == 0:
            assert_close(new, params, rtol=0, atol=0)
        else:
            mean = jax.tree.map(lambda a, b: (a + b) / 2, make_grads(index - 1), make_grads(index))
            updates, inner_state = jax.jit(inner.update)(mean, inner_state, expected)
            expected = optax.apply_updates(expected, updates)
            if is_plain(make_any):
                assert_sparse(new)
        params = new
    assert_close(params, expected)


@pytest.mark.slow
def test_apply_if_finite_outside(make_any):
    params = make_params()
    tx = optax.apply_if_finite(make_any(), 3)
    state = tx.init(params)
    updates, state = tx.update(make_grads(0), state, params)
    params = optax.apply_updates(params, updates)
    bad = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), make_grads(1))
    updates, bad_state = jax.jit(tx.update)(bad, state, params)
    assert_close(optax.apply_updates(params, updates), params, rtol=0, atol=0)
    assert_close(bad_state.inner_state, state.inner_state, rtol=0, atol=0)
    assert bad_state.total_notfinite == 1
    updates, _ = jax.jit(tx.update)(make_grads(1), bad_state, params)
    if is_plain(make_any):
        assert_sparse(optax.apply_updates(params, updates))


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_inject_hyperparams(momentum):
    params, traces = make_params(), []
    tx = optax.inject_hyperparams(beta_lasso, static_args="labels")(
        learning_rate=optax.cosine_decay_schedule(0.1, 100),
        l1=L1,
        beta=BETA,
        labels=layer_labels,
        momentum=momentum,
    )

    @jax.jit
    def step(params, state, grads):
        traces.append(1)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    assert {"learning_rate", "l1", "beta"} <= set(state.hyperparams)
    new, new_state = step(params, state, make_grads(0))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    plain = beta_lasso(0.1, L1, BETA, labels=layer_labels, momentum=momentum)
    assert_close(new, train(plain, params, steps=1)[0])
    assert_sparse(new)
    state.hyperparams["l1"] = jnp.float32(3 * L1)
    sparser, _ = step(params, state, make_grads(0))
    assert_sparse(sparser, 3 * THRESHOLD)
    assert len(traces) == 1


def test_inject_hyperparams_by_label():
    @optax.inject_hyperparams
    def make(learning_rate, l1_conv, l1_fc):
        return beta_lasso(learning_rate, {"conv": l1_conv, "fc": l1_fc}, BETA)

    params = make_params()
    tx = make(0.1, L1, optax.linear_schedule(0.0, L1, 2))
    state = tx.init(params)
    for index in range(3):
        updates, state = jax.jit(tx.update)(make_grads(index), state, params)
        params = optax.apply_updates(params, updates)
        assert np.any(params["conv1"]["kernel"] == 0)
        assert np.any(params["fc1"]["kernel"] == 0) == (index > 0)
    assert_sparse(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda threshold: group_soft_threshold(threshold, "inputs"), "threshold"),
        (lambda l0: hard_concrete(optax.sgd(0.1), l0), "l0"),
        (lambda weight_decay: spred(optax.sgd(0.1), weight_decay), "weight_decay"),
    ],
    ids=["groups", "gates", "products"],
)
def test_inject_hyperparams_of_other_penalties(make, name):
    """A strength that is set in the state, another one for each lane of `jax.vmap`."""
    params, grads = make_params(), [make_grads(index) for index in range(2)]

    def run(tx, value=None):
        state, new = tx.init(params), params
        for grad in grads:
            if value is not None:
                state.hyperparams[name] = value
            updates, state = tx.update(grad, state, new)
            new = optax.apply_updates(new, updates)
        # Of closed gates log α shows what the strength has done.
        return optax.tree.get(state, "log_alpha", new)["fc1"]["kernel"]

    values, injected = [0.0, 0.05, 0.2], optax.inject_hyperparams(make)(**{name: 0.0})
    lanes = jax.jit(jax.vmap(functools.partial(run, injected)))(jnp.array(values))
    for lane, value in zip(lanes, values, strict=True):
        np.testing.assert_allclose(lane, jax.jit(run, static_argnums=0)(make(value)), 1e-5, 1e-7)
    moved = jnp.abs(lanes - lanes[0]).max((1, 2))
    assert 0 == moved[0] < moved[1] < moved[2]


def test_inject_hyperparams_checks_values_at_init():
    tx = optax.inject_hyperparams(beta_lasso)(0.1, L1, beta=-1.0)
    with pytest.raises(ValueError, match="beta must be a finite number"):
        tx.init(make_params())


def test_map_params_over_the_state(make):
    """What sharding an optimizer's state relies on."""
    tx, params = make(), make_params()
    marked = optax.tree.map_params(tx, lambda leaf: "param", tx.init(params))
    found = [leaf for leaf in jax.tree.leaves(marked) if isinstance(leaf, str)]
    has_trace = isinstance(tx.init(params)[0], optax.TraceState)
    assert len(found) == has_trace * len(jax.tree.leaves(params))


def test_state_is_made_from_shapes(make):
    shapes = jax.eval_shape(make().init, make_params())
    assert_close(jax.tree.map(jnp.zeros_like, shapes), make().init(make_params()))


def test_gradients_may_be_none(make):
    params = make_params()
    grads = make_grads(0) | {"fc1": {"kernel": None, "bias": None}}
    updates, _ = make().update(grads, make().init(params), params)
    new = optax.apply_updates(params, {"conv1": updates["conv1"], "fc1": params["fc1"]})
    assert updates["fc1"] == {"kernel": None, "bias": None}
    assert_sparse({"conv1": new["conv1"]})


def test_linen_and_frozen_dicts(make):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="fc1")(nn.relu(nn.Dense(16, name="conv1")(x)))

    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((1, 8)))["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(make_params())
    expected, _ = train(make(), make_params())
    frozen, tx = freeze(make_params()), make()
    state = tx.init(frozen)
    for index in range(5):
        updates, state = tx.update(freeze(make_grads(index)), state, frozen)
        frozen = optax.apply_updates(frozen, updates)
    assert_close(frozen, freeze(expected), rtol=1e-4, atol=1e-6)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Linear(8, 16, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, rngs=rngs)
        self.fc1 = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, inputs):
        return self.fc1(nnx.relu(self.bn1(self.conv1(inputs))))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_nnx_optimizer(momentum):
    model = Net(nnx.Rngs(0))
    tx = beta_lasso(0.1, {"conv": 2e-3, "fc": 1e-3}, BETA, momentum=momentum)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, inputs):
        grads = nnx.grad(lambda model: jnp.mean((model(inputs) - 1) ** 2))(model)
        optimizer.update(model, grads)

    for index in range(4):
        step(model, optimizer, jax.random.normal(jax.random.key(index), (32, 8)))
    for layer, threshold in (("conv1", 0.1), ("fc1", 0.05)):
        sizes = np.abs(np.asarray(getattr(model, layer).kernel[...]))
        assert 0 < np.mean(sizes == 0) < 1
        assert np.all((sizes == 0) | (sizes >= np.float32(threshold)))
    assert np.all(model.bn1.scale[...] != 0)


@pytest.mark.slow
def test_nnx_optimizer_with_gates():
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, hard_concrete(optax.adam(0.1), {"conv": 0.1}), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, inputs):
        grads = nnx.grad(lambda model: jnp.mean((model(inputs) - 1) ** 2))(model)
        optimizer.update(model, grads)

    for index in range(2):
        step(model, optimizer, jax.random.normal(jax.random.key(index), (32, 8)))
    assert 0.05 < jnp.mean(model.conv1.kernel[...] == 0) < 0.5
    assert np.all(model.fc1.kernel[...] != 0)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    nnx.update(model, hard_concrete_eval_params(nnx.as_pure(optimizer.opt_state), params))
    raw = optimizer.opt_state.factors["raw"]["conv1"]["kernel"][...]
    log_alpha = optimizer.opt_state.factors["log_alpha"]["conv1"]["kernel"][...]
    gates = jnp.clip(1.2 * jax.nn.sigmoid(log_alpha) - 0.1, 0, 1)
    np.testing.assert_allclose(model.conv1.kernel[...], raw * gates, rtol=1e-5)
