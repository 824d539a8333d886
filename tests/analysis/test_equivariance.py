"""Partners and errors under a move: a convolution moves with its image, a random layer does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import analysis, models
from lconv_jax.analysis import moves
from lconv_jax.models import embedding

SHAPE = (18, 14, 2)


def _images(shape=SHAPE, number=40, seed=0):
    return np.random.default_rng(seed).normal(size=(number, *shape)).astype(np.float32)


def _first_layer(name, shape=SHAPE):
    """The dense weights of a small network's first layer, and its activations on images."""
    model = models.create(name, alpha=2, num_classes=2)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    kernel = variables["params"]["conv1"]["kernel"]
    if name == "s_conv":
        sides = shape[:-1]
        local = embedding.local_from_shared(kernel, sides, 2)
        kernel = embedding.dense_from_local(local, sides, 2)

    @jax.jit
    def hidden(images):
        _, state = model.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        normalised = state["intermediates"]["bn_conv1"]["__call__"][0]
        return jax.nn.relu(normalised).reshape(len(images), -1)

    return np.asarray(kernel), hidden


@pytest.mark.slow
def test_s_conv_moves_with_its_image_and_a_random_s_fc_does_not():
    images, shift = _images(), (2, -4)  # multiples of the stride
    kernel, hidden = _first_layer("s_conv")
    before, after = hidden(images), hidden(analysis.move(images, shift))
    inside = analysis.moved_partners(kernel, SHAPE, shift, least_left=1.0)
    # Units are [rows, columns, channels]: one row down, two columns to the left.
    unit = np.arange(9 * 7 * 2).reshape(9, 7, 2)
    there = np.flatnonzero(inside.unit >= 0)
    assert there.size > 20
    expected = np.roll(unit, (-1, 2), (0, 1)).ravel()
    np.testing.assert_array_equal(inside.unit[there], expected[there])
    found = analysis.equivariance(before, after, inside)
    assert found.error < 1e-9
    assert found.cosine == pytest.approx(1, abs=1e-3)
    assert min(found.unmoved, found.chance) > 1
    near_border = analysis.equivariance(
        before, after, analysis.moved_partners(kernel, SHAPE, shift, least_left=0.8)
    )
    assert near_border.units > found.units
    assert near_border.error < 0.2
    # A shift that the stride does not divide leads between the units.
    odd = analysis.moved_partners(kernel, SHAPE, (1, 0), least_left=1.0)
    assert analysis.equivariance(before, hidden(analysis.move(images, (1, 0))), odd).error > 1

    kernel, hidden = _first_layer("s_fc")
    partners = analysis.moved_partners(kernel, SHAPE, shift)
    found = analysis.equivariance(hidden(images), hidden(analysis.move(images, shift)), partners)
    assert found.units == 126
    # Below 2, as the move leaves part of the image empty.
    assert 0.9 < found.error < found.chance < 2.2


def test_unrelated_units_of_equal_variance_have_error_two():
    rng = np.random.default_rng(0)
    partners = analysis.Partners(np.arange(50)[::-1], np.zeros(50))
    found = analysis.equivariance(*rng.normal(size=(2, 4000, 50)), partners)
    assert found.error == pytest.approx(2, abs=0.05)
    assert found.chance == pytest.approx(2, abs=0.05)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=2), st.booleans(), st.integers(0, 2**32 - 1)
)
def test_move_takes_each_place_to_where_it_says(sides, periodic, seed):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *sides, 3))
    shift = tuple(rng.integers(-7, 8, len(sides)).tolist())
    moved = analysis.move(images, shift, periodic=periodic)
    for place in np.ndindex(*sides):
        source = np.subtract(place, shift)
        if periodic:
            source = source % sides
        inside = ((source >= 0) & (source < sides)).all()
        expected = images[(slice(None), *source)] if inside else 0
        np.testing.assert_array_equal(moved[(slice(None), *place)], expected)


def test_on_a_ring_every_unit_of_a_circular_convolution_has_its_partner():
    rng = np.random.default_rng(0)
    stencils = np.zeros((12, 2))
    stencils[:4] = rng.normal(size=(4, 2))
    kernel = np.concatenate([np.roll(stencils, place, 0) for place in range(12)], 1)
    kernel *= rng.uniform(0.5, 2, 24)
    found = analysis.moved_partners(kernel, (12, 1), (-3,), periodic=True)
    np.testing.assert_array_equal(found.unit, np.roll(np.arange(24), 6))
    np.testing.assert_allclose(found.cosine, 1, atol=1e-5)


def test_a_wide_layer_is_matched_greedily_with_the_same_partners(monkeypatch):
    rng = np.random.default_rng(1)
    stencils = np.zeros((30, 3))
    stencils[:5] = rng.normal(size=(5, 3))
    kernel = np.concatenate([np.roll(stencils, place, 0) for place in range(26)], 1)
    kernel = np.concatenate([kernel, np.zeros((30, 4))], 1)[:, rng.permutation(82)]
    whole = analysis.moved_partners(kernel, (30, 1), (2,), least_left=1.0)
    monkeypatch.setattr(moves, "_SMALL", 10)
    monkeypatch.setattr(moves, "_ROWS", 7)
    greedy = analysis.moved_partners(kernel, (30, 1), (2,), least_left=1.0)
    np.testing.assert_array_equal(greedy.unit, whole.unit)
    assert (whole.unit >= 0).sum() == 3 * 24
    some = analysis.moved_partners(kernel, (30, 1), (2,), least_left=1.0, max_units=20)
    assert (some.unit >= 0).sum() == 20
    np.testing.assert_array_equal(some.unit[some.unit >= 0], whole.unit[some.unit >= 0])


def test_units_without_weights_partners_or_variance_are_left_out():
    kernel = np.zeros((6, 3))
    kernel[0, 0], kernel[1, 1] = 1.0, 2.0
    partners = analysis.moved_partners(kernel, (6, 1), (1,))
    assert partners.unit[:2].tolist() == [1, 0]
    assert partners.unit[2] == -1
    assert np.isnan(partners.cosine[2])
    away = analysis.moved_partners(kernel, (6, 1), (-5,))
    assert (away.unit == -1).all()
    hidden = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 4.0]])
    assert analysis.equivariance(hidden, hidden, partners).units == 1
    none = analysis.equivariance(hidden, hidden, away)
    assert none.units == 0
    assert np.isnan(none.error)
    with pytest.raises(ValueError, match=r"\[images, 3 units\]"):
        analysis.equivariance(hidden[:, :2], hidden, partners)
    with pytest.raises(ValueError, match="shift must have 1 numbers"):
        analysis.moved_partners(kernel, (6, 1), (1, 2))
