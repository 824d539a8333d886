"""Experiments on size: runs are valid, curves are of the run, λ is chosen where it is to be."""

import types

import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax.experiments import runs, scale
from lconv_jax.experiments.scale import Cell
from lconv_jax.rundir import metrics


@pytest.mark.slow
@pytest.mark.parametrize("group", scale.GROUPS)
def test_every_run_is_valid_and_another_one(group):
    configs = {cell: scale.config_of(cell) for cell in scale.cells(group)}
    for cell, config in configs.items():
        config_lib.validate(config)
        assert config.model.alpha == cell.alpha
        assert bool(config.data.surrogate) == (cell.noise > 0)
        if group != "gain":
            assert config.data.examples == cell.examples
            assert config.data.crop == 0
    # Before its λ is chosen, the tuned method is the other one.
    digests = {config_lib.digest(c) for cell, c in configs.items() if "tuned" not in cell.method}
    assert len(digests) == sum("tuned" not in cell.method for cell in configs)


@pytest.mark.slow
def test_lambda_is_chosen_and_curves_are_kept(tmp_path, monkeypatch):
    short = scale.GROUPS["width"]._replace(
        alphas=(1,),
        examples=(300,),
        noise=(0.0, 0.2),
        changes={
            **{"data.name": "digits", "data.crop": 0, "train.batch_size": 50},
            **{"train.epochs": 4, "log.eval_every_epochs": 2},
        },
    )
    monkeypatch.setitem(scale.GROUPS, "width", short)
    monkeypatch.setattr(scale, "_HELD_OUT", 100)
    options = types.SimpleNamespace(
        **{"group": "width", "seeds": 1, "data_dir": "", "figures": str(tmp_path)},
        **{"runs_dir": str(tmp_path / "runs"), "results": str(tmp_path / "scale.json")},
    )
    scale.train_missing(options)
    results = runs.kept(options.results, runs.with_seeds(scale.cells("width"), 9))
    assert list(results) == scale.cells("width")
    chosen = runs.read_kept(str(tmp_path / "scale-choices.json"))
    tuned = [cell for cell in results if cell.method == "β-lasso, tuned"]
    assert set(chosen) == set(map(str, tuned))
    for cell in tuned:
        settings = chosen[str(cell)]["settings"]
        assert len(settings) == 3
        best = max(each["validation/accuracy"] for each in settings)
        used = results[cell]["config"].get("optimizer.reference_lr_sum")
        (found,) = [s for s in settings if s["changes"]["optimizer.reference_lr_sum"] == used]
        assert found["validation/accuracy"] == best
    cell = Cell("width", "SGD", 1, 300, 0.2)
    curve = results[cell]["curve"]
    lines = metrics.read_metrics(f"{options.runs_dir}/{cell}")
    last = [
        line["train/accuracy"] for line in lines if line["step"] > 12 and "train/accuracy" in line
    ]
    assert curve["step"] == [12, 24]
    assert len(last) == 12
    assert curve["train"][1] == pytest.approx(1 - np.mean(last))
    assert curve["test"][1] == pytest.approx(1 - results[cell]["metrics"]["eval/accuracy"])
    text = scale.show(options)
    assert text.count("| width |") == 6
    assert (tmp_path / "scale-width.png").exists()
