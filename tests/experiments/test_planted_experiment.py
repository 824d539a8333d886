"""The planted experiment: its configurations, its table and the fields that are drawn."""

import json
import pathlib

import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax.data.sources import planted
from lconv_jax.experiments import planted as experiment
from lconv_jax.experiments.runs import with_seeds


def test_a_run_s_teacher_has_its_seed():
    found = experiment.configs(with_seeds(experiment.cells(), 2))
    assert len(found) == len({config_lib.digest(config) for config in found.values()}) == 24
    for cell, config in found.items():
        config_lib.validate(config)
        assert config.optimizer.name == cell.optimizer
        assert f"kind={cell.kind}," in config.data.name
        assert f"correlation={3 * (cell.inputs == 'correlated')}," in config.data.name
        assert config.data.name.endswith(f",seed={cell.seed}")
        assert config.seed == cell.seed
        assert str(cell) == f"{cell.kind}, {cell.inputs}, {cell.optimizer}, seed {cell.seed}"


def test_the_results_kept_are_those_of_the_configurations():
    kept = json.loads(pathlib.Path("docs/results/planted.json").read_text())
    found = experiment.configs(with_seeds(experiment.cells(), 5))
    expected = {str(cell): config_lib.digest(each) for cell, each in found.items()}
    assert {run: result["config_sha256"] for run, result in kept.items()} == expected


def test_the_table_shows_sgd_by_its_largest_weights_and_chance_in_brackets():
    def result(optimizer, seed):
        shares = {"precision": 0.5 + 0.1 * seed, "recall": 0.25}
        null = {"precision": 0.2, "recall": 0.1}
        matches = {"best": shares, "one_to_one": shares, "best_null": null, "one_to_one_null": null}
        return {
            "metrics": {"eval/accuracy": 0.9 + 0.02 * seed, "sparsity/density": 0.1},
            "recovery": {
                "all": {"units": 8 if optimizer == "beta_lasso" else 0, **matches},
                "largest": {"units": 256, **matches},
            },
        }

    results = {
        cell: result(cell.optimizer, cell.seed) for cell in with_seeds(experiment.cells(), 2)
    }
    rows = experiment.table(results).splitlines()[2:]
    assert len(rows) == 12
    shares = "0.55 (0.20) | 0.25 (0.10) | 0.55 (0.20) | 0.25 (0.10) |"
    start = "| local | independent |"
    assert rows[0] == f"{start} β-lasso | 91.0% ± 1.4% | 10.0% | 8 | {shares}"
    assert rows[1] == f"{start} SGD | 91.0% ± 1.4% | 10.0% | 256 | {shares}"


@pytest.mark.parametrize("kind", planted.KINDS)
def test_fields_are_drawn_beside_the_unit_that_reads_the_same_inputs(kind):
    teacher = planted.teacher(f"planted:kind={kind},units=4,length=20,examples=2,test=2")
    rng = np.random.default_rng(0)
    order = rng.permutation(teacher.weights.shape[1])
    turned = teacher.weights[:, order] * rng.choice([-1, 1], len(order))
    known, mine, theirs = experiment.matched_fields((turned, teacher), (turned, teacher))
    assert 4 <= len(known) <= 8
    columns = {column.tobytes() for column in np.ascontiguousarray(teacher.weights.T)}
    assert all(field.tobytes() in columns for field in np.ascontiguousarray(known))
    for field, learned, dense in zip(known, mine, theirs, strict=True):
        np.testing.assert_array_equal(learned != 0, field != 0)
        np.testing.assert_array_equal(dense != 0, field != 0)
        assert learned @ field > 0
