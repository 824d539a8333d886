"""Runs that train together are the runs that each would be alone."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import data, models
from lconv_jax.config import with_overrides
from lconv_jax.rundir import metrics
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import open_workdir
from lconv_jax.training import lanes, loop, programs, rng
from lconv_jax.training.setup import prepare
from tests import tiny_config
from tests.helpers import final_digests, in_dtype, timeless

BASE = {"data.validation": 200}
# λ and β whose product in float32 is not the float32 of their product.
SETTINGS = [
    {"seed": 0, "optimizer.l1.conv": 7e-3, "optimizer.beta": 6.0},
    {"seed": 0, "optimizer.l1.conv": 1e-3, "optimizer.beta": 0.0},
    {"seed": 1, "optimizer.l1.conv": 4e-3, "optimizer.learning_rate": 0.3},
    {"seed": 2, "optimizer.reference_lr_sum": 40.0, "optimizer.momentum": 0.8},
]


def _configs(**changes):
    base = with_overrides(tiny_config.get_config(), BASE | changes)
    return [with_overrides(base, setting) for setting in SETTINGS]


@pytest.fixture(scope="module")
def compiled():
    """(configurations, undivided data, program)."""
    configs = _configs()
    whole = lanes.load_whole(configs[0])
    return configs, whole, lanes.compile_together(lanes.prepare_together(configs), whole)


def _runs(configs, folder):
    directories = [str(folder / str(index)) for index in range(len(configs))]
    return [
        lanes.Run(experiment, directory)
        for experiment, directory in zip(lanes.prepare_together(configs), directories, strict=True)
    ]


@pytest.fixture(scope="module")
def finished(compiled, tmp_path_factory):
    """The folder of the four runs, trained together."""
    folder = tmp_path_factory.mktemp("together")
    configs, whole, program = compiled
    lanes.train_together(_runs(configs, folder), whole, program)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({"optimizer.weight_decay": 1e-3, "model.dropout": 0.3, "data.permute": 1}, [0, 3]),
        ({"model.name": "s_conv", "data.cutout": 3}, [2]),
    ],
)
def test_in_float64_each_is_its_lone_run_throughout(changes, compared):
    with jax.enable_x64(True):
        experiments = [in_dtype(prepare(config), jnp.float64) for config in _configs(**changes)]
        whole = lanes.load_whole(experiments[0].config)
        program = lanes.compile_together(experiments, whole)
        differing = lanes.make_lanes(experiments, whole)
        alone = [programs.initial_state(experiment) for experiment in experiments]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
        plan, split, got = experiments[0].plan, jax.device_put(whole.train), []
        for _ in range(12):
            states, rows = program(states, differing, split, jnp.int32(plan.steps_per_epoch))
            got.append(jax.device_get(rows))
        for index in compared:
            experiment = experiments[index]
            run, want = programs.compile_train_steps(experiment), []
            state, own = alone[index], jax.device_put(experiment.dataset.train)
            for _ in range(12):
                state, rows = run(state, own, jnp.int32(plan.steps_per_epoch))
                want.append(jax.device_get(rows))
            for name in want[0]:
                np.testing.assert_allclose(
                    [rows[name][index] for rows in got],
                    [rows[name] for rows in want],
                    rtol=1e-7,  # a vmapped program may add in another order
                    err_msg=name,
                )
            for name, kernel in models.kernels(state.params).items():
                mine = np.asarray(states.params[name]["kernel"][index])
                np.testing.assert_array_equal(mine == 0, np.asarray(kernel) == 0)
                np.testing.assert_allclose(mine, kernel, rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_in_float32_the_first_steps_are_equal_and_the_end_is_within_seed_spread(finished, tmp_path):
    config = _configs()[0]
    summaries = [
        loop.train_and_evaluate(with_overrides(config, {"seed": seed}), tmp_path / str(seed))
        for seed in range(3)
    ]
    accuracies = [summary["metrics"]["validation/accuracy"] for summary in summaries]
    assert len(set(accuracies)) > 1
    alone, mine, summary = tmp_path / "0", finished / "0", summaries[0]
    _, want = metrics.column(metrics.read_metrics(alone), "train/loss")
    _, got = metrics.column(metrics.read_metrics(mine), "train/loss")
    np.testing.assert_allclose(got[:10], want[:10], rtol=1e-5)
    stored = json.loads((mine / "summary.json").read_text())
    spread = max(accuracies) - min(accuracies)
    assert abs(stored["metrics"]["validation/accuracy"] - accuracies[0]) <= spread
    assert set(stored) - {"time/together"} == set(summary) - {"time/compile_seconds"}
    for name in ("effective", "weights", "config_sha256", "data_sha256", "num_examples"):
        assert stored[name] == summary[name]
    assert (mine / "config.json").read_text() == (alone / "config.json").read_text()
    assert [sorted(line) for line in timeless(mine)] == [sorted(line) for line in timeless(alone)]


@pytest.mark.slow
def test_a_run_of_them_is_accepted_as_a_lone_one(finished):
    config, directory = _configs()[2], finished / "2"
    before = (directory / "metrics.jsonl").read_bytes()
    stored = json.loads((directory / "summary.json").read_text())
    assert loop.train_and_evaluate(config, directory) == stored
    assert (directory / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_thresholds_are_products_rounded_once(finished, compiled):
    configs, whole, _ = compiled
    experiments = lanes.prepare_together(configs)
    numbers = lanes.make_lanes(experiments, whole).numbers
    exact = np.float32(7e-3 * 6.0)
    assert exact != np.float32(7e-3) * np.float32(6.0), "the test says nothing"
    assert numbers["threshold.conv"][0] == exact
    with Checkpoints(finished / "0" / "checkpoints") as checkpoints:
        _, state = checkpoints.restore(experiments[0].state_shapes)
    weights = np.abs(np.asarray(state.params["conv1"]["kernel"]))
    assert weights[weights > 0].min() >= exact


class _KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("saves", [2, 7])
def test_killed_between_the_saves_of_two_runs_all_end_with_the_same_bits(
    saves, finished, compiled, tmp_path, monkeypatch
):
    configs, whole, program = compiled
    save, count = Checkpoints.save, 0

    def save_some(self, *args):
        nonlocal count
        count += 1
        if count > saves:
            raise _KilledError
        save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_some)
        with pytest.raises(_KilledError):
            lanes.train_together(_runs(configs, tmp_path), whole, program)
    steps_saved = [
        Checkpoints(tmp_path / str(index) / "checkpoints").steps() for index in range(len(configs))
    ]
    assert len({tuple(found) for found in steps_saved}) == 2, "some are further on than others"
    lanes.train_together(_runs(configs, tmp_path), whole, program)
    for index in range(len(configs)):
        mine, reference = tmp_path / str(index), finished / str(index)
        assert final_digests(mine) == final_digests(reference)
        assert timeless(mine) == timeless(reference)


@pytest.mark.slow
def test_what_a_lone_run_began_is_continued(finished, compiled, tmp_path):
    """One is finished, one is eight steps ahead, and two are to begin."""
    configs, whole, program = compiled
    runs = _runs(configs, tmp_path)
    shutil.copytree(finished / "0", tmp_path / "0")
    summary = (tmp_path / "0" / "summary.json").read_bytes()
    experiment = runs[1].setup
    state, _ = programs.compile_train_steps(experiment)(
        programs.initial_state(experiment), jax.device_put(experiment.dataset.train), jnp.int32(8)
    )
    folder = tmp_path / "1"
    digest = data.digest(experiment.dataset)
    with (
        open_workdir(folder, configs[1], digest),
        Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        checkpoints.save(8, state)
    lanes.train_together(runs, whole, program)
    assert (tmp_path / "0" / "summary.json").read_bytes() == summary
    lines, total = metrics.read_metrics(folder), experiment.plan.total_steps
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(9, total + 1))
    for index in (2, 3):
        assert final_digests(tmp_path / str(index)) == final_digests(finished / str(index))


@pytest.mark.slow
def test_one_that_diverges_is_marked_and_changes_nothing_for_the_others(
    finished, compiled, tmp_path
):
    configs, whole, program = compiled
    configs = list(configs)
    configs[1] = with_overrides(configs[1], {"optimizer.learning_rate": 1e25})
    runs = _runs(configs, tmp_path)
    lanes.train_together(runs, whole, program)
    assert "loss is not finite at step 2" in lanes.read_diverged(tmp_path / "1")
    assert not (tmp_path / "1" / "summary.json").exists()
    assert Checkpoints(tmp_path / "1" / "checkpoints").steps() == []
    for index in (0, 2, 3):
        assert final_digests(tmp_path / str(index)) == final_digests(finished / str(index))
        assert timeless(tmp_path / str(index)) == timeless(finished / str(index))
    assert all(map(lanes.is_over, runs))
    before = (tmp_path / "1" / "metrics.jsonl").read_bytes()
    lanes.train_together(runs, whole, program)
    assert (tmp_path / "1" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_rows_of_a_run_are_its_own_training_and_validation_examples():
    config = with_overrides(tiny_config.get_config(), BASE | {"data.examples": 800, "seed": 7})
    experiment, whole = prepare(config), lanes.load_whole(config)
    kept, held_out = lanes.divided_rows(experiment, whole)
    for rows, split in (
        (kept, experiment.dataset.train),
        (held_out, experiment.dataset.validation),
    ):
        np.testing.assert_array_equal(whole.train.images[rows], split.images)
        np.testing.assert_array_equal(whole.train.labels[rows], split.labels)
    assert len(held_out) == 200


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_traced_seed_gives_the_keys_of_the_configured_one(seed):
    traced = jax.jit(lambda seed: jax.random.key_data(rng.key_for(seed, rng.ORDER, 3)))
    want = jax.random.key_data(rng.key_for(seed, rng.ORDER, 3))
    np.testing.assert_array_equal(traced(np.uint32(seed)), want)


def test_what_one_program_trains():
    base = with_overrides(tiny_config.get_config(), BASE)

    def key(**changes):
        return lanes.program_key(with_overrides(base, changes))

    assert len({lanes.program_key(config) for config in _configs()}) == 1
    for other in (
        {"model.alpha": 5},
        {"train.batch_size": 64},
        {"optimizer.momentum": 0.0},
        {"optimizer.weight_decay": 1e-4},
        {"optimizer.name": "sgd"},
        {"data.crop": 0},
    ):
        assert key(**other) != key(), other


@pytest.mark.slow
def test_on_a_cpu_only_small_networks_train_together():
    small, large = (
        prepare(with_overrides(tiny_config.get_config(), {"model.alpha": alpha}))
        for alpha in (4, 32)
    )
    assert lanes.most_together(small) > 1000
    assert lanes.most_together(large) == (1 if jax.default_backend() == "cpu" else 2**31)
