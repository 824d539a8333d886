"""Bits of a support, and what neighbourhoods save of them."""

import math

import numpy as np
import pytest

from lconv_jax import analysis

SHAPE = (14, 14, 1)


def _local_support(rng, units=40):
    """Each unit has half of a 5 × 5 window at a random place."""
    support = np.zeros((*SHAPE[:2], units), bool)
    for unit in range(units):
        row, column = rng.integers(0, 10, 2)
        support[row : row + 5, column : column + 5, unit] = rng.random((5, 5)) < 0.5
    return support.reshape(-1, units)


def test_one_weight_a_unit_costs_a_place_less_the_order():
    rng = np.random.default_rng(0)
    units = 30
    support = np.zeros((196, units), bool)
    support[rng.integers(0, 196, units), range(units)] = True
    bits = analysis.support_bits(support, SHAPE, "unit")
    places = math.log2(math.comb(196 + units - 1, units))
    # Far from one number each; the counts and what the sorting leaves come on top.
    assert places < bits < places + 35 < units * math.log2(196) - 60


@pytest.mark.slow
def test_neighbourhoods_save_bits_that_shuffling_takes_away():
    found = analysis.structure(_local_support(np.random.default_rng(0)), SHAPE)
    by_code = {each.code: each for each in found}
    unit, local, near = by_code["unit"], by_code["local"], by_code["near"]
    assert local.bits < 0.8 * unit.bits
    assert near.bits < 0.8 * unit.bits
    assert local.null_bits > 0.95 * unit.null_bits
    assert near.null_bits > 0.95 * unit.null_bits


@pytest.mark.slow
def test_repeated_stencils_are_cheapest_shared():
    stencil = np.random.default_rng(1).random((5, 5)) < 0.6
    support = np.zeros((*SHAPE[:2], 49), bool)
    for unit in range(49):
        row, column = divmod(unit, 7)
        support[row : row + 5, column : column + 5, unit] = stencil
    found = {each.code: each for each in analysis.structure(support.reshape(-1, 49), SHAPE)}
    assert found["shared"].bits < 0.5 * found["local"].bits
    assert found["shared"].null_bits > 0.9 * found["unit"].null_bits


@pytest.mark.slow
def test_dead_units_cost_nothing():
    support = _local_support(np.random.default_rng(0))
    padded = np.concatenate([support, np.zeros((196, 10), bool)], 1)
    assert analysis.structure(padded, SHAPE) == analysis.structure(support, SHAPE)


def test_a_kernel_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"\(196, 3\).*\(8, 8, 1\)"):
        analysis.structure(np.ones((196, 3)), (8, 8, 1))
