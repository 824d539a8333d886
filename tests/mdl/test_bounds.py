"""Bounds and code lengths against closed forms computed another way."""

import math
import pathlib
import re

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lconv_jax.mdl import bounds

BOUNDS = [bounds.occam_bound, bounds.kraft_bound, bounds.kl_bound]
MOST = 2**53
LEAST_DELTA, MOST_DELTA = 5e-324, 1 - 2.0**-53

losses = st.floats(0, 1) | st.floats(0, 1e-9) | st.floats(0, 1e-9).map(lambda gap: 1 - gap)
bits = st.floats(0, 1e6) | st.floats(0, 1e300) | st.just(math.inf)
examples = st.integers(1, 10**7) | st.integers(1, MOST)
deltas = st.floats(1e-6, 0.999) | st.floats(LEAST_DELTA, MOST_DELTA)
many = settings(deadline=None, max_examples=200)


def nats(length, m, delta):
    """(|d| ln 2 + ln(1/δ)) / m to sixty digits."""
    return (mpmath.mpf(length) * mpmath.log(2) - mpmath.log(mpmath.mpf(delta))) / m


def kl(q, p):
    """kl(q‖p) for q ≤ p to sixty digits."""
    q, p = mpmath.mpf(q), mpmath.mpf(p)
    kept = (1 - q) * mpmath.log((1 - q) / (1 - p)) if p < 1 else mpmath.inf if q < 1 else 0
    return kept - (q * mpmath.log(p / q) if q > 0 else 0)


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def test_occam_bound_by_hand():
    # m = 200, |d| = 0 and δ = 2/e leave a root of 1 / (2m).
    assert bounds.occam_bound(0.25, 0, 200, 2 / math.e) == pytest.approx(0.25 + 0.05)


def test_kraft_bound_by_hand():
    # 8 bits and δ = 2⁻¹⁰ are 18 ln 2 nats.
    bound = bounds.kraft_bound(0.25, 8, 50, 2.0**-10)
    assert (bound - 0.25) ** 2 * 100 == pytest.approx(18 * math.log(2), rel=1e-13)


def test_kl_bound_without_errors_is_one_less_an_exponential():
    # 5 bits and δ = 1/8 leave 2^(−8/m).
    for m in (1, 8, 1000):
        exact = -math.expm1(-8 * math.log(2) / m)
        assert bounds.kl_bound(0, 5, m, 1 / 8) == pytest.approx(exact, rel=1e-14)


def test_kl_bound_by_hand():
    # kl(½‖p) = −½ ln(4 p (1 − p)), so 4 p (1 − p) = 2^(−2·8/m).
    for m in (4, 8, 1000):
        exact = 0.5 + 0.5 * math.sqrt(-math.expm1(-16 * math.log(2) / m))
        assert bounds.kl_bound(0.5, 5, m, 1 / 8) == pytest.approx(exact, rel=1e-14)


def test_theorem2_bits_by_hand():
    # n = 16, ‖w‖₀ = 3, k = 4 and b = 8: 32 bits of values, 3 · log₂ 64 + 2 · log₂ 16 of places.
    assert bounds.theorem2_bits(3, 4, 16, 8) == 32 + 18 + 8


def test_theorem2_bound_by_hand():
    # The 58 bits above with δ = 2n/e⁶: a root of 64 / (2m).
    assert bounds.theorem2_bound(0.1, 3, 4, 16, 8, 3200, 32 / math.e**6) == pytest.approx(0.2)


def test_a_network_of_zeros_costs_its_one_value_and_two_logarithms():
    assert bounds.theorem2_bits(0, 1, 1024, 32) == 32 + 20


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS)
@many
@given(losses, bits, bits, examples, examples, deltas, deltas)
def test_bounds_grow_with_bits_and_fall_with_examples_and_delta(
    bound, loss, first_bits, second_bits, first_m, second_m, first_delta, second_delta
):
    least, most = sorted((first_bits, second_bits))
    few, enough = sorted((first_m, second_m))
    sure, unsure = sorted((first_delta, second_delta))
    reference = bound(loss, least, enough, unsure)
    assert reference <= bound(loss, most, enough, unsure)
    assert reference <= bound(loss, least, few, unsure)
    assert reference <= bound(loss, least, enough, sure)


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_change_with_each_argument(bound):
    reference = bound(0.1, 1000, 60_000, 0.05)
    assert reference < bound(0.1, 1001, 60_000, 0.05)
    assert reference < bound(0.1, 1000, 59_999, 0.05)
    assert reference < bound(0.1, 1000, 60_000, 0.0499)
    assert reference < bound(0.1001, 1000, 60_000, 0.05)


