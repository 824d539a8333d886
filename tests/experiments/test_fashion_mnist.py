"""The runs on Fashion-MNIST, and their table."""

import json
import pathlib

from lconv_jax import config as config_lib
from lconv_jax.experiments import fashion_mnist

CELLS = [cell for group in fashion_mnist.GROUPS for cell in fashion_mnist.cells(group, 100)]


def test_a_job_has_its_own_number_of_seeds_and_no_more_than_are_asked_for():
    assert [str(cell) for cell in fashion_mnist.cells("seeds", 2)] == [
        *("beta_lasso, seed 0", "sgd, seed 0", "sgd, weight decay, seed 0"),
        *("beta_lasso, seed 1", "sgd, seed 1", "sgd, weight decay, seed 1"),
    ]
    found = fashion_mnist.cells("seeds", 9)
    assert [cell.variant for cell in found].count("beta_lasso") == 5
    assert [cell.variant for cell in found].count("sgd") == 3
    assert fashion_mnist.cells("others", 9) == fashion_mnist.cells("others", 1)


def test_every_run_has_a_name_and_a_configuration_of_its_own():
    found = fashion_mnist.configs(CELLS, "images")
    for cell, config in found.items():
        config_lib.validate(config)
        assert config.seed == cell.seed
        assert (config.data.validation == 2000) == (cell.group == "tune")
        assert config.data.data_dir == ("images" if cell.group == "full" else "")
    assert len({config_lib.digest(config) for config in found.values()}) == len(found)
    assert len({str(cell) for cell in found}) == len(found) == 22


def test_the_results_kept_are_those_of_the_runs():
    kept = json.loads(pathlib.Path("docs/results/fashion_mnist.json").read_text())
    base = dict(config_lib.flatten(config_lib.base_config()))
    expected = {
        str(cell): {key: v for key, v in config_lib.flatten(config) if v != base[key]}
        for cell, config in fashion_mnist.configs(CELLS).items()
    }
    assert set(kept) == set(expected)
    for name, changes in expected.items():
        free = {key for key in changes if config_lib.is_free(key)}
        assert kept[name]["config"] == {key: changes[key] for key in changes.keys() - free}


def test_the_table_has_a_line_for_each_job_of_several_seeds():
    def result(accuracy, density):
        return {
            "metrics": {"eval/accuracy": accuracy, "sparsity/density": density},
            "weights": {},
            "locality": [],
        }

    results = {
        fashion_mnist.Cell("seeds", "sgd, weight decay"): result(0.5, 1.0),
        fashion_mnist.Cell("seeds", "sgd"): result(0.7, 1.0),
        fashion_mnist.Cell("seeds", "sgd", 1): result(0.9, 0.5),
    }
    lines = fashion_mnist.table(results).splitlines()
    assert lines[2].startswith("| sgd, weight decay, seed 0 | 50.00% |")
    assert lines[5:] == ["sgd: test accuracy 80.00% ± 14.14%, density 75.0%, 2 seeds"]
