"""The localisation experiment: its configurations and its table."""

import json
import pathlib

from lconv_jax import config as config_lib
from lconv_jax.experiments import localisation
from lconv_jax.experiments.localisation import Cell
from lconv_jax.experiments.runs import with_seeds


def test_a_seed_is_that_of_the_run_and_of_its_data():
    found = localisation.configs(with_seeds(localisation.cells("images"), 2))
    assert len(found) == 8
    for cell, config in found.items():
        config_lib.validate(config)
        assert config.seed == cell.seed
        assert config.optimizer.name == cell.optimizer
        assert config.data.name == f"{cell.source}:seed={config.seed}"
        assert str(cell) == f"{cell.source}, {cell.optimizer}, seed {cell.seed}"
    exponential = Cell("gp_exp", "sgd", 2)
    assert exponential in with_seeds(localisation.cells("exponential"), 3)
    (config,) = localisation.configs([exponential]).values()
    assert config.data.name == "gp:power=1,xi2=3,seed=2"
    assert len({config_lib.digest(config) for config in found.values()}) == 8


def test_the_results_kept_are_those_of_the_configurations():
    kept = json.loads(pathlib.Path("docs/results/localisation.json").read_text())
    expected = {
        str(cell): config_lib.digest(each)
        for group in localisation.FIGURES
        for cell, each in localisation.configs(with_seeds(localisation.cells(group), 5)).items()
    }
    assert {run: result["config_sha256"] for run, result in kept.items()} == expected


def test_the_table_has_mean_and_deviation_of_each_cell_and_of_the_cut_one():
    def result(accuracy, **kernels):
        base = {"weights": 5.0, "spread": 2.0, "null_spread": 4.0, "ipr": 0.1}
        return {
            "metrics": {"eval/accuracy": accuracy},
            "localisation": {key: base | {"ratio": ratio} for key, ratio in kernels.items()},
        }

    rows = localisation.table(
        {
            Cell("nlgp", "beta_lasso"): result(0.5, whole=0.25),
            Cell("gp", "sgd"): result(0.8, whole=0.9, cut=0.7),
            Cell("gp", "sgd", seed=1): result(0.9, whole=0.7, cut=0.7),
        }
    ).splitlines()
    assert rows[2].startswith("| NLGP | β-lasso | 1 | 50.0% | 5.0 | 2.00 | 4.00 | 0.25 |")
    assert rows[3].startswith("| GP | SGD | 2 | 85.0% ± 7.1% |")
    assert "| 0.80 ± 0.14 |" in rows[3]
    assert rows[4].startswith("| GP | SGD, cut | 2 | – |")
    assert len(rows) == 5
