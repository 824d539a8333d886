"""Curves as Vega-Lite charts, with the values under the pointer, and as tables of the same numbers.

Colours are CSS variables of the page (--c0 … --c7), so that light, dark and print have their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

# Of the page's palette; after them the same colours come dashed, then dotted.
COLOURS = 8
DASHES = ((1, 0), (6, 3), (2, 2))
# Steps in which a curve is divided if it has more values; of each its extremes are drawn.
_MOST_PARTS = 400
# Rows of a table of values, about.
_MOST_ROWS = 24
# Curves with fewer values have a mark at each.
_FEW = 60


class Series(NamedTuple):
    """One curve.

    Attributes:
      label: of the curve.
      style: its place among the colours, and among the dashes after those.
      values: by step.
      per_epoch: steps of an epoch, None if it is not known.
    """

    label: str
    style: int
    values: Mapping[int, float]
    per_epoch: int | None


class Chart(NamedTuple):
    """Some curves on the page.

    Attributes:
      title: of the chart.
      spec: Vega-Lite, as JSON has it.
      series: the curves.
      head: of the table of values: "epoch", "step" and labels, as far as they are there.
      rows: of that table, as text; "" where a curve has no value.
      note: what was left out; empty if nothing was.
    """

    title: str
    spec: dict[str, Any]
    series: list[Series]
    head: list[str]
    rows: list[list[str]]
    note: str


def colour(style: int) -> str:
    """The CSS variable of a curve."""
    return f"var(--c{style % COLOURS})"


def dash(style: int) -> tuple[int, int]:
    """Lengths of strokes and gaps of a curve."""
    return DASHES[style // COLOURS % len(DASHES)]


def make(
    title: str,
    series: Sequence[Series],
    *,
    form: str,
    log: bool = False,
) -> Chart | None:
    """A chart of curves over epochs or, where one does not know them, over steps.

    Args:
      title: what the values are.
      series: curves, those without values among them.
      form: of a value, for Python and for D3, which have these in common: ",", ".4f", ".2%".
      log: of the axis of values; kept linear where a value is 0 or less.

    Returns:
      None if no curve has a value.
    """
    series = [each for each in series if each.values]
    if not series:
        return None
    kept = [thin(each.values) for each in series]
    by_epoch = all(each.per_epoch for each in series)

    def place(each: Series, step: int) -> float:
        return round(step / (each.per_epoch or 1), 6) if by_epoch else step

    table: dict[float, dict[str, Any]] = {}
    for index, (each, steps) in enumerate(zip(series, kept, strict=True)):
        for step in steps:
            row = table.setdefault(place(each, step), {})
            row["step"] = step
            row[f"v{index}"] = each.values[step]
    rows = [{"x": x, **row} for x, row in sorted(table.items())]
    one_clock = len({each.per_epoch for each in series}) == 1
    positive = all(value > 0 for each in series for value in each.values.values())
    spec = _spec(title, series, kept, rows, by_epoch, one_clock, form, log and positive)
    total = sum(len(each.values) for each in series)
    drawn = sum(map(len, kept))
    note = ""
    if drawn < total:
        note = (
            f"{drawn:,} of {total:,} values are drawn: of each stretch of a curve its first, its "
            "smallest and its largest, and the last of all."
        )
    head, text = _table(series, place, by_epoch, one_clock, form)
    return Chart(title, spec, series, head, text, note)


def thin(values: Mapping[int, float]) -> list[int]:
    """The steps that are drawn, ascending: all, or first and extremes of each stretch, and the end.

    Args:
      values: by step.
    """
    steps = sorted(values)
    if len(steps) <= 3 * _MOST_PARTS:
        return steps
    kept = {steps[-1]}
    for part in range(_MOST_PARTS):
        low, high = (len(steps) * each // _MOST_PARTS for each in (part, part + 1))
        stretch = steps[low:high]
        kept |= {stretch[0], min(stretch, key=values.__getitem__)}
        kept.add(max(stretch, key=values.__getitem__))
    return sorted(kept)


def _spec(
    title: str,
    series: Sequence[Series],
    kept: Sequence[Sequence[int]],
    rows: list[dict[str, Any]],
    by_epoch: bool,
    one_clock: bool,
    form: str,
    log: bool,
) -> dict[str, Any]:
    unit = "epoch" if by_epoch else "step"
    x = alt.X("x:Q").title(unit).scale(nice=False, zero=False)
    scale, axis = alt.Scale(zero=False), alt.Axis()
    if log:
        values = [value for each in series for value in each.values.values()]
        scale = alt.Scale(type="log", domain=[0.9 * min(values), 1.1 * max(values)], nice=False)
        axis = alt.Axis(values=_ticks(0.9 * min(values), 1.1 * max(values)))
    axis.format = form.replace(".2%", "~%").replace(".4f", "~g")
    layers: list[Any] = []
    for index, each in reversed(list(enumerate(series))):  # the first on top
        y = alt.Y(f"v{index}:Q").title(None).scale(scale).axis(axis)
        common: Any = {"invalid": "filter", "aria": False}
        stroke, dashes = colour(each.style), list(dash(each.style))
        line = alt.Chart().mark_line(stroke=stroke, strokeDash=dashes, strokeWidth=1.75, **common)
        layers.append(line.encode(x=x, y=y))
        if len(kept[index]) <= _FEW:
            points = alt.Chart().mark_circle(opacity=1, size=24, fill=stroke, **common)
            layers.append(points.encode(x=x, y=y))
    tips = [alt.Tooltip("x:Q", title="epoch", format=".6~g")] if by_epoch else []
    if one_clock or not by_epoch:
        tips.append(alt.Tooltip("step:Q", title="step", format=","))
    tips += [
        alt.Tooltip(f"v{index}:Q", title=each.label, format=form)
        for index, each in enumerate(series)
    ]
    nearest = alt.selection_point(
        "at", nearest=True, on="pointermove", clear="pointerout", encodings=["x"], empty=False
    )
    rule = (
        alt.Chart()
        .mark_rule(stroke="currentColor", aria=False)
        .encode(
            x=x,
            tooltip=tips,
            opacity=alt.when(nearest).then(alt.value(0.5)).otherwise(alt.value(0)),
        )
        .add_params(nearest)
    )
    chart = (
        alt.layer(*layers, rule, data=alt.InlineData(values=rows))
        .properties(width="container", height=240, description=f"{title}, by {unit}")
        .properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            tickCount=6,
        )
    )
    return chart.to_dict()


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, even on a scale of logarithms."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in (range(1, 10), (1, 2, 5), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 8:
            break
    return ticks


def _table(
    series: Sequence[Series], place: Any, by_epoch: bool, one_clock: bool, form: str
) -> tuple[list[str], list[list[str]]]:
    """Values of all curves at some of the steps of the one that has fewest, its last among them."""
    fewest = min(series, key=lambda each: len(each.values))
    steps = sorted(fewest.values)
    stride = -(-len(steps) // _MOST_ROWS)
    shown = steps[::-1][::stride][::-1]
    ends = {place(each, max(each.values)) for each in series}
    places = sorted({place(fewest, step) for step in shown} | ends)
    found = [
        {place(each, step): (step, value) for step, value in each.values.items()} for each in series
    ]
    rows = []
    for at in places:
        here = [each.get(at) for each in found]
        row = [f"{round(at, 2):.8g}"] if by_epoch else []
        if one_clock or not by_epoch:
            row.append(f"{next(step for step, _ in filter(None, here)):,}")
        rows.append(row + [f"{each[1]:{form}}" if each else "" for each in here])
    head = ["epoch"] * by_epoch + ["step"] * (one_clock or not by_epoch)
    return head + [each.label for each in series], rows
