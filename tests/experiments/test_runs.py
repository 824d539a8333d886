"""Results are kept as they come, with what made them, and are not made twice."""

import json
from typing import NamedTuple

import numpy as np
import pytest

from lconv_jax import analysis
from lconv_jax.config import with_overrides
from lconv_jax.experiments import drawing, runs
from lconv_jax.experiments.runs import add_localisation, first_kernel, run_all, table
from lconv_jax.tables import markdown
from tests import tiny_config


class Cell(NamedTuple):
    method: str
    seed: int = 0

    def __str__(self):
        return f"{self.method}-{self.seed}"


def test_cells_are_multiplied_by_seeds_and_gathered_over_them():
    cells = runs.with_seeds((Cell(method) for method in "ab"), 2)
    assert cells == [Cell("a"), Cell("b"), Cell("a", 1), Cell("b", 1)]
    results = dict(zip(cells, range(4), strict=True))
    assert runs.over_seeds(results) == {Cell("a"): [0, 2], Cell("b"): [1, 3]}


def test_a_result_is_found_by_the_name_of_its_cell_and_others_stay(tmp_path):
    file = str(tmp_path / "results" / "all.json")
    assert runs.kept(file, [Cell("a")]) == {}
    runs.keep(file, Cell("a", 1), {"found": 1})
    runs.keep(file, Cell("b"), {"found": 2})
    runs.keep(file, Cell("a", 1), {"found": 3})
    assert json.loads((tmp_path / "results" / "all.json").read_text()) == {
        "a-1": {"found": 3},
        "b-0": {"found": 2},
    }
    assert runs.kept(file, [Cell("a"), Cell("a", 1)]) == {Cell("a", 1): {"found": 3}}


def test_a_figure_is_drawn_once_its_runs_are_finished(tmp_path):
    drawn = []
    for finished in (Cell("a"), Cell("b")):
        said = runs.draw_finished(lambda *w: drawn.append(w), tmp_path, "f", map(Cell, "ab"))
        assert f"{finished} holds no finished run" in said
        assert not drawn
        (tmp_path / str(finished)).mkdir()
        (tmp_path / str(finished) / "summary.json").write_text('{"metrics": {}}')
    assert not runs.draw_finished(lambda *w: drawn.append(w), tmp_path, "f", map(Cell, "ab"))
    assert drawn == [(tmp_path, "f")]


def test_a_figure_is_saved_in_a_folder_that_is_made(tmp_path):
    figure, axes = drawing.new_figure(2, 1, (2, 3), height_ratios=[1, 2], squeeze=False)
    assert axes.shape == (2, 1)
    drawing.save(figure, str(tmp_path / "new" / "figure.png"), dpi=50)
    from matplotlib import image

    assert image.imread(tmp_path / "new" / "figure.png").shape[:2] == (150, 100)


def test_a_table_has_a_row_of_headings_and_a_cell_for_each_value():
    assert markdown(["a", "b"], [[1, Cell("c")], ["–", 2.5]]) == (
        "| a | b |\n| --- | --- |\n| 1 | c-0 |\n| – | 2.5 |"
    )


def test_configurations_are_read_from_the_root_of_a_clone(tmp_path, monkeypatch):
    config = runs.get_config("sfc_nlgp", "sgd", changes={"optimizer.beta": 3.0, "seed": 2})
    assert (config.optimizer.name, config.optimizer.beta, config.seed) == ("sgd", 3.0, 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no .*sfc_nlgp\.py; run this from the root of a clone"):
        runs.get_config("sfc_nlgp")


@pytest.mark.slow
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


@pytest.mark.slow
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
