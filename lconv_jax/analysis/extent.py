"""Where a unit's weights lie: their window, the distances between them, the clumps they form.

A *place* is a position of the image or signal. It belongs to a unit's support if the unit has a
weight there that is not zero, in any channel.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.locality import over_channels, window_sums

# A window has the asked share of energy if it lacks no more than rounding of sums can take.
_ROUNDING = 1e-9


class Window(NamedTuple):
    """The smallest square window with most of each unit's energy, by unit."""

    side: NDArray[np.int64]  # [units], in positions; a side of the image that is shorter is whole
    corner: NDArray[np.int64]  # [spatial axes, units]: the window's first place


def energy_window(
    weights: NDArray[np.floating[Any]],
    image_shape: tuple[int, ...],
    *,
    share: float = 0.9,
    periodic: bool = False,
) -> Window:
    """The smallest square window that holds a share of a unit's energy, its sum of squares.

        k = min { k : max over windows W of side k of Σ_{i ∈ W} w_i² ≥ share · Σ w_i² }

    All channels of a place count together. Of windows with equal energy the first one is taken. The
    side is found by bisection, as a larger window never holds less.

    Args:
      weights: [inputs, units], every unit with at least one non-zero.
      image_shape: [*spatial, channels].
      share: of the energy, in (0, 1].
      periodic: whether windows go on over the border.

    Raises:
      ValueError: if `share` is out of range.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> image = np.zeros((8, 8, 1))
      >>> image[2:5, 3:6] = 1.0
      >>> found = analysis.energy_window(image.reshape(64, 1), (8, 8, 1), share=1.0)
      >>> found.side.tolist(), found.corner.tolist()
      ([3], [[2], [3]])
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    energy = over_channels(_energy(weights), image_shape)
    sides, units = energy.shape[:-1], energy.shape[-1]
    enough = (share - _ROUNDING) * energy.sum(tuple(range(len(sides))))
    low, high = np.zeros(units, int), np.full(units, max(sides))
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        for window in np.unique(middle[open_]):
            of = np.flatnonzero(open_ & (middle == window))
            held = window_sums(energy[..., of], window, periodic).reshape(-1, of.size).max(0)
            high[of] = np.where(held >= enough[of], window, high[of])
            low[of] = np.where(held >= enough[of], low[of], window)
    corner = np.zeros((len(sides), units), int)
    for window in np.unique(high):
        of = np.flatnonzero(high == window)
        held = window_sums(energy[..., of], window, periodic)
        best = held.reshape(-1, of.size).argmax(0)
        corner[:, of] = np.unravel_index(best, held.shape[:-1])
    return Window(high, corner)


def neighbour_distance(
    support: NDArray[np.bool_], image_shape: tuple[int, ...], *, periodic: bool = False
) -> NDArray[np.float64]:
    """For each unit, the mean Euclidean distance from a place of its support to the nearest other.

    Args:
      support: [inputs, units].
      image_shape: [*spatial, channels].
      periodic: distances on a ring or torus.

    Returns:
      [units], ≥ 1; NaN for units with fewer than two places.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> support = np.array([[1, 0, 1, 0, 0, 0, 1]], bool).T
      >>> analysis.neighbour_distance(support, (7, 1)).round(3).tolist()
      [2.667]
      >>> analysis.neighbour_distance(support, (7, 1), periodic=True).round(3).tolist()
      [1.333]
    """
    return _neighbour_distance(over_channels(support, image_shape) > 0, periodic)


def sampling(
    support: NDArray[np.bool_], image_shape: tuple[int, ...], window: Window
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How densely, and how evenly, a unit's places fill its window.

    The first is the share of the window's places that belong to the support. The second is the
    `neighbour_distance` of these places, divided by its expectation for as many places drawn at
    random from the window, without replacement. It is below 1 for places that stick together, 1 for
    a random sample, and above 1 for an even one. Distances are in the window cut out.

    The expectation is exact. Of m places among the K of the window, the nearest other one to a
    place p is farther than d with probability C(K − 1 − n_p(d), m − 1) / C(K − 1, m − 1), where
    n_p(d) is the number of the window's places within d of p.

    Args:
      support: [inputs, units].
      image_shape: [*spatial, channels].
      window: of each unit, as `energy_window` finds it.

    Returns:
      Two arrays [units]. The first is in (0, 1]; the second is NaN with fewer than two places.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> support = np.array([[1, 0, 1, 0, 1, 0, 0]], bool).T
      >>> window = analysis.energy_window(1.0 * support, (7, 1), share=1.0)
      >>> filled, evenness = analysis.sampling(support, (7, 1), window)
      >>> filled.tolist(), evenness.round(2).tolist()
      ([0.6], [1.46])
    """
    places = over_channels(support, image_shape) > 0
    sides = np.array(places.shape[:-1])
    *at, unit = np.nonzero(places)
    # Counted from the window's corner; on a ring, onwards over the border.
    moved = (np.stack(at) - window.corner[:, unit]) % sides[:, None]
    inside = (moved < window.side[unit]).all(0)
    cut = np.zeros_like(places)
    cut[(*moved[:, inside], unit[inside])] = True
    counts = np.bincount(unit[inside], minlength=places.shape[-1])
    lengths = np.minimum(window.side, sides[:, None])
    expected = np.full(counts.shape, np.nan)
    for index in np.flatnonzero(counts >= 2):
        expected[index] = random_neighbour_distance(
            tuple(lengths[:, index].tolist()), int(counts[index])
        )
    return counts / lengths.prod(0), _neighbour_distance(cut, False) / expected


