"""The table and the runs of the experiment on data of other kinds."""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import pytest

from lconv_jax import config as config_lib
from lconv_jax.experiments import other_data


@pytest.mark.parametrize("name", other_data.SETS)
def test_every_run_of_a_set_has_a_configuration_of_its_own(name):
    found = other_data.configs(name, 2, "recordings")
    arms = 2 if other_data.SETS[name].augmentation else 1
    assert len(found) == len({config_lib.digest(config) for config in found.values()}) == 8 * arms
    for run, config in found.items():
        config_lib.validate(config)
        assert run.startswith(config.model.name)
        assert run.endswith(f"seed {config.seed}")
        assert (config.optimizer.name == "beta_lasso") == ("β-lasso" in run)
        assert (config.data.crop > 0) == ("augmented" in run)
        assert config.data.data_dir == ("recordings" if name == "spoken_digits" else "")
    same = {
        tuple(
            (key, value)
            for key, value in config_lib.flatten(config)
            if key.startswith(("data.", "train."))
        )
        for run, config in found.items()
        if "augmented" not in run
    }
    assert len(same) == 1


def _settings(name):
    return json.loads(pathlib.Path(f"docs/results/other_data_settings/{name}.json").read_text())


@pytest.mark.parametrize("name", other_data.SETS)
def test_the_results_kept_are_those_of_the_configurations(name):
    kept = json.loads(pathlib.Path(f"docs/results/other_data/{name}.json").read_text())
    found = other_data.configs(name, 5, chosen=_settings(name))
    expected = {run: config_lib.digest(each) for run, each in found.items()}
    assert {run: result["config_sha256"] for run, result in kept.items()} == expected


@pytest.mark.parametrize("name", other_data.SETS)
def test_what_was_best_on_examples_held_out_was_chosen(name):
    chosen = _settings(name)
    other_data.check_chosen(name, chosen)
    runs = other_data.configs(name, 1, chosen=chosen)
    for run, found in chosen.items():
        by, settings = found["chosen by"], found["settings"]
        assert len(settings) == 8
        best = max(each[by] or 0 for each in settings)
        assert found["changes"] == [each["changes"] for each in settings if each[by] == best][-1]
        flat = dict(config_lib.flatten(runs[run]))
        assert {key: flat[key] for key in found["changes"]} == found["changes"]


def test_settings_that_are_missing_or_of_another_configuration_are_refused():
    chosen = _settings("gp")
    other_data.check_chosen("gp", chosen)
    run = "s_conv, SGD, seed 0"
    for changed in ({}, chosen[run] | {"config_sha256": "0"}, chosen[run] | {"grid": {}}):
        with pytest.raises(ValueError, match="gp: no settings were chosen for 's_conv, SGD"):
            other_data.check_chosen("gp", chosen | {run: changed})


@pytest.mark.slow
def test_settings_are_chosen_once(tmp_path, monkeypatch):
    tiny = other_data.Set(
        "sfc_planted",
        40,
        {
            "data.name": "planted:examples=200,test=40,length=16",
            "train.epochs": 1,
            "train.batch_size": 40,
        },
        {},
    )
    monkeypatch.setitem(other_data.SETS, "tiny", tiny)
    monkeypatch.setattr(other_data, "METHODS", {"s_fc, SGD": ("s_fc", "sgd")})
    monkeypatch.setitem(other_data._SGD, "optimizer.weight_decay", (0.01, 0.1))
    file = tmp_path / "kept" / "tiny.json"
    chosen = other_data.choose("tiny", "", str(tmp_path / "runs"), str(file))
    assert json.loads(file.read_text()) == chosen
    (found,) = chosen.values()
    assert len(found["settings"]) == 4
    (folder,) = (tmp_path / "runs").iterdir()
    for each in found["settings"]:
        rate, decay = each["changes"].values()
        one = f"optimizer.learning_rate={rate},optimizer.weight_decay={decay}/seed=0"
        summary = json.loads((folder / one / "summary.json").read_text())
        assert summary["metrics"]["validation/accuracy"] == each["validation/accuracy"]
    # Not again, but where what is chosen from is another.
    monkeypatch.setattr(other_data, "_run", None)
    assert other_data.choose("tiny", "", str(tmp_path / "runs"), str(file)) == chosen
    monkeypatch.setitem(other_data.SETS, "tiny", tiny._replace(validation=30))
    with pytest.raises(TypeError):
        other_data.choose("tiny", "", str(tmp_path / "runs"), str(file))


_SAVES_LATE = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, lambda *_: None)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_what_was_started_once_it_has_saved(number, tmp_path):
    file = tmp_path / "state"

    def stop():
        while not file.exists() or file.read_text() != "ready":
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit, match="goes on from here"):
        other_data._run([sys.executable, "-c", _SAVES_LATE, str(file)])
    thread.join()
    assert file.read_text() == "saved"


def test_the_table_takes_each_arm_from_its_own_runs():
    def result(accuracy, **ratios):
        return {
            "metrics": {"eval/accuracy": accuracy, "sparsity/density": 0.25},
            "localisation": {key: {"ratio": ratio} for key, ratio in ratios.items()},
        }

    results = {}
    for augmented in (False, True):
        for seed in range(2):
            better = 0.1 * augmented + 0.02 * seed
            for index, method in enumerate(other_data.METHODS):
                run = other_data.run_name(method, augmented, seed)
                results[run] = result(0.5 + 0.05 * index + better, whole=0.4, cut=0.75 + better)
    rows = other_data.table({"words": results}).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| words", "| words, augmented"]
    assert rows[2].split(" | ")[1:6] == [
        "51.0 ± 1.4",
        "56.0 ± 1.4",
        "61.0 ± 1.4",
        "66.0 ± 1.4",
        "25.0 ± 0.0",
    ]
    assert rows[3].split(" | ")[1:] == [
        "61.0 ± 1.4",
        "66.0 ± 1.4",
        "71.0 ± 1.4",
        "76.0 ± 1.4",
        "25.0 ± 0.0",
        "0.40 ± 0.00",
        "0.86 ± 0.01",
        "2 |",
    ]
