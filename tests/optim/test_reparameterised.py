"""Gates and products: against the same loss written out, and the distribution they come from."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

from lconv_jax import expected_l0, hard_concrete, hard_concrete_eval_params, spred
from lconv_jax.optim.reparameterised import ReparameterisedState

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
L0, DECAY = 0.3, 0.2
TARGET = jax.random.normal(jax.random.key(9), (4, 6))


def make_params(dtype=jnp.float32):
    kernel = 1 + 0.3 * jax.random.normal(jax.random.key(0), TARGET.shape)
    return {"fc1": {"kernel": kernel.astype(dtype), "bias": jnp.ones(6, dtype)}}


def loss(params):
    """Not separable, so that a gradient depends on all weights."""
    hidden = jnp.tanh(params["fc1"]["kernel"] - TARGET).sum(0) + params["fc1"]["bias"]
    return jnp.sum(hidden**2) / 2


gradient_of_loss = jax.grad(loss)


def run(tx, params, steps, gradient=gradient_of_loss):
    """Parameters and states after every step, the first included."""

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    history = [(params, jax.jit(tx.init)(params))]
    for _ in range(steps):
        history.append(step(*history[-1]))
    return history


def gate(log_alpha, noise):
    s = jax.nn.sigmoid((noise + log_alpha) / BETA)
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def noise_of(gates, log_alpha):
    """log u − log(1 − u) of a gate; where it is 0 or 1 any that makes it so."""
    s = (np.float64(gates) - GAMMA) / (ZETA - GAMMA)
    noise = BETA * (np.log(s) - np.log1p(-s)) - np.float64(log_alpha)
    return np.where(gates == 0, -50.0, np.where(gates == 1, 50.0, noise))


def kernel_of(tree):
    return np.asarray(tree["fc1"]["kernel"])


def gates_of(params, state):
    gates = kernel_of(params) / kernel_of(state.factors["raw"])
    return np.where(gates > 1 - 1e-5, 1, gates)


@pytest.mark.slow
def test_gradients_are_those_of_the_sampled_loss_written_out():
    """One step of plain descent from a sample tells both gradients."""
    tx = hard_concrete(optax.sgd(0.25), L0, drop_rate=0.4)
    history = run(tx, make_params(), 4)
    kinds = set()
    for (params, state), (_, after) in itertools.pairwise(history[1:]):
        raw, log_alpha = (kernel_of(state.factors[name]) for name in ("raw", "log_alpha"))
        gates = gates_of(params, state)
        noise = noise_of(gates, log_alpha)

        def written_out(raw, log_alpha, noise=noise, bias=params["fc1"]["bias"]):
            weights = raw * gate(log_alpha, noise)
            not_zero = jax.nn.sigmoid(log_alpha - BETA * jnp.log(-GAMMA / ZETA))
            return loss({"fc1": {"kernel": weights, "bias": bias}}) + L0 * not_zero.sum()

        expected = jax.grad(written_out, (0, 1))(raw, log_alpha)
        for name, before, gradient in zip(
            ("raw", "log_alpha"), (raw, log_alpha), expected, strict=True
        ):
            found = (before - kernel_of(after.factors[name])) / 0.25
            np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-4, err_msg=name)
        kinds |= set((np.sign(gates - 1) + np.sign(gates)).ravel().tolist())
    assert kinds == {-1, 0, 1}  # closed, between and open


def test_before_the_first_update_gates_are_open():
    params = make_params()
    (_, state), (_, after) = run(hard_concrete(optax.sgd(0.25), L0), params, 1)
    gradient = jax.grad(loss)(params)
    moved = kernel_of(state.factors["raw"]) - kernel_of(after.factors["raw"])
    np.testing.assert_allclose(moved, 0.25 * kernel_of(gradient), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(kernel_of(state.factors["raw"]), kernel_of(params))
    cost = L0 * jax.grad(expected_l0)(state.factors["log_alpha"])["fc1"]["kernel"]
    log_alpha = [kernel_of(tree.factors["log_alpha"]) for tree in (state, after)]
    np.testing.assert_allclose(log_alpha[0] - log_alpha[1], 0.25 * cost, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("drop_rate", [0.1, 0.5, 0.9])
def test_gates_have_their_distribution(drop_rate):
    """Of 90 000 samples: how many are closed or open, and the mean of all."""
    params, shape = {"kernel": jnp.ones((300, 300))}, (300, 300)
    tx = hard_concrete(optax.sgd(0.0), L0, drop_rate=drop_rate, seed=3)
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    gates = np.asarray(optax.apply_updates(params, updates)["kernel"])
    log_alpha = state.factors["log_alpha"]
    np.testing.assert_allclose(log_alpha["kernel"], np.log(1 / drop_rate - 1), atol=1e-6)
    assert np.mean(gates != 0) == pytest.approx(float(expected_l0(log_alpha)) / 9e4, abs=0.007)
    uniform = np.random.default_rng(0).random(shape)
    other = np.asarray(gate(log_alpha["kernel"], np.log(uniform) - np.log1p(-uniform)))
    assert np.mean(gates == 1) == pytest.approx(float(np.mean(other == 1)), abs=0.009)
    assert np.mean(gates) == pytest.approx(float(np.mean(other)), abs=0.009)
    assert np.std(gates) == pytest.approx(float(np.std(other)), abs=0.009)


@pytest.mark.slow
def test_the_gradient_of_the_expected_number_is_its_slope():
    log_alpha = np.linspace(-6, 6, 13)
    with jax.enable_x64():
        slopes = jax.grad(lambda tree: expected_l0(tree))({"a": jnp.asarray(log_alpha)})["a"]
        ends = [jax.vmap(expected_l0)(jnp.asarray(log_alpha + h)) for h in (-1e-5, 1e-5)]
        np.testing.assert_allclose(slopes, (ends[1] - ends[0]) / 2e-5, rtol=1e-6)
    assert expected_l0({}) == 0


@pytest.mark.slow
def test_every_update_and_leaf_and_seed_has_its_own_gates():
    def gates(seed, steps=2):
        leaf = jnp.ones((20, 20))
        params = {"conv1": {"kernel": leaf}, "fc1": {"kernel": leaf}}
        tx = hard_concrete(optax.sgd(0.0), L0, seed=seed)
        state, samples = tx.init(params), []
        for _ in range(steps):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
            samples += jax.tree.leaves(params)
        return jnp.stack(samples)

    lanes = jax.jit(jax.vmap(gates))(jnp.arange(3))
    samples = np.asarray(lanes).reshape(12, -1)
    correlations = np.corrcoef(samples) - np.eye(12)
    assert np.abs(correlations).max() < 0.2
    np.testing.assert_allclose(jax.jit(functools.partial(gates, 1))(), lanes[1], atol=1e-6)


def explicit_product(factors):
    kernel = factors["u"]["fc1"]["kernel"] * factors["v"]["fc1"]["kernel"]
    squares = jnp.sum(factors["u"]["fc1"]["kernel"] ** 2) + jnp.sum(
        factors["v"]["fc1"]["kernel"] ** 2
    )
    bias = factors["u"]["fc1"]["bias"]
    return loss({"fc1": {"kernel": kernel, "bias": bias}}) + DECAY / 2 * squares


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner",
    [
        optax.sgd(0.02, momentum=0.9),
        optax.adam(0.02),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    ],
    ids=["momentum", "adam", "clip"],
)
def test_spred_is_training_of_the_factors(inner):
    """The whole way, by automatic differentiation through u ⊙ v; rounding does not add up."""
    params, steps = make_params(), 300
    first = spred(inner, DECAY).init(params).factors
    factors = {"u": {"fc1": params["fc1"] | first["u"]["fc1"]}, "v": first["v"]}
    factors["u"]["fc1"]["bias"] = params["fc1"]["bias"]
    expected = run(inner, factors, steps, jax.grad(explicit_product))[-1][0]
    found, state = run(spred(inner, DECAY), params, steps)[-1]
    for name in ("u", "v"):
        np.testing.assert_allclose(
            kernel_of(state.factors[name]), kernel_of(expected[name]), rtol=1e-3, atol=1e-4
        )
    np.testing.assert_allclose(found["fc1"]["bias"], expected["u"]["fc1"]["bias"], atol=1e-4)
    product = kernel_of(state.factors["u"]) * kernel_of(state.factors["v"])
    # One rounding of a number as large as the last parameter, after any number of steps.
    np.testing.assert_allclose(kernel_of(found), product, rtol=0, atol=2.0**-22)


@pytest.mark.slow
def test_spred_begins_with_factors_of_the_weights():
    params = {"kernel": jnp.array([[0.0, 1e-8, -0.05, 1.0, -1e3, 1e-30, 1e10]])}
    u, v = (spred(optax.sgd(0.1), DECAY).init(params).factors[name]["kernel"] for name in "uv")
    np.testing.assert_allclose(u * v, params["kernel"], rtol=1e-6)
    np.testing.assert_allclose((v**2 - u**2)[0, :4], 1, rtol=1e-6)


def test_spred_leads_to_the_lasso():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 8))
    targets = inputs[:, :3] @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=60)
    expected = Lasso(0.2, fit_intercept=False, tol=1e-12).fit(inputs, targets).coef_
    inputs, targets = jnp.float32(inputs), jnp.float32(targets)

    def gradient(params):
        return {"w": inputs.T @ (inputs @ params["w"] - targets) / 60}

    # The other sign for all that is not zero.
    params = {"w": -jnp.sign(jnp.float32(expected)) + (expected == 0)}
    tx = spred(optax.sgd(0.1), 0.2, labels={"w": "weight"})

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=3000)[0][0]["w"]

    found = np.asarray(train(params))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert 0 < np.mean(expected == 0) < 1


MAKES = {
    "hard_concrete": lambda inner: hard_concrete(inner, 1.0, drop_rate=0.5),
    "spred": lambda inner: spred(inner, DECAY),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("grad_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types(name, dtype, grad_dtype):
    """The parameters are the state's weights, rounded; closed gates are 0.0 to the bit."""
    tx = MAKES[name](optax.sgd(0.1))

    def gradient(params):
        return jax.tree.map(lambda g: g.astype(grad_dtype), jax.grad(loss)(params))

    for params, state in run(tx, make_params(dtype), 3, gradient)[1:]:
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        first, second = (
            kernel_of(state.factors[name]) for name in sorted(state.factors, reverse=True)
        )
        assert first.dtype == second.dtype == jnp.float32
        kernel = kernel_of(params)
        if name == "hard_concrete":
            closed = kernel == 0
            assert 0 < closed.mean() < 1
            assert kernel[closed].tobytes() == bytes(kernel[closed].nbytes)
            assert np.all(np.abs(kernel) <= np.abs(first) * (1 + 2 * jnp.finfo(dtype).eps))
        else:
            # θ + (w − θ) is rounded as θ is, and so may the difference be.
            eps = max(
                float(jnp.finfo(t).eps) for t in (dtype, jnp.promote_types(dtype, grad_dtype))
            )
            np.testing.assert_allclose(np.float32(kernel), first * second, rtol=0, atol=3 * eps)


