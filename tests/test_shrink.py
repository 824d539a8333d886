"""Networks without their dead units compute and learn what they did with them."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lconv_jax import beta_lasso, data, models
from lconv_jax.rundir import metrics
from lconv_jax.training import evaluation, hidden_units, loop, programs, rng
from lconv_jax.training.inputs import Inputs
from lconv_jax.training.setup import prepare
from lconv_jax.training.shrinker import Shrinker
from lconv_jax.training.state import TrainState
from lconv_jax.training.steps import make_train_steps
from tests import tiny_config
from tests.helpers import in_dtype
from tests.test_resume import _assert_same_run, _start


def _config(**changes):
    config = tiny_config.get_config()
    config.model.alpha = 8
    config.train.batch_size = 32  # 44 steps an epoch
    config.optimizer.momentum = 0.0
    config.optimizer.learning_rate = 0.3
    config.train.shrink = "exact"
    config.train.epochs = 30
    for key, value in changes.items():
        group, name = key.split("__")
        config[group][name] = value
    return config


def _advance(experiment, state, split, epochs):
    run, losses = programs.compile_train_steps(experiment), []
    for _ in range(epochs):
        state, rows = run(state, split, jnp.int32(experiment.plan.steps_per_epoch))
        losses.append(rows["train/loss"])
    return state, np.concatenate(jax.device_get(losses))


def _copy(state):
    return jax.tree.map(jnp.copy, state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__dropout": 0.2, "optimizer__weight_decay": 1e-3},
        {"model__name": "s_local", "optimizer__momentum": 0.5},
        {"model__name": "three_fc", "model__alpha": 128, "optimizer__l1": {"fc": 8e-3}},
    ],
)
def test_thousand_steps_past_a_shrink_follow_the_whole_network(changes):
    l1 = changes.pop("optimizer__l1", {"conv": 8e-3, "fc": 8e-3})
    config = _config(**changes)
    config.optimizer.l1.update(l1)
    with jax.enable_x64(True):
        whole = in_dtype(prepare(config), jnp.float64)
        split = jax.device_put(whole.dataset.train)
        state, _ = _advance(whole, programs.initial_state(whole), split, 7)
        shrinker = Shrinker(whole)
        keep = shrinker.choose(state, split)
        assert keep is not None, "nothing died; the test says nothing"
        smaller_state = shrinker.restrict(_copy(state), keep)
        small = shrinker.current
        state, want = _advance(whole, state, split, 23)
        smaller_state, got = _advance(small, smaller_state, split, 23)
        assert len(got) > 1000
        np.testing.assert_allclose(got, want, rtol=1e-8)

        back = shrinker.expand(smaller_state)
        kept = {name: np.asarray(mask) for name, mask in back.kept.items()}
        assert not all(mask.all() for mask in kept.values())
        rows = slice(None)
        for layer in hidden_units.hidden_layers(whole.model, (8, 8, 1)):
            kernel = np.asarray(state.params[layer.name]["kernel"])[rows]
            got = np.asarray(back.params[layer.name]["kernel"])[rows]
            np.testing.assert_allclose(got, kernel, rtol=1e-6, atol=1e-8)
            assert not kernel[:, ~kept[layer.name]].any()
            # What a silent unit's outgoing weights are matters to nothing.
            rows = kept[layer.name]
        np.testing.assert_array_equal(*(_predictions(whole, each) for each in (state, back)))


def _predictions(experiment, state):
    statistics = evaluation.make_statistics(
        experiment.model, Inputs(lambda key, x: x, data.normalize), 128, experiment.mesh
    )
    images = experiment.dataset.train.images
    stats = statistics(state.params, state.batch_stats, images, rng.key_for(0, rng.STATISTICS))
    variables = {"params": state.params, "batch_stats": stats}
    inputs = data.normalize(experiment.dataset.test.images)
    return np.argmax(experiment.model.apply(variables, inputs), -1)


@pytest.mark.slow
def test_single_float32_steps_agree_with_the_whole_network_for_a_thousand_steps():
    config = _config()
    config.optimizer.l1.update({"conv": 8e-3, "fc": 8e-3})
    whole = prepare(config)
    split = jax.device_put(whole.dataset.train)
    state, _ = _advance(whole, programs.initial_state(whole), split, 7)
    shrinker = Shrinker(whole)
    keep = shrinker.choose(state, split)
    shrinker.restrict(state, keep)
    small = shrinker.current
    hidden = hidden_units.hidden_layers(whole.model, (8, 8, 1))

    def both(state, _):
        small_state = hidden_units.restrict(hidden, whole.plan.tx, state, keep)
        small_state, rows = make_train_steps(small)(small_state, split, 1)
        state, whole_rows = make_train_steps(whole)(state, split, 1)
        again = hidden_units.restrict(hidden, whole.plan.tx, state, keep)

        def differ(a, b):
            # A weight within rounding of the threshold may fall on either side of it.
            across = (a == 0) != (b == 0)
            return jnp.max(jnp.where(across, 0, jnp.abs(a - b))), jnp.sum(across)

        pairs = jax.tree.leaves(jax.tree.map(differ, again.params, small_state.params))
        loss = jnp.abs(rows["train/loss"][0] - whole_rows["train/loss"][0])
        return state, (jnp.max(jnp.stack(pairs[::2])), jnp.sum(jnp.stack(pairs[1::2])), loss)

    _, (distance, across, loss) = jax.jit(lambda state: jax.lax.scan(both, state, length=1000))(
        state
    )
    assert float(jnp.max(loss)) < 1e-5
    assert float(jnp.max(distance)) < 1e-3
    assert int(jnp.sum(across)) <= 10, "a thousand steps put other weights across the threshold"


# Two layers of two and three units: unit 1 of each is alive, and one unit of fc1 is what the case
# makes of it.
HIDDEN = (
    hidden_units.Hidden("fc1", 2, "fc2", normalised=True, dropout=0.0),
    hidden_units.Hidden("fc2", 3, "fc3", normalised=False, dropout=0.0),
)


def _state(weights_in=0.0, weights_out=0.0, bias=-1.0, momentum=False, **trace):
    """A state whose unit 0 of fc1 has these weights and this bias; fc2's units 0 and 1 live."""
    params = {
        "fc1": {"kernel": jnp.array([[weights_in, 1.0], [0.0, 2.0]])},
        "bn_fc1": {"scale": jnp.ones(2), "bias": jnp.array([bias, -1.0])},
        "fc2": {"kernel": jnp.array([[0.0, 0.0, weights_out], [1.0, 2.0, 0.0]])},
        "bn_fc2": {"scale": jnp.ones(3), "bias": jnp.array([0.5, -0.5, -0.5])},
        "fc3": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
    }
    tx = beta_lasso(0.1, 1e-3, 10.0, momentum=0.9 if momentum else None)
    opt_state = tx.init(params)
    if momentum:
        moved = jax.tree.map(jnp.zeros_like, params)
        moved["fc1"]["kernel"] = moved["fc1"]["kernel"].at[0, 0].set(trace.get("kernel", 0.0))
        moved["bn_fc1"]["bias"] = moved["bn_fc1"]["bias"].at[0].set(trace.get("bias", 0.0))
        opt_state = optax.tree.set(opt_state, trace=moved)
    return TrainState(jnp.int32(0), params, {}, opt_state)


