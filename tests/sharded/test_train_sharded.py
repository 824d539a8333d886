"""The loop over eight devices computes what it computes on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax.parallel import sharding
from lconv_jax.training import loop, programs, streaming
from lconv_jax.training.setup import prepare
from tests import tiny_config


@pytest.fixture(autouse=True)
def narrow_matrices_are_split(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 2**13)


def _config(data, model):
    config = tiny_config.get_config()
    config.model.alpha = 16
    config.sharding.data, config.sharding.model = data, model
    return config


@functools.cache
def _after_steps(data, model, count=4):
    experiment = prepare(_config(data, model))
    run = programs.compile_train_steps(experiment)
    split = jax.device_put(experiment.dataset.train)
    state, rows = run(programs.initial_state(experiment), split, jnp.int32(count))
    return state, jax.device_get(rows)


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4)])
def test_many_devices_compute_what_one_does(data, model):
    assert jax.device_count() == 8
    state, rows = _after_steps(data, model)
    expected_state, expected_rows = _after_steps(1, 1)
    np.testing.assert_allclose(rows["train/loss"], expected_rows["train/loss"], rtol=1e-4)
    for name in ("conv1", "fc1"):
        got = np.asarray(state.params[name]["kernel"])
        want = np.asarray(expected_state.params[name]["kernel"])
        # Rounding may put a weight on the other side of the threshold, but hardly any.
        same = (got != 0) == (want != 0)
        assert same.mean() > 0.999
        np.testing.assert_allclose(got[same], want[same], rtol=2e-2, atol=2e-4)


def test_wide_matrices_and_their_momentum_are_split_over_the_model_axis():
    state, _ = _after_steps(4, 2)
    kernel = state.params["conv1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (64, 128)
    assert state.params["bn_conv1"]["scale"].addressable_shards[0].data.shape == (128,)
    assert state.params["bn_fc1"]["scale"].sharding.is_fully_replicated
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert moments
    assert all(moment.sharding == kernel.sharding for moment in moments)


def test_a_run_over_eight_devices_ends_like_one_over_one(tmp_path):
    summaries = []
    for data in (8, 1):
        config = _config(data, 1)
        config.train.epochs = 4
        summaries.append(loop.train_and_evaluate(config, tmp_path / str(data)))
    many, one = (summary["metrics"] for summary in summaries)
    assert many["step"] == one["step"]
    assert many["eval/accuracy"] == pytest.approx(one["eval/accuracy"], abs=0.02)
    assert many["sparsity/density"] == pytest.approx(one["sparsity/density"], abs=0.02)


def test_a_run_may_go_on_with_another_number_of_devices(tmp_path):
    config = _config(8, 1)
    config.train.epochs = 2
    first = loop.train_and_evaluate(config, tmp_path)
    config.sharding.data, config.sharding.model = 2, 2
    again = loop.train_and_evaluate(config, tmp_path)
    assert again["metrics"] == first["metrics"]


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path):
    config = _config(8, 1)
    config.train.batch_size = 100
    with pytest.raises(ValueError, match="100 is not a multiple of the 8 devices"):
        loop.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.optimized
def test_streamed_batches_over_eight_devices_give_the_same_bits():
    results = []
    for how in ("never", "always"):
        config = _config(4, 2)
        config.model.alpha = 4
        config.data.stream = how
        experiment = prepare(config)
        run, state = programs.compile_train_steps(experiment), programs.initial_state(experiment)
        split = experiment.dataset.train
        if how == "never":
            split = jax.device_put(split)
        with streaming.training_feed(config, split, 132, experiment.mesh, 0) as feed:
            batches, _ = feed(0)
            if how == "always":
                assert batches.images.addressable_shards[0].data.shape == (32, 32, 8, 8, 1)
            state, rows = run(state, batches, jnp.int32(4))
        results.append(jax.device_get((state, rows)))
    jax.tree.map(np.testing.assert_array_equal, *results)
