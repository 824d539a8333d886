"""Each optimizer that a configuration names, inside the compiled loop."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lconv_jax import config as config_lib
from lconv_jax import models
from lconv_jax.config import with_overrides
from lconv_jax.optim import hard_concrete_eval_params, masks_of
from lconv_jax.optim.registry import METHODS, read_masks
from lconv_jax.parallel import sharding
from lconv_jax.training import lanes, loop, plan, programs
from lconv_jax.training.setup import prepare
from tests import tiny_config
from tests.helpers import final_digests

# `fixed_masks` needs a file.
MASKED = [name for name, method in METHODS.items() if method.masked and name != "fixed_masks"]


def make_config(name, **changes):
    base = {
        "data.validation": 200,
        "optimizer.name": name,
        "optimizer.density": 0.25,
        "optimizer.every": 3,
        "train.epochs": 4,
        "log.eval_every_epochs": 4,
    }
    return with_overrides(tiny_config.get_config(), base | changes)


@pytest.mark.parametrize("name", METHODS)
def test_keys_and_settings_are_keys_of_a_configuration(name):
    method = METHODS[name]
    keys = [*method.keys, *method.settings]
    assert len(set(keys)) == len(keys)
    assert {f"optimizer.{key}" for key in keys} <= set(config_lib.KEYS)
    assert all(type(config_lib.KEYS[f"optimizer.{key}"].default) is float for key in method.keys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rigl", "sparse_evolution", "lottery_ticket", "hard_concrete"])
def test_lanes_are_lone_runs_with_masks_and_gates_of_their_own(name):
    changes = [{"seed": 0}, {"seed": 1, "optimizer.learning_rate": 0.3}]
    setups = lanes.prepare_together([with_overrides(make_config(name), each) for each in changes])
    whole = lanes.load_whole(setups[0].config)
    program = lanes.compile_together(setups, whole)
    initial = programs.make_initial(setups[0])
    alone = [initial(np.uint32(setup.config.seed)) for setup in setups]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    split, count = jax.device_put(whole.train), jnp.int32(setups[0].plan.steps_per_epoch)
    for _ in range(2):
        states, _ = program(states, lanes.make_lanes(setups, whole), split, count)
    for index, setup in enumerate(setups):
        state = programs.initial_state(setup)
        step = programs.compile_train_steps(setup)
        for _ in range(2):
            state, _ = step(state, jax.device_put(setup.dataset.train), count)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], states)
        for one, other in zip(
            jax.tree.leaves(got.params), jax.tree.leaves(state.params), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)
            assert np.mean((np.asarray(one) == 0) != (np.asarray(other) == 0)) < 0.01
    first, second = (models.kernels(alone[index].params)["conv1"] for index in (0, 1))
    if METHODS[name].random and METHODS[name].masked:
        assert not np.array_equal(first == 0, second == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rigl", "hard_concrete"])
def test_a_run_that_was_cut_off_goes_on_with_its_masks_and_gates(name, tmp_path):
    config = make_config(name)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    loop.train_and_evaluate(config, whole)
    shutil.copytree(whole, cut)
    # As after a kill: the newest checkpoint and the summary were never written.
    steps = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(steps[-1])
    (cut / "summary.json").unlink()
    loop.train_and_evaluate(config, cut)
    assert final_digests(cut) == final_digests(whole)


@pytest.mark.slow
def test_a_run_with_gates_ends_with_the_weights_for_a_test():
    setup = prepare(make_config("hard_concrete", **{"train.epochs": 1}))
    state, count = programs.initial_state(setup), setup.plan.total_steps
    step = programs.compile_train_steps(setup)
    train = jax.device_put(setup.dataset.train)
    before, _ = step(state, train, jnp.int32(count - 1))
    sampled = np.array(before.params["conv1"]["kernel"])
    last, _ = step(before, train, jnp.int32(1))
    wanted = hard_concrete_eval_params(last.opt_state, last.params)["conv1"]["kernel"]
    np.testing.assert_allclose(last.params["conv1"]["kernel"], wanted, rtol=1e-5, atol=1e-7)
    assert 0 < np.mean(sampled == 0) < 0.2
    assert np.mean(np.asarray(wanted) == 0) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_masks_begin_with_the_run(name):
    setup = prepare(make_config(name))
    state = programs.initial_state(setup)
    masks = models.kernels(masks_of(state.opt_state))
    starts_sparse = name in ("random_masks", "sparse_evolution", "rigl")
    for layer, kernel in models.kernels(state.params).items():
        np.testing.assert_array_equal(np.asarray(kernel) != 0, masks[layer])
    share = sum(np.sum(mask) for mask in masks.values()) / sum(m.size for m in masks.values())
    assert share == pytest.approx(0.25 if starts_sparse else 1.0, abs=1e-3)


@pytest.mark.slow
def test_densities_by_layer():
    distribution = "conv1=0.05, fc1=0.5,fc2=1"
    setup = prepare(make_config("random_masks", **{"optimizer.distribution": distribution}))
    masks = models.kernels(masks_of(programs.initial_state(setup).opt_state))
    for layer, share in (("conv1", 0.05), ("fc1", 0.5), ("fc2", 1.0)):
        assert int(masks[layer].sum()) == round(share * masks[layer].size)


@pytest.mark.slow
def test_masks_from_a_file(tmp_path):
    file = str(tmp_path / "masks.npz")
    mask = np.random.default_rng(0).random((64, 64)) < 0.1
    np.savez(file, conv1=mask)
    setup = prepare(make_config("fixed_masks", **{"optimizer.masks": file, "model.alpha": 4}))
    state = programs.initial_state(setup)
    state, _ = programs.compile_train_steps(setup)(
        state, jax.device_put(setup.dataset.train), jnp.int32(3)
    )
    np.testing.assert_array_equal(np.asarray(state.params["conv1"]["kernel"]) != 0, mask)
    assert np.all(np.asarray(state.params["fc1"]["kernel"]) != 0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"conv9": np.ones((2, 2), bool)}, "has masks for conv9, and there is no such layer"),
        ({"conv1": np.ones((2, 2), bool)}, r"a mask of shape \(2, 2\) stands for a parameter of"),
        ({"conv1": np.ones((64, 64))}, "conv1 is float64; masks are bool"),
        (None, r"must be an \.npz file with a bool array for each layer"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, arrays, said):
    file = tmp_path / "masks.npz"
    if arrays is not None:
        np.savez(file, **arrays)
    with pytest.raises(config_lib.ConfigError, match=said):
        prepare(make_config("fixed_masks", **{"optimizer.masks": str(file)}))


def test_a_file_of_masks_that_is_cut_off_or_damaged_is_named(tmp_path):
    file = tmp_path / "masks.npz"
    np.savez_compressed(file, conv1=np.random.default_rng(0).random((64, 64)) < 0.5)
    whole = file.read_bytes()
    flipped = bytes([*whole[:100], *(255 - byte for byte in whole[100:140]), *whole[140:]])
    for contents in (*(whole[:end] for end in range(0, len(whole), 7)), flipped):
        file.write_bytes(contents)
        with pytest.raises(
            ValueError, match=r"masks\.npz' must be an \.npz file with a bool array"
        ):
            read_masks(str(file))


@pytest.mark.slow
def test_the_logged_rate_of_a_lottery_ticket_is_that_of_its_rounds():
    config = make_config("lottery_ticket", **{"optimizer.rounds": 2, "optimizer.rewind": 0.25})
    made = prepare(config).plan
    rounds = METHODS["lottery_ticket"].rounds({"rounds": 2, "rewind": 0.25}, made.total_steps)
    N, r = rounds.steps, rounds.rewind
    assert N + 2 * (N - r) <= made.total_steps < N + 2 * (N - r) + 4
    # The inner optimizer's own count, as `optim.lottery_ticket` documents it.
    position, found = 0, []
    for step in range(made.total_steps):
        found.append(position)
        position += 1
        done = step + 1 - N
        if done >= 0 and done % (N - r) == 0 and done // (N - r) < 2:
            position = r
    expected = plan.make_schedule(0.5, N)(np.asarray(found))
    np.testing.assert_allclose(
        jax.vmap(made.schedule)(jnp.arange(made.total_steps)), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("rigl", {"optimizer.distribution": "erk"}, "distribution = 'erk' must be one of uniform"),
        ("rigl", {"optimizer.distribution": "global"}, "distribution must be one of uniform"),
        ("rigl", {"optimizer.structure": "2:4"}, "structure must be None, Blocks or Units here"),
        ("snip", {"optimizer.structure": "2/4"}, "structure = '2/4' must be empty, units, N:M"),
        ("snip", {"optimizer.structure": "3:5"}, "has a density of 0.6, and density is 0.25"),
        ("snip", {"optimizer.distribution": "conv1=2,fc1=1"}, r"density\['conv1'\] must be a"),
        ("snip", {"optimizer.distribution": "conv9=0.5"}, "density has the key 'conv9', which is"),
        ("snip", {"optimizer.distribution": "conv1=a"}, "must be LAYER=DENSITY, separated by"),
        (
            "magnitude_pruning",
            {"optimizer.begin": 0.9},
            "end = 0.75 is before config.optimizer.beg",
        ),
        ("spred", {"optimizer.l1.conv": 0.0, "optimizer.l1.fc": 0.0}, "so spred would regularise"),
        ("rigl", {"train.shrink": "exact"}, "exactly zero and stay so, which rigl does not give"),
    ],
)
def test_what_cannot_be_is_named_before_anything_runs(name, changes, said):
    with pytest.raises(config_lib.ConfigError, match=said):
        prepare(make_config(name, **changes))


def test_costs_are_those_of_the_methods():
    gradient = METHODS["rigl"].cost({"every": 3, "end": 0.5}, 20)["dense_gradients"]
    np.testing.assert_array_equal(np.flatnonzero(gradient), [3, 6, 9])
    assert METHODS["beta_lasso"].cost({}, 20)["dense_gradients"] is True
    assert not METHODS["random_masks"].cost({}, 20)
    np.testing.assert_array_equal(METHODS["snip"].cost({}, 3)["dense_forward"], [1, 0, 0])


def test_factors_and_masks_lie_where_their_weights_do():
    mesh = jax.sharding.AbstractMesh((1, 2), ("data", "model"))
    for name in ("spred", "hard_concrete", "rigl"):
        setup = prepare(make_config(name, **{"model.alpha": 64}))
        places = sharding.state_sharding(mesh, setup.state_shapes)
        specs = {
            jax.tree_util.keystr(path): place.spec
            for path, place in jax.tree_util.tree_leaves_with_path(places)
        }
        weights = {path: spec for path, spec in specs.items() if path.startswith(".params")}
        assert any(spec != P() for spec in weights.values())
        for path, spec in weights.items():
            others = [s for p, s in specs.items() if p.endswith(path.removeprefix(".params"))]
            assert set(others) == {spec}
            assert len(others) > 1 or "kernel" not in path
