"""Locality as a number: how much of a unit's support lies in one small window.

The comparison is with supports shuffled so that the counts per unit and the counts per pixel both
stay. So the ratio measures the grouping of pixels within a unit, and not a preference of the whole
network for some pixels (such as the centre of the image).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.units import MAX_UNITS, check_kernel, live_units


class Locality(NamedTuple):
    """Means over the units with at least `min_nonzeros` non-zero weights."""

    window: int  # side k of the window
    min_nonzeros: int
    units: int
    share: float  # share of a unit's non-zeros inside its best k × k window
    null_share: float  # the same for shuffled supports
    ratio: float  # share / null_share; 1 means no more local than chance


def locality(
    kernel: Any,
    image_shape: tuple[int, ...],
    *,
    window: int | None = None,
    min_nonzeros: int = 1,
    seed: int = 0,
) -> Locality:
    """Locality of a dense first layer against its shuffled supports.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      window: k; the window has side k on each spatial axis and spans all channels. By default a
        third of the shorter side, at most 9 (the paper's convolutional twin has 9 × 9 kernels).
      min_nonzeros: units with fewer are left out. A unit of one weight lies in a window whatever
        it learned, so that 1, all live units, is the cautious choice and 10 the telling one.
      seed: of the shuffle, and of the choice of units where there are more than `MAX_UNITS`.

    Returns:
      The means; with no such unit the shares and the ratio are NaN.

    Raises:
      ValueError: if the kernel's rows are not the inputs of `image_shape`.
    """
    support = check_kernel(kernel, image_shape) != 0
    if window is None:
        window = min(9, max(2, min(image_shape[:-1]) // 3))
    rng = np.random.default_rng(seed)
    live, chosen = live_units(support, min_nonzeros, MAX_UNITS, rng)
    if not live:
        return Locality(window, min_nonzeros, 0, math.nan, math.nan, math.nan)
    support = support[:, chosen]
    share = float(window_share(support, image_shape, window).mean())
    null = float(window_share(shuffle_support(support, rng), image_shape, window).mean())
    return Locality(window, min_nonzeros, live, share, null, share / null)


def window_share(
    support: NDArray[np.bool_], image_shape: tuple[int, ...], window: int
) -> NDArray[np.float64]:
    """For each unit, the largest share of its support that one window of side k holds.

    Args:
      support: [inputs, units], every unit with at least one input.
      image_shape: [*spatial, channels].
      window: k; a side shorter than k is taken whole.

    Returns:
      [units], in (0, 1].
    """
    mass = over_channels(support, image_shape)
    best = window_sums(mass, window, False).reshape(-1, mass.shape[-1]).max(0)
    return best / support.sum(0)


def over_channels(support: NDArray[Any], image_shape: tuple[int, ...]) -> NDArray[Any]:
    """Sums over channels, [*spatial, units]; counts if the support is of bools."""
    dtype = np.dtype(np.int32) if support.dtype == bool else support.dtype
    return support.reshape(*image_shape, -1).sum(len(image_shape) - 1, dtype=dtype)


def window_sums(mass: NDArray[Any], window: int, periodic: bool) -> NDArray[Any]:
    """Sums over all windows of side k, by the place of their first corner, [*corners, units].

    Args:
      mass: [*spatial, units].
      window: k; a side shorter than k is taken whole.
      periodic: whether windows go on over the border, so that all places are corners.
    """
    for axis, side in enumerate(mass.shape[:-1]):
        width = min(window, side)
        if periodic:
            mass = np.concatenate([mass, mass.take(range(width - 1), axis)], axis)
        sums = np.cumsum(mass, axis=axis, dtype=mass.dtype)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        upper = sums.take(range(width, sums.shape[axis]), axis)
        mass = upper - sums.take(range(sums.shape[axis] - width), axis)
    return mass


def shuffle_support(
    support: NDArray[np.bool_], rng: np.random.Generator, trades_per_unit: int = 10
) -> NDArray[np.bool_]:
    """A random support with the same count in every row and in every column.

    Pairs of units trade inputs that only one of the two has, at random and in equal numbers: the
    curveball chain, whose stationary distribution is uniform over such matrices (Strona et al.,
    "A fast and unbiased procedure to randomize ecological binary matrices", 2014).

    Args:
      support: [inputs, units].
      rng: NumPy generator.
      trades_per_unit: length of the chain, in trades per unit.

    Returns:
      [inputs, units].
    """
    inputs = [np.flatnonzero(column) for column in support.T]
    for _ in range(trades_per_unit * len(inputs) // 2):
        if len(inputs) < 2:
            break
        first, second = rng.choice(len(inputs), 2, replace=False)
        a, b = inputs[first], inputs[second]
        shared = np.intersect1d(a, b, assume_unique=True)
        only_a = np.setdiff1d(a, shared, assume_unique=True)
        only_b = np.setdiff1d(b, shared, assume_unique=True)
        pool = rng.permutation(np.concatenate([only_a, only_b]))
        inputs[first] = np.concatenate([shared, pool[: only_a.size]])
        inputs[second] = np.concatenate([shared, pool[only_a.size :]])
    shuffled = np.zeros_like(support)
    for unit, rows in enumerate(inputs):
        shuffled[rows, unit] = True
    return shuffled
