"""The language of files: what each bit of the coded part means, in both directions.

A network is its input, then its layers; a layer is its terms, then its biases; a term is its shape,
then which weights are not zero, then their values. Everything here is a function of a coder and of
what is to be coded, None when decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.coder import Coder, DamagedError, integers, natural, uniform
from lconv_jax.mdl.network import INPUTS, KINDS, Layer, Network, Term, output_sides
from lconv_jax.mdl.supports import SUPPORTS, Grid, Plan, as_grid, code_support
from lconv_jax.mdl.values import VALUES, code_values, nearest_before

# The codes of a term's weights: two that know no structure, then those of `supports`.
CODES = ("raw", "theorem2", *SUPPORTS)
# Work of a weight that may be zero, of a unit, of a term and of a layer.
_WEIGHT, _UNIT, _TERM, _LAYER = 0.4, 10.0, 40.0, 40.0
# Of an integer, by the square of its binary digits.
_DIGITS = 1e-6
# More weights than this in one term are taken for damage.
_MOST_WEIGHTS = 1 << 30
_INPUTS = tuple(INPUTS)

Shapes = Sequence[tuple[int, ...]]


class Choice(NamedTuple):
    """How a term is coded. Only an encoder makes one."""

    code: str
    values: str
    plan: Plan | None


def code_header(coder: Coder, network: Network | None) -> tuple[Network, int]:
    """The network without its layers, and their number."""
    shape = network.input_shape if network else (0, 0)
    code = coder.digit(_INPUTS.index(network.input_code) if network else 0, len(_INPUTS))
    rank = 2 + coder.digit(len(shape) - 2, 2)
    found = tuple(1 + natural(coder, shape[axis] - 1 if network else 0) for axis in range(rank))
    count = 1 + natural(coder, len(network.layers) - 1 if network else 0)
    return Network(found, _INPUTS[code], ()), count


def code_layer(
    coder: Coder, layer: Layer | None, choices: Sequence[Choice] | None, shapes: Shapes, last: bool
) -> Layer:
    """One layer, its units in the order of the choice.

    Args:
      choices: one for each term.
      shapes: of the input and of the output of every layer before it.
      last: whether it is the last.
    """
    count = natural(coder, len(layer.bias) if layer else 0)
    coder.spend(_LAYER + _UNIT * count)
    single = coder.digit(int(layer is not None and len(layer.terms) == 1), 2)
    terms = []
    for number in range(1 if single else 2):
        term = layer.terms[number] if layer else None
        choice = choices[number] if choices else None
        terms.append(_code_term(coder, term, choice, shapes, count, bool(single) and not last))
    bias = _code_bias(coder, layer.bias if layer else None, count)
    shift = 0 if last else natural(coder, layer.shift if layer else 0)
    pool = not last and bool(coder.digit(int(layer.pool) if layer else 0, 2))
    return Layer(tuple(terms), bias, shift, pool)


def may_sort(layer: Layer, last: bool) -> bool:
    """Whether the units of a layer have no order of their own."""
    return not last and len(layer.terms) == 1 and layer.terms[0].kind != "local"


def _code_term(
    coder: Coder,
    term: Term | None,
    choice: Choice | None,
    shapes: Shapes,
    count: int,
    hidden: bool,
) -> Term:
    kind = KINDS[coder.digit(KINDS.index(term.kind) if term else 0, len(KINDS))]
    previous = len(shapes) - 1
    source = previous
    if coder.digit(int(term is not None and term.source < previous), 2):
        source = previous - 1 - natural(coder, previous - 1 - term.source if term else 0)
    if source < 0:
        raise DamagedError("a layer reads what does not exist")
    shape, stride, window = shapes[source], 1, tuple[int, ...]()
    rank = len(shape) - 1
    if kind != "dense":
        if rank < 1:
            raise DamagedError(f"a {kind} layer reads what has no positions")
        stride = 1 + natural(coder, term.stride - 1 if term else 0)
        sides = term.kernel.shape[-2 - rank : -2] if term else (1,) * rank
        window = tuple(1 + natural(coder, side - 1) for side in sides)
    positions = output_sides(shape[:-1], stride) if kind == "local" else ()
    inputs = shape if kind == "dense" else (*window, shape[-1])
    units = (*positions, count)
    if math.prod(inputs) * math.prod(units) > _MOST_WEIGHTS:
        raise DamagedError(f"a layer has {math.prod(inputs) * math.prod(units)} weights")
    coder.spend(_TERM + _UNIT * math.prod(units))
    coder.spend(_WEIGHT * math.prod(inputs) * (1 + math.prod(units)))
    matrix = None if term is None else as_matrix(term)
    matrix = code_matrix(
        coder, choice, matrix, as_grid(inputs), math.prod(units), hidden and kind != "local"
    )
    if kind == "dense":
        return Term(kind, source, stride, matrix)
    by_position = matrix.reshape(math.prod(inputs), math.prod(positions), count)
    kernel = by_position.transpose(1, 0, 2).reshape(*positions, *inputs, count)
    return Term(kind, source, stride, kernel)


def as_matrix(term: Term) -> NDArray[np.int64]:
    """The weights as [inputs of a unit, units]; a local layer has its units at every position."""
    kernel = term.kernel.astype(np.int64)
    if term.kind != "local":
        return kernel.reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1])
    rank = (kernel.ndim - 2) // 2
    positions, units = math.prod(kernel.shape[:rank]), kernel.shape[-1]
    taps = math.prod(kernel.shape[rank:-1])
    by_position = kernel.reshape(positions, taps, units).transpose(1, 0, 2)
    return by_position.reshape(taps, positions * units)


def matrix_grid(term: Term, shape: tuple[int, ...]) -> Grid:
    """The grid of the inputs of each unit of a term that reads an array of this shape."""
    window = term.kernel.shape[-1 - len(shape) : -2]
    return as_grid(shape if term.kind == "dense" else (*window, shape[-1]))


def code_matrix(
    coder: Coder,
    choice: Choice | None,
    matrix: NDArray[np.int64] | None,
    grid: Grid,
    count: int,
    sortable: bool,
) -> NDArray[np.int64]:
    """Codes the weights [inputs, units] of a term, units already in the order of the choice."""
    inputs = math.prod(grid)
    code = CODES[coder.digit(CODES.index(choice.code) if choice else 0, len(CODES))]
    if code == "raw":
        return _code_raw(coder, matrix, inputs, count)
    if code == "theorem2":
        return _code_theorem2(coder, matrix, inputs, count)
    support = None
    if matrix is not None:
        support = matrix != 0 if code != "full" else np.ones_like(matrix, bool)
    support = code_support(
        coder, choice.plan if choice else None, support, grid, count, code, sortable
    )
    mode = VALUES[coder.digit(VALUES.index(choice.values) if choice else 0, len(VALUES))]
    given = None if matrix is None else matrix.T[support.T]
    # The neighbours of a weight are looked for in a border of two on every side.
    coder.spend(_WEIGHT * count * (grid[0] + 4) * (grid[1] + 4) * grid[2])
    neighbours = nearest_before(support, grid)
    values = code_values(coder, given, neighbours, mode, code == "full")
    result = np.zeros((count, inputs), np.int64)
    result[support.T] = values
    return result.T


def _code_raw(
    coder: Coder, matrix: NDArray[np.int64] | None, inputs: int, count: int
) -> NDArray[np.int64]:
    """b bits for every weight: two's complement."""
    values = [0] * (inputs * count) if matrix is None else matrix.reshape(-1).tolist()
    width = max(((v if v >= 0 else ~v).bit_length() for v in values), default=0) + 1
    width = 1 + natural(coder, width - 1)
    coder.spend(_DIGITS * width**2)
    half = 1 << width - 1
    found = [uniform(coder, value + half, 2 * half) - half for value in values]
    return np.asarray(found, np.int64).reshape(inputs, count)


