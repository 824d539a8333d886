"""Gaussian and non-linear Gaussian fields against their closed forms."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from lconv_jax import data
from lconv_jax.data.sources import gaussian

SMALL = "length=24,xi1=1,xi2=2.5,gain=4,examples=40000,test=500"
SMALL_2D = "side=8,xi1=0.8,xi2=1.5,gain=4,examples=20000,test=500"


def _load(name):
    return data.load(f"{name}:{SMALL_2D if name.endswith('_2d') else SMALL}")


@pytest.fixture(scope="module")
def sets():
    return {name: _load(name) for name in ("nlgp", "gp", "nlgp_2d", "gp_2d")}


def _classes(split):
    images = split.images[..., 0].astype(np.float64)
    return [images[split.labels == label] for label in (0, 1)]


def _xi(name):
    return (0.8, 1.5) if name.endswith("_2d") else (1.0, 2.5)


@pytest.mark.parametrize("name", ["nlgp", "gp", "nlgp_2d", "gp_2d"])
def test_covariance_of_each_class_is_the_closed_form(sets, name):
    for images, xi in zip(_classes(sets[name].train), _xi(name), strict=True):
        expected = gaussian.covariance(images.shape[1:], xi, 2.0, gain=4.0)
        first = images[(slice(None),) + (3,) * (images.ndim - 1)]
        found = np.tensordot(first, images, (0, 0)) / len(images)
        # Moved back by 3 along each axis: the covariance of position 0 with every other.
        found = np.roll(found, (-3,) * found.ndim, range(found.ndim))
        # The variance of a product of two such values is at most 2.
        assert np.abs(found - expected).max() < 5 * np.sqrt(2 / len(images))


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 3), st.floats(-1, 1))
def test_the_covariance_of_squashed_gaussians_is_their_integral(gain, correlation):
    # E erf(g u) erf(g v) over 60 × 60 Gauss-Hermite nodes, too few for a steeper g, and arcsin.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    u = nodes[:, None]
    v = correlation * u + np.sqrt(1 - correlation**2) * nodes
    integral = weights @ (special.erf(gain * u) * special.erf(gain * v)) @ weights
    share = 2 * gain**2 / (1 + 2 * gain**2)
    formula = 2 / np.pi * np.arcsin(share * correlation)
    assert integral == pytest.approx(formula, abs=5e-3)


def test_covariance_is_one_at_zero_even_and_as_stated():
    C = gaussian.covariance((10,), 2.0, 1.0)
    np.testing.assert_allclose(C[:6], np.exp(-np.arange(6) / 2))
    np.testing.assert_allclose(C[1:], C[:0:-1])
    torus = gaussian.covariance((6, 6), 1.5, 2.0)
    assert torus[5, 2] == pytest.approx(np.exp(-(1 + 4) / 1.5**2))
    assert gaussian.covariance((10,), 2.0, 2.0, gain=3.0)[0] == pytest.approx(1)
    # A steep enough erf is the sign, whose covariance is the arcsine law.
    signs = gaussian.covariance((10,), 2.0, 2.0, gain=1e4)
    np.testing.assert_allclose(
        signs, 2 / np.pi * np.arcsin(gaussian.covariance((10,), 2.0, 2.0)), atol=1e-3
    )


@pytest.mark.parametrize("name", ["gp", "gp_2d"])
def test_gp_is_gaussian_and_nlgp_is_not(sets, name):
    positions = 3 if name == "gp" else (3, 3)
    for images, other in zip(
        _classes(sets[name].train), _classes(sets[f"nl{name}"].train), strict=True
    ):
        values = images[:, positions] if name == "gp" else images[:, 3, 3]
        count = len(values)
        assert stats.kurtosis(values, fisher=False) == pytest.approx(3, abs=5 * np.sqrt(24 / count))
        assert stats.kstest(values, "norm").pvalue > 1e-4
        # Of joint Gaussians a difference is Gaussian too.
        assert stats.kurtosis(np.diff(images, axis=1)[:, 0].ravel()) == pytest.approx(0, abs=0.3)
        squashed = other[:, positions] if name == "gp" else other[:, 3, 3]
        assert stats.kurtosis(squashed, fisher=False) < 2
        Z = np.sqrt(2 / np.pi * np.arcsin(32 / 33))
        assert np.abs(squashed).max() <= (1 + 1e-6) / Z


@pytest.mark.parametrize("name", ["nlgp", "gp", "nlgp_2d", "gp_2d"])
def test_every_position_has_the_same_moments(sets, name):
    for images in _classes(sets[name].train):
        flat = images.reshape(len(images), -1)
        assert np.abs(flat.mean(0)).max() < 5 / np.sqrt(len(flat))
        assert np.abs((flat**2).mean(0) - 1).max() < 5 * np.sqrt(2 / len(flat))
        # Fourth moment with a neighbour, around the ring: E x_i² x_{i+1}² is the same everywhere.
        around = (images**2 * np.roll(images, 1, axis=-1) ** 2).mean(0)
        assert np.ptp(around) < 10 * np.sqrt(96 / len(images))


def test_labels_alternate_and_splits_are_independent(sets):
    found = sets["nlgp"]
    assert found.num_classes == 2
    assert found.image_shape == (24, 1)
    assert sets["gp_2d"].image_shape == (8, 8, 1)
    assert found.train.images.dtype == np.float32
    assert found.train.labels.dtype == np.int32
    np.testing.assert_array_equal(found.test.labels, np.arange(500) % 2)
    # Of independent fields the mean product is 0 to within 1 / √(independent values).
    product = found.train.images[:500] * found.test.images
    assert abs(product.mean()) < 5 / np.sqrt(500 * 24 / 6)


@pytest.mark.parametrize("name", ["nlgp", "gp_2d"])
def test_the_seed_decides_every_byte(name):
    size = "examples=1500,test=20,seed={}"
    first, again, other = (data.load(f"{name}:{size.format(seed)}") for seed in (3, 3, 4))
    assert first.train.images.tobytes() == again.train.images.tobytes()
    assert first.test.images.tobytes() == again.test.images.tobytes()
    assert np.abs(first.train.images - other.train.images).max() > 1
    # A longer set begins with the shorter one.
    short = data.load(f"{name}:examples=1100,test=20,seed=3")
    np.testing.assert_array_equal(short.train.images, first.train.images[:1100])


def test_the_noise_is_what_it_was():
    """The signs of a steep nlgp are robust to the last bits of FFT and erf on other machines."""
    found = data.load("nlgp:length=16,gain=1000,examples=64,test=2").train.images
    digest = hashlib.sha256(np.packbits(found > 0).tobytes()).hexdigest()
    assert digest[:16] == "61398efad8df6aa6"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nlgp:side=9", "not an option"),
        ("gp_2d:length=9", "not an option"),
        ("gp:length=1", "length = 1 must be at least 2"),
        ("nlgp:gain=0", "gain = 0.0 must be positive"),
        ("nlgp:gain=nan", "gain = nan must be positive"),
        ("gp:gain=1e200", r"gain = 1e\+200 must be positive, and at most"),
        ("gp:xi1=1,xi1=2", "xi1 is given twice"),
        ("gp:xi2=-1", "xi2 = -1.0 must be positive"),
        ("gp:power=2.5", r"power = 2.5 must be in \(0, 2\]"),
        ("gp:examples=1", "examples = 1 must be at least 2"),
        ("gp:seed=-1", "seed = -1 must be"),
        ("nlgp_2d:side=20,xi2=6,power=2", "take a shorter xi1 or xi2"),
    ],
)
def test_what_makes_no_field_is_refused(name, message):
    with pytest.raises(data.DataError, match=message):
        data.load(name)


def test_large_seeds_differ():
    found = [
        data.load(f"nlgp:power=1,length=8,examples=4,test=2,seed={seed}").train.images
        for seed in (0, 2**63 + 1, 2**63 + 2, 2**64 - 1)
    ]
    assert len({images.tobytes() for images in found}) == 4
