"""The networks that are described: their runs, results and table."""

import json
import os
import pathlib

from lconv_jax import config as config_lib
from lconv_jax.experiments import description, runs
from lconv_jax.experiments.description import Cell

KEPT = pathlib.Path("docs/results/description")


def test_the_results_kept_are_those_of_the_runs():
    cells = runs.with_seeds(description.cells(("sfc", "sconv", "slocal")), 5)
    assert set(os.listdir(KEPT)) == {f"{cell}.json" for cell in cells}
    found = description.kept(str(KEPT), runs.with_seeds(description.cells(description.MODELS), 9))
    assert found == {cell: json.loads((KEPT / f"{cell}.json").read_text()) for cell in cells}


def test_every_network_has_a_run_of_its_own():
    configs = description.configs(description.cells(description.MODELS))
    for cell, config in configs.items():
        config_lib.validate(config)
        # Pruned and trained for its file, s_fc starts from the same run.
        model = description.MODELS[cell.model]
        same = [c for c, other in configs.items() if other == config]
        assert [description.MODELS[c.model].options for c in same].count(model.options) == 1


def test_a_run_described_by_epoch_is_no_seed_of_another():
    cells = [*description.cells(["sfc"]), description.BY_EPOCH]
    plain, by_epoch = description.configs(cells, "images").values()
    assert [str(cell) for cell in cells] == ["sfc-seed0", "sfc-epochs"]
    assert plain.log.describe_every_epochs == 0
    assert by_epoch.log.describe_every_epochs == 1
    assert plain.data.data_dir == by_epoch.data.data_dir == "images"


def test_the_table_has_means_over_the_seeds_of_each_network():
    def result(bound, **rounded):
        return {
            "mdl/kl_bound": bound,
            "mdl/train_error": 0.1,
            "test_error": 0.2,
            "mdl/bits": 10_000 * bound,
            "nonzeros": [1000, 500],
            **rounded,
        }

    results = {
        Cell("sfc"): result(0.25, rounded_kl_bound=0.3),
        Cell("sfc_sgd"): result(0.5),
        Cell("sfc", seed=1): result(0.75, rounded_kl_bound=0.3),
    }
    assert description.table(results).splitlines()[2:] == [
        "| s_fc, β-lasso | 2 | 0.500 ± 0.354 | 0.300 ± 0.000 | 0.100 ± 0.000 | 0.200 ± 0.000 "
        "| 5,000 ± 3,536 | 1,500 ± 0 |",
        "| s_fc, SGD | 1 | 0.500 | – | 0.100 | 0.200 | 5,000 | 1,500 |",
    ]