@functools.lru_cache(maxsize=2**16)
def random_neighbour_distance(sides: tuple[int, ...], count: int) -> float:
    """Expected `neighbour_distance` of `count` ≥ 2 random places of a grid (see `sampling`)."""
    distances, within, shares = _reach(sides)
    logs = _log_factorials(math.prod(sides))
    others, chosen = math.prod(sides) - 1, count - 1
    left = others - within
    possible = np.maximum(left - chosen, 0)
    farther = np.exp(logs[left] - logs[possible] - logs[others] + logs[others - chosen])
    farther = np.where(left >= chosen, farther, 0)
    return float(shares @ farther @ np.diff(distances))


def clumps(
    support: NDArray[np.bool_], image_shape: tuple[int, ...], *, periodic: bool = False
) -> NDArray[np.int64]:
    """The number of connected pieces of each unit's places, diagonal neighbours included.

    Args:
      support: [inputs, units].
      image_shape: [*spatial, channels].
      periodic: whether the first place of an axis is next to its last.

    Returns:
      [units]; 0 for a unit without weights.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> support = np.array([[1, 0, 1, 1, 0, 0, 1]], bool).T
      >>> analysis.clumps(support, (7, 1)).tolist()
      [3]
      >>> analysis.clumps(support, (7, 1), periodic=True).tolist()
      [2]
    """
    from scipy import ndimage, sparse

    places = over_channels(support, image_shape) > 0
    axes, units = places.ndim - 1, places.shape[-1]
    # Neighbours in space, and none in another unit.
    structure = np.zeros((3,) * places.ndim, bool)
    structure[..., 1] = True
    labels, count = ndimage.label(places, structure)
    found = np.nonzero(labels)
    owner = np.zeros(count + 1, int)
    owner[labels[found]] = found[-1]
    if periodic:
        pairs = [np.zeros((2, 0), int)]
        for step in itertools.product((-1, 0, 1), repeat=axes):
            if step > (0,) * axes:
                rolled = np.roll(labels, step, tuple(range(axes)))
                meet = (labels > 0) & (rolled > 0) & (labels != rolled)
                pairs.append(np.stack([labels[meet], rolled[meet]]))
        first, second = np.concatenate(pairs, 1)
        shape = (count + 1, count + 1)
        graph = sparse.coo_array((np.ones(first.size, bool), (first, second)), shape)
        _, piece = sparse.csgraph.connected_components(graph, directed=False)
        # One label stands for its piece; the first is that of no place.
        owner = owner[np.unique(piece[1:], return_index=True)[1] + 1]
        return np.bincount(owner, minlength=units)
    return np.bincount(owner[1:], minlength=units)


def _energy(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Squares, each unit's largest 1: without underflow."""
    return np.square(weights.astype(np.float64) / np.abs(weights).max(0))


def _neighbour_distance(places: NDArray[np.bool_], periodic: bool) -> NDArray[np.float64]:
    """`neighbour_distance` of places [*spatial, units].

    Offsets are tried from the shortest on, for places that have not met another one yet.
    """
    sides, units = places.shape[:-1], places.shape[-1]
    reach = [side // 2 if periodic else side - 1 for side in sides]
    widths = [(each, each) for each in reach]
    padded = np.pad(places, [*widths, (0, 0)], mode="wrap" if periodic else "constant")
    padded = np.ascontiguousarray(padded)
    strides = np.array(padded.strides[:-1]) // padded.itemsize
    counts = places.reshape(-1, units).sum(0)
    *at, unit = np.nonzero(places & (counts >= 2))
    start = (np.stack(at).T + reach) @ strides + unit
    flat, nearest = padded.ravel(), np.zeros(unit.size)
    left = np.arange(unit.size)
    for distance, offsets in _rings(tuple(reach)):
        if not left.size:
            break
        hit = np.zeros(left.size, bool)
        for offset in (offsets @ strides).tolist():
            hit |= flat[start[left] + offset]
        nearest[left[hit]] = distance
        left = left[~hit]
    total = np.bincount(unit, nearest, minlength=units)
    return np.where(counts >= 2, total / np.maximum(counts, 1), np.nan)


@functools.lru_cache(maxsize=64)
def _offsets(reach: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All offsets within reach but none, [offsets, axes], by length, and their squared lengths."""
    each = [np.arange(-most, most + 1) for most in reach]
    offsets = np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(-1, len(reach))
    squares = np.square(offsets).sum(1)
    order = np.argsort(squares, kind="stable")[1:]
    return offsets[order], squares[order]


def _rings(reach: tuple[int, ...]) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Lengths, ascending, with the offsets that have them."""
    offsets, squares = _offsets(reach)
    if squares.size:
        starts = np.flatnonzero(np.diff(squares, prepend=-1))
        for square, ring in zip(squares[starts], np.split(offsets, starts[1:]), strict=True):
            yield math.sqrt(square), ring


@functools.lru_cache(maxsize=256)
def _reach(
    sides: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """How many places of a grid are within a distance of one of them, for each kind of place.

    Returns:
      Distances d, ascending from 0; [kinds, distances less one], the number of other places within
      d; and the share of places that are of a kind.
    """
    places = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1).reshape(
        -1, len(sides)
    )
    # By symmetry, a place of one quarter stands for all four.
    nearest = np.minimum(places, np.array(sides) - 1 - places)
    kinds, shares = np.unique(nearest, axis=0, return_counts=True)
    squares = np.square(kinds[:, None] - places).sum(-1)
    values = np.unique(squares)
    within = np.stack([np.searchsorted(np.sort(row), values[:-1], "right") - 1 for row in squares])
    return np.sqrt(values), within, shares / len(places)


@functools.lru_cache(maxsize=256)
def _log_factorials(most: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