@pytest.mark.parametrize(
    ("state", "changes", "first", "third"),
    [
        # Silent: no matter what goes out of it; fc2's unit 2 has no other input.
        ({"weights_out": 1.0}, {}, True, True),
        ({"weights_in": 0.1}, {}, False, True),
        ({"bias": 0.0, "weights_out": 1.0}, {}, True, True),
        # A positive bias makes it a constant, which is cut off only without weights out.
        ({"bias": 0.5, "weights_out": 1.0}, {}, False, False),
        ({"bias": 0.5}, {}, True, True),
        ({"bias": 0.5}, {"dropout": 0.1}, False, True),
        ({"bias": 0.5}, {"normalised": False}, False, True),
        ({"bias": 0.5}, {"limit": 0.4}, False, True),
        ({"bias": 0.5}, {"limit": None}, False, True),
        # Dropout does not matter to what is silent.
        ({"weights_out": 1.0}, {"dropout": 0.1}, True, True),
        # Momentum may bring a weight back, or raise the bias.
        ({"momentum": True, "weights_out": 1.0}, {}, True, True),
        ({"momentum": True, "kernel": 1e-20}, {}, False, True),
        ({"momentum": True, "bias": -1.0}, {}, True, True),
        ({"momentum": True, "bias_trace": -1e-20}, {}, False, True),
        ({"momentum": True, "bias_trace": 1.0}, {}, True, True),
        # A frozen network gives constants up, but not under dropout.
        ({"bias": 0.5, "weights_out": 1.0}, {"frozen": True}, True, True),
        ({"bias": 0.5, "weights_out": 1.0}, {"frozen": True, "dropout": 0.1}, False, False),
    ],
)
def test_a_unit_is_dead_under_each_condition_of_the_proof_only(state, changes, first, third):
    changes, state = dict(changes), dict(state)
    frozen, limit = changes.pop("frozen", False), changes.pop("limit", 1.0)
    trace = {"bias": state.pop("bias_trace")} if "bias_trace" in state else {}
    made = _state(**state) if not trace else _with_bias_trace(_state(**state), trace["bias"])
    hidden = (HIDDEN[0]._replace(**changes), HIDDEN[1])
    limits = {} if limit is None else {"fc2": limit}
    dead = hidden_units.dead_units(hidden, made, limits=limits, frozen=frozen)
    assert dead["fc1"].tolist() == [first, False]
    assert dead["fc2"].tolist() == [False, False, third]


