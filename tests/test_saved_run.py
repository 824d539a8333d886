"""A run directory read back: metrics, weights, and the predictions of the run itself."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import lconv_jax
from lconv_jax import analysis, data, train
from lconv_jax.config import with_overrides
from lconv_jax.errors import ConfigError, DataError
from lconv_jax.rundir.checkpoint import CheckpointError, Checkpoints
from lconv_jax.rundir.metrics import column, read_metrics
from lconv_jax.saved_run import load_run
from lconv_jax.training import inputs
from lconv_jax.training.setup import prepare
from lconv_jax.training.shrinker import Shrinker
from tests.tiny_config import get_config

SHORT = {"train.epochs": 4, "log.eval_every_epochs": 2, "checkpoint.keep": 3}


def trained(directory, changes=()):
    train.train_and_evaluate(with_overrides(get_config(), SHORT | dict(changes)), directory)
    return str(directory)


def accuracy(run, split):
    return np.mean(run.predict(split.images) == np.asarray(split.labels))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), {"data.validation": 100})


@pytest.fixture(scope="module")
def run(run_dir):
    return load_run(run_dir)


@pytest.mark.slow
def test_predictions_are_those_of_the_evaluation(run):
    last = run.summary["metrics"]
    assert run.finished
    assert run.step == run.checkpoints[-1] == last["step"]
    assert accuracy(run, run.dataset.test) == last["eval/accuracy"]
    assert accuracy(run, run.dataset.validation) == last["validation/accuracy"]


def test_an_earlier_checkpoint_has_the_predictions_of_its_evaluation(run, run_dir):
    at, accuracies = run.metrics["eval/accuracy"]
    assert at[0] in run.checkpoints[:-1]
    earlier = load_run(run_dir, step=int(at[0]))
    assert accuracy(earlier, earlier.dataset.test) == accuracies[0]
    assert not np.array_equal(earlier.params["fc2"]["kernel"], run.params["fc2"]["kernel"])


def test_metrics_are_arrays_by_name(run, run_dir):
    lines = read_metrics(run_dir)
    assert set(run.metrics) == {name for line in lines for name in line} - {"step"}
    for name, series in run.metrics.items():
        wanted = column(lines, name)
        np.testing.assert_array_equal(series.steps, wanted[0], strict=True)
        np.testing.assert_array_equal(series.values, wanted[1], strict=True)
    kernel = run.params["conv1"]["kernel"]
    assert run.metrics["sparsity/conv1/nonzeros"].values[-1] == np.count_nonzero(kernel)


def test_weights_are_those_of_the_checkpoint(run):
    setup = prepare(run.config)
    with Checkpoints(os.path.join(run.directory, "checkpoints")) as checkpoints:
        step, state = checkpoints.restore(Shrinker(setup).stored_shapes)
    assert step == run.step
    jax.tree.map(np.testing.assert_array_equal, run.params, state.params)
    # Running averages lag behind; evaluation does not use them.
    assert not np.allclose(run.batch_stats["bn_fc1"]["mean"], state.batch_stats["bn_fc1"]["mean"])


@pytest.mark.slow
def test_the_model_s_logits_are_those_of_the_run(run):
    images = run.dataset.test.images[:50]
    logits = run.logits(images)
    variables = {"params": run.params, "batch_stats": run.batch_stats}
    again = run.model.apply(variables, data.normalize(images))
    np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-5)


def test_filters_are_the_first_layer_as_images(run):
    kernel = run.params["conv1"]["kernel"]
    assert run.filters.shape == (kernel.shape[1], 8, 8, 1)
    np.testing.assert_array_equal(run.filters[3].ravel(), kernel[:, 3])


def test_any_number_of_images_is_predicted_one_by_one(run):
    images = run.dataset.test.images
    whole = run.predict(images)
    assert len(images) % run.config.train.batch_size
    assert run.predict(images[:0]).shape == (0,)
    assert run.logits(images[:0]).shape == (0, 10)
    np.testing.assert_array_equal(run.predict(images[7:8]), whole[7:8])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\); this run takes \[N, 8, 8, 1\]"),
        (np.zeros((3, 8, 8), np.uint8), r"takes \[N, 8, 8, 1\]"),
        (np.zeros((3, 8, 8, 1), np.float32), r"type float32; .* bytes \(uint8\)"),
        (np.zeros((3, 8, 8, 1), np.int64), r"type int64"),
    ],
)
def test_images_of_another_kind_are_refused(run, images, says):
    with pytest.raises(DataError, match=says):
        run.predict(images)


def test_configuration_metrics_and_weights_need_no_data(run_dir, run, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise DataError("there are no data")

    monkeypatch.setattr(data, "load", missing)
    bare = load_run(run_dir)
    assert bare.config.to_dict() == run.config.to_dict()
    assert len(bare.metrics["train/loss"].values) > 0
    jax.tree.map(np.testing.assert_array_equal, bare.params, run.params)
    with pytest.raises(DataError, match="there are no data"):
        bare.predict(np.zeros((1, 8, 8, 1), np.uint8))


@pytest.mark.slow
def test_other_data_are_refused_and_the_same_may_be_given(run, run_dir):
    with pytest.raises(DataError, match=r"\(digits\) have changed .*dataset="):
        load_run(run_dir, dataset=data.load("digits")).predict(run.dataset.test.images)
    given = load_run(run_dir, dataset=run.dataset)
    assert given.dataset is run.dataset
    test = run.dataset.test.images
    np.testing.assert_array_equal(given.predict(test), run.predict(test))


def test_a_run_that_is_not_finished(run_dir, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints" / str(run.step))
    with open(copy / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 99, "tra')  # as a line that is being written
    before = sorted(copy.rglob("*"))
    half = load_run(copy)
    assert not half.finished
    assert half.summary is None
    assert half.step == run.checkpoints[-2] < run.step
    assert 0.1 < accuracy(half, half.dataset.test) < 1
    assert sorted(copy.rglob("*")) == before
    shutil.rmtree(copy / "checkpoints")
    young = load_run(copy)
    assert len(young.metrics["train/loss"].values) > 0
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        _ = young.params


@pytest.mark.slow
def test_damage_is_named_and_left_where_it_is(run_dir, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    digests = copy / "checkpoints" / str(run.step) / "digests" / "metadata"
    text = digests.read_text()
    digests.write_text(text.replace(text.split('"')[7], "0" * 64))
    before = sorted(copy.rglob("*"))
    with pytest.raises(CheckpointError, match=rf"{run.step} .*the digest of .params.*take another"):
        _ = load_run(copy).params
    shutil.rmtree(copy / "checkpoints" / str(run.step) / "state" / "d")
    with pytest.raises(CheckpointError, match=rf"checkpoints/{run.step} cannot be read"):
        _ = load_run(copy).params
    assert set(copy.rglob("*")) <= set(before)
    other = load_run(copy, step=run.checkpoints[0])
    assert np.isfinite(other.params["fc2"]["kernel"]).all()


def test_what_is_no_run_or_no_checkpoint_is_refused(run_dir, tmp_path):
    with pytest.raises(ConfigError, match="is not the --workdir of a run"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"step = 1: .*; there are \d+, \d+"):
        load_run(run_dir, step=1)


@pytest.mark.slow
def test_a_permutation_is_part_of_the_preprocessing(tmp_path):
    run = load_run(trained(tmp_path, {"data.permute": 1, "train.epochs": 2}))
    last = run.summary["metrics"]["eval/accuracy"]
    assert accuracy(run, run.dataset.test) == last > 0.5
    order = inputs.permutation(run.config.seed, (8, 8, 1))
    np.testing.assert_array_equal(run.permutation, order)
    # Row i of the kernel reads pixel order[i] of the image.
    kernel = run.params["conv1"]["kernel"]
    np.testing.assert_array_equal(run.filters[5].ravel()[order], kernel[:, 5])


def test_rows_are_put_back_with_their_channels():
    kernel = np.arange(12).reshape(6, 2)  # 3 pixels of 2 channels, 2 units
    rows = analysis.unpermuted_rows(kernel, np.array([2, 0, 1]), (3, 2))
    assert rows.tolist() == [[4, 5], [6, 7], [8, 9], [10, 11], [0, 1], [2, 3]]


@pytest.mark.slow
def test_signals_are_read_as_they_are_stored(tmp_path):
    changes = {"data.name": "nlgp:length=20,examples=600,test=200", "data.crop": 0}
    run = load_run(trained(tmp_path, changes | {"train.epochs": 2}))
    assert accuracy(run, run.dataset.test) == run.summary["metrics"]["eval/accuracy"]
    signals = run.dataset.test.images.astype(np.float64)
    np.testing.assert_array_equal(run.predict(signals), run.predict(run.dataset.test.images))
    signals[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        run.predict(signals)


@pytest.mark.slow
def test_importing_the_package_loads_neither_data_nor_models():
    program = (
        "import sys, lconv_jax\n"
        "heavy = ('flax', 'orbax', 'lconv_jax.data', 'lconv_jax.training', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "print(lconv_jax.load_run.__name__)"
    )
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.split("\n")[:2] == ["[]", "load_run"]
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = lconv_jax.absent
