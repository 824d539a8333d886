"""Bounds and code lengths against closed forms computed another way."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import mdl

bits = st.floats(0, 1e9)
examples = st.integers(1, 10**7)
deltas = st.floats(1e-6, 0.999)


def test_occam_bound_by_hand():
    # m = 200, |d| = 0 and δ = 2/e leave a root of 1 / (2m).
    assert mdl.occam_bound(0.25, 0, 200, 2 / math.e) == pytest.approx(0.25 + 0.05)


def test_theorem2_bits_by_hand():
    # n = 16, ‖w‖₀ = 3, k = 4 and b = 8: 32 bits of values, 3 · log₂ 64 + 2 · log₂ 16 of places.
    assert mdl.theorem2_bits(3, 4, 16, 8) == 32 + 18 + 8


def test_a_network_of_zeros_costs_its_one_value_and_two_logarithms():
    assert mdl.theorem2_bits(0, 1, 1024, 32) == 32 + 20


@settings(deadline=None, max_examples=50)
@given(bits, bits, examples, deltas)
def test_occam_bound_grows_with_bits_and_falls_with_examples_and_delta(first, second, m, delta):
    low, high = sorted((first, second))
    assert mdl.occam_bound(0.1, low, m, delta) <= mdl.occam_bound(0.1, high, m, delta)
    assert mdl.occam_bound(0.1, low, m + 1, delta) <= mdl.occam_bound(0.1, low, m, delta)
    assert mdl.occam_bound(0.1, low, m, delta / 2) >= mdl.occam_bound(0.1, low, m, delta)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**9), st.data())
def test_theorem2_bits_matches_integer_arithmetic(total, draw):
    nonzeros = draw.draw(st.integers(0, total))
    distinct = draw.draw(st.integers(1, nonzeros + 1))
    expected = distinct * 32 + nonzeros * math.log2(distinct * total) + 2 * math.log2(total)
    assert mdl.theorem2_bits(nonzeros, distinct, total, 32) == pytest.approx(expected)


def test_both_broadcast():
    counts = np.array([0, 5, 9])
    length = mdl.theorem2_bits(counts, counts + 1, 100, 16)
    bound = mdl.occam_bound(np.array([[0.1], [0.2]]), length, 60_000)
    assert length.shape == (3,)
    assert bound.shape == (2, 3)
    assert bound[1, 2] == mdl.occam_bound(0.2, length[2], 60_000)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1.1, 0, 10, 0.1), "sample_loss"),
        ((float("nan"), 0, 10, 0.1), "sample_loss"),
        ((0.1, -1, 10, 0.1), "bits"),
        ((0.1, 1, 0, 0.1), "num_examples"),
        ((0.1, 1, 10, 0.0), "delta"),
        ((0.1, 1, 10, 1.0), "delta"),
    ],
)
def test_occam_bound_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        mdl.occam_bound(*arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((11, 2, 10, 32), "nonzeros"),
        ((-1, 1, 10, 32), "nonzeros"),
        ((3, 5, 10, 32), "distinct"),
        ((3, 0, 10, 32), "distinct"),
        ((0, 1, 0, 32), "total"),
        ((0, 1, 10, 0), "bits_per_value"),
    ],
)
def test_theorem2_bits_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        mdl.theorem2_bits(*arguments)