def _with_bias_trace(state, value):
    trace = optax.tree.get(state.opt_state, "trace")
    trace["bn_fc1"]["bias"] = trace["bn_fc1"]["bias"].at[0].set(value)
    return dataclasses.replace(state, opt_state=optax.tree.set(state.opt_state, trace=trace))


def test_sizes_are_filled_up_with_dead_units_to_a_multiple():
    dead = {"fc1": np.array([True, False]), "fc2": np.array([False, False, True])}
    params = _state().params
    assert hidden_units.choose(HIDDEN, params, dead, multiple=2) is None  # 2 and 2: not worth while
    keep = hidden_units.choose(HIDDEN, params, dead, multiple=1)
    assert [keep[name].tolist() for name in ("fc1", "fc2")] == [[1], [0, 1]]
    everything = {name: np.ones_like(mask) for name, mask in dead.items()}
    keep = hidden_units.choose(HIDDEN, params, everything, multiple=1)
    assert [keep[name].tolist() for name in ("fc1", "fc2")] == [[0], [0]]


@pytest.mark.slow
def test_what_a_frozen_unit_contributes_is_kept_as_a_constant():
    model = models.create("three_fc", alpha=6, num_classes=3)
    x = jax.random.normal(jax.random.key(1), (32, 4, 4, 1))
    variables = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for name, unit in (("fc1", 1), ("fc2", 4)):
        params[name]["kernel"] = params[name]["kernel"].at[:, unit].set(0.0)
        params[f"bn_{name}"]["bias"] = jnp.linspace(-1, 2, 6)
    tx = beta_lasso(0.1, 1e-3)
    _, updated = model.apply(
        {"params": params, "batch_stats": variables["batch_stats"]},
        *(x, True),
        mutable=["batch_stats"],
    )
    state = TrainState(jnp.int32(0), params, updated["batch_stats"], tx.init(params))
    hidden = hidden_units.hidden_layers(model, x.shape[1:])
    # The running mean of a unit without inputs is 0, as it is in a run of some length.
    stats = state.batch_stats
    for name, unit in (("fc1", 1), ("fc2", 4)):
        stats[f"bn_{name}"]["mean"] = stats[f"bn_{name}"]["mean"].at[unit].set(0.0)
    dead = hidden_units.dead_units(hidden, state, limits={}, frozen=True)
    assert [np.flatnonzero(dead[name]).tolist() for name in ("fc1", "fc2")] == [[1], [4]]
    keep = {name: np.flatnonzero(~mask) for name, mask in dead.items()}
    small = hidden_units.restrict(hidden, tx, state, keep)
    clone = model.clone(kept=tuple((name, tuple(i.tolist())) for name, i in keep.items()))
    assert small.params["fc2"]["kernel"].shape == (5, 5)

    def logits(model, state):
        return model.apply({"params": state.params, "batch_stats": state.batch_stats}, x)

    want = logits(model, state)
    np.testing.assert_allclose(logits(clone, small), want, atol=1e-5)
    back = hidden_units.expand(hidden, tx, small, state, keep)
    np.testing.assert_allclose(logits(model, back), want, atol=1e-5)


