"""The entropy coder: what is read is what was written, at the length that the models say."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.mdl.coder import (
    MAX_SYMBOLS,
    PRECISION,
    Adaptive,
    Counts,
    DamagedError,
    Decoder,
    Encoder,
    integers,
    natural,
    subset,
    subset_rank,
    subset_unrank,
    uniform,
)

TOTAL = 2**PRECISION
some = settings(deadline=None, max_examples=60)

sizes = st.integers(1, 300) | st.integers(1, 2**24) | st.integers(1, 2**70) | st.integers(1, 2**300)
naturals = st.integers(0, 40) | st.integers(0, 2**60) | st.integers(0, 2**400)
signed = st.integers(-3, 3) | st.integers(-(2**60), 2**60) | st.integers(-(2**500), 2**500)


def round_trip(code, value):
    """What `code` reads of what it writes of a value; zeros at the end may take no bytes."""
    encoder = Encoder()
    assert equal(code(encoder, value), value)
    payload = encoder.getvalue()
    assert 8 * len(payload) - encoder.bits <= 40
    decoder = Decoder(payload)
    found = code(decoder, None)
    decoder.finish()
    return found


def equal(first, second):
    return np.array_equal(np.asarray(first, object), np.asarray(second, object))


@st.composite
def choices(draw):
    size = draw(sizes)
    return draw(st.integers(0, size - 1) | st.just(0) | st.just(size - 1)), size


@some
@given(st.lists(choices(), max_size=20))
def test_uniform_choices_of_any_size_come_back(pairs):
    def code(coder, values):
        values = values or [0] * len(pairs)
        return [uniform(coder, v, size) for v, (_, size) in zip(values, pairs, strict=True)]

    values = [value for value, _ in pairs]
    assert round_trip(code, values) == values


@some
@given(choices())
def test_a_uniform_choice_takes_the_logarithm_of_its_size(pair):
    value, size = pair
    encoder = Encoder()
    uniform(encoder, value, size)
    # What is above the first 2⁸ at least is rounded up to a whole digit.
    assert -1e-9 <= encoder.bits - math.log2(size) <= math.log2(1 + 2**-8)
    if size <= 2**16:
        assert encoder.bits == pytest.approx(math.log2(size), abs=1e-12)


def test_bytes_are_as_long_as_the_bits_say():
    random = np.random.default_rng(0)
    encoder, model, symbols = Encoder(), Adaptive(9), random.binomial(8, 0.2, 3000).tolist()
    sizes = random.integers(2, 2**16, 3000).tolist()
    for size, symbol in zip(sizes, symbols, strict=True):
        encoder.digit(int(random.integers(size)), size)
        model.code(encoder, symbol)
    # A uniform model of constriction's has 2²⁴ parts, so that 2¹⁶ values are equal to 2⁻⁸.
    assert -40 <= 8 * len(encoder.getvalue()) - encoder.bits <= 40 + 3000 * math.log2(1 + 2**-8)
    few = Encoder()
    for size in sizes[:20]:
        few.digit(int(random.integers(size)), size)
    assert abs(8 * len(few.getvalue()) - few.bits) <= 40


def test_a_choice_among_nothing_and_one_out_of_range_are_refused():
    with pytest.raises(DamagedError, match="among nothing"):
        uniform(Encoder(), 0, 0)
    # 2¹⁷ − 255 is coded as 512 − 1 top values of 8 bits each; the last ones name no number.
    size = 2**17 - 255
    encoder = Encoder()
    encoder.digit((size - 1) >> 8, ((size - 1) >> 8) + 1)
    encoder.digit(255, 256)
    with pytest.raises(DamagedError, match="out of range"):
        uniform(Decoder(encoder.getvalue()), 0, size)


@some
@given(st.lists(naturals, max_size=20))
def test_natural_numbers_come_back(values):
    def code(coder, given):
        return [natural(coder, value) for value in given or [0] * len(values)]

    assert round_trip(code, values) == values


@pytest.mark.parametrize(
    ("value", "bits"),
    [(0, 4), (1, 4), (2, 5), (28, 8), (784, 13), (2**14, 4 + 4 + 14), (2**15 - 1, 22)],
)
def test_the_length_of_a_natural_number(value, bits):
    encoder = Encoder()
    natural(encoder, value)
    assert encoder.bits == bits


def test_a_number_of_a_million_digits_is_refused():
    encoder = Encoder()
    encoder.digit(15, 16)
    natural(encoder, 2**20)
    with pytest.raises(DamagedError, match="million digits"):
        natural(Decoder(encoder.getvalue()), 0)


@some
@given(st.lists(signed, max_size=30))
def test_integers_come_back(values):
    def code(coder, given):
        return integers(coder, given, len(values))

    assert round_trip(code, values) == values


def test_integers_of_too_many_digits_are_refused():
    values = [2 ** (MAX_SYMBOLS - 1) - 1]
    assert round_trip(lambda coder, given: integers(coder, given, 1), values) == values
    with pytest.raises(ValueError, match="512 binary digits"):
        integers(Encoder(), [2 ** (MAX_SYMBOLS - 1)], 1)


def test_integers_of_one_length_cost_their_digits_and_signs():
    random = np.random.default_rng(0)
    values = (random.integers(2**19, 2**20, 500) * random.choice([-1, 1], 500)).tolist()
    encoder = Encoder()
    integers(encoder, values, 500)
    # Their length, 20 of 0 … 20, is learned: Γ(21/2 + 500) / Γ(1/2 + 500) · Γ(1/2) / Γ(21/2).
    learned = math.lgamma(510.5) - math.lgamma(500.5) + math.lgamma(0.5) - math.lgamma(10.5)
    slack = 500 * math.log2(TOTAL / (TOTAL - 21))
    least = 500 * 20 + 8 + learned / math.log(2)
    assert least - 21 <= encoder.bits <= least + slack + 1


@some
@given(st.data(), st.integers(0, 3000))
def test_counts_come_back(data, most):
    values = data.draw(st.lists(st.integers(0, most) | st.just(most), max_size=40))

    def code(coder, given):
        counts = Counts(most)
        return [counts.code(coder, value) for value in given or [0] * len(values)]

    assert round_trip(code, values) == values


@some
@given(st.data(), st.integers(1, MAX_SYMBOLS))
def test_adaptive_symbols_come_back(data, size):
    values = data.draw(st.lists(st.integers(0, size - 1), max_size=60))

    def code(coder, given):
        model = Adaptive(size)
        return [model.code(coder, value) for value in given or [0] * len(values)]

    assert round_trip(code, values) == values


@some
@given(st.data(), st.integers(1, MAX_SYMBOLS))
def test_frequencies_are_positive_and_fill_the_scale(data, size):
    model, tables = Adaptive(size), []

    class Spy:
        def symbol(self, value, frequencies):
            tables.append(frequencies)
            return value

    values = data.draw(st.lists(st.integers(0, size - 1), max_size=30)) * 10
    for value in [*values, 0]:
        model.code(Spy(), value)
    for frequencies in tables:
        assert len(frequencies) == size
        assert min(frequencies) >= 1
        assert sum(frequencies) == TOTAL
    # Half a count to begin with: the share of a symbol is (its number + ½) / (all + size / 2).
    for symbol in range(size):
        share = (values.count(symbol) + 0.5) / (len(values) + size / 2)
        assert abs(tables[-1][symbol] / TOTAL - share) <= (size + 1) / TOTAL


@pytest.mark.parametrize(("size", "count"), [(2, 400), (3, 1000), (10, 1000), (100, 2000)])
@pytest.mark.parametrize("skew", [0, 2])
def test_an_adaptive_model_takes_what_krichevsky_and_trofimov_say(size, count, skew):
    random = np.random.default_rng(size)
    weights = (1.0 + np.arange(size)) ** -skew
    values = random.choice(size, count, p=weights / weights.sum()).tolist()
    encoder, model = Encoder(), Adaptive(size)
    for value in values:
        model.code(encoder, value)
    # P = Γ(m/2) / Γ(n + m/2) · ∏ Γ(nᵢ + ½) / Γ(½)
    log_p = math.lgamma(size / 2) - math.lgamma(count + size / 2)
    log_p += sum(math.lgamma(values.count(s) + 0.5) - math.lgamma(0.5) for s in range(size))
    exact = -log_p / math.log(2)
    # A slot of 2⁻¹² is kept for each symbol and shares are rounded down, so none shrinks by more.
    assert encoder.bits <= exact + count * math.log2(TOTAL / (TOTAL - size)) + 1e-6
    assert encoder.bits >= exact - count * math.log2(1 + size * size / TOTAL) - 1e-6
    assert encoder.bits == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("size", [0, MAX_SYMBOLS + 1])
def test_adaptive_models_of_no_or_too_many_symbols_are_refused(size):
    with pytest.raises(ValueError, match=f"got {size}"):
        Adaptive(size)


@pytest.mark.parametrize("size", range(8))
def test_subsets_are_numbered_in_lexicographic_order(size):
    for count in range(size + 1):
        for rank, members in enumerate(itertools.combinations(range(size), count)):
            assert subset_rank(np.array(members, int), size, count) == rank
            assert subset_unrank(rank, size, count).tolist() == list(members)


@some
@given(st.data(), st.integers(0, 400))
def test_subsets_come_back_at_the_logarithm_of_their_number(data, size):
    members = data.draw(st.sets(st.integers(0, max(0, size - 1)), max_size=size)) if size else set()
    members = np.array(sorted(members), int)
    encoder = Encoder()
    subset(encoder, members, size, len(members))
    assert 0 <= encoder.bits - math.log2(math.comb(size, len(members))) + 1e-9 <= 0.006
    found = round_trip(lambda coder, given: subset(coder, given, size, len(members)), members)
    assert found.tolist() == members.tolist()


@some
@given(st.lists(st.integers(1, 255), min_size=2, max_size=40), st.integers(0, 2**30))
def test_what_is_left_over_is_refused(weights, seed):
    model = Adaptive(len(weights))
    encoder = Encoder()
    symbols = np.random.default_rng(seed).integers(len(weights), size=30).tolist()
    for symbol in symbols:
        model.code(encoder, symbol)
    uniform(encoder, 200, 256)
    decoder, model = Decoder(encoder.getvalue()), Adaptive(len(weights))
    assert [model.code(decoder, 0) for _ in symbols] == symbols
    with pytest.raises(DamagedError, match="longer than the network"):
        decoder.finish()
    assert uniform(decoder, 0, 256) == 200
    decoder.finish()


def test_payloads_that_end_in_zeros_are_refused():
    encoder = Encoder()
    uniform(encoder, 2**50, 2**60)
    payload = encoder.getvalue()
    assert not payload.endswith(b"\0")
    with pytest.raises(DamagedError, match="zero byte"):
        Decoder(payload + b"\0")
    Decoder(b"").finish()
