"""Codes of values: every mode gives back what it fits, and learns what is regular."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.mdl.coder import MAX_SYMBOLS, DamagedError, Decoder, Encoder, integers, natural
from lconv_jax.mdl.codes import _choose_values, _fitting
from lconv_jax.mdl.values import VALUES, code_values, fits, nearest_before

some = settings(deadline=None, max_examples=60)
MOST = 2**63 - 1

grids = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))


@st.composite
def made_values(draw):
    """(values, neighbours) of a term: levels drawn first, then weights of these levels."""
    peak = draw(st.sampled_from([1, 4, 60, 2**20, 2**61]))
    levels = draw(st.lists(st.integers(-peak, peak), min_size=1, max_size=12))
    number = draw(st.sampled_from([0, 1, 2, 30, 80]))
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    neighbours = random.integers(-1, np.maximum(np.arange(number), 0), number)
    return random.choice(np.array(levels, np.int64), number), neighbours


def without_zeros(values, neighbours):
    kept = values != 0
    at = np.cumsum(kept) - 1
    before = np.where((neighbours >= 0) & kept[neighbours], at[neighbours], -1)
    return values[kept], before[kept]


def bits_of(values, neighbours, mode, with_zero=False):
    encoder = Encoder()
    written = code_values(encoder, values, neighbours, mode, with_zero)
    np.testing.assert_array_equal(written, values)
    return encoder


def lonely(values):
    return np.full(len(values), -1)


@some
@given(made_values(), st.sampled_from(VALUES), st.booleans())
def test_values_come_back(made, mode, with_zero):
    values, neighbours = made if with_zero else without_zeros(*made)
    if not fits(values, mode, with_zero):
        assert "range" in mode
        assert np.abs(values).max() >= MAX_SYMBOLS // 2
        return
    decoder = Decoder(bits_of(values, neighbours, mode, with_zero).getvalue())
    found = code_values(decoder, None, neighbours, mode, with_zero)
    decoder.finish()
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("mode", "peak"),
    [("range", 255), ("signed_range", 511), ("table", 511), ("signed_table", 511)],
)
def test_the_most_levels_that_fit(mode, peak):
    if mode.startswith("signed"):
        values = np.arange(peak + 1) * np.where(np.arange(peak + 1) % 2, 1, -1)
    elif mode == "range":
        values = np.arange(-peak, peak + 1)
    else:
        values = np.arange(peak + 1) - 200
    assert fits(values, mode, True)
    decoder = Decoder(bits_of(values, lonely(values), mode, True).getvalue())
    found = code_values(decoder, None, lonely(values), mode, True)
    np.testing.assert_array_equal(found, values)
    assert not fits(np.append(values, peak + 1), mode, True)


@pytest.mark.parametrize("mode", ["range", "signed_range", "table", "signed_table"])
def test_too_many_levels_in_a_file_are_refused(mode):
    encoder = Encoder()
    natural(encoder, MAX_SYMBOLS + 1)
    with pytest.raises(DamagedError, match="too many levels"):
        code_values(Decoder(encoder.getvalue()), None, np.array([-1]), mode, False)
    encoder = Encoder()
    natural(encoder, 0)
    with pytest.raises(DamagedError, match="no level"):
        code_values(Decoder(encoder.getvalue()), None, np.array([-1]), mode, False)


def test_tables_out_of_order_are_refused():
    encoder = Encoder()
    natural(encoder, 2)
    integers(encoder, [3, -1], 2)
    with pytest.raises(DamagedError, match="not in order"):
        code_values(Decoder(encoder.getvalue()), None, np.array([-1]), "table", False)


@pytest.mark.parametrize(
    "values",
    [[MOST, -MOST], [-MOST - 1], [-MOST - 1, MOST, 5], [2**62, -(2**62)], [2**62 - 1, 1 - 2**62]],
)
def test_the_largest_integers_choose_a_mode_that_holds_them(values):
    matrix = np.array([values], np.int64)
    mode = _choose_values(matrix, (1, 1, 1), _fitting(matrix, False), False)
    values, neighbours = matrix.T.reshape(-1), np.full(matrix.size, -1)
    encoder = bits_of(values, neighbours, mode)
    found = code_values(Decoder(encoder.getvalue()), None, neighbours, mode, False)
    np.testing.assert_array_equal(found, values)


@pytest.mark.slow
@some
@given(st.integers(0, 2**20), grids, st.booleans(), st.sampled_from([3, 300, 5000]))
def test_the_mode_chosen_is_the_cheapest_that_fits(seed, grid, with_zero, peak):
    random = np.random.default_rng(seed)
    matrix = random.integers(-peak, peak + 1, (math.prod(grid), 40))
    matrix[random.random(matrix.shape) < 0.5] = 0
    support = np.ones_like(matrix, bool) if with_zero else matrix != 0
    values, neighbours = matrix.T[support.T], nearest_before(support, grid)
    allowed = [mode for mode in VALUES if fits(values, mode, with_zero)]
    bits = {mode: bits_of(values, neighbours, mode, with_zero).bits for mode in allowed}
    chosen = _choose_values(matrix, grid, _fitting(matrix, with_zero), with_zero)
    assert bits[chosen] == min(bits.values())


@some
@given(grids, st.integers(0, 2**20), st.sampled_from([0.1, 0.4, 1.0]))
def test_neighbours_are_the_nearest_weights_before(grid, seed, density):
    support = np.random.default_rng(seed).random((math.prod(grid), 3)) < density
    expected, number = [], 0
    for column in support.T:
        places = []
        for at in np.flatnonzero(column).tolist():
            row, rest = divmod(at, grid[1] * grid[2])
            places.append((row, *divmod(rest, grid[2])))
        for index, (row, column_, _) in enumerate(places):
            # Same place, other channel: 0 away. Of those as near, the last.
            near = [
                (max(abs(row - r), abs(column_ - c)), -before)
                for before, (r, c, _) in enumerate(places[:index])
            ]
            distance, before = min(near, default=(9, 0))
            expected.append(number - before if distance <= 2 else -1)
        number += len(places)
    assert nearest_before(support, grid).tolist() == expected


@pytest.mark.parametrize("mode", ["signed_range", "signed_table"])
def test_signs_that_go_on_cost_less_than_random_ones(mode):
    random = np.random.default_rng(0)
    grid, support = (12, 12, 1), random.random((144, 30)) < 0.6
    waves = np.sin(np.arange(12) / 2.5)
    smooth = np.where(np.add.outer(waves, waves).reshape(144, 1) > 0, 1, -1) * random.choice(
        [-1, 1], 30
    )
    magnitudes = random.integers(1, 5, support.shape)
    neighbours = nearest_before(support, grid)
    weights = [
        (magnitudes * signs).T[support.T]
        for signs in (smooth, random.choice([-1, 1], support.shape))
    ]
    first, second = (bits_of(values, neighbours, mode).bits for values in weights)
    number = int(support.sum())
    # A random sign costs a bit; a fifth of the smooth ones differ at most.
    assert second - first > 0.4 * number
    assert bits_of(weights[0], lonely(weights[0]), mode).bits > first + 0.4 * number


def test_a_table_costs_its_frequencies():
    random = np.random.default_rng(0)
    values = random.choice([-7, 2, 90], 2000, p=[0.1, 0.7, 0.2])
    shares = np.unique(values, return_counts=True)[1] / 2000
    entropy = -2000 * float((shares * np.log2(shares)).sum())
    bits = bits_of(values, lonely(values), "table").bits
    # The three values, and half a logarithm of the number for each share that is learned.
    assert entropy < bits < entropy + math.log2(2000) + 60
    # One value of many costs next to nothing.
    assert bits_of(np.full(2000, 90), lonely(values), "table").bits < 30
