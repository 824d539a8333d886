"""How far a unit's weights spread over space, against the same weights shuffled.

`locality` counts non-zeros in a window, so it needs exact zeros. Here every weight counts with its
square, and dense layers can be judged too. The inverse participation ratio alone, which is often
taken for localisation, says how few weights carry the norm, not where they are: three weights have
the same ratio side by side and far apart. The spread says where they are, and its null takes out
how many they are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.locality import shuffle_support
from lconv_jax.analysis.units import MAX_UNITS, check_kernel, live_units


class Localisation(NamedTuple):
    """Means over the units with at least `min_nonzeros` non-zero weights."""

    min_nonzeros: int
    units: int
    spread: float  # RMS distance of a unit's squared weights from their best centre, in positions
    null_spread: float  # the same for shuffled weights
    ratio: float  # spread / null_spread; 1 means no more local than chance
    ipr: float  # inverse participation ratio, 1 / inputs … 1


def localisation(
    kernel: Any,
    image_shape: tuple[int, ...],
    *,
    periodic: bool = False,
    min_nonzeros: int = 2,
    shuffles: int = 3,
    seed: int = 0,
) -> Localisation:
    """Spread and participation of a dense first layer, and the spread of its shuffled weights.

    The null moves the support by `shuffle_support`, which keeps the number of non-zeros of each
    unit and of each input, and deals each unit's non-zero weights out on its new support at random.
    Of a layer without zeros only the second step is left, a permutation of each unit's weights over
    the inputs: there a preference of all units for some inputs, the centre of an image say, counts
    as local.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      periodic: distances on a ring or torus, for data that have no border; else on a line or grid.
      min_nonzeros: units with fewer are left out. One weight has no spread, shuffled or not.
      shuffles: kernels that the null is a mean over.
      seed: of the shuffles, and of the choice of units where there are more than `MAX_UNITS`.

    Returns:
      The means; with no such unit they are NaN. `ratio` is NaN too where the null has no spread.

    Raises:
      ValueError: if the kernel's rows are not the inputs of `image_shape`.
    """
    weights = check_kernel(kernel, image_shape).astype(np.float64)
    rng = np.random.default_rng(seed)
    live, chosen = live_units(weights, min_nonzeros, MAX_UNITS, rng)
    if not live:
        return Localisation(min_nonzeros, 0, math.nan, math.nan, math.nan, math.nan)
    weights = weights[:, chosen]
    spread = float(unit_spread(weights, image_shape, periodic=periodic).mean())
    nulls = [
        unit_spread(shuffle_weights(weights, rng), image_shape, periodic=periodic).mean()
        for _ in range(shuffles)
    ]
    null = float(np.mean(nulls))
    return Localisation(
        min_nonzeros,
        live,
        spread,
        null,
        spread / null if null else math.nan,
        float(participation(weights).mean()),
    )


def unit_spread(
    weights: NDArray[np.floating[Any]], image_shape: tuple[int, ...], *, periodic: bool = False
) -> NDArray[np.float64]:
    """For each unit, the RMS distance of its squared weights from the centre that makes it least.

    The distance is Euclidean, so its square is a sum over axes, and each axis has its own best
    centre, anywhere between positions: the mean on a line. On a ring it is the mean after the best
    cut, which is searched among all. Even weights on a ring of n have spread n / √12, about.

    Args:
      weights: [inputs, units], every unit with at least one non-zero.
      image_shape: [*spatial, channels].
      periodic: whether each axis is a ring.

    Returns:
      [units], in positions.
    """
    energy = np.square(weights.astype(np.float64) / np.abs(weights).max(0))
    energy = energy.reshape(*image_shape, -1).sum(len(image_shape) - 1)
    energy /= energy.sum(tuple(range(energy.ndim - 1)))
    total = np.zeros(energy.shape[-1])
    for axis, side in enumerate(image_shape[:-1]):
        others = tuple(other for other in range(energy.ndim - 1) if other != axis)
        mass = energy.sum(others)
        at = np.arange(side)[:, None] - (side - 1) / 2
        first, second = (at * mass).sum(0), (at**2 * mass).sum(0)
        if not periodic:
            variance = second - first**2
        else:
            # The positions before the cut come after the others, a whole turn on.
            before = np.cumsum(mass, 0) - mass
            firsts = first + side * before
            turned = np.cumsum(at * mass, 0) - at * mass
            variance = (second + 2 * side * turned + side**2 * before - firsts**2).min(0)
        total += np.maximum(variance, 0)
    return np.sqrt(total)


def participation(weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Inverse participation ratio Σw⁴ / (Σw²)² of each unit: 1 / n for n weights of one magnitude.

    Args:
      weights: [inputs, units], every unit with at least one non-zero.

    Returns:
      [units], in [1 / inputs, 1].
    """
    energy = np.square(weights.astype(np.float64) / np.abs(weights).max(0))
    return np.square(energy).sum(0) / np.square(energy.sum(0))


def shuffle_weights(
    weights: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    *,
    keep_support: bool = False,
) -> NDArray[np.floating[Any]]:
    """The null of `localisation`: each unit's non-zero weights, at random on a shuffled support.

    Args:
      weights: [inputs, units].
      rng: NumPy generator.
      keep_support: whether each unit's weights only trade places among themselves.

    Returns:
      [inputs, units].
    """
    support = weights != 0
    if not (keep_support or support.all()):
        support = shuffle_support(support, rng)
    shuffled = np.zeros_like(weights)
    for unit, rows in enumerate(support.T):
        column = weights[:, unit]
        shuffled[rows, unit] = rng.permutation(column[column != 0])
    return shuffled