def test_what_is_small_beside_a_bfloat16_adds_up_in_the_state():
    """As in `docs/optimizer.md`, where weights of this type do not shrink."""
    params = {"fc1": {"kernel": jnp.full((2, 2), 0.01, jnp.bfloat16)}}
    history = run(spred(optax.sgd(0.1), 1e-3), params, 500, zeros)
    decayed = 0.01 * (1 - 1e-4) ** 1000
    np.testing.assert_allclose(np.float32(kernel_of(history[-1][0])), decayed, rtol=0.01)


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKES)
def test_other_leaves_are_left_to_the_inner_optimizer(name):
    """Given their gradients, biases move as by that optimizer alone, to the bit."""
    params, inner = make_params(), optax.adam(0.05)
    gradient = zeros_and({"bias": jnp.arange(6.0)})
    found = run(MAKES[name](inner), params, 5, gradient)[-1][0]
    alone = run(inner, params, 5, gradient)[-1][0]
    np.testing.assert_array_equal(found["fc1"]["bias"], alone["fc1"]["bias"])
    # Without a gradient these would stay where they are.
    assert np.any(kernel_of(found) != kernel_of(params))


def zeros_and(fixed):
    return lambda params: {"fc1": {**zeros(params)["fc1"], **fixed}}


@pytest.mark.parametrize("name", MAKES)
def test_what_has_no_gradient_stays(name):
    """As with frozen layers, whose gradients are None."""
    params = make_params() | {"fc2": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    tx = MAKES[name](optax.sgd(0.1))
    grads, state = params | {"fc2": {"kernel": None, "bias": None}}, tx.init(params)
    updates, after = jax.jit(tx.update)(grads, state, params)
    assert updates["fc2"] == {"kernel": None, "bias": None}
    for key, tree in after.factors.items():
        np.testing.assert_array_equal(tree["fc2"]["kernel"], state.factors[key]["fc2"]["kernel"])
        assert np.any(kernel_of(tree) != kernel_of(state.factors[key]))


def test_strengths_by_label_and_schedule():
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("conv1", "fc1", "head")}
    tx = spred(optax.sgd(0.5), {"conv": optax.linear_schedule(0.0, 1.0, 1), "fc": 0.2})
    history = run(tx, params, 2, zeros)
    for (after, _), expected in zip(
        history, ([1, 1, 1], [1, 0.81, 1], [0.25, 0.6561, 1]), strict=True
    ):
        found = [after[name]["kernel"][0, 0] for name in params]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert isinstance(history[-1][1].factors["u"]["head"]["kernel"], optax.MaskedNode)


