"""The loop in one process: what it computes, what it writes, what it refuses."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lconv_jax import analysis, data, errors, mdl, models
from lconv_jax.config import ConfigError
from lconv_jax.rundir import directory as rundir
from lconv_jax.rundir import metrics
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.training import evaluation, inputs, loop, programs, steps
from lconv_jax.training.inputs import Inputs, make_preprocess
from lconv_jax.training.setup import prepare
from tests import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: (directory, config, summary)."""
    directory = tmp_path_factory.mktemp("run")
    config = tiny_config.get_config()
    return directory, config, loop.train_and_evaluate(config, directory)


def _restored(directory, config):
    experiment = prepare(config)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return experiment, *checkpoints.restore(experiment.state_shapes)


@pytest.mark.slow
def test_it_learns_and_becomes_sparse(finished):
    directory, _, summary = finished
    assert summary["metrics"]["eval/accuracy"] > 0.8
    assert summary["metrics"]["sparsity/density"] < 0.5
    steps_seen, losses = metrics.column(metrics.read_metrics(directory), "train/loss")
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    np.testing.assert_array_equal(steps_seen, np.arange(1, len(losses) + 1))


def test_logged_nonzeros_are_those_of_the_parameters(finished):
    directory, config, summary = finished
    _, step, state = _restored(directory, config)
    assert step == summary["metrics"]["step"]
    for name, kernel in models.kernels(state.params).items():
        logged = summary["metrics"][f"sparsity/{name}/nonzeros"]
        assert logged == np.count_nonzero(np.asarray(kernel))
    threshold = config.optimizer.beta * config.optimizer.l1.conv
    weights = np.abs(np.asarray(state.params["conv1"]["kernel"]))
    assert weights[weights > 0].min() >= np.float32(threshold)


def test_logged_estimates_follow_from_the_logged_counts(finished):
    directory, config, _ = finished
    experiment = prepare(config)
    sizes = {name: k.size for name, k in models.kernels(experiment.state_shapes.params).items()}
    total, examples = sum(sizes.values()), len(experiment.dataset.train.labels)
    for line in metrics.read_metrics(directory):
        if "train/loss" not in line:
            continue
        nonzeros = sum(line[f"sparsity/{name}/nonzeros"] for name in sizes)
        assert line["sparsity/density"] == nonzeros / total
        bits = mdl.theorem2_bits(nonzeros, nonzeros + 1, total, 32)
        assert line["mdl/estimate_bits"] == bits
        bound = mdl.occam_bound(1 - line["train/accuracy"], bits, examples, 0.05 / total)
        assert line["mdl/estimate_bound"] == pytest.approx(float(bound), rel=1e-6)


def test_the_logged_learning_rate_is_the_cosine(finished):
    directory, config, _ = finished
    at, rates = metrics.column(metrics.read_metrics(directory), "train/learning_rate")
    expected = 0.5 * config.optimizer.learning_rate * (1 + np.cos(np.pi * (at - 1) / len(at)))
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


def test_the_run_directory_holds_what_it_should(finished):
    directory, config, summary = finished
    assert rundir.read_config(directory) == config
    stored = json.loads((directory / "summary.json").read_text())
    assert stored["metrics"] == summary["metrics"]
    assert stored["effective"]["l1.conv * beta"] == pytest.approx(4e-2)
    assert set(stored["versions"]) >= {"jax", "flax", "optax"}
    assert (directory / "filters.png").stat().st_size > 1000
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    with Checkpoints(directory / "checkpoints") as checkpoints:
        assert len(checkpoints.steps()) == config.checkpoint.keep


