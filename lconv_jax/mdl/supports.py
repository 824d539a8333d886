"""Codes for which weights of a layer are not zero.

A layer is a matrix of inputs by units, and the inputs lie on a grid [rows, columns, channels].
These codes say for each unit its *class* and its *rank* among the supports of that class:

  unit    the class is the number of weights, the rank is among all sets of so many inputs
  local   the class is also a window's side; the rank names the window's place and the set in it
  shared  the class is an entry of a dictionary of stencils, the rank the place it is shifted to;
          a unit whose stencil is used once is coded as in `local`

Another, `near`, asks of each input in turn whether the unit has it, with frequencies learned for
each number of its neighbours that the unit has so far, and of earlier units that have the input.
Two more know nothing of units: `layer` numbers the sets of so many weights in the whole matrix, and
`full` codes no support, so that zero becomes one of the values.

Hidden units have no order of their own. Where they may be sorted, the high part of each rank, on a
scale that all classes share, is sent as a sorted list, which costs log₂(units!) bits less than one
number each. Source: enumerative coding, Cover 1973; the rest is the plainest form we know of it.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.coder import (
    Adaptive,
    Coder,
    Counts,
    DamagedError,
    comb_work,
    natural,
    subset,
    subset_bits,
    subset_rank,
    subset_unrank,
    uniform,
    unrank_work,
)

SUPPORTS = ("full", "layer", "unit", "local", "near", "shared")

# Sides of the windows of `local`: a support is coded in the smallest that holds it.
SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# The sorted part of the ranks has 2ᵉ values, with e one of this many.
_SORTED = 16
_MOST_STENCILS = 255
# `near` tells inputs of no, one, … earlier units apart, up to this many kinds.
_POPULAR = 3

Grid = tuple[int, int, int]


class Unit(NamedTuple):
    """A unit's support in a code: its class, and its number among the `size` of that class."""

    kind: tuple[int, ...]
    rank: int
    size: int


class Plan(NamedTuple):
    """How a support matrix is to be coded. Only an encoder makes one."""

    order: NDArray[np.int64]  # the units, as they are coded
    units: list[Unit]
    exponent: int
    mask: bool
    stencils: list[NDArray[np.bool_]]


def as_grid(shape: tuple[int, ...]) -> Grid:
    """[rows, columns, channels] of inputs [*sides, channels]; hidden units lie on a line."""
    if len(shape) == 1:
        return (1, shape[0], 1)
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


def code_support(
    coder: Coder,
    plan: Plan | None,
    support: NDArray[np.bool_] | None,
    grid: Grid,
    count: int,
    mode: str,
    sortable: bool,
) -> NDArray[np.bool_]:
    """Codes the support [inputs, units] of a layer, its units already in the order of the plan.

    Args:
      plan: from `make_plan`; None when decoding.
      support: None when decoding.
      grid: of the inputs.
      count: the number of units.
      mode: one of SUPPORTS.
      sortable: whether the order of the units is free.
    """
    inputs = math.prod(grid)
    if mode == "full":
        return np.ones((inputs, count), bool)
    if mode == "layer":
        cells = inputs * count
        nonzeros = uniform(coder, 0 if support is None else int(support.sum()), cells + 1)
        flat = None if support is None else np.flatnonzero(support.T)
        found = np.zeros(cells, bool)
        found[subset(coder, flat, cells, nonzeros)] = True
        return found.reshape(count, inputs).T
    if mode == "near":
        return _code_near(coder, support, grid, count)
    live = np.ones(inputs, bool)
    if mode != "shared" and coder.digit(int(plan is not None and plan.mask), 2):
        used = None if support is None else np.flatnonzero(support.any(1))
        number = uniform(coder, 0 if used is None else len(used), inputs + 1)
        live = np.zeros(inputs, bool)
        live[subset(coder, used, inputs, number)] = True
    scheme = _make_scheme(mode, grid, live)
    if isinstance(scheme, _Stencils):
        scheme.code_dictionary(coder, None if plan is None else plan.stencils)
    units = _code_units(coder, plan, scheme, count, sortable)
    found = np.zeros((inputs, count), bool)
    for index, unit in enumerate(units):
        found[:, index] = scheme.support(unit)
    return found


