"""Results are kept as they come, with what made them, and are not made twice."""

import json

from lconv_jax.experiments.runs import run_all, table, with_overrides
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
