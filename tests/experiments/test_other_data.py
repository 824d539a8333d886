"""The table, the runs and the choice of settings of the experiment on data of other kinds."""

import json
import pathlib

import pytest

from lconv_jax import config as config_lib
from lconv_jax.experiments import other_data, sweeps
from lconv_jax.experiments.other_data import Cell
from lconv_jax.experiments.runs import with_seeds


@pytest.mark.parametrize("name", other_data.SETS)
def test_every_run_of_a_set_has_a_configuration_of_its_own(name):
    found = other_data.configs(with_seeds(other_data.cells(name), 2), data_dir="recordings")
    arms = 2 if other_data.SETS[name].augmentation else 1
    assert len(found) == len({config_lib.digest(config) for config in found.values()}) == 8 * arms
    assert len({str(cell) for cell in found}) == len(found)
    for cell, config in found.items():
        config_lib.validate(config)
        assert cell.set == name
        assert config.seed == cell.seed
        assert (config.model.name, config.optimizer.name) == other_data.METHODS[cell.method]
        assert (config.data.crop > 0) == cell.augmented
        assert config.data.data_dir == ("recordings" if name == "spoken_digits" else "")
    same = {
        tuple(
            (key, value)
            for key, value in config_lib.flatten(config)
            if key.startswith(("data.", "train."))
        )
        for cell, config in found.items()
        if not cell.augmented
    }
    assert len(same) == 1


def test_a_name_says_how_a_set_is_learned():
    assert str(Cell("words", "s_fc, β-lasso", augmented=True, seed=3)) == (
        "s_fc, β-lasso, augmented, seed 3"
    )
    assert str(Cell("gp", "s_conv, SGD")) == "s_conv, SGD, seed 0"


def _file(name):
    return f"docs/results/other_data_settings/{name}.json"


@pytest.fixture
def no_sweep(monkeypatch):
    """Sweeps raise _SweptError."""

    def run(*_, **__):
        raise _SweptError

    monkeypatch.setattr(sweeps, "run", run)


class _SweptError(Exception):
    pass


@pytest.mark.usefixtures("no_sweep")
@pytest.mark.parametrize("name", other_data.SETS)
def test_the_results_kept_are_those_of_the_configurations(name):
    kept = json.loads(pathlib.Path(f"docs/results/other_data/{name}.json").read_text())
    settings = other_data.choose(name, "", "", _file(name))
    found = other_data.configs(with_seeds(other_data.cells(name), 5), settings)
    expected = {str(cell): config_lib.digest(each) for cell, each in found.items()}
    assert {run: result["config_sha256"] for run, result in kept.items()} == expected


@pytest.mark.usefixtures("no_sweep")
@pytest.mark.parametrize("name", other_data.SETS)
def test_what_was_best_on_examples_held_out_was_chosen(name):
    kept = json.loads(pathlib.Path(_file(name)).read_text())
    chosen = other_data.choose(name, "", "", _file(name))
    assert {str(cell) for cell in chosen} == set(kept)
    configs = other_data.configs(chosen, chosen)
    for cell, changes in chosen.items():
        found = kept[str(cell)]
        by, settings = found["chosen by"], found["settings"]
        assert by == ("eval/accuracy" if name == "spoken_digits" else "validation/accuracy")
        assert len(settings) == 8
        best = max(each[by] or 0 for each in settings)
        assert found["changes"] == [each["changes"] for each in settings if each[by] == best][-1]
        flat = dict(config_lib.flatten(configs[cell]))
        assert changes == found["changes"] == {key: flat[key] for key in found["changes"]}


@pytest.mark.usefixtures("no_sweep")
def test_settings_that_are_missing_or_of_another_choice_are_chosen_anew(tmp_path):
    kept = json.loads(pathlib.Path(_file("gp")).read_text())
    file = tmp_path / "gp.json"
    other_data.choose("gp", "", "", _file("gp"))
    run = str(Cell("gp", "s_conv, SGD"))
    by_test = kept[run] | {"chosen by": "eval/accuracy"}
    for changed in ({}, kept[run] | {"config_sha256": "0"}, kept[run] | {"grid": {}}, by_test):
        file.write_text(json.dumps(kept | {run: changed}))
        with pytest.raises(_SweptError):
            other_data.choose("gp", "", "", file)
        assert json.loads(file.read_text()) == kept | {run: changed}


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
    )
    monkeypatch.setitem(other_data.SETS, "tiny", tiny)
    monkeypatch.setattr(other_data, "METHODS", {"s_fc, SGD": ("s_fc", "sgd")})
    monkeypatch.setitem(other_data._SGD, "optimizer.weight_decay", (0.01, 0.1))
    file, runs_dir = tmp_path / "kept" / "tiny.json", tmp_path / "runs"
    chosen = other_data.choose("tiny", "", str(runs_dir), str(file))
    ((cell, changes),) = chosen.items()
    ((name, found),) = json.loads(file.read_text()).items()
    assert name == str(cell)
    assert found["changes"] == changes
    assert len(found["settings"]) == 4
    (folder,) = runs_dir.iterdir()
    assert folder.name.startswith(f"{name}, ")
    for each in found["settings"]:
        rate, decay = each["changes"].values()
        one = f"optimizer.learning_rate={rate},optimizer.weight_decay={decay}/seed=0"
        summary = json.loads((folder / one / "summary.json").read_text())
        assert summary["metrics"]["validation/accuracy"] == each["validation/accuracy"]
    # Not again, but where what is chosen from is another: in a folder of its own.
    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "run", None)
        assert other_data.choose("tiny", "", str(runs_dir), str(file)) == chosen
    monkeypatch.setitem(other_data.SETS, "tiny", tiny._replace(validation=80))
    other_data.choose("tiny", "", str(runs_dir), str(file))
    assert len(list(runs_dir.iterdir())) == 2
    assert json.loads(file.read_text())[name]["config_sha256"] != found["config_sha256"]


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
                cell = Cell("words", method, augmented, seed)
                results[cell] = result(0.5 + 0.05 * index + better, whole=0.4, cut=0.75 + better)
    rows = other_data.table(results).splitlines()
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
    # Runs of another set with the same names are not mixed in.
    other = {cell._replace(set="mnist1d"): found for cell, found in results.items()}
    assert other_data.table(results | other).splitlines()[2:4] == rows[2:4]