def make_plan(
    support: NDArray[np.bool_],
    grid: Grid,
    mode: str,
    sortable: bool,
    mask: bool,
    values: NDArray[Any],
) -> Plan:
    """The order of the units and each one's class and rank.

    Args:
      support: [inputs, units].
      grid, mode, sortable: as in `code_support`.
      mask: whether inputs without any weight are to be told first and left out of the ranks.
      values: [inputs + anything, units], which decides between units of one support.
    """
    count, columns = support.shape[1], [tuple(column) for column in values.T.tolist()]
    if mode in ("full", "layer", "near"):
        order = sorted(range(count), key=columns.__getitem__) if sortable else range(count)
        return Plan(np.asarray(order, np.int64), [], 0, False, [])
    live = np.asarray(support.any(1)) if mask else np.ones(support.shape[0], bool)
    scheme = _make_scheme(mode, grid, live)
    stencils: list[NDArray[np.bool_]] = []
    if isinstance(scheme, _Stencils):
        scheme.stencils = stencils = _dictionary(support, grid)
    units = [scheme.unit(column) for column in support.T]
    exponents = range(_SORTED) if sortable and count > 1 else (0,)
    exponent = min(exponents, key=lambda e: _order_bits(units, e))
    keys = [
        ((unit.rank << exponent) // unit.size, unit.kind, unit.rank, column)
        for unit, column in zip(units, columns, strict=True)
    ]
    order = sorted(range(count), key=keys.__getitem__) if sortable else range(count)
    chosen = [units[index] for index in order]
    return Plan(np.asarray(order, np.int64), chosen, exponent, mask, stencils)


def _order_bits(units: list[Unit], exponent: int) -> float:
    """Bits of the ranks if the units are sorted by the first 2ᵉ-th parts of them."""
    buckets = 1 << exponent
    total = math.log2(math.comb(buckets + len(units) - 1, len(units)))
    for unit in units:
        low, high = _bucket_range(unit.size, (unit.rank << exponent) // unit.size, exponent)
        total += math.log2(high - low)
    return total


def _bucket_range(size: int, bucket: int, exponent: int) -> tuple[int, int]:
    """The ranks r with r · 2ᵉ // size = bucket."""
    return -(-(bucket * size) >> exponent), -(-((bucket + 1) * size) >> exponent)


def _make_scheme(mode: str, grid: Grid, live: NDArray[np.bool_]) -> _ByCount | _Windows | _Stencils:
    if mode == "unit":
        return _ByCount(live)
    return _Windows(grid, live) if mode == "local" else _Stencils(grid)


def _code_units(
    coder: Coder,
    plan: Plan | None,
    scheme: _ByCount | _Windows | _Stencils,
    count: int,
    sortable: bool,
) -> list[Unit]:
    exponent = 0
    if sortable and count > 1:
        exponent = coder.digit(0 if plan is None else plan.exponent, _SORTED)
    given = [Unit((), 0, 1)] * count if plan is None else plan.units
    buckets = np.asarray([(unit.rank << exponent) // unit.size for unit in given], np.int64)
    ladder = np.arange(count)
    steps = subset(
        coder, None if plan is None else buckets + ladder, (1 << exponent) + count - 1, count
    )
    units = []
    for unit, bucket in zip(given, (steps - ladder).tolist(), strict=True):
        kind = scheme.code_kind(coder, unit.kind)
        coder.spend(scheme.work(kind))
        size = scheme.size(kind)
        low, high = _bucket_range(size, bucket, exponent)
        if high <= low:
            raise DamagedError("it names a support that is not there")
        units.append(Unit(kind, low + uniform(coder, unit.rank - low, high - low), size))
    return units


def _code_near(
    coder: Coder, support: NDArray[np.bool_] | None, grid: Grid, count: int
) -> NDArray[np.bool_]:
    rows, columns, channels = grid
    # Lists of the inputs, and for each unit of their places with a border.
    coder.spend(3.0 * rows * columns * channels + 0.05 * count * (rows + 4) * (columns + 4))
    models = [[Adaptive(2) for _ in range(_POPULAR)] for _ in range(4)]
    found = np.zeros((count, rows, columns, channels), bool)
    given = None if support is None else support.T.reshape(found.shape).tolist()
    popular = np.zeros(grid, int).tolist()
    cells = list(itertools.product(range(rows), range(columns), range(channels)))
    for unit in range(count):
        # Members so far at each place, with a border of two on every side.
        here = [[0] * (columns + 4) for _ in range(rows + 4)]
        for row, column, channel in cells:
            above, level = here[row + 1], here[row + 2]
            close = level[column + 1] + level[column + 2] + sum(above[column + 1 : column + 4])
            if close:
                context = min(1 + close, 3)
            else:
                far = level[column] or above[column] or above[column + 4]
                context = int(bool(far or any(here[row][column : column + 5])))
            model = models[context][min(popular[row][column][channel], _POPULAR - 1)]
            if model.code(coder, int(given[unit][row][column][channel]) if given else 0):
                found[unit, row, column, channel] = True
                level[column + 2] += 1
                popular[row][column][channel] += 1
    return found.reshape(count, rows * columns * channels).T


class _ByCount:
    """`unit`: a set of k of the live inputs."""

    def __init__(self, live: NDArray[np.bool_]):
        self._live = live
        self._inputs = np.flatnonzero(live)
        self._counts = Counts(len(self._inputs))

    def code_kind(self, coder: Coder, kind: tuple[int, ...]) -> tuple[int, ...]:
        return (self._counts.code(coder, kind[0] if kind else 0),)

    def work(self, kind: tuple[int, ...]) -> float:
        """Of `size` and `support`, before either."""
        size = len(self._inputs), kind[0]
        return comb_work(*size) + unrank_work(*size)

    def size(self, kind: tuple[int, ...]) -> int:
        return math.comb(len(self._inputs), kind[0])

    def unit(self, column: NDArray[np.bool_]) -> Unit:
        members = np.flatnonzero(column[self._inputs])
        rank = subset_rank(members, len(self._inputs), len(members))
        return Unit((len(members),), rank, self.size((len(members),)))

    def support(self, unit: Unit) -> NDArray[np.bool_]:
        column = np.zeros(len(self._live), bool)
        members = subset_unrank(unit.rank, len(self._inputs), unit.kind[0])
        column[self._inputs[members]] = True
        return column


class _Windows:
    """`local`: k live inputs in a window of one of SIDES, its first row and column both touched.

    So each set has one window of each side, and ranks have no gaps. A class is (index of the side
    + 1, k), or (0, 0) for no inputs at all.
    """

    def __init__(self, grid: Grid, live: NDArray[np.bool_]):
        self._grid = grid
        self._live = live.reshape(grid)
        longest = max(grid[:2])
        self._sides = [side for side in SIDES if side < longest] + [longest]
        self._side_model = Adaptive(len(self._sides) + 1)
        self._count_model = Counts(math.prod(grid))
        table = np.zeros((grid[0] + 1, grid[1] + 1), np.int64)
        table[1:, 1:] = self._live.sum(2).cumsum(0).cumsum(1)
        self._table = table
        self._starts: dict[tuple[int, ...], list[int]] = {}

    def code_kind(self, coder: Coder, kind: tuple[int, ...]) -> tuple[int, ...]:
        index, count = kind or (0, 0)
        index = self._side_model.code(coder, index)
        if index == 0:
            return (0, 0)
        # A larger window than one input's holds at least two.
        least = 1 if index == 1 else 2
        most = self._grid[2] if index == 1 else math.prod(self._grid)
        if most > least:
            return (index, least + self._count_model.code(coder, max(0, count - least)))
        return (index, least)

    def work(self, kind: tuple[int, ...]) -> float:
        """Of `size` and `support`, before either."""
        index, count = kind
        if not index:
            return 1.0
        rows, columns, channels = self._grid
        side = self._sides[index - 1]
        cells = min(side, rows) * min(side, columns) * channels
        if count > cells:  # such a class has no set, and costs nothing
            return 1.0
        comb = comb_work(cells, count)
        work = cells * (4 + comb / 2) + 0.02 * rows * columns * channels
        if kind not in self._starts:
            bits = subset_bits(cells, count)
            work += cells * comb + 4 * rows * columns * (0.3 + 1e-4 * bits)
        return work

    def size(self, kind: tuple[int, ...]) -> int:
        return self._first_ranks(kind)[-1]

    def unit(self, column: NDArray[np.bool_]) -> Unit:
        if not column.any():
            return Unit((0, 0), 0, 1)
        box, row, left_most = _bounding_box(column.reshape(self._grid))
        index = int(np.searchsorted(self._sides, max(box.shape[:2]))) + 1
        kind = (index, int(column.sum()))
        window, top, left = self._window(index, row, left_most)
        first = self._first_ranks(kind)[row * self._grid[1] + left_most]
        return Unit(kind, first + _touching_rank(column[window], top, left), self.size(kind))

    def support(self, unit: Unit) -> NDArray[np.bool_]:
        column = np.zeros(math.prod(self._grid), bool)
        index, count = unit.kind
        if index:
            starts = self._first_ranks(unit.kind)
            place = bisect.bisect_right(starts, unit.rank) - 1
            window, top, left = self._window(index, *divmod(place, self._grid[1]))
            column[window] = _touching_unrank(unit.rank - starts[place], count, top, left)
        return column

    def sets_at_origin(self, kind: tuple[int, ...]) -> int:
        """The number of sets of a class in the window at the origin."""
        return self._first_ranks(kind)[1]

    def _window(self, index: int, row: int, column: int) -> tuple[Any, Any, Any]:
        """Live inputs of a window; which are in its first row, and which in its first column."""
        side = self._sides[index - 1]
        _, columns, channels = self._grid
        block = np.zeros(self._grid, bool)
        block[row : row + side, column : column + side] = True
        window = np.flatnonzero(block & self._live)
        across = window // channels
        return window, across // columns == row, across % columns == column

    def _first_ranks(self, kind: tuple[int, ...]) -> list[int]:
        """The first rank of each window, row-major, and the number of ranks at the end."""
        if kind not in self._starts:
            self._starts[kind] = [0, 1] if kind[0] == 0 else self._count_sets(*kind)
        return self._starts[kind]

    def _count_sets(self, index: int, count: int) -> list[int]:
        top, left = np.arange(self._grid[0]), np.arange(self._grid[1])
        bottom = np.minimum(top + self._sides[index - 1], self._grid[0])
        right = np.minimum(left + self._sides[index - 1], self._grid[1])

        def sets(top: NDArray[Any], left: NDArray[Any]) -> NDArray[Any]:
            table = self._table
            cells = table[np.ix_(bottom, right)] - table[np.ix_(top, right)]
            cells -= table[np.ix_(bottom, left)] - table[np.ix_(top, left)]
            combs = [math.comb(number, count) for number in range(int(cells.max(initial=0)) + 1)]
            return np.array(combs, object)[cells].reshape(-1)

        # All, less those that miss the first row or the first column, each counted once.
        touching = sets(top, left) - sets(top + 1, left)
        touching -= sets(top, left + 1) - sets(top + 1, left + 1)
        return [0, *itertools.accumulate(touching.tolist())]


class _Stencils:
    """`shared`: (0, stencil), anywhere it shows at least one input; or (1, *class of `local`)."""

    def __init__(self, grid: Grid):
        self._grid = grid
        self._own = _Windows(grid, np.ones(math.prod(grid), bool))
        self.stencils: list[NDArray[np.bool_]] = []

    def code_dictionary(self, coder: Coder, stencils: list[NDArray[np.bool_]] | None) -> None:
        given = [self._own.unit(self._place(s, 0, 0)) for s in stencils or ()]
        count = natural(coder, len(given))
        if count > _MOST_STENCILS:
            raise DamagedError("it has more stencils than a dictionary holds")
        for number in range(count):
            unit = given[number] if stencils is not None else Unit((), 0, 1)
            kind = self._own.code_kind(coder, unit.kind)
            coder.spend(self._own.work(kind))
            rank = uniform(coder, unit.rank, self._own.sets_at_origin(kind))
            column = self._own.support(Unit(kind, rank, self._own.size(kind)))
            if not column.any():
                raise DamagedError("it has an empty stencil")
            if stencils is None:
                self.stencils.append(_bounding_box(column.reshape(self._grid))[0])
        if stencils is not None:
            self.stencils = stencils
        self._entries = Adaptive(count + 1)

    def code_kind(self, coder: Coder, kind: tuple[int, ...]) -> tuple[int, ...]:
        entry = self._entries.code(coder, kind[1] + 1 if kind and kind[0] == 0 else 0)
        return (0, entry - 1) if entry else (1, *self._own.code_kind(coder, kind[1:]))

    def work(self, kind: tuple[int, ...]) -> float:
        """Of `size` and `support`, before either."""
        return self._own.work(kind[1:]) if kind[0] else 20 + 0.02 * math.prod(self._grid)

    def size(self, kind: tuple[int, ...]) -> int:
        if kind[0]:
            return self._own.size(kind[1:])
        height, width, _ = self.stencils[kind[1]].shape
        return (self._grid[0] + height - 1) * (self._grid[1] + width - 1)

    def unit(self, column: NDArray[np.bool_]) -> Unit:
        box = column.reshape(self._grid)
        for entry, stencil in enumerate(self.stencils):
            place = _find_place(stencil, box)
            if place is not None:
                height, width, _ = stencil.shape
                rank = (place[0] + height - 1) * (self._grid[1] + width - 1)
                return Unit((0, entry), rank + place[1] + width - 1, self.size((0, entry)))
        own = self._own.unit(column)
        return Unit((1, *own.kind), own.rank, own.size)

    def support(self, unit: Unit) -> NDArray[np.bool_]:
        if unit.kind[0]:
            return self._own.support(Unit(unit.kind[1:], unit.rank, unit.size))
        stencil = self.stencils[unit.kind[1]]
        height, width, _ = stencil.shape
        row, column = divmod(unit.rank, self._grid[1] + width - 1)
        return self._place(stencil, row - height + 1, column - width + 1)

    def _place(self, stencil: NDArray[np.bool_], row: int, column: int) -> NDArray[np.bool_]:
        """The inputs [inputs] under a stencil whose corner is at (row, column)."""
        rows, columns, _ = self._grid
        height, width, _ = stencil.shape
        box = np.zeros(self._grid, bool)
        top, left = max(0, row), max(0, column)
        bottom, right = min(rows, row + height), min(columns, column + width)
        box[top:bottom, left:right] = stencil[
            top - row : bottom - row, left - column : right - column
        ]
        return box.reshape(-1)


def _bounding_box(box: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int]:
    """What lies inside the smallest window that holds a non-empty support, and its corner."""
    rows, columns = np.flatnonzero(box.any((1, 2))), np.flatnonzero(box.any((0, 2)))
    inside = box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return inside, int(rows[0]), int(columns[0])


def _find_place(stencil: NDArray[np.bool_], box: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Where a stencil gives the support `box`: whole, or cut off where it touches the edge."""
    if not box.any():
        return None
    inside, row, column = _bounding_box(box)
    height, width, _ = inside.shape
    # Rows and columns of the stencil that may lie outside before the first that shows.
    spare = stencil.shape[0] - height, stencil.shape[1] - width
    if min(spare) < 0:
        return None
    for up in _offsets(spare[0], row == 0, row + height == box.shape[0]):
        for across in _offsets(spare[1], column == 0, column + width == box.shape[1]):
            if np.array_equal(stencil[up : up + height, across : across + width], inside):
                return row - up, column - across
    return None


def _offsets(spare: int, at_start: bool, at_end: bool) -> range:
    """How many of `spare` lines may be cut off at the start, the others at the end."""
    if at_start and at_end:
        return range(spare + 1)
    if at_start:
        return range(spare, spare + 1)
    return range(1 if spare == 0 or at_end else 0)


def _dictionary(support: NDArray[np.bool_], grid: Grid) -> list[NDArray[np.bool_]]:
    """Stencils that at least two units share, the most used first, cut-off copies left out."""
    boxes = [column.reshape(grid) for column in support.T if column.any()]
    shapes = [_bounding_box(box)[0] for box in boxes]
    keys = [(shape.shape, shape.tobytes()) for shape in shapes]
    uses = collections.Counter(keys)
    by_key = dict(zip(keys, shapes, strict=True))
    wanted = sorted((key for key, n in uses.items() if n > 1), key=lambda k: (-uses[k], k))
    candidates = [by_key[key] for key in wanted[:_MOST_STENCILS]]
    taken: collections.Counter[int] = collections.Counter()
    for box in boxes:
        places = (i for i, s in enumerate(candidates) if _find_place(s, box) is not None)
        taken[next(places, -1)] += 1
    return [stencil for index, stencil in enumerate(candidates) if taken[index] > 1]


def _touching_rank(
    members: NDArray[np.bool_], top: NDArray[np.bool_], left: NDArray[np.bool_]
) -> int:
    """The number of a set among those of its size that have a member in `top` and one in `left`."""
    rank = 0
    walk = _TouchingWalk(int(members.sum()), top, left)
    for member in members.tolist():
        if not walk.count:
            break
        having = walk.having()
        if not member:
            rank += having
        walk.step(member)
    return rank


def _touching_unrank(
    rank: int, count: int, top: NDArray[np.bool_], left: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The inverse of `_touching_rank`."""
    members = np.zeros(len(top), bool)
    walk = _TouchingWalk(count, top, left)
    for index in range(len(top)):
        if not walk.count:
            break
        having = walk.having()
        members[index] = rank < having
        if not members[index]:
            rank -= having
        walk.step(bool(members[index]))
    return members


class _TouchingWalk:
    """Goes through the cells of a window; `having` counts the sets that take the next one."""

    def __init__(self, count: int, top: NDArray[np.bool_], left: NDArray[np.bool_]):
        self.count = count  # members still to come
        self._needs = (True, True)  # whether top and left are still untouched
        self._lines = list(zip(top.tolist(), left.tolist(), strict=True))
        # Cells after each one: all, and without top, left or both.
        self._after = [
            (np.cumsum(cells[::-1])[::-1] - cells).tolist()
            for cells in (np.ones(len(top), int), ~top * 1, ~left * 1, ~(top | left) * 1)
        ]
        self._at = 0

    def having(self) -> int:
        top, left = self._still(True)
        left_over = self.count - 1
        all_, no_top, no_left, neither = (cells[self._at] for cells in self._after)
        sets = math.comb(all_, left_over)
        if top:
            sets -= math.comb(no_top, left_over)
        if left:
            sets -= math.comb(no_left, left_over)
        if top and left:
            sets += math.comb(neither, left_over)
        return sets

    def step(self, member: bool) -> None:
        self._needs = self._still(member)
        self.count -= member
        self._at += 1

    def _still(self, member: bool) -> tuple[bool, bool]:
        top, left = self._lines[self._at]
        return self._needs[0] and not (member and top), self._needs[1] and not (member and left)