def _code_theorem2(
    coder: Coder, matrix: NDArray[np.int64] | None, inputs: int, count: int
) -> NDArray[np.int64]:
    """Theorem 2 of Neyshabur 2020 as a code: k values, then place and value of each weight."""
    total = inputs * count
    flat = np.zeros(total, np.int64) if matrix is None else matrix.reshape(-1)
    table = np.unique(np.append(flat, 0)).tolist()
    distinct = 1 + natural(coder, len(table) - 1)
    coder.spend(distinct)
    width = 1 + natural(coder, max((v if v >= 0 else ~v).bit_length() for v in table))
    coder.spend(_DIGITS * width**2)
    half = 1 << width - 1
    given = table if matrix is not None else [0] * distinct
    table = [uniform(coder, value + half, 2 * half) - half for value in given]
    symbols = {value: symbol for symbol, value in enumerate(table)}
    places = np.flatnonzero(flat).tolist()
    nonzeros = uniform(coder, len(places), total + 1)
    found = np.zeros(total, np.int64)
    for index in range(nonzeros):
        place = places[index] if matrix is not None else 0
        place = uniform(coder, place, total)
        symbol = uniform(coder, symbols[int(flat[place])] if matrix is not None else 0, distinct)
        found[place] = table[symbol]
    return found.reshape(inputs, count)


def _code_bias(coder: Coder, bias: NDArray[Any] | None, count: int) -> NDArray[np.int64]:
    """Biases as integers times a power of two."""
    given = [0] * count if bias is None else [int(value) for value in bias]
    common = math.gcd(*given)
    step = natural(coder, (common & -common).bit_length() - 1 if common else 0)
    found = integers(coder, [value >> step for value in given], count)
    return np.asarray([value << step for value in found], np.int64)