WRAPPERS = {
    "alone": lambda make: make(0.3),
    "chain": lambda make: optax.chain(optax.clip(1.0), make(0.3)),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(make)(0.3),
    "masked": lambda make: optax.masked(make(0.3), {"fc1": {"kernel": True, "bias": False}}),
    "partition": lambda make: optax.partition(
        {"a": make(0.3), "b": optax.sgd(0.1)}, {"fc1": {"kernel": "a", "bias": "b"}}
    ),
    "MultiSteps": lambda make: optax.MultiSteps(make(0.3), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRAPPERS)
def test_weights_for_a_test(name):
    tx = WRAPPERS[name](lambda l0: hard_concrete(optax.sgd(0.1), l0))
    # That states change as they do alone is what other tests show; this is how they are found.
    params, opt_state = run(tx, make_params(), 2 if name == "alone" else 0)[-1]
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, ReparameterisedState))
    (state,) = (node for node in nodes if isinstance(node, ReparameterisedState))
    found = hard_concrete_eval_params(opt_state, params)
    raw, log_alpha = (np.float64(kernel_of(state.factors[n])) for n in ("raw", "log_alpha"))
    expected = raw * np.clip(1.2 / (1 + np.exp(-log_alpha)) - 0.1, 0, 1)
    np.testing.assert_allclose(kernel_of(found), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found["fc1"]["bias"], params["fc1"]["bias"])
    assert not np.allclose(kernel_of(found), kernel_of(params))


