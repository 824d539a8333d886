"""Settings that train together are what they are alone."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax import metrics, steps, sweep, train
from lconv_jax.workdir import read_summary
from tests import tiny_config

ROOT = pathlib.Path(__file__).parent.parent
GRID = {"optimizer.l1.conv": [1e-3, 4e-3], "optimizer.beta": [0.0, 10.0]}


def _config(**changes):
    config = tiny_config.get_config()
    config.data.validation = 200
    for key, value in changes.items():
        group, name = key.split("__")
        config[group][name] = value
    return config


def _pool(config):
    return jax.device_put(sweep._load_pool(config).train)


def _start_states(runs):
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(train.initial_state(run.experiment) for run in runs)
    )


def _losses_together(runs, epochs):
    pool = _pool(runs[0].experiment.config)
    program, states = sweep.compile_together(runs, pool), _start_states(runs)
    count, rows = jnp.int32(runs[0].experiment.plan.steps_per_epoch), []
    for _ in range(epochs):
        states, found = program(states, pool, count)
        rows.append(jax.device_get(found))
    return {
        name: np.concatenate([row[name] for row in rows], 1) for name in rows[0] if name != "finite"
    }


def _losses_alone(experiment, epochs):
    program, state = train.compile_train_steps(experiment), train.initial_state(experiment)
    split = jax.device_put(experiment.dataset.train)
    count, rows = jnp.int32(experiment.plan.steps_per_epoch), []
    for _ in range(epochs):
        state, found = program(state, split, count)
        rows.append(jax.device_get(found))
    return {
        name: np.concatenate([row[name] for row in rows]) for name in rows[0] if name != "finite"
    }


def _in_float64(run):
    experiment = run.experiment
    model = experiment.model.clone(dtype=jnp.float64)
    make = steps.make_initial_state(experiment.config, model, experiment.plan, (8, 8, 1))
    shapes = train._laid_out(experiment.mesh, jax.eval_shape(make))
    return run._replace(experiment=experiment._replace(model=model, state_shapes=shapes))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"data__permute": True, "optimizer__weight_decay": 1e-3}])
def test_in_float64_a_setting_trains_as_it_does_alone_throughout(changes):
    config = _config(model__dropout=0.1, **changes)
    with jax.enable_x64(True):
        runs = [_in_float64(run) for run in sweep.make_runs(config, GRID, seeds=2)]
        assert len(runs) == 8
        together = _losses_together(runs, epochs=config.train.epochs)
        for index in (0, 3, 7):
            alone = _losses_alone(runs[index].experiment, epochs=config.train.epochs)
            for name, values in alone.items():
                np.testing.assert_allclose(together[name][index], values, rtol=1e-8)


def test_in_float32_the_first_steps_are_those_of_a_lone_run():
    runs = sweep.make_runs(
        _config(), {"optimizer.beta": [10.0], "optimizer.learning_rate": [0.2, 0.5]}, seeds=2
    )
    together = _losses_together(runs, epochs=1)
    for index in (1, 2):
        alone = _losses_alone(runs[index].experiment, epochs=1)
        np.testing.assert_allclose(together["train/loss"][index], alone["train/loss"], rtol=1e-3)
        np.testing.assert_array_equal(
            together["train/learning_rate"][index], alone["train/learning_rate"]
        )


def test_settings_of_equal_shapes_train_together_and_others_in_turn():
    grid = {
        "model.alpha": [2, 4],
        "optimizer.momentum": [0.0, 0.5, 0.9],
        "optimizer.beta": [1.0, 2.0],
    }
    groups = sweep.group_runs(sweep.make_runs(_config(), grid, seeds=1))
    # Momentum or none is another optimizer state; another amount of momentum is not.
    assert sorted(map(len, groups)) == [2, 2, 4, 4]
    for group in groups:
        assert len({run.experiment.config.model.alpha for run in group}) == 1


def test_each_run_trains_on_its_own_part_of_the_examples():
    runs = sweep.make_runs(_config(), {"optimizer.beta": [1.0]}, seeds=3)
    everything = sweep._load_pool(_config()).train
    for run in runs:
        np.testing.assert_array_equal(
            everything.images[run.subset], run.experiment.dataset.train.images
        )
        np.testing.assert_array_equal(
            everything.labels[run.subset], run.experiment.dataset.train.labels
        )
    assert (runs[0].subset != runs[1].subset).any()


@pytest.mark.slow
def test_a_sweep_ranks_by_validation_and_goes_on_past_what_diverges(tmp_path):
    config = _config(train__epochs=4)
    grid = {"optimizer.learning_rate": [1e30, 0.01, 0.5]}
    rows = sweep.sweep(config, tmp_path, grid, seeds=2)
    assert [row["setting"]["optimizer.learning_rate"] for row in rows] == [0.5, 0.01, 1e30]
    assert [row["diverged"] for row in rows] == [0, 0, 2]
    assert json.loads((tmp_path / sweep.SWEEP_FILE).read_text())["settings"] == rows
    best = rows[0]
    ends = [read_summary(tmp_path / name)["metrics"] for name in best["directories"]]
    values = [end["validation/accuracy"] for end in ends]
    assert best["validation"] == {
        "mean": pytest.approx(np.mean(values)),
        "sd": pytest.approx(np.std(values, ddof=1)),
        "values": values,
    }
    assert "learning_rate" in read_summary(tmp_path / rows[-1]["directories"][0])["diverged"]

    # Nothing is left to do, and a run is one that `main` takes for its own.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.jsonl")}
    assert sweep.sweep(config, tmp_path, grid, seeds=2) == rows
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.jsonl")}
    changed = config_lib.flatten(config)
    alone = config_lib.unflatten(dict(changed) | best["setting"] | {"seed": 1})
    assert train.train_and_evaluate(alone, tmp_path / best["directories"][1])["metrics"] == ends[1]
    lone = train.train_and_evaluate(alone, tmp_path / "lone")["metrics"]
    assert lone["validation/accuracy"] == pytest.approx(ends[1]["validation/accuracy"], abs=0.03)


@pytest.mark.slow
def test_a_sweep_that_is_stopped_ends_with_the_same_bits(tmp_path):
    def start(name):
        command = [sys.executable, "-m", "lconv_jax.sweep", "--config=tests/tiny_config.py"]
        command += [f"--workdir={tmp_path / name}", "--grid", "optimizer.beta=1,10", "--seeds=2"]
        command += ["--config.data.validation=200", "--config.train.epochs=60"]
        command += ["--config.checkpoint.every_epochs=5"]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    straight = start("straight")
    out, err = straight.communicate()
    assert straight.returncode == 0, err
    assert "validation" in out
    stopped = start("stopped")
    while not list((tmp_path / "stopped").glob("*/checkpoints/*")):
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGTERM, err
    assert "the same command continues" in err
    again = start("stopped")
    _, err = again.communicate()
    assert again.returncode == 0, err
    for directory in (tmp_path / "straight").iterdir():
        if directory.is_dir():
            lines = [
                [
                    {k: v for k, v in line.items() if not k.startswith("time/")}
                    for line in metrics.read_metrics(path)
                ]
                for path in (directory, tmp_path / "stopped" / directory.name)
            ]
            assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("optimizer.betta=1", "did you mean config.optimizer.beta"),
        ("optimizer.beta=1,x", "config.optimizer.beta must be float"),
        ("optimizer.beta", "give KEY=VALUE"),
        ("optimizer.beta=1,1.0", "listed twice"),
        ("seed=1,2", "--seeds"),
        ("data.flip=yes", "config.data.flip must be bool"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        sweep.parse_grid([grid])


def test_values_have_the_type_of_their_key():
    grid = sweep.parse_grid(["model.alpha=2,4", "data.flip=true,false", "optimizer.beta=1,1e1"])
    assert grid == {
        "model.alpha": [2, 4],
        "data.flip": [True, False],
        "optimizer.beta": [1.0, 10.0],
    }
    assert type(grid["optimizer.beta"][0]) is float


@pytest.mark.parametrize(
    ("changes", "grid", "message"),
    [
        ({"data__validation": 0}, {}, "config.data.validation = 0"),
        ({"train__shrink": "exact"}, {}, "config.train.shrink"),
        ({}, {"optimizer.beta": [1.0, -1.0]}, "config.optimizer.beta = -1.0"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_written(
    changes, grid, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        sweep.sweep(_config(**changes), tmp_path / "sweep", grid)
    assert not (tmp_path / "sweep").exists()


def test_fewer_run_together_where_memory_ends(monkeypatch):
    runs = sweep.make_runs(_config(), {"optimizer.beta": [1.0, 2.0, 3.0, 4.0]}, seeds=1)
    pool = _pool(_config())
    _, count = sweep._fitting(runs, pool, most=0)
    assert count == 4
    _, count = sweep._fitting(runs, pool, most=3)
    assert count == 3
    sizes = sweep.compile_together(runs, pool).memory_analysis()
    needed = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    monkeypatch.setattr(sweep, "_memory", lambda: 0.8 * needed / sweep._MEMORY_SHARE)
    _, count = sweep._fitting(runs, pool, most=0)
    assert 1 <= count < 4
