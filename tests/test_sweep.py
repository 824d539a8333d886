"""The grid, its groups, the ranking, and a sweep that is killed."""

import itertools
import json
import os
import pathlib
import shlex
import signal
import time

import pytest

from lconv_jax import errors, sweep
from lconv_jax.config import KEYS, ConfigError, with_overrides
from lconv_jax.experiments import sweeps
from lconv_jax.host.signals import deferred_signals
from lconv_jax.rundir import metrics
from lconv_jax.training import lanes, loop
from tests import processes, tiny_config
from tests.helpers import beside_life


def _config(**changes):
    return with_overrides(tiny_config.get_config(), {"data.validation": 200} | changes)


def test_the_grid_is_the_product_of_its_values_and_the_seeds():
    grid = sweep.parse_grid(
        ["optimizer.l1.conv=1e-4,3e-4", "train.batch_size=64,128", "data.flip=true,False"]
    )
    assert grid == {
        "optimizer.l1.conv": [1e-4, 3e-4],
        "train.batch_size": [64, 128],
        "data.flip": [True, False],
    }
    settings = sweeps.expand(_config(seed=5), grid, seeds=3)
    got = [
        (c.optimizer.l1.conv, c.train.batch_size, c.data.flip, c.seed)
        for setting in settings
        for c in setting.configs
    ]
    assert got == list(itertools.product([1e-4, 3e-4], [64, 128], [True, False], [5, 6, 7]))
    folders = [folder for setting in settings for folder in setting.directories("runs")]
    assert len(set(folders)) == len(got)
    assert folders[0] == "runs/optimizer.l1.conv=0.0001,train.batch_size=64,data.flip=True/seed=5"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["optimizer.beta"], "--grid optimizer.beta: it must be KEY=VALUE"),
        (["optimizer.bet=1"], "config.optimizer.bet is not a key; did you mean config.optimizer.b"),
        (["optimizer.beta=1,ten"], "--grid optimizer.beta: 'ten' must be float, ≥ 0"),
        (["optimizer.beta=1\r2"], "--grid 'optimizer.beta=1.*: new-line character seen"),
        (["optimizer.beta="], "--grid optimizer.beta: '' must be float, ≥ 0"),
        (["train.epochs=1.5"], "--grid train.epochs: '1.5' must be int, ≥ 1"),
        (["data.flip=maybe"], "--grid data.flip: 'maybe' must be bool"),
        (["optimizer.beta=1", "optimizer.beta=2"], "optimizer.beta has values already"),
        (["optimizer.beta=1,1.0"], r"the grid's optimizer.beta has the values \[1.0, 1.0\]"),
        (["optimizer.beta=1,-1"], "config.optimizer.beta = -1.0 must be ≥ 0"),
        (["optimizer.learning_rate=inf"], "config.optimizer.learning_rate = inf must be finite"),
        (["model.name=s_fc,s_cnv"], "config.model.name = 's_cnv' must be one of d_conv"),
        (["seed=0,1"], "seed is no key of a grid; --seeds=N"),
        (["data.validation=0,200"], "config.data.validation = 0, but settings are ranked"),
        (["data.validation=200,1437"], "data.validation = 1437"),
        (["train.batch_size=128,5000"], "config.train.batch_size = 5000 is more than the"),
        (["data.crop=1,8"], "data.crop = 8: accepts 0 … 7"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(texts, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        sweeps.run(_config(), tmp_path / "sweep", sweep.parse_grid(texts))
    assert not (tmp_path / "sweep").exists()


def test_a_value_with_commas_is_quoted():
    grid = sweep.parse_grid(['data.name="nlgp:length=64,seed=1",digits', "optimizer.beta=1,10"])
    assert grid["data.name"] == ["nlgp:length=64,seed=1", "digits"]
    assert grid["optimizer.beta"] == [1.0, 10.0]


def test_a_grid_of_more_runs_than_anybody_trains_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"--seeds=1000000000 make 2000000000 runs; 10000 are"):
        sweeps.expand(_config(), {"optimizer.beta": [1, 2]}, seeds=10**9)


def test_a_grid_whose_directories_no_disk_takes_is_refused():
    grid = {key: [default.default] for key, default in KEYS.items() if key != "seed"}
    grid |= {"optimizer.l1.conv": [1e-3], "data.validation": [200]}
    with pytest.raises(ConfigError, match=r"255 are possible. Give fewer keys"):
        sweeps.expand(_config(), grid)


def test_flags_of_several_processes_are_refused(tmp_path):
    command = ["lconv_jax.sweep", "--config=tests/tiny_config.py"]
    command += [f"--workdir={tmp_path / 'sweep'}", "--num_processes=2"]
    status, _, err = processes.run(*command)
    assert status == 1
    assert err.startswith("error: --num_processes: a sweep is one process")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("shrink", ["none", "exact"])
def test_a_signal_as_one_run_ends_stops_those_after_it(shrink, tmp_path, monkeypatch):
    trained = []

    def train_one(runs, whole, program):
        with deferred_signals():
            trained.append(runs[0].directory)
            signal.raise_signal(signal.SIGTERM)

    def train_alone(config, directory):
        train_one([lanes.Run(None, directory)], None, None)

    monkeypatch.setattr(lanes, "compile_together", lambda group, whole: _Memory(len(group)))
    monkeypatch.setattr(lanes, "train_together", train_one)
    monkeypatch.setattr(loop, "train_and_evaluate", train_alone)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(errors.Stopped):
        sweeps.run(_config(**{"train.shrink": shrink}), tmp_path, {}, seeds=3, most=1)
    assert len(trained) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_sweep_s_directory_is_refused_before_anything_is_written(tmp_path):
    (setting,) = sweeps.expand(_config(), {"optimizer.beta": [2]})
    (folder,) = map(pathlib.Path, setting.directories(str(tmp_path)))
    folder.mkdir(parents=True)
    config = _config(**{"train.epochs": 3, "optimizer.beta": 2.0}).to_dict()
    text = json.dumps({"config": config, "data_sha256": "", "changes": []})
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config.train.epochs: 3 there, 12 here"):
        sweeps.run(_config(), tmp_path, {"optimizer.beta": [1, 2]})
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [folder / "config.json"]


class _Memory:
    """A program that only says how much memory it takes: 10 bytes a run, and 5."""

    def __init__(self, runs):
        self.argument_size_in_bytes, self.output_size_in_bytes = 10 * runs, 10 * runs
        self.alias_size_in_bytes, self.temp_size_in_bytes = 10 * runs, 5

    def memory_analysis(self):
        return self


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most", "available", "sizes"),
    [
        (0, 1000, [6, 6]),
        (0, 65, [6, 6]),
        (0, 64, [3, 3, 3, 3]),
        (0, 30, [2, 2, 2, 2, 2, 2]),
        (0, 1, [1] * 12),
        (5, 1000, [3, 3, 3, 3]),
        (4, 1, [3, 3, 3, 3]),
        (100, 1, [6, 6]),
    ],
)
def test_as_many_train_together_as_memory_and_the_flag_allow(
    most, available, sizes, tmp_path, monkeypatch
):
    trained = []

    def train_together(runs, whole, program):
        assert program.argument_size_in_bytes == 10 * len(runs)
        assert len({lanes.program_key(run.setup.config) for run in runs}) == 1
        trained.append([run.directory for run in runs])

    monkeypatch.setattr(lanes, "compile_together", lambda group, whole: _Memory(len(group)))
    monkeypatch.setattr(lanes, "train_together", train_together)
    monkeypatch.setattr(lanes, "bytes_available", lambda: available)
    monkeypatch.setattr(lanes, "most_together", lambda setup: 1000)
    grid = {"optimizer.beta": [1, 2], "model.alpha": [2, 3]}
    result = sweeps.run(_config(), tmp_path, grid, seeds=3, most=most)
    assert [len(chunk) for chunk in trained] == sizes
    assert len({directory for chunk in trained for directory in chunk}) == 12
    assert result["best"] is None, "none has a summary"


