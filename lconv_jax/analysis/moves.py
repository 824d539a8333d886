"""Does a hidden layer move with the image? Its activations on images and on moved images.

A layer is equivariant to a move T if h(Tx) is h(x) with its units in another order. In a
convolution the partner of a unit is the same stencil at the moved place. Here partners are looked
for among all units, by the weights of the first layer.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.units import check_weights
from lconv_jax.analysis.weight_sharing import LEAST_LEFT

# Up to so many units the assignment is the best one (its time grows with the cube), and greedy
# beyond, among so many candidates of each unit.
_SMALL, _CANDIDATES = 1024, 8
# Rows of a product with all units at a time.
_ROWS = 256


class Partners(NamedTuple):
    """Of each unit, which other one is like it moved."""

    unit: NDArray[np.int64]  # [units], the partner's index; −1: none
    cosine: NDArray[np.float64]  # [units], of the moved weights with the partner's; NaN: none


class Equivariance(NamedTuple):
    """Errors of a layer under a move, 0: equivariant; 2: as between unrelated units."""

    units: int  # with a partner, and activations that vary
    cosine: float  # mean over these units, of the moved weights with the partner's
    error: float  # with partners
    unmoved: float  # with every unit as its own partner: invariance
    chance: float  # with the partners dealt out at random


def move(images: Any, shift: tuple[int, ...], *, periodic: bool = False) -> NDArray[Any]:
    """Images moved by whole positions, T x: (T x)(p) = x(p − shift), and 0 where nothing came from.

    Args:
      images: [N, *spatial, channels], as the network sees them: a convolution's border is 0 too.
      shift: positions along each spatial axis; positive moves down, and to the right.
      periodic: whether pixels that leave on one side come back on the other.

    Raises:
      ValueError: if the shift has not one number for each spatial axis.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> signal = np.arange(1.0, 6.0).reshape(1, 5, 1)
      >>> analysis.move(signal, (2,)).ravel().tolist()
      [0.0, 0.0, 1.0, 2.0, 3.0]
    """
    images = np.asarray(images)
    if len(shift) != images.ndim - 2:
        raise ValueError(
            f"shift must have {images.ndim - 2} numbers for images of shape {images.shape}, "
            f"got {tuple(shift)}"
        )
    moved = np.roll(images, shift, tuple(range(1, images.ndim - 1)))
    for axis, step in enumerate(shift, 1):
        if not periodic and step:
            empty = slice(None, step) if step > 0 else slice(step, None)
            moved[(slice(None),) * axis + (empty,)] = 0
    return moved


def moved_partners(
    kernel: Any,
    image_shape: tuple[int, ...],
    shift: tuple[int, ...],
    *,
    periodic: bool = False,
    least_left: float = 0.5,
    max_units: int = 2048,
    seed: int = 0,
) -> Partners:
    """For each unit u, the unit v that is most like u moved, one-to-one.

        maximise Σ_u ⟨T w_u, w_v(u)⟩ / (‖T w_u‖ ‖w_v(u)‖)

    Norms are over the places that the moved image fills. The rest of v sees zeros. So a unit whose
    stencil is cut off by the border is like a unit that has all of it. (If less than `LEAST_LEFT`
    of the energy of v is there, that share is taken.)

    Of a layer with up to 1024 units, this is the assignment of `scipy.optimize`'s
    `linear_sum_assignment`. Of a larger one, pairs are taken in the order of their cosines, from
    the eight best candidates of each unit. The sign counts: a unit and its negative are different.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      shift: positions along each spatial axis, as in `move`.
      periodic: whether pixels that leave on one side come back on the other.
      least_left: units that the move leaves with a smaller share of their energy on the image have
        no partner; with 1, only units that stay on it whole have one.
      max_units: partners are looked for, among all units, for so many, drawn at random if there
        are more. The rest have none.
      seed: of the choice of units.

    Raises:
      ValueError: as `similarity`, or if the shift has not one number for each spatial axis.
    """
    kernel = check_weights(kernel, image_shape)
    unit, cosine = np.full(kernel.shape[1], -1), np.full(kernel.shape[1], np.nan)
    live = np.flatnonzero(kernel.any(0))
    peak = np.abs(kernel[:, live]).max(0)
    weights = (kernel[:, live] / peak).astype(np.float32)
    images = np.moveaxis(weights.reshape(*image_shape, -1), -1, 0)
    moved = move(images, shift, periodic=periodic).reshape(live.size, -1).T
    norms, left = (np.sqrt(np.square(each).sum(0)) for each in (weights, moved))
    asked = np.flatnonzero((left > 0) & (np.square(left / norms) >= least_left - 1e-6))
    if asked.size > max_units:
        asked = np.sort(np.random.default_rng(seed).choice(asked, max_units, False))
    filled = move(np.ones((1, *image_shape), np.float32), shift, periodic=periodic).reshape(-1, 1)
    inside = np.sqrt(np.square(weights * filled).sum(0))
    weights = weights * filled / np.maximum(inside, math.sqrt(LEAST_LEFT) * norms)
    moved = moved[:, asked] / left[asked]
    rows, columns, found = _assign(moved, weights)
    unit[live[asked[rows]]] = live[columns]
    cosine[live[asked[rows]]] = np.clip(found, -1, 1)
    return Partners(unit, cosine)


def equivariance(
    hidden: Any,
    hidden_moved: Any,
    partners: Partners,
    *,
    seed: int = 0,
) -> Equivariance:
    """How far a layer's activations on moved images are from its own, moved to partner units.

        error = Σ_u Σ_x (h(T x)[v(u)] − h(x)[u])² / Σ_u Σ_x (h(x)[u] − mean_x h(x)[u])²

    over images x and the units u that have a partner v(u) and vary over the images. It is 0 for a
    convolution, away from the border, if the shift is a multiple of its stride. It is about 2 for
    units that have nothing to do with each other but mean and variance, and somewhat less where the
    move leaves much of the image empty. Smooth images have a small error for small shifts, whatever
    the layer is: `unmoved` says how small.

    Args:
      hidden: h(x), [images, units], of the layer that the partners are from, after its activation
        or before.
      hidden_moved: h(T x), of the same images after `move`.
      partners: of `moved_partners` for the same move.
      seed: of the partners dealt out at random.

    Returns:
      With no such unit, errors of NaN.

    Raises:
      ValueError: if the two have not the same shape, with a column for each unit.

    Examples:
      A signal of six positions, and a convolution that reads pairs of neighbours:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> signals = np.random.default_rng(0).normal(size=(50, 6, 1))
      >>> kernel = np.eye(6)[:, :5] - np.eye(6)[:, 1:]
      >>> partners = analysis.moved_partners(kernel, (6, 1), (1,), least_left=1.0)
      >>> partners.unit.tolist()
      [1, 2, 3, 4, -1]
      >>> before, after = (
      ...     x.reshape(50, 6) @ kernel for x in (signals, analysis.move(signals, (1,)))
      ... )
      >>> found = analysis.equivariance(before, after, partners)
      >>> found.units, found.error, found.unmoved > 1
      (4, 0.0, True)
    """
    hidden, hidden_moved = (np.asarray(each, np.float64) for each in (hidden, hidden_moved))
    shape = (len(hidden), len(partners.unit))
    if hidden.shape != shape or hidden_moved.shape != shape:
        raise ValueError(
            f"hidden and hidden_moved must be [images, {shape[1]} units] both, "
            f"got {hidden.shape} and {hidden_moved.shape}"
        )
    matched = np.flatnonzero(partners.unit >= 0)
    matched = matched[np.ptp(hidden[:, matched], axis=0) > 0] if len(hidden) else matched[:0]
    if not matched.size:
        return Equivariance(0, *(math.nan,) * 4)
    mine, partner = hidden[:, matched], partners.unit[matched]
    whole = np.square(mine - mine.mean(0)).sum()

    def error(units: NDArray[np.int64]) -> float:
        return float(np.square(hidden_moved[:, units] - mine).sum() / whole)

    return Equivariance(
        matched.size,
        float(partners.cosine[matched].mean()),
        error(partner),
        error(matched),
        error(np.random.default_rng(seed).permutation(partner)),
    )


def _assign(
    moved: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of a column of `moved` and one of `weights`, one-to-one, and their cosines."""
    if weights.shape[1] <= _SMALL:
        from scipy.optimize import linear_sum_assignment

        cosines = (moved.T @ weights).astype(np.float64)
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        return rows, columns, cosines[rows, columns]
    best, candidates = [], []
    for start in range(0, moved.shape[1], _ROWS):
        part = moved[:, start : start + _ROWS].T @ weights
        top = np.argpartition(-part, _CANDIDATES - 1, axis=1)[:, :_CANDIDATES]
        candidates.append(top)
        best.append(np.take_along_axis(part, top, 1))
    if not best:
        none = np.zeros(0, int)
        return none, none, np.zeros(0)
    cosines, candidate = np.concatenate(best), np.concatenate(candidates)
    order = np.argsort(-cosines, axis=None, kind="stable")
    of, taken = np.full(moved.shape[1], -1), np.zeros(weights.shape[1], bool)
    found = np.zeros(moved.shape[1])
    for row, rank in zip(*(each.tolist() for each in np.divmod(order, _CANDIDATES)), strict=True):
        column = candidate[row, rank]
        if of[row] < 0 and not taken[column]:
            of[row], taken[column], found[row] = column, True, cosines[row, rank]
    rows = np.flatnonzero(of >= 0)
    return rows, of[rows], found[rows]