def test_tensorboard_events_hold_scalars_histograms_and_filters(finished):
    from tensorboardX.proto import event_pb2

    directory, _, summary = finished
    (path,) = directory.glob("events.out.tfevents.*")
    raw, found, at = path.read_bytes(), {}, 0
    while at < len(raw):  # TFRecord: length, its checksum, the event, its checksum
        length = int.from_bytes(raw[at : at + 8], "little")
        event = event_pb2.Event.FromString(raw[at + 12 : at + 12 + length])
        found |= {value.tag: value for value in event.summary.value}
        at += 16 + length
    last = found["eval/accuracy"].simple_value
    assert last == pytest.approx(summary["metrics"]["eval/accuracy"])
    assert found["filters"].image.encoded_image_string[:4] == b"\x89PNG"
    assert sum(found["weights/conv1"].histo.bucket) > 0


@pytest.mark.parametrize("shape", [(7, 5), (3, 3, 2, 8), (2, 100_001), (300, 1000)])
def test_nonzeros_are_counted_exactly(shape):
    kernel = np.random.default_rng(0).normal(size=shape) * (np.arange(shape[-1]) % 3 > 0)
    assert steps.count_nonzeros(jnp.asarray(kernel)) == np.count_nonzero(kernel)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_training_does_not_read_is_checked_for_finiteness_too(bad):
    """BN statistics reach no loss and no update, and would first be missed in evaluation."""
    experiment = prepare(tiny_config.get_config())
    run = programs.compile_train_steps(experiment)
    split = jax.device_put(experiment.dataset.train)
    state, rows = run(programs.initial_state(experiment), split, jnp.int32(2))
    assert rows["finite"]
    state.batch_stats["bn_fc1"]["var"] = state.batch_stats["bn_fc1"]["var"].at[1].set(bad)
    state, rows = run(state, split, jnp.int32(2))
    assert np.isfinite(rows["train/loss"][:2]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not rows["finite"]


@pytest.mark.slow
@pytest.mark.optimized
def test_how_the_steps_are_grouped_changes_nothing():
    config = tiny_config.get_config()
    experiment = prepare(config)
    run = programs.compile_train_steps(experiment)
    split = jax.device_put(experiment.dataset.train)
    ends = []
    for groups in [(6,), (1, 2, 3)]:
        state, losses = programs.initial_state(experiment), []
        for count in groups:
            state, rows = run(state, split, jnp.int32(count))
            losses += list(np.asarray(rows["train/loss"])[:count])
        ends.append((jax.device_get(state), losses))
    assert ends[0][1] == ends[1][1]
    jax.tree.map(np.testing.assert_array_equal, ends[0][0], ends[1][0])


def test_a_finished_run_called_again_says_the_same(finished):
    directory, config, summary = finished
    before = (directory / "metrics.jsonl").read_text()
    again = loop.train_and_evaluate(config, directory)
    assert again["metrics"] == summary["metrics"]
    assert (directory / "metrics.jsonl").read_text() == before


def test_nothing_of_a_finished_run_is_cut_though_its_checkpoints_are_gone(
    finished, tmp_path, caplog
):
    directory, config, summary = finished
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / "checkpoints")
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "config.json"}
    with caplog.at_level(logging.WARNING):
        assert loop.train_and_evaluate(config, copy)["metrics"] == summary["metrics"]
    assert "its last checkpoint is gone" in caplog.text
    after = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "config.json"}
    assert after == before


def test_what_made_a_run_is_told_for_each_session(finished):
    directory, _, summary = finished
    (only,) = summary["sessions"]
    assert (only["from"], only["to"]) == (0, summary["metrics"]["step"])
    assert {"device", "versions"} <= set(only)
    assert json.loads((directory / "sessions.json").read_text()) == summary["sessions"]


@pytest.mark.parametrize("left", ["summary.json", "sessions.json", "metrics.jsonl"])
def test_what_a_run_left_without_its_configuration_is_not_overwritten(tmp_path, left):
    (tmp_path / left).write_text("{}")
    with pytest.raises(ConfigError, match=f"has {left} but no config.json"):
        rundir.check_workdir(tmp_path, tiny_config.get_config(), "sha")