def _write(folder, validation, test=0.5, density=0.1):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    found = {"validation/accuracy": validation, "eval/accuracy": test, "sparsity/density": density}
    (folder / "summary.json").write_text(json.dumps({"metrics": found}))


def test_the_ranking_is_by_mean_validation_accuracy_of_whole_settings(tmp_path):
    grid = {"optimizer.beta": [0, 1, 10, 50], "optimizer.l1.conv": [1e-4]}
    settings = sweeps.expand(_config(), grid, seeds=2)
    low, high, diverged, unfinished = (s.directories(str(tmp_path)) for s in settings)
    _write(low[0], 0.7, test=0.9)
    _write(low[1], 0.6, test=0.9)
    _write(high[0], 0.8)
    _write(high[1], 0.6)
    _write(diverged[0], 0.99)
    pathlib.Path(diverged[1]).mkdir()
    lanes.mark_diverged(diverged[1], RuntimeError("not finite"))
    _write(unfinished[1], 0.95)
    result = sweeps.collect(settings, str(tmp_path), ["--config=a.py", "--config.train.epochs=3"])
    assert [s["changes"]["optimizer.beta"] for s in result["settings"]] == [1.0, 0.0, 10.0, 50.0]
    first = result["settings"][0]
    assert first["validation/accuracy"]["mean"] == pytest.approx(0.7)
    assert first["validation/accuracy"]["sd"] == pytest.approx(0.02**0.5)
    assert result["best"]["changes"] == {"optimizer.beta": 1.0, "optimizer.l1.conv": 1e-4}
    assert shlex.split(result["best"]["command"]) == [
        *("python", "-m", "lconv_jax.main", "--config=a.py", "--config.train.epochs=3"),
        *("--config.optimizer.beta=1", "--config.optimizer.l1.conv=0.0001"),
        f"--workdir={tmp_path}/best",
    ]
    head, *body = sweeps.rows(result)
    assert head == [
        "",
        "beta",
        "l1.conv",
        "validation accuracy",
        "test accuracy",
        "density",
        "runs",
    ]
    assert body[0][3:] == ["70.00% ± 14.14%", "50.00% ± 0.00%", "10.00% ± 0.00%", "2"]
    assert [line[-1] for line in body] == ["2", "2", "1 of 2, 1 diverged", "1 of 2"]
    assert len(sweeps.markdown(result).splitlines()) == 2 + 4 + 2


