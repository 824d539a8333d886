"""Labels are the hidden network's, supports are those of its kind, and a seed is enough."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data.sources import planted

SMALL = "length=20,units=3,window=4,examples=600,test=200"


def _score(hidden, signals):
    """The teacher, a unit and an input at a time."""
    total = np.zeros(len(signals))
    for unit, a in enumerate(hidden.readout):
        z = np.zeros(len(signals))
        for place in np.flatnonzero(hidden.support[:, unit]):
            z += hidden.weights[place, unit] * signals[:, place, 0].astype(np.float64)
        total += a * np.where(z > 0, z, 0)
    return total


@pytest.mark.parametrize("correlation", [0, 3])
@pytest.mark.parametrize("kind", planted.KINDS)
def test_labels_are_the_teacher_s_and_balanced(kind, correlation):
    name = f"planted:kind={kind},correlation={correlation},{SMALL}"
    found, hidden = data.load(name), planted.teacher(name)
    for split, count in ((found.train, 600), (found.test, 200)):
        assert split.images.shape == (count, 20, 1)
        assert split.images.dtype == np.float32
        assert split.labels.dtype == np.int32
        above = _score(hidden, split.images) - hidden.threshold
        np.testing.assert_array_equal(split.labels, above > 0)
        assert np.abs(above).min() >= hidden.margin > 0
        assert split.labels.sum() == count // 2
    # The two sets share no signal.
    both = np.concatenate([found.train.images, found.test.images])[..., 0]
    assert len(np.unique(both, axis=0)) == 800


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_threshold_is_the_median_and_the_margin_leaves_out_its_share(margin):
    name = f"planted:{SMALL},margin={margin}"
    hidden = planted.teacher(name)
    options = planted._options(name)
    signals = planted._signals(options, planted._Random(77, 9), 20_000)
    above = hidden.score(signals) - hidden.threshold
    assert np.mean(above > 0) == pytest.approx(0.5, abs=0.02)
    assert np.mean(np.abs(above) < hidden.margin) == pytest.approx(margin, abs=0.02)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(planted.KINDS),
    st.integers(5, 40),
    st.integers(2, 7),
    st.integers(1, 5),
    st.sampled_from([0.0, 2.0]),
    st.integers(0, 2**32 - 1),
)
def test_supports_are_those_of_their_kind(kind, length, units, window, correlation, seed):
    name = (
        f"planted:kind={kind},length={length},units={units},window={window},"
        f"correlation={correlation},seed={seed}"
    )
    hidden = planted._without_threshold(planted._options(name))
    support = hidden.support
    np.testing.assert_array_equal(support.sum(0), window)
    assert set(np.unique(hidden.readout)) == {-1.0, 1.0}
    # Each unit's input has variance 1.
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    covariance = np.exp(-distance / correlation) if correlation else np.eye(length)
    variances = np.diag(hidden.weights.T @ covariance @ hidden.weights)
    np.testing.assert_allclose(variances, 1)
    spans = [np.ptp(np.flatnonzero(column)) + 1 for column in support.T]
    places = length - window + 1
    if kind == "sparse":
        assert support.shape == (length, units)
        return
    np.testing.assert_array_equal(spans, window)
    if kind == "local":
        assert support.shape == (length, units)
        return
    assert support.shape == (length, units * places)
    for number in range(units):
        mine = hidden.filters == number
        starts = support[:, mine].argmax(0)
        np.testing.assert_array_equal(starts, np.arange(places))
        weights = hidden.weights[:, mine]
        windows = [weights[start : start + window, unit] for unit, start in enumerate(starts)]
        np.testing.assert_allclose(windows, np.tile(windows[0], (places, 1)))
        assert len(set(hidden.readout[mine])) == 1


def test_sparse_units_are_not_local():
    name = "planted:kind=sparse,units=40"
    support = planted.teacher(name).support
    spans = [np.ptp(np.flatnonzero(column)) + 1 for column in support.T]
    # The expected span of 5 among 64 places is 65 · 4 / 6 = 43.3.
    assert np.mean(spans) == pytest.approx(43.3, abs=6)


@pytest.mark.parametrize("length", [0.0, 3.0])
def test_signals_are_gaussian_and_correlated_as_asked(length):
    options = {**planted.DEFAULTS, "length": 12, "correlation": length}
    signals = planted._signals(options, planted._Random(1, 2), 40_000)[..., 0].astype(float)
    distance = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    expected = np.exp(-distance / length) if length else np.eye(12)
    np.testing.assert_allclose(np.cov(signals.T), expected, atol=0.035)
    np.testing.assert_allclose(signals.mean(0), 0, atol=0.025)
    np.testing.assert_allclose((signals**4).mean(), 3, atol=0.1)


def test_a_seed_decides_every_byte():
    name = f"planted:{SMALL},seed=5"
    first = data.digest(data.load(name))
    assert data.digest(data.load(name)) == first
    assert data.digest(data.load(f"planted:{SMALL},seed=6")) != first
    # More training signals change neither teacher nor test set.
    more = data.load(name.replace("examples=600", "examples=700"))
    np.testing.assert_array_equal(more.test.images, data.load(name).test.images)
    kept = {signal.tobytes() for signal in more.train.images}
    assert kept.issuperset(signal.tobytes() for signal in data.load(name).train.images)


def test_the_stream_of_random_numbers_is_numpy_s_documented_one():
    bits = np.random.PCG64(np.random.SeedSequence(3, spawn_key=(1,)))
    expected = [((value >> 12) + 0.5) / 2**52 for value in map(int, bits.random_raw(5))]
    np.testing.assert_array_equal(planted._Random(3, 1).uniform(5), expected)


@pytest.mark.slow
def test_importing_data_does_not_import_it():
    code = "import sys, lconv_jax.data; print('lconv_jax.data.sources.planted' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("kind=global", "kind = 'global' must be one of local, conv, sparse"),
        ("window=65", "window = 65 must be 1 … length, which is 64"),
        ("units=1", "units = 1 must be ≥ 2"),
        ("correlation=-1", "correlation = -1.0 must be ≥ 0"),
        ("correlation=nan", "correlation = nan must be ≥ 0"),
        ("margin=1", r"margin = 1.0 must be in \[0, 1\)"),
        ("examples=3", "examples = 3 must be even"),
        ("seed=-1", "seed = -1 must be"),
        ("width=3", "not an option of planted"),
        # Both units are off for a quarter of the signals: more than the margin leaves out.
        ("units=2", "25% of the signals have the median score"),
        # One input a unit, the same, with the signs + and −: the label would be constant.
        ("kind=conv,window=1,units=2,length=8,seed=9", "100% of the signals have the median"),
        ("kind=conv,window=1,units=2,length=8,seed=9,margin=0", "100% of the signals"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, says):
    with pytest.raises(data.DataError, match=says):
        data.load(f"planted:{options}")
