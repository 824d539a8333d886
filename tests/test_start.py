"""A run can start from another run's network, and keep layers as they are."""

import os
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.experiments import sweeps
from lconv_jax.training import loop, programs
from lconv_jax.training.exporting import restore
from lconv_jax.training.setup import prepare
from tests.tiny_config import get_config

SHORT = {"train.epochs": 4, "model.alpha": 2}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The directory and the state of a finished run."""
    directory = str(tmp_path_factory.mktemp("first") / "run")
    loop.train_and_evaluate(with_overrides(get_config(), SHORT), directory)
    return directory, restore(directory)[1]


def leaves(state):
    both = {"params": state.params, "batch_stats": state.batch_stats}
    return traverse_util.flatten_dict(both, sep="/")


def config_from(first, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return with_overrides(get_config(), SHORT | {"train.start": first[0], "seed": 1} | named)


@pytest.mark.slow
def test_what_fits_is_taken_over_and_the_rest_is_drawn(first):
    setup = prepare(config_from(first))
    state = programs.initial_state(setup)
    jax.tree.map(np.testing.assert_array_equal, leaves(state), leaves(first[1]))
    assert int(state.step) == 0
    # Another number of classes: the last layer is another one.
    digits = setup.dataset
    of_two = digits.__class__(
        digits.name,
        2,
        *(split._replace(labels=split.labels % 2) for split in (digits.train, digits.validation)),
        digits.test._replace(labels=digits.test.labels % 2),
    )
    setup = prepare(config_from(first), of_two)
    fresh = programs.initial_state(setup._replace(start={}))
    found, old, drawn = (leaves(each) for each in (programs.initial_state(setup), first[1], fresh))
    for name, leaf in found.items():
        source = drawn if "fc2" in name else old
        np.testing.assert_array_equal(leaf, source[name], err_msg=name)
    assert found["params/fc2/kernel"].shape[1] == 2


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["beta_lasso", "sgd"])
def test_frozen_layers_stay_and_others_learn(first, tmp_path, optimizer):
    changes = {"train__freeze": "conv1", "optimizer__name": optimizer}
    loop.train_and_evaluate(config_from(first, **changes), str(tmp_path))
    before, after = leaves(first[1]), leaves(restore(str(tmp_path))[1])
    for name, leaf in before.items():
        stays = name.startswith("params/") and "conv1" in name
        assert np.array_equal(leaf, after[name]) == stays, name
    # Masks that the frozen layer would have are no longer changed, so the run can be continued.
    summary = loop.train_and_evaluate(config_from(first, **changes), str(tmp_path))
    assert summary["metrics"]["sparsity/conv1/nonzeros"] == np.count_nonzero(
        before["params/conv1/kernel"]
    )


@pytest.mark.slow
def test_a_method_that_factors_weights_begins_from_them(first):
    setup = prepare(config_from(first, optimizer__name="spred", optimizer__l1__conv=1e-3))
    state = programs.initial_state(setup)
    np.testing.assert_array_equal(
        leaves(state)["params/conv1/kernel"], leaves(first[1])["params/conv1/kernel"]
    )
    fresh = programs.initial_state(setup._replace(start={}))
    inner = [jax.tree.leaves(each.opt_state) for each in (state, fresh)]
    assert any(not np.array_equal(*pair) for pair in zip(*inner, strict=True))


@pytest.mark.slow
def test_a_sweep_starts_from_it_as_a_lone_run_does(first, tmp_path):
    config = config_from(first, train__freeze="fc1", train__epochs=1, data__validation=200)
    alone = loop.train_and_evaluate(config, str(tmp_path / "alone"))
    grid = {"optimizer.learning_rate": [0.5, 0.25]}
    result = sweeps.run(config, str(tmp_path / "sweep"), grid)
    (run,) = result["settings"][0]["runs"]
    assert run["eval/accuracy"] == pytest.approx(alone["metrics"]["eval/accuracy"], abs=0.01)


@pytest.mark.slow
def test_a_finished_run_does_not_need_what_it_started_from(first, tmp_path):
    copy = str(tmp_path / "copy")
    shutil.copytree(first[0], copy)
    directory = str(tmp_path / "run")
    loop.train_and_evaluate(config_from((copy, None), train__epochs=1), directory)
    shutil.rmtree(copy)
    restore(directory)
    with pytest.raises(
        config_lib.ConfigError, match=r"config.train.start: .* is not the --workdir of a run"
    ):
        prepare(config_from((copy, None)))


@pytest.mark.slow
def test_the_digest_has_the_folder_s_name_and_not_its_place(tmp_path):
    here, there, other = ("/a/run", "/b/c/run/", "/a/other")
    digests = [config_lib.digest(config_from((each, None))) for each in (here, there, other)]
    assert digests[0] == digests[1] != digests[2]
    assert "/a" not in str(config_lib.changed(config_from((here, None))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.alpha": 3}, r"layers conv1 \(64, 32\), .* none fits this one's: conv1 \(64, 48\)"),
        ({"train.freeze": "conv2"}, r"no layer 'conv2'; the layers are conv1, fc1, fc2"),
        ({"train.freeze": "conv1,fc1,fc2"}, r"leaves nothing to train"),
        ({"train.freeze": "fc1", "optimizer.name": "rigl"}, r"config.optimizer.name = 'rigl'"),
        ({"train.freeze": "fc1", "train.shrink": "exact"}, r"config.train.shrink = 'exact'"),
        ({"train.start": "s3://bucket/run"}, r"config.train.start"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(first, tmp_path, changes, message):
    config = with_overrides(config_from(first), changes)
    directory = tmp_path / "run"
    with pytest.raises(config_lib.ConfigError, match=message):
        loop.train_and_evaluate(config, str(directory))
    assert not os.path.exists(directory)