def test_shrinking_runs_are_trained_alone(tmp_path, monkeypatch):
    def train_alone(config, workdir):
        if config.seed:
            os.makedirs(workdir)
            raise errors.TrainingError("not finite")
        _write(workdir, 0.75)

    monkeypatch.setattr(loop, "train_and_evaluate", train_alone)
    config = _config(**{"train.shrink": "exact", "optimizer.momentum": 0.0})
    (setting,) = sweeps.run(config, tmp_path, {"optimizer.beta": [10.0]}, seeds=2)["settings"]
    assert [run.get("validation/accuracy") for run in setting["runs"]] == [0.75, None]
    assert setting["runs"][1]["diverged"] == "not finite"


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_says_what_it_would_have(tmp_path):
    command = ["lconv_jax.sweep", "--config=tests/tiny_config.py"]
    command += ["--config.data.validation=200", "--seeds=2"]
    command += ["--grid=optimizer.beta=5,10", "--config.train.epochs=20"]

    def start(workdir):
        return processes.start(*command, f"--workdir={workdir}")

    def runs(workdir):
        return {
            str(path.parent.relative_to(workdir)): [
                {k: v for k, v in line.items() if not k.startswith("time/")}
                for line in metrics.read_metrics(path.parent)
            ]
            for path in workdir.rglob("config.json")
        }

    reference, killed = tmp_path / "reference", tmp_path / "killed"
    out, err = start(reference).communicate()
    assert beside_life(err) == []
    assert out.splitlines()[-1].startswith("the best alone: python -m lconv_jax.main --config=")

    def saved():
        return {path for path in killed.glob("*/*/checkpoints/*") if path.name.isdigit()}

    # Where some of the runs have saved their state; and again, further on.
    for number in (signal.SIGKILL, signal.SIGTERM):
        before, process = saved(), start(killed)
        while not saved() - before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command continues the run" in err
    process = start(killed)
    again, err = process.communicate()
    assert process.returncode == 0, err
    assert again.replace(str(killed), "") == out.replace(str(reference), "")
    assert runs(killed) == runs(reference)
    assert len(runs(killed)) == 4


def test_errors_of_the_command_line_are_one_line(tmp_path):
    status, _, err = processes.run(
        *("lconv_jax.sweep", "--config=tests/tiny_config.py", f"--workdir={tmp_path}/new"),
        *("--grid", "optimizer.beta=1,2"),
    )
    assert status == 1
    assert err.startswith("error: config.data.validation = 0, but settings are ranked")
    assert not (tmp_path / "new").exists()
