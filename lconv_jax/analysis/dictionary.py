"""The smallest dictionary of stencils, each used at any place, that explains a layer's units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lconv_jax.analysis.units import check_weights, live_units
from lconv_jax.analysis.weight_sharing import similarity


class Stencils(NamedTuple):
    """A dictionary, and the energy that it explains."""

    units: int  # with at least `min_nonzeros` weights
    compared: NDArray[np.int64]  # indices of the units that were explained, ascending
    size: int  # of the dictionary, in stencils
    explained: float  # mean share of a unit's energy
    stencils: NDArray[np.float64]  # [inputs, size], each of norm 1
    member: NDArray[np.int64]  # of each explained unit, the stencil that it uses
    exemplars: int  # stencils that are needed if they must be units of the layer


def stencils(
    kernel: Any,
    image_shape: tuple[int, ...],
    *,
    share: float = 0.9,
    periodic: bool = False,
    signed: bool = False,
    min_nonzeros: int = 5,
    max_units: int = 256,
    rounds: int = 5,
    seed: int = 0,
) -> Stencils:
    """A small dictionary of stencils from which most of each unit's energy can be copied.

    Each unit uses one stencil s, at any shift d and any scale a:

        explained = mean over units of 1 − min over s, d, a of ‖w − a T_d s‖² / ‖w‖²

    which is the mean of squared `similarity`. Every unit counts alike, whatever its norm.

    - First the stencils are units of the layer, chosen one after the other, each the one that adds
      most to the explained energy, until `share` is reached (`exemplars`).
    - Then fewer are tried, the first of these units, improved by `rounds` of k-means over shifts.
      Each unit goes to the stencil that explains most of it, and each stencil becomes the least
      squares fit of its units at their shifts and scales, from the parts on the image. The number
      is found by bisection.

    Both steps find good dictionaries, and not always the best. `size` is an upper bound on the
    smallest number. A convolution needs as many as it has channels, or somewhat fewer if the share
    is below 1.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      share: of the energy that is to be explained, in (0, 1].
      periodic: whether stencils move on over the border.
      signed: whether a stencil and its negative differ; then scales are positive.
      min_nonzeros: as in `sharing`.
      max_units: if there are more, so many are drawn at random. It should be several times `size`:
        of channels that few of the drawn units have, nothing is learned. Time grows with its
        square: 256 units of 32 × 32 × 3 take about 20 seconds.
      rounds: of k-means for each number that is tried; 0 leaves the stencils units of the layer.
      seed: of the choice of units. Nothing else is random.

    Returns:
      No stencils, and NaN explained, if there is no unit.

    Raises:
      ValueError: as `similarity`, or if `share` is out of range.

    Examples:
      Two filters of a convolution, written as a dense layer:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> filters = np.zeros((2, 20))
      >>> filters[:, :5] = [[1, 1, 1, 1, 1], [1, -2, 3, -2, 1]]
      >>> kernel = np.stack([np.roll(each, place) for place in range(16) for each in filters], 1)
      >>> found = analysis.stencils(kernel, (20, 1))
      >>> found.units, found.size, round(found.explained, 4)
      (32, 2, 1.0)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    kernel = check_weights(kernel, image_shape)
    live, chosen = live_units(kernel, min_nonzeros, max_units, np.random.default_rng(seed))
    weights = np.asarray(kernel[:, chosen], np.float64)
    if not live:
        none = np.zeros(0, int)
        return Stencils(0, none, 0, np.nan, np.zeros((len(kernel), 0)), none, 0)
    weights = weights / np.abs(weights).max(0)
    weights /= np.sqrt(np.square(weights).sum(0))
    # Sums of float32 are not exact.
    enough = share - 1e-5

    def fit(candidates: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The share of each unit that a dictionary explains, by which member, and where."""
        found = similarity(weights, candidates, image_shape, periodic=periodic, signed=signed)
        member = found.cosine.argmax(1)
        at = np.arange(len(member)), member
        where = np.concatenate([member[:, None], found.shift[at]], 1)
        return np.square(np.maximum(found.cosine[at], 0)), where

    alike = similarity(weights, weights, image_shape, periodic=periodic, signed=signed).cosine
    order, reached = _greedy(np.square(np.maximum(alike, 0)), enough)
    centred = weights if periodic else _centred(weights, image_shape)

    def refined(count: int) -> Stencils:
        best = centred[:, order[:count]]
        explained, where = fit(best)
        for _ in range(rounds):
            if explained.mean() >= enough:
                break
            candidates = _refit(weights, best, where, image_shape, periodic)
            better, moved = fit(candidates)
            if better.mean() <= explained.mean():
                break
            best, explained, where = candidates, better, moved
        mean = float(explained.mean())
        return Stencils(live, chosen, count, mean, best, where[:, 0], reached)

    low, high = 0, len(order)
    found = refined(high)
    while high - low > 1:
        middle = (low + high) // 2
        tried = refined(middle)
        if tried.explained >= enough:
            high, found = middle, tried
        else:
            low = middle
    return found


def _greedy(explains: NDArray[np.float64], enough: float) -> tuple[list[int], int]:
    """Columns, each the one that adds most to the rows' maxima, until their mean is enough."""
    order: list[int] = []
    covered = np.zeros(len(explains))
    while covered.mean() < enough and len(order) < len(explains):
        gains = np.maximum(explains, covered[:, None]).mean(0)
        gains[order] = -1
        order.append(int(gains.argmax()))
        covered = np.maximum(covered, explains[:, order[-1]])
    return order, len(order)


def _centred(weights: NDArray[np.float64], image_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Each unit moved so that its support lies in the middle: a stencil may grow on all sides."""
    images = weights.reshape(*image_shape, -1)
    moved = np.zeros_like(images)
    for unit in range(images.shape[-1]):
        places = np.argwhere(images[..., unit].any(-1))
        low, high = places.min(0), places.max(0) + 1
        sides = np.array(image_shape[:-1])
        start = (sides - (high - low)) // 2
        moved[..., unit][_slices(start, start + high - low)] = images[..., unit][_slices(low, high)]
    return moved.reshape(weights.shape)


def _slices(starts: ArrayLike, stops: ArrayLike) -> tuple[slice, ...]:
    """The box from some corner to another."""
    corners = zip(np.asarray(starts).tolist(), np.asarray(stops).tolist(), strict=True)
    return tuple(slice(start, stop) for start, stop in corners)


def _refit(
    weights: NDArray[np.float64],
    stencils: NDArray[np.float64],
    where: NDArray[np.int64],
    image_shape: tuple[int, ...],
    periodic: bool,
) -> NDArray[np.float64]:
    """Each stencil as the least squares fit of its units, their shifts and scales given.

    s(q) = Σ a w(q + d) / Σ a², over the units for which q + d is on the image.
    """
    sides = image_shape[:-1]
    images = np.moveaxis(weights.reshape(*image_shape, -1), -1, 0)
    old = np.moveaxis(stencils.reshape(*image_shape, -1), -1, 0)
    sums, squares = np.zeros_like(old), np.zeros((*old.shape[:-1], 1))
    for image, (member, *shift) in zip(images, where.tolist(), strict=True):
        if periodic:
            back = np.roll(image, [-step for step in shift], range(len(sides)))
            seen: tuple[slice, ...] = (slice(None),) * len(sides)
        else:
            lows = [max(0, -step) for step in shift]
            highs = [min(side, side - step) for side, step in zip(sides, shift, strict=True)]
            seen = _slices(lows, highs)
            back = np.zeros_like(image)
            back[seen] = image[_slices(np.add(lows, shift), np.add(highs, shift))]
        norm = np.square(old[member][seen]).sum()
        scale = (old[member] * back).sum() / norm if norm else 0.0
        sums[member] += scale * back
        squares[member][seen] += scale**2
    fitted = np.where(squares > 0, sums / np.where(squares > 0, squares, 1), 0)
    flat = fitted.reshape(len(fitted), -1).T
    norms = np.sqrt(np.square(flat).sum(0))
    # A stencil that no unit uses stays as it was.
    return np.where(norms > 0, flat / np.where(norms > 0, norms, 1), stencils)
