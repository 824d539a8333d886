"""Chance: ways to shuffle a layer's weights, and how far measures of its units are from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.spread import shuffle_weights

Null = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]

# Layers at random, by name. Each unit keeps the values of its weights in all of them.
NULLS: dict[str, Null] = {
    # Places at random, as many for each unit and for each input as there were.
    "margins": shuffle_weights,
    # Places at random, as many for each unit as there were.
    "counts": lambda weights, rng: rng.permuted(weights, axis=0),
    # The same places; the weights trade places within each unit.
    "values": lambda weights, rng: shuffle_weights(weights, rng, keep_support=True),
}

# Differences below this share of the means are rounding.
_ROUNDING = 1e-9


class Contrast(NamedTuple):
    """A measure of a layer's units against the same measure of shuffled weights."""

    units: int  # for which the measure is defined
    mean: float  # over these units
    null_mean: float  # the same, a mean over shuffles
    effect: float  # Cohen's d over units: the difference in standard deviations of a unit
    z: float  # the difference in standard deviations of the mean over shuffles


def check_null(name: str) -> Null:
    """The null of a name; raises ValueError unless it is one of NULLS."""
    if name not in NULLS:
        raise ValueError(f"null must be one of {', '.join(NULLS)}, got {name!r}")
    return NULLS[name]


def contrast(values: NDArray[Any], nulls: NDArray[Any]) -> Contrast:
    """A measure of units against shuffles: effect size, and z-score of the mean.

        effect = (m − m₀) / √((s² + s₀²) / 2)
        z = (m − m₀) / standard deviation of the shuffles' means

    m and s are mean and standard deviation over units, m₀ and s₀ the same over the units of all
    shuffles, so effect does not grow with the number of units, and z does. z says how sure the
    difference is for this layer, by few shuffles only roughly; it says nothing of other runs.

    Args:
      values: [units], NaN where the measure is not defined.
      nulls: [shuffles, units], of shuffled weights. NaNs are left out here too.

    Returns:
      `effect` is NaN where no unit differs from another, `z` where no shuffle does.

    Raises:
      ValueError: if there are fewer than two shuffles.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> nulls = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
      >>> found = analysis.contrast(np.array([4.0, 6.0]), nulls)
      >>> found.mean, found.null_mean, found.z
      (5.0, 2.0, 3.0)

    Reference:
      Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, Section 2.2
    """
    values, nulls = np.asarray(values, np.float64), np.asarray(nulls, np.float64)
    if len(nulls) < 2:
        raise ValueError(f"shuffles must be 2 or more, got {len(nulls)}")
    mine = values[~np.isnan(values)]
    rows = [row[~np.isnan(row)] for row in nulls]
    means = np.array([row.mean() for row in rows if row.size])
    if mine.size == 0 or means.size == 0:
        mean = float(mine.mean()) if mine.size else math.nan
        null = float(means.mean()) if means.size else math.nan
        return Contrast(mine.size, mean, null, math.nan, math.nan)
    mean, null = float(mine.mean()), float(means.mean())
    smallest = _ROUNDING * max(abs(mean), abs(null))
    within = math.sqrt((mine.var() + np.concatenate(rows).var()) / 2)
    between = float(means.std(ddof=1)) if means.size > 1 else 0.0
    return Contrast(
        mine.size,
        mean,
        null,
        (mean - null) / within if within > smallest else math.nan,
        (mean - null) / between if between > smallest else math.nan,
    )
