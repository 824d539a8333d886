"""Gradients and parameters of different types, alone and inside what optax puts around them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lconv_jax import (
    add_l1_subgradient,
    beta_lasso,
    group_soft_threshold,
    hard_concrete,
    hard_threshold,
    soft_threshold,
    spred,
)

pytestmark = pytest.mark.optimized

F32, BF16, F16 = jnp.float32, jnp.bfloat16, jnp.float16
# Parameters and gradients, where the gradients' type holds the parameters', and where it does not.
WIDE = [(F32, F32), (BF16, F32), (F16, F32), (BF16, BF16), (F16, F16)]
NARROW = [(F32, BF16), (F32, F16), (BF16, F16), (F16, BF16)]
LEARNING_RATE, L1, BETA = 0.1, 1e-3, 50.0


def scan(tx, params, grads):
    """Parameters after all steps, in a loop that no state may leave in another type."""

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), grads)[0][0]


def tree(dtype, *leading):
    shapes = {"kernel": (8, 16), "bias": (16,)}
    rng = np.random.default_rng(len(leading))
    draw = {name: 0.2 * rng.normal(size=(*leading, *shape)) for name, shape in shapes.items()}
    return {"fc1": {name: jnp.asarray(values, dtype) for name, values in draw.items()}}


ALTERNATING = {
    "beta_lasso": lambda: beta_lasso(LEARNING_RATE, 1e-4),
    "schedules": lambda: beta_lasso(
        optax.constant_schedule(LEARNING_RATE), {"fc": optax.constant_schedule(1e-4)}
    ),
    "subgradient": lambda: optax.chain(
        add_l1_subgradient(1e-4), optax.scale_by_learning_rate(LEARNING_RATE)
    ),
    "soft": lambda: optax.chain(
        optax.scale_by_learning_rate(LEARNING_RATE), soft_threshold(LEARNING_RATE * 1e-4)
    ),
    "momentum": lambda: beta_lasso(LEARNING_RATE, 1e-4, momentum=0.9),
    "nesterov": lambda: beta_lasso(LEARNING_RATE, 1e-4, momentum=0.9, nesterov=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("grad_dtype", [BF16, F16])
@pytest.mark.parametrize("name", ALTERNATING)
def test_the_penalty_survives_beside_large_gradients(name, grad_dtype):
    """±0.5 cancel, and what remains of 1000 steps is λη = 1e-5 from each."""

    def run(dtype):
        signs = jnp.tile(jnp.array([0.5, -0.5], dtype), 500)[:, None, None]
        params = {"fc1": {"kernel": jnp.ones((1, 1))}}
        return scan(ALTERNATING[name](), params, {"fc1": {"kernel": signs}})["fc1"]["kernel"]

    moved = float(run(grad_dtype)[0, 0]) - 1
    assert moved == pytest.approx(float(run(F32)[0, 0]) - 1, abs=1e-5)
    if name not in ("momentum", "nesterov"):
        assert moved == pytest.approx(-0.01, abs=1e-4)


def test_lambda_is_not_rounded_to_float16():
    """Where 1e-6 is the nearest multiple of 6e-8, or none at all as a subnormal number."""
    params = jnp.zeros((1, 2), F16).at[0, 0].set(1)
    updates, _ = add_l1_subgradient(2.0**-23).update(
        jnp.full_like(params, 2.0**-13), optax.EmptyState(), params
    )
    assert updates.dtype == F16
    np.testing.assert_array_equal(np.float64(updates), [[2.0**-13 + 2.0**-23, 2.0**-13]])


def always(step):
    return step >= 0


BIASES = {"fc1": {"kernel": False, "bias": True}}
GROUPS = {"fc1": {"kernel": "sparse", "bias": "rest"}}

# None of them changes what happens to the weights here.
WRAPPERS = {
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(1e3), make()),
    "named_chain": lambda make: optax.named_chain(("clip", optax.clip(1e3)), ("sparse", make())),
    "masked": lambda make: optax.masked(make(), True),
    "partition": lambda make: optax.partition({"sparse": make(), "rest": optax.sgd(0.1)}, GROUPS),
    "freeze": lambda make: optax.chain(make(), optax.freeze(BIASES)),
    "selective_transform": lambda make: optax.selective_transform(make(), freeze_mask=BIASES),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(
        make.func, hyperparam_dtype=jnp.float32
    )(*make.args, **make.keywords),
    "MultiSteps": lambda make: optax.MultiSteps(make(), 1),
    "MultiSteps, skipping": lambda make: optax.MultiSteps(
        make(), 1, should_skip_update_fn=optax.skip_not_finite
    ),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(), 3),
    "conditionally_mask": lambda make: optax.conditionally_mask(make(), always),
    "conditionally_transform": lambda make: optax.conditionally_transform(make(), always),
}
CHOOSING = ("apply_if_finite", "conditionally_mask", "conditionally_transform")


def cast_first(wrap):
    return lambda make: optax.chain(optax.stateless(optax.tree.cast_like), wrap(make))


def make_plain(momentum):
    return functools.partial(beta_lasso, LEARNING_RATE, L1, BETA, momentum=momentum)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize(("dtype", "grad_dtype"), WIDE + NARROW)
@pytest.mark.parametrize("name", WRAPPERS)
def test_states_and_updates_keep_their_types(name, dtype, grad_dtype, momentum):
    """As branches of `lax.cond` and the carry of `lax.scan` need it; nothing is compiled."""

    def run(wrap, make):
        return jax.eval_shape(lambda: scan(wrap(make), tree(dtype), tree(grad_dtype, 2)))

    make, wrap = make_plain(momentum), WRAPPERS[name]
    if name in CHOOSING and (dtype, grad_dtype) in NARROW:
        # What the documentation warns of, and the remedy it gives.
        for other in (make, lambda: optax.adam(0.1)):
            with pytest.raises(TypeError, match="cond"):
                run(wrap, other)
        wrap = cast_first(wrap)
    assert {leaf.dtype for leaf in jax.tree.leaves(run(wrap, make))} == {jnp.dtype(dtype)}


def group_lasso(learning_rate, l1):
    step = group_soft_threshold(learning_rate * l1)
    return optax.chain(optax.scale_by_learning_rate(learning_rate), step)


OTHERS = {
    "groups": functools.partial(group_lasso, LEARNING_RATE, L1),
    "gates": functools.partial(hard_concrete, optax.sgd(LEARNING_RATE), L1),
    "products": functools.partial(spred, optax.sgd(LEARNING_RATE), L1),
}


@pytest.mark.parametrize(("dtype", "grad_dtype"), [(BF16, F32), (F32, BF16)])
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_other_penalties_keep_their_types(name, kind, dtype, grad_dtype):
    wrap = WRAPPERS[name]
    if name in CHOOSING and (dtype, grad_dtype) in NARROW:
        wrap = cast_first(wrap)
    run = functools.partial(scan, wrap(OTHERS[kind]))
    new = jax.eval_shape(run, tree(dtype), tree(grad_dtype, 2))
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(dtype)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "grad_dtype", "momentum"), [(F32, BF16, None), (F32, F16, 0.9), (BF16, F32, 0.9)]
)
def test_zeros_are_exact_in_all_of_them(dtype, grad_dtype, momentum):
    make = make_plain(momentum)

    @jax.jit
    def run(params, grads):
        wrapped = {}
        for name, wrap in WRAPPERS.items():
            if name in CHOOSING and (dtype, grad_dtype) in NARROW:
                wrap = cast_first(wrap)
            wrapped[name] = scan(wrap(make), params, grads)
        return scan(make(), params, grads), wrapped

    plain, wrapped = run(tree(dtype), tree(grad_dtype, 4))
    for name, new in wrapped.items():
        weights, expected = (
            np.asarray(params["fc1"]["kernel"], np.float32) for params in (new, plain)
        )
        np.testing.assert_allclose(weights, expected, 8 * jnp.finfo(dtype).eps, err_msg=name)
        sizes = np.abs(weights)
        assert np.all((sizes == 0) | (sizes >= np.float32(BETA * L1))), name
        assert 0.1 < np.mean(sizes == 0) < 0.9, name


def test_a_threshold_now_and_then():
    """`conditionally_transform` lets the updates through as they are, so it goes after −η."""
    tx = optax.chain(
        add_l1_subgradient(L1),
        optax.scale_by_learning_rate(LEARNING_RATE),
        optax.conditionally_transform(hard_threshold(BETA * L1), lambda step: step % 2 == 1),
    )
    for steps in (1, 2):
        new = jax.jit(lambda grads: scan(tx, tree(F32), grads))(tree(BF16, steps))
        sizes = np.abs(new["fc1"]["kernel"])
        below = (sizes > 0) & (sizes < np.float32(BETA * L1))
        assert below.any() == (steps == 1)
        assert (sizes == 0).any() == (steps == 2)