@pytest.mark.slow
def test_dropout_falls_on_the_units_it_would_fall_on():
    x = jnp.arange(1.0, 41.0).reshape(4, 10)
    kept = (0, 3, 4, 9)

    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x, kept=None):
            return models.layers.dropout(x, 0.5, train=True, of=10, kept=kept)

    rngs = {"dropout": jax.random.key(3)}
    whole = Whole().apply({}, x, rngs=rngs)
    small = Whole().apply({}, x[:, kept], kept, rngs=rngs)
    np.testing.assert_array_equal(small, whole[:, kept])
    assert (whole == 0).any()


def test_an_optimizer_outside_the_proof_is_refused():
    params = _state().params
    tx = optax.chain(optax.scale_by_adam(), beta_lasso(0.1, 1e-3))
    with pytest.raises(ValueError, match="ScaleByAdamState"):
        hidden_units.check_optimizer(tx.init(params))
    schedule = optax.cosine_decay_schedule(0.1, 10)
    hidden_units.check_optimizer(beta_lasso(schedule, 1e-3, momentum=0.9).init(params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__name": "sgd"}, "shrink = 'exact' needs weights that are exactly zero"),
        ({"model__name": "resnet18"}, "resnet18 has no such layer"),
        ({"train__shrink": "often"}, "one of none, exact, frozen"),
    ],
)
def test_a_run_that_cannot_shrink_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        loop.train_and_evaluate(_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_shrinks_resumes_with_the_same_bits(tmp_path):
    overrides = [
        *("--config.model.alpha=16", "--config.optimizer.momentum=0.0"),
        *("--config.optimizer.l1.conv=8e-3", "--config.optimizer.l1.fc=8e-3"),
        *("--config.optimizer.learning_rate=0.3", "--config.train.epochs=36"),
        *("--config.train.shrink=exact", "--config.checkpoint.every_epochs=2"),
    ]
    straight = _start(tmp_path / "straight", *overrides)
    _, err = straight.communicate()
    assert straight.returncode == 0, err
    units = [line for line in metrics.read_metrics(tmp_path / "straight") if "units/conv1" in line]
    assert units, "nothing died; the test says nothing"
    stopped = _start(tmp_path / "stopped", *overrides)
    while not any(
        line["step"] > units[0]["step"] for line in metrics.read_metrics(tmp_path / "stopped")
    ):
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.02)
    stopped.kill()
    stopped.wait()
    again = _start(tmp_path / "stopped", *overrides)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "non-zero weights: conv1" in out
    _assert_same_run(tmp_path / "stopped", tmp_path / "straight")
