"""Recovery on kernels made for it, against brute force and the value that chance has."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import analysis
from lconv_jax.data.sources import planted


def _teacher(seed=0, inputs=30, units=5, window=4):
    rng = np.random.default_rng(seed)
    teacher = np.zeros((inputs, units), bool)
    for unit in range(units):
        teacher[rng.choice(inputs, window, replace=False), unit] = True
    return teacher


def test_the_teacher_s_own_units_are_recovered_in_any_order_and_number():
    teacher, rng = _teacher(), np.random.default_rng(1)
    order = rng.permutation(np.repeat(np.arange(5), 3))
    kernel = teacher[:, order] * rng.normal(size=(30, 15))
    found = analysis.recovery(kernel, teacher)
    assert found.units == 15
    assert found.best == found.one_to_one == (1, 1, 1)
    assert found.best_null.precision < 0.7
    assert found.one_to_one_null.overlap < 0.7


def test_what_is_missing_lowers_recall_and_what_is_more_lowers_precision():
    teacher = _teacher()
    half = teacher.copy()
    for unit in range(5):
        half[np.flatnonzero(teacher[:, unit])[:2], unit] = False
    assert analysis.recovery(half, teacher).best == (1, 0.5, 0.5)
    assert analysis.recovery(np.ones((30, 2)), teacher).best == (
        pytest.approx(4 / 30),
        1,
        pytest.approx(4 / 30),
    )


def test_with_fewer_units_than_the_teacher_the_others_are_not_recalled():
    teacher = _teacher()
    kernel = np.concatenate([teacher[:, :2], np.zeros((30, 9))], axis=1)
    found = analysis.recovery(kernel, teacher)
    assert found.units == 2
    assert found.best == (1, 1, 1)
    assert found.one_to_one == (1, pytest.approx(2 / 5), pytest.approx(2 / 5))
    partner = analysis.partners(kernel[:, :2] != 0, teacher)
    np.testing.assert_array_equal(partner, [0, 1, -1, -1, -1])


def test_of_a_dense_layer_the_largest_weights_are_compared():
    teacher, rng = _teacher(), np.random.default_rng(2)
    kernel = np.where(teacher, 1.0, 0.1) * rng.choice([-1, 1], teacher.shape)
    assert analysis.recovery(kernel, teacher).best.precision == pytest.approx(4 / 30)
    assert analysis.recovery(kernel, teacher, largest=4).best == (1, 1, 1)
    assert analysis.recovery(kernel, teacher, largest=2).best == (1, 0.5, 0.5)
    # Weights that are zero are not made up for.
    assert analysis.recovery(teacher, teacher, largest=9).best == (1, 1, 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_matches_are_those_of_brute_force(units, teacher_units, seed):
    rng = np.random.default_rng(seed)
    support, teacher = rng.random((9, units)) < 0.4, rng.random((9, teacher_units)) < 0.4
    support[0], teacher[1] = True, True
    teacher = np.unique(teacher, axis=1)
    teacher_units = teacher.shape[1]
    jaccard = np.array([[(s & t).sum() / (s | t).sum() for t in teacher.T] for s in support.T])
    found = analysis.recovery(support, teacher, shuffles=1)
    assert found.best.overlap == pytest.approx(jaccard.max(1).mean())
    wide = jaccard if units >= teacher_units else jaccard.T
    most = max(
        sum(wide[row, column] for column, row in enumerate(rows))
        for rows in itertools.permutations(range(wide.shape[0]), wide.shape[1])
    )
    assert found.one_to_one.overlap == pytest.approx(most / teacher_units)
    best = [teacher[:, column] for column in jaccard.argmax(1)]
    shares = [(s & t).sum() / s.sum() for s, t in zip(support.T, best, strict=True)]
    assert found.best.precision == pytest.approx(np.mean(shares))


@pytest.mark.slow
def test_a_random_layer_is_at_chance():
    teacher = _teacher(units=3)
    rng = np.random.default_rng(3)
    found = analysis.recovery(rng.random((30, 400)) < 0.15, teacher, shuffles=3)
    for mine, null in zip(found.best, found.best_null, strict=True):
        assert mine == pytest.approx(null, abs=0.03)


def test_a_unit_counts_as_found_at_any_place_of_a_convolution():
    hidden = planted.teacher("planted:kind=conv,length=20,units=3,window=4,examples=2,test=2")
    kernel = np.zeros((20, 2))
    kernel[3:7, 0], kernel[16:20, 1] = 1.0, -1.0
    found = analysis.recovery(kernel, hidden.support)
    assert found.best == (1, 1, 1)
    # 17 places, at each of which three filters read the same inputs.
    assert found.teacher_units == 17
    assert found.one_to_one.recall == pytest.approx(2 / 17)


def test_no_unit_gives_nan_and_a_wrong_shape_is_refused():
    teacher = _teacher()
    found = analysis.recovery(np.zeros((30, 4)), teacher)
    assert found.units == 0
    assert np.isnan(found.best).all()
    assert np.isnan(found.one_to_one_null).all()
    with pytest.raises(ValueError, match="with the same inputs"):
        analysis.recovery(np.ones((29, 4)), teacher)
    with pytest.raises(ValueError, match="every unit must read an input"):
        analysis.recovery(np.ones((30, 4)), np.zeros((30, 2)))


def test_cut_keeps_the_largest_weights_of_each_unit():
    kernel = np.random.default_rng(0).normal(size=(30, 8))
    kept = analysis.cut(kernel, 7)
    assert (np.count_nonzero(kept, axis=0) == 7).all()
    for unit in range(8):
        gone = np.abs(kernel[kept[:, unit] == 0, unit])
        assert np.abs(kept[kept[:, unit] != 0, unit]).min() > gone.max()
    np.testing.assert_array_equal(kept[kept != 0], kernel[kept != 0])
    np.testing.assert_array_equal(analysis.cut(kernel, 30), kernel)
