"""Locality against brute force, and its null against what it must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import analysis


def _brute_share(support, image_shape, window):
    units = support.reshape(*image_shape, -1)
    shares = []
    for unit in np.moveaxis(units, -1, 0):
        counts = unit.sum(-1)
        best = 0
        for top in range(max(1, counts.shape[0] - window + 1)):
            for left in range(max(1, counts.shape[1] - window + 1)):
                best = max(best, counts[top : top + window, left : left + window].sum())
        shares.append(best / counts.sum())
    return np.array(shares)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.integers(1, 10),
    st.integers(0, 2**32 - 1),
)
def test_window_share_is_that_of_brute_force(image_shape, window, seed):
    rng = np.random.default_rng(seed)
    support = rng.random((int(np.prod(image_shape)), 5)) < 0.3
    support[0, 0] = True  # one unit at least is alive
    support = support[:, support.any(0)]
    expected = _brute_share(support, image_shape, window)
    np.testing.assert_allclose(analysis.window_share(support, image_shape, window), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_shuffle_keeps_both_margins(inputs, units, density, seed):
    rng = np.random.default_rng(seed)
    support = rng.random((inputs, units)) < density
    shuffled = analysis.shuffle_support(support, rng)
    np.testing.assert_array_equal(shuffled.sum(0), support.sum(0))
    np.testing.assert_array_equal(shuffled.sum(1), support.sum(1))


@pytest.mark.slow
def test_shuffle_is_uniform_over_the_matrices_with_its_margins():
    # Margins (1, 1, 1) × (1, 1, 1) have six matrices, the permutations.
    rng = np.random.default_rng(0)
    seen = [
        tuple(analysis.shuffle_support(np.eye(3, dtype=bool), rng).argmax(0)) for _ in range(1200)
    ]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 200).max() < 60  # 4.6 standard deviations


def _window_kernel(rng, side, width, units):
    kernel = np.zeros((side, side, units))
    for unit in range(units):
        top, left = rng.integers(0, side - width + 1, 2)
        kernel[top : top + width, left : left + width, unit] = rng.normal(size=(width, width))
    return kernel.reshape(side * side, units)


@pytest.mark.slow
def test_local_units_are_told_from_scattered_ones():
    rng = np.random.default_rng(0)
    kernel = _window_kernel(rng, 28, 9, 400)
    found = analysis.locality(kernel, (28, 28, 1), window=9)
    assert found.units == 400
    assert found.share == 1.0
    assert found.ratio > 2
    scattered = np.where(analysis.shuffle_support(kernel != 0, rng), 1.0, 0.0)
    assert analysis.locality(scattered, (28, 28, 1), window=9).ratio == pytest.approx(1, abs=0.03)


def test_units_that_prefer_the_centre_are_not_called_local():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:28, :28] - 13.5
    weight = np.exp(-(rows**2 + columns**2) / 50).reshape(-1, 1)
    kernel = (rng.random((784, 400)) < weight * 0.5).astype(float)
    found = analysis.locality(kernel, (28, 28, 1), window=9)
    assert found.share > 0.4  # 0.10 of the pixels
    assert found.ratio == pytest.approx(1, abs=0.03)


def test_dead_units_are_left_out():
    kernel = np.zeros((16, 3))
    kernel[0, 1] = 1.0
    found = analysis.locality(kernel, (4, 4, 1), window=2)
    assert found.units == 1
    assert found.share == 1.0
    kernel[:3, 2] = 1.0
    assert analysis.locality(kernel, (4, 4, 1), window=2, min_nonzeros=3).units == 1
    assert np.isnan(analysis.locality(0 * kernel, (4, 4, 1)).ratio)


def test_a_kernel_of_another_size_is_refused():
    with pytest.raises(ValueError, match="must have 16 rows"):
        analysis.locality(np.ones((15, 3)), (4, 4, 1))
