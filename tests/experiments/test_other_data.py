"""The table and the runs of the experiment on data of other kinds."""

import json
import pathlib

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


@pytest.mark.parametrize("name", other_data.SETS)
def test_the_results_kept_are_those_of_the_configurations(name):
    kept = json.loads(pathlib.Path(f"docs/results/other_data/{name}.json").read_text())
    expected = {run: config_lib.digest(each) for run, each in other_data.configs(name, 5).items()}
    assert {run: result["config_sha256"] for run, result in kept.items()} == expected


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