@pytest.mark.slow
def test_gates_take_an_optimizer_of_their_own():
    inner = optax.partition(
        {"weights": optax.sgd(0.0), "gates": optax.sgd(1.0)},
        {"raw": "weights", "log_alpha": "gates"},
    )
    params = make_params()
    state = run(hard_concrete(inner, L0), params, 3)[-1][1]
    np.testing.assert_array_equal(kernel_of(state.factors["raw"]), kernel_of(params))
    assert np.all(kernel_of(state.factors["log_alpha"]) != 0)


@pytest.mark.parametrize("name", MAKES)
def test_map_params_over_the_state(name):
    """What sharding an optimizer's state relies on."""
    tx, params = MAKES[name](optax.adam(0.1)), make_params()
    state = tx.init(params)
    marked = optax.tree.map_params(
        tx, lambda leaf, like: like.shape, state, params, is_leaf=lambda n: n == optax.MaskedNode()
    )
    assert marked.factors["u" if name == "spred" else "raw"]["fc1"]["kernel"] == TARGET.shape
    mu = optax.tree.get(marked.inner_state, "mu")
    assert {name: tree["fc1"]["kernel"] for name, tree in mu.items()} == dict.fromkeys(
        state.factors, TARGET.shape
    )


def test_errors():
    with pytest.raises(ValueError, match=r"^l0 must be a finite number"):
        hard_concrete(optax.sgd(0.1), -1.0)
    with pytest.raises(ValueError, match=r"^weight_decay must be a finite number"):
        spred(optax.sgd(0.1), float("inf"))
    for drop_rate in (0.0, 1.0, -1, None, "half", float("nan")):
        with pytest.raises(ValueError, match=r"^drop_rate must be a number below 1 and above 0"):
            hard_concrete(optax.sgd(0.1), 0.1, drop_rate=drop_rate)
    with pytest.raises(ValueError, match="opt_state has no state of hard_concrete"):
        hard_concrete_eval_params(MAKES["spred"](optax.sgd(0.1)).init(make_params()), make_params())
