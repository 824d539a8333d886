"""Codes for the values of the weights that are not zero.

A layer's weights take few integer values, its levels. Each code sends the levels once, then each
weight's level with frequencies learned on the way:

  range          the levels are all integers −q … q, given by q (without 0 if zeros are not coded)
  signed_range   likewise, as a magnitude 1 … q and a sign
  table          the levels are listed: those of k-means, say
  signed_table   the magnitudes are listed, and each comes with a sign
  digits         no levels: each value's number of binary digits, its sign and the digits

A sign is coded with frequencies learned for each sign of the nearest weight before it, if there is
one in the same unit no more than two places away: neighbours are often of one sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.coder import MAX_SYMBOLS, Adaptive, Coder, DamagedError, integers, natural

VALUES = ("range", "signed_range", "table", "signed_table", "digits")


def code_values(
    coder: Coder,
    values: NDArray[np.int64] | None,
    neighbours: NDArray[np.int64],
    mode: str,
    with_zero: bool,
) -> NDArray[np.int64]:
    """Codes the weights of a layer, unit by unit.

    Args:
      values: [count]; None when decoding.
      neighbours: [count], for each weight the index of an earlier one near it, or −1.
      mode: one of VALUES, for which `fits` holds.
      with_zero: whether zero may occur.
    """
    given, count = None if values is None else values.tolist(), len(neighbours)
    if mode == "digits":
        return np.asarray(integers(coder, given, count), np.int64)
    signed = mode.startswith("signed")
    levels = None if values is None else _levels(values, mode, with_zero)
    if mode.endswith("range"):
        peak = natural(coder, 0 if levels is None else max(levels, default=0))
        if peak >= MAX_SYMBOLS:
            raise DamagedError("its weights have too many levels")
        least = 0 if with_zero else 1
        levels = [*range(least, peak + 1)] if signed else _both_signs(least, peak)
    else:
        levels = _code_table(coder, levels)
    if count and not 1 <= len(levels) <= MAX_SYMBOLS:
        raise DamagedError("its weights have no level, or too many")
    symbols = {level: symbol for symbol, level in enumerate(levels)}
    model = Adaptive(max(1, len(levels)))
    signs = [Adaptive(2) for _ in range(3)]
    result: list[int] = []
    for value, neighbour in zip(given or [0] * count, neighbours.tolist(), strict=True):
        key = abs(value) if signed else value
        level = levels[model.code(coder, symbols.get(key, 0))]
        if signed and level:
            beside = result[neighbour] if neighbour >= 0 else 0
            context = 0 if beside == 0 else 1 + (beside < 0)
            level = -level if signs[context].code(coder, int(value < 0)) else level
        result.append(level)
    return np.asarray(result, np.int64)


def fits(values: NDArray[np.int64], mode: str, with_zero: bool) -> bool:
    """Whether a mode can code these values."""
    if mode == "digits":
        return True
    levels = _levels(values, mode, with_zero)
    peak = max((abs(level) for level in levels), default=0)
    number = (peak + 1) * (1 if mode == "signed_range" else 2) if mode.endswith("range") else 0
    return max(number, len(levels)) <= MAX_SYMBOLS


def _levels(values: NDArray[np.int64], mode: str, with_zero: bool) -> list[int]:
    """The distinct values, or magnitudes, ascending; for a range only the largest magnitude."""
    if mode.endswith("range"):
        return [int(max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0)))))]
    return np.unique(np.abs(values) if mode.startswith("signed") else values).tolist()


def _both_signs(least: int, peak: int) -> list[int]:
    return [level for level in range(-peak, peak + 1) if abs(level) >= least]


def _code_table(coder: Coder, levels: list[int] | None) -> list[int]:
    """Ascending integers: the first, and the steps between them less one."""
    count = natural(coder, 0 if levels is None else len(levels))
    if count > MAX_SYMBOLS:
        raise DamagedError("its weights have too many levels")
    steps = None
    if levels:
        steps = [levels[0], *(int(step) - 1 for step in np.diff(levels))]
    found = integers(coder, steps, count)
    if any(step < 0 for step in found[1:]):
        raise DamagedError("its levels are not in order")
    return np.cumsum([step + (index > 0) for index, step in enumerate(found)]).tolist()


def nearest_before(support: NDArray[np.bool_], grid: tuple[int, int, int]) -> NDArray[np.int64]:
    """For each weight, unit by unit, the index of the nearest earlier one at most two places away.

    Args:
      support: [inputs, units].
      grid: [rows, columns, channels] of the inputs.

    Returns:
      [weights]; −1 where there is none. Of two at the same distance, the later one.
    """
    rows, columns, channels = grid
    indices = np.full((support.shape[1], rows + 4, columns + 4, channels), -1)
    inside = indices[:, 2:-2, 2:-2].reshape(support.shape[1], rows * columns * channels)
    inside[support.T] = np.arange(int(support.sum()))
    indices[:, 2:-2, 2:-2] = inside.reshape(support.shape[1], *grid)
    found = np.full(indices[:, 2:-2, 2:-2].shape, -1)
    # From far to near, and at one distance from early to late, so that the best is written last.
    places = [(down, across) for down in range(-2, 1) for across in range(-2, 3)]
    earlier = [place for place in places if place < (0, 0)]
    for down, across in sorted(earlier, key=lambda p: (-max(-p[0], abs(p[1])), p)):
        there = indices[:, 2 + down : 2 + down + rows, 2 + across : 2 + across + columns]
        there = there.max(-1, keepdims=True, initial=-1)
        found = np.where(there >= 0, there, found)
    same = np.maximum.accumulate(indices[:, 2:-2, 2:-2], axis=-1)
    before = np.concatenate([np.full_like(same[..., :1], -1), same[..., :-1]], -1)
    found = np.where(before >= 0, before, found)
    return found.reshape(support.shape[1], rows * columns * channels)[support.T]