@many
@given(st.integers(2, 10**6), st.data(), st.integers(1, 10**7), st.floats(1e-6, 0.4))
def test_theorem2_bound_grows_with_the_description_and_falls_with_examples_and_delta(
    total, draw, m, delta
):
    nonzeros = draw.draw(st.integers(1, total - 1))
    distinct = draw.draw(st.integers(1, nonzeros))
    reference = bounds.theorem2_bound(0.1, nonzeros, distinct, total, 32, m, delta)
    assert reference < bounds.theorem2_bound(0.1, nonzeros + 1, distinct, total, 32, m, delta)
    assert reference < bounds.theorem2_bound(0.1, nonzeros, distinct + 1, total, 32, m, delta)
    assert reference < bounds.theorem2_bound(0.1, nonzeros, distinct, 2 * total, 32, m, delta)
    assert reference > bounds.theorem2_bound(0.1, nonzeros, distinct, total, 32, 2 * m, delta)
    assert reference > bounds.theorem2_bound(0.1, nonzeros, distinct, total, 32, m, 2 * delta)


@pytest.mark.slow
@many
@given(losses, bits, examples, deltas)
@example(0.5, 0, MOST, MOST_DELTA)
@example(0.5, 0, MOST, 1e-300)
@example(0.5, 0, 10**10, 0.9)
@example(1.0, 0, MOST, MOST_DELTA)
def test_each_form_is_at_most_the_looser_one(loss, length, m, delta):
    occam, kraft, tightest = (bound(loss, length, m, delta) for bound in BOUNDS)
    assert loss <= tightest <= min(1, kraft)
    assert kraft <= occam


def test_the_forms_differ_where_the_loss_is_small():
    occam, kraft, tightest = (bound(0.01, 5000, 60_000) for bound in BOUNDS)
    assert tightest < 0.6 * kraft
    assert kraft < 0.9 * occam


@many
@given(losses, bits, examples, deltas)
@example(0.0, 0, MOST, MOST_DELTA)
@example(1.0, 0, MOST, MOST_DELTA)
@example(0.5, 0, MOST, MOST_DELTA)
@example(1 - 2.0**-53, 0, MOST, MOST_DELTA)
@example(5e-324, 1e300, 1, 0.5)
@example(5e-324, 0, MOST, MOST_DELTA)
@example(1e-20, 40, 1, 0.5)
@example(0.3, 60, 1, LEAST_DELTA)
@example(-0.0, 10, 1000, 0.05)
def test_kl_bound_is_the_exact_inverse_rounded_up(loss, length, m, delta):
    bound = float(bounds.kl_bound(loss, length, m, delta))
    allowed = nats(length, m, delta)
    below = mpmath.mpf(bound) * (1 - mpmath.mpf(10) ** -14)
    assert loss <= bound <= 1
    assert bound == 1 or kl(loss, bound) >= allowed
    assert below <= loss or kl(loss, below) <= allowed


@pytest.mark.parametrize(
    ("loss", "length", "m", "delta"),
    [
        (0.02, 5000, 60_000, 0.05),
        (0.5, 0, 10**12, 0.9),
        (1e-12, 3, 10**7, 0.01),
        (0.999, 1, 100, 0.5),
        (1e-300, 0, 10**9, 0.999),
        (0.25, 30, 1, 0.1),
    ],
)
def test_kl_bound_matches_a_root_found_to_sixty_digits(loss, length, m, delta):
    allowed = nats(length, m, delta)
    low, high = mpmath.mpf(loss), mpmath.mpf(1)
    for _ in range(250):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(loss, middle) <= allowed else (low, middle)
    bound = mpmath.mpf(float(bounds.kl_bound(loss, length, m, delta)))
    assert 0 <= bound / low - 1 < 1e-14


@many
@given(losses, bits, examples, deltas)
def test_kraft_bound_is_its_formula_rounded_up(loss, length, m, delta):
    bound = float(bounds.kraft_bound(loss, length, m, delta))
    exact = mpmath.mpf(loss) + mpmath.sqrt(nats(length, m, delta) / 2)
    assert bound == exact == math.inf or 0 <= mpmath.mpf(bound) / exact - 1 < 1e-14


@many
@given(losses, bits, examples, deltas)
def test_occam_bound_is_its_formula_rounded_up(loss, length, m, delta):
    bound = float(bounds.occam_bound(loss, length, m, delta))
    given_nats = mpmath.mpf(length) + mpmath.log(2 / mpmath.mpf(delta))
    exact = mpmath.mpf(loss) + mpmath.sqrt(given_nats / (2 * mpmath.mpf(m)))
    assert bound == exact == math.inf or 0 <= mpmath.mpf(bound) / exact - 1 < 1e-14


