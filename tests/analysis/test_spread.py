"""Spread against closed forms and brute force, and its null against what it must take out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import analysis


def _bump(side, centre, sigma):
    """Weights whose squares are a Gaussian of standard deviation sigma, around a ring."""
    distance = (np.arange(side) - centre + side / 2) % side - side / 2
    return np.exp(-(distance**2) / (4 * sigma**2))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_a_gaussian_bump_has_its_own_spread(periodic, sigma):
    line = _bump(60, 30.3, sigma)[:, None]
    found = analysis.unit_spread(line, (60, 1), periodic=periodic)
    assert found[0] == pytest.approx(sigma, rel=1e-4)
    image = np.outer(_bump(40, 20.0, sigma), _bump(50, 24.6, 2.0)).reshape(-1, 1)
    found = analysis.unit_spread(image, (40, 50, 1), periodic=periodic)
    assert found[0] == pytest.approx(np.hypot(sigma, 2.0), rel=1e-4)


def test_a_bump_over_the_border_is_whole_on_a_ring_and_halved_on_a_line():
    bump = _bump(60, 0.2, 2.0)[:, None]
    assert analysis.unit_spread(bump, (60, 1), periodic=True)[0] == pytest.approx(2, rel=1e-4)
    assert analysis.unit_spread(bump, (60, 1))[0] > 25


@pytest.mark.parametrize("periodic", [False, True])
def test_even_weights_spread_as_widely_as_the_closed_form(periodic):
    weights = np.full((30 * 3, 1), -0.7)
    found = analysis.unit_spread(weights, (30, 3), periodic=periodic)
    assert found[0] == pytest.approx(np.sqrt((30**2 - 1) / 12))
    assert analysis.participation(weights)[0] == pytest.approx(1 / 90)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 2)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_spread_is_the_least_over_all_centres(image_shape, periodic, seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(int(np.prod(image_shape)), 1)) * (rng.random() < 0.5)
    weights[rng.integers(len(weights))] += 1
    energy = np.square(weights).reshape(image_shape).sum(-1)
    energy /= energy.sum()
    # Centres a sixty-fourth of a position apart, axis by axis.
    total = 0.0
    for axis, side in enumerate(image_shape[:2]):
        centres = np.arange(0, side, 1 / 64)
        distance = np.abs(np.arange(side) - centres[:, None])
        if periodic:
            distance = np.minimum(distance, side - distance)
        total += (distance**2 @ energy.sum(1 - axis)).min()
    found = analysis.unit_spread(weights, image_shape, periodic=periodic)[0]
    assert found**2 <= total + 1e-9
    assert found**2 >= total - 2 / 128**2 - 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 15), st.integers(1, 15), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_shuffled_weights_keep_each_units_values_and_each_inputs_count(
    inputs, units, density, seed
):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(inputs, units)) * (rng.random((inputs, units)) < density)
    shuffled = analysis.shuffle_weights(weights, rng)
    np.testing.assert_array_equal(np.sort(shuffled, 0), np.sort(weights, 0))
    np.testing.assert_array_equal((shuffled != 0).sum(1), (weights != 0).sum(1))


def test_local_units_are_told_from_the_same_weights_shuffled():
    rng = np.random.default_rng(0)
    kernel = np.stack([_bump(60, centre, 2.0) for centre in rng.uniform(0, 60, 200)], 1)
    found = analysis.localisation(kernel, (60, 1), periodic=True)
    assert found.units == 200
    assert found.spread == pytest.approx(2.0, rel=1e-3)
    assert found.ratio < 0.2
    shuffled = analysis.shuffle_weights(kernel, rng)
    again = analysis.localisation(shuffled, (60, 1), periodic=True)
    assert again.ratio == pytest.approx(1, abs=0.03)
    # Participation does not see the difference.
    assert again.ipr == pytest.approx(found.ipr)


def test_scattered_units_of_few_weights_participate_little_and_are_not_local():
    rng = np.random.default_rng(0)
    kernel = np.zeros((100, 300))
    for unit in range(300):
        kernel[rng.choice(100, 4, replace=False), unit] = rng.normal(size=4)
    found = analysis.localisation(kernel, (10, 10, 1))
    assert found.ipr > 0.25
    assert found.ratio == pytest.approx(1, abs=0.04)


def test_sparse_units_that_prefer_the_centre_are_not_called_local():
    rng = np.random.default_rng(0)
    preference = 0.6 * _bump(60, 30, 3.0)[:, None]
    kernel = rng.normal(size=(60, 400)) * (rng.random((60, 400)) < preference)
    found = analysis.localisation(kernel, (60, 1))
    assert found.spread < 6
    assert found.ratio == pytest.approx(1, abs=0.04)


def test_units_that_are_dead_or_of_one_weight_are_left_out():
    kernel = np.zeros((12, 4))
    kernel[3, 1] = 1.0
    kernel[[2, 3], 2] = 1.0
    found = analysis.localisation(kernel, (12, 1))
    assert found.units == 1
    assert found.spread == pytest.approx(0.5)
    assert analysis.localisation(kernel, (12, 1), min_nonzeros=1).units == 2
    none = analysis.localisation(0 * kernel, (12, 1))
    assert none.units == 0
    assert np.isnan(none.ratio)


def test_scale_does_not_matter_even_near_underflow():
    kernel = np.random.default_rng(0).normal(size=(30, 5))
    found = analysis.localisation(kernel, (30, 1))
    np.testing.assert_allclose(analysis.localisation(1e-250 * kernel, (30, 1)), found, rtol=1e-9)


def test_a_kernel_of_another_size_is_refused():
    with pytest.raises(ValueError, match="must have 16 rows"):
        analysis.localisation(np.ones((15, 3)), (4, 4, 1))
