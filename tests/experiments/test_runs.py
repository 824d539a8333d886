"""Results are kept as they come, with what made them, and are not made twice."""

import json

import numpy as np

from lconv_jax import analysis
from lconv_jax.experiments.runs import (
    add_localisation,
    first_kernel,
    run_all,
    table,
    with_overrides,
)
from tests import tiny_config


def test_results_are_kept_and_a_run_is_not_repeated(tmp_path):
    base = tiny_config.get_config()
    configs = {
        "long": with_overrides(base, {"train.epochs": 3}),
        "short": with_overrides(base, {"train.epochs": 2, "model.name": "s_conv"}),
    }
    file = tmp_path / "results" / "all.json"
    first = run_all({"long": configs["long"]}, tmp_path / "runs", file)
    kept = file.read_text()
    again = run_all(configs, tmp_path / "runs", file)
    assert again["long"] == first["long"] == json.loads(kept)["long"]
    assert set(json.loads(file.read_text())) == {"long", "short"}
    assert again["long"]["config"]["train.epochs"] == 3
    assert again["long"]["versions"]["jax"]
    assert again["long"]["device"]
    row = table(again).splitlines()[2]
    assert f"{again['long']['metrics']['eval/accuracy']:.2%}" in row
    assert again["short"]["locality"] == []


def test_localisation_is_added_once_beside_that_of_the_weights_cut(tmp_path):
    sparse = tiny_config.get_config()
    dense = with_overrides(sparse, {"optimizer.name": "sgd"})
    runs, file = tmp_path / "runs", tmp_path / "all.json"
    results = run_all({"sgd": dense, "lasso": sparse}, runs, file)
    twins = {"sgd": "lasso", "lasso": "lasso"}
    add_localisation(results, twins, runs, file, periodic=False)
    assert json.loads(file.read_text()) == results
    found = {name: result["localisation"] for name, result in results.items()}
    assert "cut" not in found["lasso"]
    kernel, shape = first_kernel(runs / "sgd")
    supports = np.count_nonzero(first_kernel(runs / "lasso")[0], axis=0)
    each = round(supports[supports > 0].mean())
    assert each == found["sgd"]["cut"]["weights"] < len(kernel) == found["sgd"]["whole"]["weights"]
    assert (
        found["sgd"]["cut"]["ratio"]
        == analysis.localisation(analysis.cut(kernel, each), shape).ratio
    )

    # What the results have is not computed again: the runs may be gone.
    for run in runs.iterdir():
        run.rename(tmp_path / run.name)
    again = json.loads(file.read_text())
    add_localisation(again, twins, runs, file, periodic=False)
    assert again == results