def test_another_configuration_is_refused_and_a_free_change_is_recorded(finished):
    directory, config, _ = finished
    other = config.copy_and_resolve_references()
    other.optimizer.beta = 7.0
    other.seed = 5
    with pytest.raises(ConfigError, match=r"(?s)config.optimizer.beta: 10.0 there, 7.0 here.*seed"):
        loop.train_and_evaluate(other, directory)
    free = config.copy_and_resolve_references()
    free.checkpoint.keep = 3
    loop.train_and_evaluate(free, directory)
    stored = json.loads((directory / "config.json").read_text())
    assert stored["changes"] == [{"key": "checkpoint.keep", "from": 2, "to": 3}]


def test_a_directory_with_someone_else_s_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"has checkpoints but no config\.json"):
        loop.train_and_evaluate(tiny_config.get_config(), tmp_path)


def test_a_directory_in_use_is_refused(tmp_path):
    config = tiny_config.get_config()
    refused = pytest.raises(ConfigError, match="in use by another process")
    with rundir.open_workdir(tmp_path, config, "sha"), refused:
        loop.train_and_evaluate(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.batch_size", 5000, "config.train.batch_size = 5000 is more than the"),
        ("data.crop", 8, r"data\.crop = 8: accepts 0 … 7"),
        ("data.cutout", 9, r"data\.cutout = 9: accepts 0 … 8"),
        ("sharding.data", 64, "config.sharding asks for 64 × 1 devices"),
        ("data.name", "no_such_set", "no_such_set"),
    ],
)
def test_what_only_the_data_show_is_refused_before_anything_is_written(tmp_path, key, value, says):
    config = tiny_config.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=says):
        loop.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_diverges_names_the_step_and_saves_nothing_of_it(tmp_path):
    config = tiny_config.get_config("sgd")
    config.optimizer.learning_rate = 1e25
    experiment = prepare(config)
    run = programs.compile_train_steps(experiment)
    split = jax.device_put(experiment.dataset.train)
    state, step, loss = programs.initial_state(experiment), 0, 0.0
    while np.isfinite(loss):
        state, rows = run(state, split, jnp.int32(1))
        step, loss = step + 1, float(rows["train/loss"][0])
    assert step > 1
    with pytest.raises(errors.TrainingError, match=f"not finite at step {step}; nothing of it was"):
        loop.train_and_evaluate(config, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == []


def test_a_penalty_that_reaches_no_layer_is_refused(tmp_path):
    config = tiny_config.get_config()
    config.model.name, config.model.alpha = "three_fc", 16
    config.optimizer.l1.fc = 0.0
    with pytest.raises(ConfigError, match=r"regularises no layer of three_fc, which has l1\.fc"):
        loop.train_and_evaluate(config, tmp_path / "run")


def test_reference_lr_sum_keeps_budget_and_threshold():
    config = tiny_config.get_config()
    config.optimizer.reference_lr_sum = 1000.0
    effective = prepare(config).plan.effective
    assert effective["l1.conv * lr_sum"] == pytest.approx(4e-3 * 1000)
    assert effective["l1.conv * beta"] == pytest.approx(4e-3 * 10)
    assert effective["l1.conv"] > 4e-3


@pytest.mark.slow
def test_permuted_pixels_are_the_same_pixels():
    config = tiny_config.get_config()
    config.data.permute = 1
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    shown = np.asarray(inputs.make_preprocess(config, (8, 8, 1))(jnp.asarray(images)))
    order = inputs.permutation(config.seed, (8, 8, 1))
    assert sorted(order) == list(range(64))
    back = shown.reshape(2, 64)[:, np.argsort(order)].reshape(images.shape)
    np.testing.assert_array_equal(back, np.asarray(data.normalize(jnp.asarray(images))))


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 128, 300])
def test_evaluation_counts_every_example_once(count):
    config = tiny_config.get_config()
    experiment = prepare(config)
    state = programs.initial_state(experiment)
    split = jax.tree.map(lambda leaf: jnp.asarray(leaf[:count]), experiment.dataset.test)
    whole = jax.tree.map(jnp.asarray, experiment.dataset.train)
    preprocess = make_preprocess(config, (8, 8, 1))
    run = evaluation.make_evaluate(
        experiment.model, Inputs(lambda _, images: images, preprocess), 128, experiment.mesh
    )
    key = jax.random.key(0)
    found = run(state, whole, split, key)
    batches = min(evaluation.BN_BATCHES, len(whole.labels) // 128)
    order = jax.random.permutation(jax.random.split(key)[0], len(whole.labels))
    chosen = order[: batches * 128].reshape(batches, 128)
    inputs = jnp.stack([preprocess(whole.images[index]) for index in chosen])
    stats = evaluation.pooled_batch_stats(experiment.model, state.params, state.batch_stats, inputs)
    variables = {"params": state.params, "batch_stats": stats}
    logits = experiment.model.apply(variables, preprocess(split.images), train=False)
    correct = np.asarray(jnp.argmax(logits, -1) == split.labels)
    assert found["accuracy"] == correct.sum() / len(correct)
    log_p = jax.nn.log_softmax(logits)[np.arange(len(correct)), split.labels]
    assert found["loss"] == pytest.approx(-float(log_p.mean()), rel=1e-5)
    expected = sklearn_metrics.confusion_matrix(
        split.labels, jnp.argmax(logits, -1), labels=range(10)
    )
    listed = np.zeros((10, 10), int)
    for label, answer, examples in found["confusion"]:
        listed[label, answer] += examples
    np.testing.assert_array_equal(listed, expected)


@pytest.mark.slow
def test_pooled_statistics_are_those_of_all_the_examples():
    # The first layer sees its inputs unnormalised, so pooling must be exact there.
    config = tiny_config.get_config()
    experiment = prepare(config)
    state = programs.initial_state(experiment)
    inputs = data.normalize(jnp.asarray(experiment.dataset.train.images[:512])) + 3.0
    stats = evaluation.pooled_batch_stats(
        experiment.model, state.params, state.batch_stats, inputs.reshape(4, 128, 8, 8, 1)
    )
    before = inputs.reshape(512, -1) @ state.params["conv1"]["kernel"]
    np.testing.assert_allclose(stats["bn_conv1"]["mean"], before.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(stats["bn_conv1"]["var"], before.var(0), rtol=1e-3)


@pytest.mark.slow
def test_locality_of_a_permuted_run_is_measured_on_the_original_pixels(tmp_path):
    config = tiny_config.get_config()
    config.data.permute = 1
    config.train.epochs = 4
    summary = loop.train_and_evaluate(config, tmp_path)
    _, _, state = _restored(tmp_path, config)
    kernel = np.asarray(state.params["conv1"]["kernel"])
    back = np.argsort(inputs.permutation(config.seed, (8, 8, 1)))
    assert summary["locality"] == [
        analysis.locality(kernel[back], (8, 8, 1), min_nonzeros=least)._asdict()
        for least in (1, 10)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "validation", "want"),
    [
        ("end", 0, {"eval": 1}),
        ("never", 100, {"validation": 3}),
        ("end", 100, {"eval": 1, "validation": 3}),
    ],
)
def test_the_test_set_is_read_as_often_as_asked(tmp_path, test, validation, want):
    config = tiny_config.get_config()
    config.log.test, config.data.validation = test, validation
    loop.train_and_evaluate(config, tmp_path)
    lines = metrics.read_metrics(tmp_path)
    times = {
        name: len(metrics.column(lines, f"{name}/accuracy")[0]) for name in ("eval", "validation")
    }
    assert {name: count for name, count in times.items() if count} == want
    # Nor is it asked for when the summary is made anew from the last checkpoint.
    (tmp_path / "summary.json").unlink()
    again = loop.train_and_evaluate(config, tmp_path)
    assert {f"{name}/accuracy" in again["metrics"] for name in want} == {True}
