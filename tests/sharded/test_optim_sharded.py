"""The optimizer over eight devices gives what it gives on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lconv_jax import (
    beta_lasso,
    group_soft_threshold,
    hard_concrete,
    rigl,
    saliency_pruning,
    sparse_evolution,
    spred,
)

DEVICES = 8

OPTIMIZERS = {
    "schedules": lambda: beta_lasso(
        optax.cosine_decay_schedule(0.1, 100), {"conv": lambda count: 1e-3 + 0 * count, "fc": 1e-3}
    ),
    "momentum": lambda: beta_lasso(0.1, 1e-3, momentum=0.9),
    "adam": lambda: optax.chain(optax.scale_by_adam(), beta_lasso(0.01, 1e-3)),
}
# They have no smallest size of weights.
OTHERS = {
    "groups": lambda: optax.chain(optax.sgd(0.1), group_soft_threshold(0.03)),
    "gates": lambda: hard_concrete(optax.sgd(0.1), 0.1),
    "products": lambda: spred(optax.sgd(0.1), 0.1),
    "saliency": lambda: saliency_pruning(optax.sgd(0.1), 0.3, begin=1, end=3),
    "rigl": lambda: rigl(optax.sgd(0.1), 0.3, every=1, end=100),
    "evolution": lambda: sparse_evolution(optax.sgd(0.1), 0.3, every=1),
}
SPECS = {"conv1": {"kernel": P(None, "model"), "bias": P()}, "fc1": {"kernel": P("model", None)}}


@pytest.fixture(params=OPTIMIZERS)
def tx(request):
    return OPTIMIZERS[request.param]()


def make_params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "conv1": {
            "kernel": 0.1 * jax.random.normal(keys[0], (12, 16)),
            "bias": 0.01 * jax.random.normal(keys[1], (16,)),
        },
        "fc1": {"kernel": 0.1 * jax.random.normal(keys[2], (16, 4))},
    }


def batch(index):
    keys = jax.random.split(jax.random.key(100 + index))
    return jax.random.normal(keys[0], (16, 12)), jax.random.normal(keys[1], (16, 4))


def loss(params, inputs, targets):
    hidden = jax.nn.relu(inputs @ params["conv1"]["kernel"] + params["conv1"]["bias"])
    return jnp.mean((hidden @ params["fc1"]["kernel"] - targets) ** 2)


gradient_on_one = jax.grad(loss)


def make_step(tx, gradient=gradient_on_one):
    def step(params, state, inputs, targets):
        updates, state = tx.update(gradient(params, inputs, targets), state, params)
        return optax.apply_updates(params, updates), state

    return step


def reference(tx, steps=4):
    params = make_params()
    state, step = tx.init(params), jax.jit(make_step(tx))
    for index in range(steps):
        params, state = step(params, state, *batch(index))
    return params


def assert_same_run(params, expected, threshold=0.05):
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        if one.ndim == 2:
            np.testing.assert_array_equal(one == 0, other == 0)
            sizes = np.abs(one)
            assert np.all((sizes == 0) | (sizes >= np.float32(threshold)))
            assert not threshold or 0 < np.mean(sizes == 0) < 1


def test_there_are_eight_devices():
    assert jax.device_count() == DEVICES


def test_jit_with_split_weights_and_batch_and_donated_buffers(tx):
    mesh = jax.make_mesh((2, 4), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    split = functools.partial(NamedSharding, mesh)
    params = jax.tree.map(
        lambda leaf, spec: jax.device_put(leaf, split(spec)), make_params(), SPECS
    )
    first = params["conv1"]["kernel"]
    state = jax.jit(tx.init)(params)
    step = jax.jit(make_step(tx), donate_argnums=(0, 1))
    for index in range(4):
        data = [jax.device_put(array, split(P("data"))) for array in batch(index)]
        params, state = step(params, state, *data)
    assert params["conv1"]["kernel"].sharding.is_equivalent_to(split(P(None, "model")), 2)
    assert first.is_deleted()
    assert_same_run(params, reference(tx))


@pytest.mark.parametrize("name", OTHERS)
def test_other_penalties_over_split_weights_and_over_the_batch(name):
    """A group over several devices is one group; gates are those of one device."""
    tx, expected = OTHERS[name](), reference(OTHERS[name]())
    mesh = jax.make_mesh((2, 4), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2)
    params = jax.tree.map(
        lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), make_params(), SPECS
    )
    state, step = jax.jit(tx.init)(params), jax.jit(make_step(tx), donate_argnums=(0, 1))
    gradient = jax.grad(lambda *args: jax.lax.pmean(loss(*args), "data"))
    specs = P(), P(), P("data"), P("data")
    mapped = jax.jit(
        jax.shard_map(make_step(tx, gradient), mesh=mesh, in_specs=specs, out_specs=(P(), P()))
    )
    replicated = make_params(), tx.init(make_params())
    for index in range(4):
        params, state = step(params, state, *batch(index))
        replicated = mapped(*replicated, *batch(index))
    assert_same_run(params, expected, threshold=0)
    assert_same_run(replicated[0], expected, threshold=0)


@pytest.mark.optimized
def test_the_update_needs_no_communication(tx):
    mesh = jax.make_mesh((DEVICES,), ("model",), (jax.sharding.AxisType.Auto,))
    shardings = {
        "conv1": {
            "kernel": NamedSharding(mesh, P(None, "model")),
            "bias": NamedSharding(mesh, P()),
        },
        "fc1": {"kernel": NamedSharding(mesh, P("model", None))},
    }
    params = jax.tree.map(jax.device_put, make_params(), shardings)
    compiled = jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in compiled


def test_shard_map_over_the_batch(tx):
    mesh = jax.make_mesh((DEVICES,), ("data",), (jax.sharding.AxisType.Auto,))
    params = make_params()
    state = tx.init(params)
    gradient = jax.grad(lambda *args: jax.lax.pmean(loss(*args), "data"))
    specs = P(), P(), P("data"), P("data")
    step = jax.jit(
        jax.shard_map(make_step(tx, gradient), mesh=mesh, in_specs=specs, out_specs=(P(), P()))
    )
    for index in range(4):
        params, state = step(params, state, *batch(index))
    assert_same_run(params, reference(tx))


def test_shard_map_over_the_weights(tx):
    """Each device updates its slice of every weight matrix, with the slice of the gradient."""
    mesh = jax.make_mesh((DEVICES,), ("model",), (jax.sharding.AxisType.Auto,))
    specs = {"conv1": {"kernel": P(None, "model"), "bias": P()}, "fc1": {"kernel": P("model")}}

    def update(params, grads):
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    params = make_params()
    grads = gradient_on_one(params, *batch(0))
    split = jax.shard_map(update, mesh=mesh, in_specs=(specs, specs), out_specs=specs)
    assert_same_run(jax.jit(split)(params, grads), jax.jit(update)(params, grads))


def test_vmap_inside_of_split_runs():
    """Eight runs at once, one on each device."""
    tx = OPTIMIZERS["momentum"]()
    mesh = jax.make_mesh((DEVICES,), ("runs",), (jax.sharding.AxisType.Auto,))
    scales = jnp.linspace(0.5, 1.5, DEVICES)
    runs = jax.vmap(lambda scale: jax.tree.map(lambda p: scale * p, make_params()))(scales)
    runs = jax.device_put(runs, NamedSharding(mesh, P("runs")))

    def update(params):
        grads = gradient_on_one(params, *batch(0))
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    got = jax.jit(jax.vmap(update))(runs)
    for index in (0, 7):
        one, start = (jax.tree.map(lambda leaf, i=index: leaf[i], tree) for tree in (got, runs))
        assert_same_run(one, jax.jit(update)(jax.device_get(start)))


@pytest.mark.skipif(not hasattr(jax, "pmap"), reason="pmap, in maintenance, is gone from this JAX")
def test_pmap():
    tx = OPTIMIZERS["momentum"]()
    params = make_params()
    state = tx.init(params)

    def gradient(*args):
        return jax.lax.pmean(gradient_on_one(*args), "data")

    axes = {"in_axes": (None, None, 0, 0), "out_axes": (None, None)}
    step = jax.pmap(make_step(tx, gradient), "data", **axes)
    for index in range(4):
        data = [array.reshape(DEVICES, -1, array.shape[-1]) for array in batch(index)]
        params, state = step(params, state, *data)
    assert_same_run(params, reference(tx))
