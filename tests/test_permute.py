"""Permutation of the pixels, before or after augmentation, and noise: against NumPy."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.config import with_overrides
from lconv_jax.rundir import metrics
from lconv_jax.rundir.directory import CONFIG_FILE, open_workdir, read_config
from lconv_jax.training import inputs, lanes, loop, programs, rng
from lconv_jax.training.setup import prepare
from tests import tiny_config

SHAPES = [(8, 8, 1), (6, 5, 3), (11, 2)]


def _config(**changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return with_overrides(tiny_config.get_config(), changes)


def _images(shape, dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 256, (7, *shape))
    return images.astype(dtype) if dtype == np.uint8 else (images / 100 - 1).astype(dtype)


def _permuted(images, order):
    pixels = np.asarray(images).reshape(len(images), -1, images.shape[-1])
    return pixels[:, order].reshape(images.shape)


def _seen(config, key, images):
    """What a model sees in training."""
    arranged = inputs.make_preprocess(config, images.shape[1:])
    return np.asarray(arranged(inputs.make_augment(config)(key, jnp.asarray(images))))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_permutation_is_after_augmentation_or_before_it(shape, dtype):
    key, images = jax.random.key(4), _images(shape, dtype)
    augmentation = {"data__crop": 2, "data__cutout": 3, "data__flip": len(shape) == 3}
    plain = _config(**augmentation)
    after = _config(**augmentation, data__permute=9)
    first = _config(**augmentation, data__permute=9, data__permute_first=True)
    order = inputs.permutation(9, shape)
    # No pixel stays where it was put by accident of a small permutation.
    assert np.mean(order != np.arange(len(order))) > 0.8
    np.testing.assert_array_equal(
        _seen(after, key, images), _permuted(_seen(plain, key, images), order)
    )
    np.testing.assert_array_equal(
        _seen(first, key, images), _seen(plain, key, _permuted(images, order))
    )
    assert not np.array_equal(_seen(first, key, images), _seen(after, key, images))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_is_the_same_either_way(shape):
    images = jnp.asarray(_images(shape))
    after, first = (
        inputs.make_preprocess(_config(data__permute=9, data__permute_first=value), shape)(images)
        for value in (False, True)
    )
    np.testing.assert_array_equal(after, first)
    np.testing.assert_array_equal(
        after, _permuted(data.normalize(images), inputs.permutation(9, shape))
    )


def test_0_is_none_1_the_run_s_own_and_from_2_on_the_same_for_all_runs():
    found = {
        (seed, permute): inputs.permutation_seed(_config(seed=seed, data__permute=permute))
        for seed in (0, 1, 7)
        for permute in (0, 1, 2, 7)
    }
    for (seed, permute), value in found.items():
        assert value == {0: None, 1: seed}.get(permute, permute)
    # The permutation of a run with True, before there were numbers: fold in 5, then 0.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 5), 0)
    np.testing.assert_array_equal(inputs.permutation(7, (8, 8, 1)), jax.random.permutation(key, 64))
    assert not np.array_equal(inputs.permutation(2, (8, 8, 1)), inputs.permutation(3, (8, 8, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_has_its_deviation_is_new_at_every_step_and_not_in_evaluation(dtype):
    shape = (28, 28, 1)
    noisy, plain = _config(data__noise=0.3, data__crop=2), _config(data__crop=2)
    images = np.repeat(_images(shape, dtype), 8, axis=0)
    keys = [rng.key_for(0, rng.AUGMENT, step) for step in range(2)]
    noise = [_seen(noisy, key, images) - _seen(plain, key, images) for key in keys]
    count = noise[0].size
    for drawn in noise:
        assert drawn.mean() == pytest.approx(0, abs=5 * 0.3 / count**0.5)
        assert drawn.std() == pytest.approx(0.3, rel=5 / (2 * count) ** 0.5)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 5 / count**0.5
    by_image = np.corrcoef(noise[0].reshape(len(images), -1))
    assert np.abs(by_image - np.eye(len(images))).max() < 0.2
    x = jnp.asarray(images)
    np.testing.assert_array_equal(inputs.make_preprocess(noisy, shape)(x), data.normalize(x))


@pytest.mark.slow
def test_a_run_that_permutes_first_is_a_run_on_permuted_images(tmp_path):
    digits, order = data.load("digits"), inputs.permutation(5, (8, 8, 1))
    np.savez(
        tmp_path / "shuffled.npz",
        train_images=_permuted(digits.train.images, order),
        train_labels=digits.train.labels,
        test_images=_permuted(digits.test.images, order),
        test_labels=digits.test.labels,
    )
    first = _config(train__epochs=1, data__permute=5, data__permute_first=True)
    shuffled = _config(train__epochs=1, data__name=str(tmp_path / "shuffled.npz"))
    lines = []
    for name, config in (("first", first), ("shuffled", shuffled)):
        loop.train_and_evaluate(config, tmp_path / name)
        lines.append(metrics.read_metrics(tmp_path / name))
    for what in ("train/loss", "eval/loss"):
        mine, wanted = (metrics.column(each, what)[1] for each in lines)
        np.testing.assert_allclose(mine, wanted, rtol=1e-4)


@pytest.mark.slow
def test_runs_that_train_together_permute_each_as_alone():
    changes = {
        "data__permute_first": True,
        "data__noise": 0.2,
        "data__validation": 100,
    }
    fixed = [prepare(_config(seed=seed, data__permute=6, **changes)) for seed in (3, 4)]
    whole = lanes.load_whole(fixed[0].config)
    for order in lanes.make_lanes(fixed, whole).order:
        np.testing.assert_array_equal(order, inputs.permutation(6, (8, 8, 1)))
    experiments = [prepare(_config(seed=seed, data__permute=1, **changes)) for seed in (3, 4)]
    differing = lanes.make_lanes(experiments, whole)
    alone = [programs.initial_state(each) for each in experiments]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    program = lanes.compile_together(experiments, whole)
    _, got = program(states, differing, jax.device_put(whole.train), jnp.int32(4))
    run = programs.compile_train_steps(experiments[1])
    _, want = run(alone[1], jax.device_put(experiments[1].dataset.train), jnp.int32(4))
    np.testing.assert_allclose(got["train/loss"][1][:4], want["train/loss"][:4], rtol=1e-5)


def test_a_run_from_before_permute_was_a_number_is_read_and_continued(tmp_path):
    config = _config(data__permute=1)
    with open_workdir(tmp_path, config, "sha256"):
        pass
    file = tmp_path / CONFIG_FILE
    record = json.loads(file.read_text())
    record["config"]["data"]["permute"] = True
    del record["config"]["data"]["permute_first"], record["config"]["data"]["noise"]
    file.write_text(json.dumps(record))
    again = read_config(tmp_path)
    config_lib.validate(again)
    assert dict(config_lib.flatten(again)) == dict(config_lib.flatten(config))
    with open_workdir(tmp_path, config, "sha256"):
        continued = json.loads(file.read_text())
    assert continued["config"]["data"]["permute"] == 1
    assert type(continued["config"]["data"]["permute"]) is int
    assert continued["changes"] == []
    other = with_overrides(config, {"data.permute": 2})
    with (
        pytest.raises(config_lib.ConfigError, match=r"config\.data\.permute: 1 there, 2 here"),
        open_workdir(tmp_path, other, "sha256"),
    ):
        pass


def test_digests_of_results_from_before_are_kept():
    config = tiny_config.get_config()
    # SHA-256 of the changed keys, as they were when `data.permute` was True or False.
    changed = {
        "data.crop": 1,
        "data.name": "digits",
        "model.alpha": 4,
        "optimizer.beta": 10.0,
        "optimizer.l1.conv": 4e-3,
        "optimizer.l1.fc": 2e-3,
        "optimizer.learning_rate": 0.5,
        "optimizer.momentum": 0.5,
        "train.batch_size": 128,
        "train.epochs": 12,
    }

    def sha256(keys):
        return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()

    assert config_lib.digest(config) == sha256(changed)
    permuted = with_overrides(config, {"data.permute": 1})
    assert config_lib.digest(permuted) == sha256(changed | {"data.permute": True})
    fixed = with_overrides(config, {"data.permute": 2})
    assert config_lib.digest(fixed) == sha256(changed | {"data.permute": 2})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__permute": -1}, "config.data.permute = -1 must be"),
        ({"data__permute": True}, "config.data.permute = True must be int"),
        ({"data__permute_first": True}, "set config.data.permute to 1 or more"),
        ({"data__noise": -0.1}, "config.data.noise = -0.1 must be ≥ 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, says):
    with pytest.raises(config_lib.ConfigError, match=says):
        config_lib.validate(_config(**changes))
