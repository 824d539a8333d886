"""Curves are drawn from the values that were logged, extremes among them."""

import numpy as np
import pytest

pytest.importorskip("altair")

from lconv_jax.report import charts


def _rows(chart):
    (rows,) = chart.spec["datasets"].values()
    return rows


def test_a_long_curve_keeps_its_ends_and_extremes_and_invents_nothing():
    rng = np.random.default_rng(0)
    values = dict(enumerate(rng.normal(size=50_000).tolist(), 1))
    values[31_337], values[41_337] = 99.0, -99.0  # spikes of a step
    chart = charts.make("loss", [charts.Series("a", 0, values, None)], form=".4f")
    drawn = {row["step"]: row["v0"] for row in _rows(chart)}
    assert drawn.items() <= values.items()
    assert {1, 50_000, 31_337, 41_337} <= drawn.keys()
    assert len(drawn) < 1300
    assert chart.note.startswith(f"{len(drawn):,} of 50,000 values")
    # Each stretch spans what it spanned.
    for low in range(0, 50_000, 125):
        inside = [values[step] for step in range(low + 1, low + 126)]
        shown = [drawn[step] for step in range(low + 1, low + 126) if step in drawn]
        assert (min(shown), max(shown)) == (min(inside), max(inside))


def test_curves_of_runs_with_other_epochs_meet_at_the_epoch():
    fast = charts.Series("fast", 0, {10: 0.5, 20: 0.25}, 10)
    slow = charts.Series("slow", 1, {100: 0.75}, 100)
    chart = charts.make("loss", [fast, slow], form=".2f")
    first, second = _rows(chart)
    assert (first["x"], first["v0"], first["v1"]) == (1.0, 0.5, 0.75)
    assert second["x"] == 2.0
    assert "v1" not in second
    assert chart.head == ["epoch", "fast", "slow"]
    assert chart.rows == [["1", "0.50", "0.75"], ["2", "0.25", ""]]
    # Where one does not know its epochs, all are drawn by steps.
    chart = charts.make("loss", [fast, slow._replace(per_epoch=None)], form=".2f")
    assert [row["x"] for row in _rows(chart)] == [10, 20, 100]
    assert chart.head == ["step", "fast", "slow"]


def test_a_count_of_zero_is_on_the_scale():
    """A scale of logarithms has no place for 0, and a layer may lose its last weight."""
    series = charts.Series("fc1", 0, {1: 100, 2: 0}, None)
    (_, rule) = chart_layers(charts.make("non-zeros", [series], form=",", log=True))
    assert rule.get("type", "linear") != "log"
    series = charts.Series("fc1", 0, {1: 100, 2: 1}, None)
    (_, rule) = chart_layers(charts.make("non-zeros", [series], form=",", log=True))
    assert rule["type"] == "log"
    assert rule["domain"][0] < 1
    assert rule["domain"][1] > 100


def chart_layers(chart):
    """The layers of a chart, and the scale of its values."""
    layers = chart.spec["layer"]
    return layers, layers[0]["encoding"]["y"]["scale"]


def test_a_table_of_values_ends_at_the_ends():
    values = {step: step / 1000 for step in range(1, 1001)}
    chart = charts.make("loss", [charts.Series("a", 0, values, 10)], form=".3f")
    assert chart.rows[-1] == ["100", "1,000", "1.000"]
    assert 10 < len(chart.rows) < 30
    for _, step, value in chart.rows:
        assert float(value) == pytest.approx(values[int(step.replace(",", ""))], abs=5e-4)


def test_ticks_are_round_and_few():
    assert charts._ticks(90, 1.1e6) == [100, 1000, 10_000, 100_000, 1_000_000]
    assert charts._ticks(0.55, 1.05) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])


def test_what_has_no_value_is_no_chart():
    assert charts.make("loss", [charts.Series("a", 0, {}, None)], form=".4f") is None


def test_more_runs_than_colours_differ_by_their_dashes():
    looks = {(charts.colour(style), charts.dash(style)) for style in range(24)}
    assert len(looks) == 24