@many
@given(losses, st.integers(1, 10**9), st.data(), examples, deltas)
def test_theorem2_bound_is_its_formula_rounded_up(loss, total, draw, m, delta):
    nonzeros = draw.draw(st.integers(0, total))
    distinct = draw.draw(st.integers(1, nonzeros + 1))
    bound = float(bounds.theorem2_bound(loss, nonzeros, distinct, total, 8, m, delta))
    which = nonzeros * mpmath.log(distinct * total, 2) + 2 * mpmath.log(total, 2)
    given_nats = distinct * 8 + which + mpmath.log(2 * total / mpmath.mpf(delta))
    exact = mpmath.mpf(loss) + mpmath.sqrt(given_nats / (2 * mpmath.mpf(m)))
    assert 0 <= mpmath.mpf(bound) / exact - 1 < 1e-14


@pytest.mark.slow
@many
@given(st.floats(0.01, 0.9), st.floats(0, 5000), st.integers(10_000, 10**6), deltas)
def test_the_relative_entropy_to_kl_bound_is_what_the_bits_allow(loss, length, m, delta):
    p = float(bounds.kl_bound(loss, length, m, delta))
    reached = loss * math.log(loss / p) + (1 - loss) * math.log((1 - loss) / (1 - p))
    allowed = (length * math.log(2) - math.log(delta)) / m
    assert reached == pytest.approx(allowed, rel=1e-6, abs=1e-14)


def test_no_number_of_bits_takes_kl_bound_past_one():
    assert bounds.kl_bound(0.3, 1e300, 1) == 1
    assert bounds.kl_bound(0.3, math.inf, 60_000) == 1
    assert bounds.kl_bound(1, 0, MOST, MOST_DELTA) == 1
    assert bounds.kraft_bound(0.3, math.inf, 60_000) == math.inf


def failures(bound, error, m, length, delta):
    """Probability that m draws with this error rate have so few errors that the bound fails."""
    fails = bound(np.arange(m + 1) / m, length, m, delta) < error
    return sum(
        math.comb(m, count) * error**count * (1 - error) ** (m - count)
        for count in np.flatnonzero(fails).tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS)
def test_one_hypothesis_fails_with_probability_delta_at_most(bound):
    grid = np.linspace(0.005, 0.995, 199)
    for m, delta in ((1, 0.5), (20, 0.2), (100, 0.01)):
        worst = max(failures(bound, error, m, 0, delta) for error in grid)
        assert worst <= delta
        assert bound is not bounds.kl_bound or worst > delta / 4


@pytest.mark.parametrize("bound", BOUNDS)
def test_all_hypotheses_of_a_language_hold_at_once(bound):
    # Eight independent hypotheses, with the codewords 0, 10, 110, …
    m, delta = 25, 0.9
    kept = dropped = 1.0
    for length, error in enumerate(np.linspace(0.1, 0.8, 8), start=1):
        kept *= 1 - failures(bound, error, m, length, delta)
        dropped *= 1 - failures(bound, error, m, 0, delta)
    assert 1 - kept <= delta
    if bound is bounds.kl_bound:
        assert 1 - dropped > delta  # without the lengths it would not hold


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**9), st.data())
def test_theorem2_bits_matches_integer_arithmetic(total, draw):
    nonzeros = draw.draw(st.integers(0, total))
    distinct = draw.draw(st.integers(1, nonzeros + 1))
    expected = distinct * 32 + nonzeros * math.log2(distinct * total) + 2 * math.log2(total)
    assert bounds.theorem2_bits(nonzeros, distinct, total, 32) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(losses, st.integers(1, 10**6), st.data(), examples, st.floats(1e-6, 0.999))
def test_theorem2_bound_matches_its_formula(loss, total, draw, m, delta):
    nonzeros = draw.draw(st.integers(0, total))
    distinct = draw.draw(st.integers(1, nonzeros + 1))
    which = nonzeros * math.log2(distinct * total) + 2 * math.log2(total)
    root = math.sqrt((distinct * 8 + which + math.log(2 * total / delta)) / (2 * m))
    bound = bounds.theorem2_bound(loss, nonzeros, distinct, total, 8, m, delta)
    assert bound == pytest.approx(loss + root)


