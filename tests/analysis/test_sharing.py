"""Similarity up to a move and dictionaries of stencils, on layers that share by construction."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import analysis, models
from lconv_jax.analysis.weight_sharing import LEAST_LEFT

SEEDS = st.integers(0, 2**32 - 1)


def _moved(image, shift, periodic):
    """An image [*spatial, channels] moved, with zeros where it has come from, or around."""
    axes = tuple(range(len(shift)))
    moved = np.roll(image, shift, axes)
    if not periodic:
        for axis, step in enumerate(shift):
            gone = slice(0, step) if step > 0 else slice(image.shape[axis] + step, None)
            if step:
                moved[(slice(None),) * axis + (gone,)] = 0
    return moved


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([(4, 5, 2), (3, 3, 1), (7, 2), (1, 6, 1)]), st.booleans(), st.booleans(), SEEDS
)
def test_similarity_is_that_of_brute_force(image_shape, periodic, signed, seed):
    rng = np.random.default_rng(seed)
    kernel, other = rng.normal(size=(2, int(np.prod(image_shape)), 3))
    other *= rng.random(other.shape) < 0.5
    other[0] += 0.1
    found = analysis.similarity(kernel, other, image_shape, periodic=periodic, signed=signed)
    sides = image_shape[:-1]
    for unit, stencil in itertools.product(range(3), range(3)):
        w, s = kernel[:, unit], other[:, stencil].reshape(image_shape)

        def cosine(shift, w=w, s=s):
            moved = _moved(s, shift, periodic).ravel()
            left = np.square(moved).sum()
            if left < (LEAST_LEFT + 1e-6) * np.square(s).sum():
                return 0.0
            value = w @ moved / np.sqrt(np.square(w).sum() * left)
            return value if signed else abs(value)

        best = max(map(cosine, itertools.product(*(range(1 - side, side) for side in sides))))
        assert found.cosine[unit, stencil] == pytest.approx(best, abs=1e-5)
        assert cosine(found.shift[unit, stencil]) == pytest.approx(best, abs=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(-5, 6), st.integers(-4, 3), st.sampled_from([-3.0, 1e-20, 2e15]), SEEDS)
def test_a_planted_shift_is_found_at_any_scale_and_sign(rows, columns, scale, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((14, 10, 3))
    image[5:8, 4:7] = rng.normal(size=(3, 3, 3))
    kernel = np.stack([image, scale * _moved(image, (rows, columns), False)], -1).reshape(-1, 2)
    found = analysis.similarity(kernel[:, 1:], kernel[:, :1], (14, 10, 3))
    assert found.cosine.item() == pytest.approx(1, abs=1e-5)
    assert found.shift[0, 0].tolist() == [rows, columns]
    signed = analysis.similarity(kernel[:, 1:], kernel[:, :1], (14, 10, 3), signed=True)
    assert (signed.cosine.item() > 0.999) == (scale > 0)


def _dictionary_layer(rng, count=3, units=60, noise=0.0, periodic=False):
    """Units [144, units] that are copies of `count` stencils of side 4."""
    stencils = rng.normal(size=(count, 4, 4, 1))
    kernel = np.zeros((units, 12, 12, 1))
    for unit in range(units):
        kernel[unit, 4:8, 4:8] = stencils[unit % count] + noise * rng.normal(size=(4, 4, 1))
        kernel[unit] *= rng.choice([-1, 1]) * rng.uniform(0.1, 10)
        most = 12 if periodic else 5
        kernel[unit] = _moved(kernel[unit], rng.integers(-4, most, 2), periodic)
    return kernel.reshape(units, -1).T


@pytest.mark.parametrize("periodic", [False, True])
def test_a_planted_dictionary_is_counted(periodic):
    rng = np.random.default_rng(0)
    kernel = _dictionary_layer(rng, periodic=periodic)
    found = analysis.stencils(kernel, (12, 12, 1), periodic=periodic)
    assert (found.size, found.exemplars) == (3, 3)
    assert found.explained == pytest.approx(1, abs=1e-4)
    # Units of one stencil, every third, are one cluster each.
    for first in range(3):
        assert len(set(found.member[first::3].tolist())) == 1
    shuffled = analysis.NULLS["values"](kernel, rng)
    assert analysis.stencils(shuffled, (12, 12, 1), periodic=periodic).size > 20


def test_k_means_averages_noise_out_that_exemplars_keep():
    rng = np.random.default_rng(1)
    kernel = _dictionary_layer(rng, noise=0.25)
    found = analysis.stencils(kernel, (12, 12, 1))
    assert found.size == 3
    assert found.exemplars > 3
    assert 0.9 <= found.explained < 0.98
    np.testing.assert_allclose(np.square(found.stencils).sum(0), 1)
    assert analysis.stencils(kernel, (12, 12, 1), rounds=0).size == found.exemplars
    again = analysis.stencils(kernel, (12, 12, 1))
    np.testing.assert_array_equal(again.stencils, found.stencils)
    # Of the share that is asked for, and no more.
    assert analysis.stencils(kernel, (12, 12, 1), share=0.2).size == 1


def test_what_stencils_explain_is_what_copies_of_them_leave_no_rest_of():
    rng = np.random.default_rng(2)
    kernel = _dictionary_layer(rng, noise=0.5, units=20)
    found = analysis.stencils(kernel, (12, 12, 1), share=0.8)
    at = analysis.similarity(kernel, found.stencils, (12, 12, 1))
    rests = []
    for unit, member in enumerate(found.member):
        copy = _moved(found.stencils[:, member].reshape(12, 12, 1), at.shift[unit, member], False)
        w, copy = kernel[:, unit], copy.ravel()
        rest = w - (w @ copy) / (copy @ copy) * copy
        rests.append(rest @ rest / (w @ w))
    assert found.explained == pytest.approx(1 - np.mean(rests), abs=1e-4)


def _conv_kernel(image_shape, alpha=3, stride=2, side=9):
    """A random convolution, as the dense layer that computes the same."""
    *sides, channels = image_shape
    shared = np.random.default_rng(0).normal(size=(side,) * len(sides) + (channels, alpha))
    local = models.local_from_shared(jnp.asarray(shared), tuple(sides), stride)
    return np.asarray(models.dense_from_local(local, tuple(sides), stride))


@pytest.mark.slow
@pytest.mark.parametrize("image_shape", [(16, 13, 1), (40, 2)])
def test_a_convolution_shares_even_at_its_border(image_shape):
    kernel = _conv_kernel(image_shape)
    found = analysis.sharing(kernel, image_shape, max_units=120, queries=20, shuffles=2)
    assert np.median(found.best) == pytest.approx(1, abs=1e-4)
    for null in ("values", "margins"):
        assert found.contrasts[null].effect > 2
        assert found.contrasts[null].null_mean < 0.9
    same = found.compared % 3 == found.partner % 3  # units are [*positions, channel]
    assert same.mean() > 0.9
    # At the corner little of a window is left, and other units of few weights explain that.
    assert analysis.stencils(kernel, image_shape, max_units=40).size <= 4


def test_a_random_layer_shares_nothing():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(100, 40)) * (rng.random((100, 40)) < 0.2)
    found = analysis.sharing(kernel, (10, 10, 1), shuffles=4)
    assert found.units == found.compared.size == 40
    assert (found.compared != found.partner).all()
    for each in found.contrasts.values():
        assert abs(each.effect) < 0.5
    assert analysis.stencils(kernel, (10, 10, 1)).size > 20


def test_values_that_are_shared_are_told_from_shapes_that_are():
    rng = np.random.default_rng(0)
    shape, kernel = rng.random((5, 5, 1)) < 0.5, np.zeros((40, 12, 12, 1))
    for unit in range(40):
        top, left = rng.integers(0, 8, 2)
        kernel[unit, top : top + 5, left : left + 5] = shape * rng.normal(size=(5, 5, 1))
    found = analysis.sharing(kernel.reshape(40, -1).T, (12, 12, 1), shuffles=4)
    assert abs(found.contrasts["values"].effect) < 0.5
    assert found.contrasts["margins"].effect > 0.4
    assert found.contrasts["margins"].z > 3


def test_few_units_and_bad_input():
    kernel = np.zeros((16, 3))
    kernel[:6, 0] = 1.0
    kernel[3, 1] = 1.0
    found = analysis.sharing(kernel, (4, 4, 1))
    assert (found.units, found.best.size) == (1, 0)
    assert np.isnan(found.contrasts["values"].mean)
    assert analysis.stencils(kernel, (4, 4, 1)).size == 1
    none = analysis.stencils(0 * kernel, (4, 4, 1))
    assert (none.units, none.size, none.stencils.shape) == (0, 0, (16, 0))
    assert analysis.similarity(kernel, kernel, (4, 4, 1)).cosine[2].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must have 15 rows"):
        analysis.similarity(kernel, kernel, (5, 3, 1))
    with pytest.raises(ValueError, match="null must be one of"):
        analysis.sharing(kernel, (4, 4, 1), nulls=("none",))
    with pytest.raises(ValueError, match="share must be above 0"):
        analysis.stencils(kernel, (4, 4, 1), share=1.5)