@pytest.mark.parametrize("total", range(2, 30))
def test_theorem2_bits_satisfies_krafts_inequality_over_all_k_and_counts(total):
    b, mass = 2, 0.0
    for nonzeros in range(total + 1):
        for distinct in range(1, nonzeros + 2):
            networks = math.comb(total, nonzeros) * (distinct - 1) ** nonzeros * 2 ** (distinct * b)
            mass += networks * 2 ** -bounds.theorem2_bits(nonzeros, distinct, total, b)
    assert 0 < mass <= 1


def test_two_logarithms_of_n_hold_a_pair_of_counts_from_four_weights_on():
    pairs = {n: sum(nonzeros + 1 for nonzeros in range(n + 1)) for n in range(1, 100)}
    assert [n for n, count in pairs.items() if count > n**2] == [1, 2, 3]


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds_broadcast(bound):
    loss, length = np.array([[0.0], [0.2], [1.0]]), np.array([0, 10, 1e4, math.inf])
    table = bound(loss, length, 60_000)
    assert table.shape == (3, 4)
    assert table.dtype == np.float64
    for row, column in np.ndindex(3, 4):
        assert table[row, column] == bound(loss[row, 0], length[column], 60_000)
    assert bound(loss[:, :0], 1, 10).shape == (3, 0)


def test_theorem2_bits_and_its_bound_broadcast():
    counts = np.array([0, 5, 9])
    length = bounds.theorem2_bits(counts, counts + 1, 100, 16)
    table = bounds.theorem2_bound(
        np.array([[0.1], [0.2]]), counts, counts + 1, 100, 16, 60_000, 0.5
    )
    assert length.shape == (3,)
    assert table.shape == (2, 3)
    assert table[1, 2] == bounds.occam_bound(0.2, length[2], 60_000, 0.005)


@pytest.mark.parametrize("bound", BOUNDS)
def test_narrow_types_are_computed_in_float64(bound):
    wide = bound(0.25, 100, 200, 0.125)
    narrow = bound(np.float32(0.25), np.int8(100), np.uint8(200), np.float32(0.125))
    assert narrow == wide
    assert narrow.dtype == np.float64


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1.1, 0, 10, 0.1), r"sample_loss = 1\.1 must be in \[0, 1\]"),
        ((-1e-9, 0, 10, 0.1), "sample_loss"),
        ((float("nan"), 0, 10, 0.1), "sample_loss"),
        (([0.1, 1.1], 0, 10, 0.1), "sample_loss"),
        ((0.1, -1, 10, 0.1), "bits = -1 must be ≥ 0"),
        ((0.1, [1, float("nan")], 10, 0.1), "bits"),
        ((0.1, 1, 0, 0.1), r"num_examples = 0 must be an integer in \[1, 2⁵³\]"),
        ((0.1, 1, 10.5, 0.1), "num_examples"),
        ((0.1, 1, 10.0, 0.1), "num_examples"),
        ((0.1, 1, float("nan"), 0.1), "num_examples"),
        ((0.1, 1, MOST + 1, 0.1), "num_examples"),
        ((0.1, 1, 10, 0.0), r"delta = 0\.0 must be in \(0, 1\)"),
        ((0.1, 1, 10, 1.0), "delta"),
        ((0.1, 1, 10, float("nan")), "delta"),
    ],
)
def test_bounds_refuse(bound, arguments, named):
    with pytest.raises(ValueError, match=named):
        bound(*arguments)


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
def test_theorem2_bits_and_its_bound_refuse(arguments, named):
    with pytest.raises(ValueError, match=named):
        bounds.theorem2_bits(*arguments)
    with pytest.raises(ValueError, match=named):
        bounds.theorem2_bound(0.1, *arguments, 60_000)


@pytest.mark.parametrize(
    ("loss", "m", "delta", "named"),
    [(1.1, 10, 0.1, "sample_loss"), (0.1, 0, 0.1, "num_examples"), (0.1, 10, 1.5, "delta = 1.5")],
)
def test_theorem2_bound_refuses_what_dividing_by_n_would_hide(loss, m, delta, named):
    with pytest.raises(ValueError, match=named):
        bounds.theorem2_bound(loss, 3, 2, 10, 32, m, delta)


def test_the_table_of_the_documentation():
    page = pathlib.Path(__file__).parents[2] / "docs" / "bounds.md"
    number = r"([\d.]+) \| "
    rows = re.findall(rf"^\| {number * 5}"[:-1] + "$", page.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == 5
    for loss, length, *printed in rows:
        tightest_first = [bound(float(loss), float(length), 60_000, 0.05) for bound in BOUNDS[::-1]]
        assert printed == [f"{bound:.4f}" for bound in tightest_first]
