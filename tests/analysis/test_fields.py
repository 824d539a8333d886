"""Measures of single units on weights with known answers, and against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lconv_jax import analysis
from lconv_jax.analysis import extent

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)) | st.tuples(
    st.integers(1, 12), st.integers(1, 3)
)
SEEDS = st.integers(0, 2**32 - 1)


def _sparse(rng, image_shape, units=4, density=0.3):
    """Weights [inputs, units], every unit with one at least."""
    kernel = rng.normal(size=(int(np.prod(image_shape)), units))
    kept = rng.random(kernel.shape) < density
    kept[rng.integers(0, len(kernel), units), range(units)] = True
    return kernel * kept


def _distance(a, b, sides, periodic):
    apart = np.abs(np.subtract(a, b))
    return np.sqrt(np.square(np.minimum(apart, sides - apart) if periodic else apart).sum())


def _places(column, image_shape):
    return np.argwhere(column.reshape(image_shape).any(-1))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(SHAPES, st.booleans(), st.sampled_from([0.5, 0.9, 1.0]), SEEDS)
@example((11, 3), True, 1.0, 3291)  # a weight of 4e-8 of the energy
def test_the_window_is_that_of_brute_force(image_shape, periodic, share, seed):
    kernel = _sparse(np.random.default_rng(seed), image_shape)
    found = analysis.energy_window(kernel, image_shape, share=share, periodic=periodic)
    sides = image_shape[:-1]
    for unit, column in enumerate(kernel.T):
        energy = np.square(column).reshape(image_shape).sum(-1)

        def held(side, corner, energy=energy):
            taken = [
                (np.arange(start, start + min(side, whole)) % whole)
                for start, whole in zip(corner, sides, strict=True)
            ]
            return energy[np.ix_(*taken)].sum()

        def best(side):
            free = [range(n if periodic else max(1, n - side + 1)) for n in sides]
            return max(held(side, corner) for corner in itertools.product(*free))

        enough = (share - extent._ROUNDING) * energy.sum()
        side = next(k for k in range(1, max(sides) + 1) if best(k) >= enough)
        assert found.side[unit] == side
        assert held(side, found.corner[:, unit]) == pytest.approx(best(side))


@settings(deadline=None, max_examples=25)
@given(SHAPES, st.booleans(), SEEDS)
def test_neighbours_and_clumps_are_those_of_brute_force(image_shape, periodic, seed):
    support = _sparse(np.random.default_rng(seed), image_shape, density=0.15) != 0
    sides = np.array(image_shape[:-1])
    distances = analysis.neighbour_distance(support, image_shape, periodic=periodic)
    pieces = analysis.clumps(support, image_shape, periodic=periodic)
    for unit, column in enumerate(support.T):
        places = _places(column, image_shape)
        apart = np.array([[_distance(a, b, sides, periodic) for a in places] for b in places])
        np.fill_diagonal(apart, np.inf)
        expected = apart.min(0).mean() if len(places) > 1 else np.nan
        np.testing.assert_allclose(distances[unit], expected)
        left, count = set(range(len(places))), 0
        while left:
            count, reached = count + 1, {left.pop()}
            while reached:
                beside = apart[reached.pop()] < 1.5
                reached |= {at for at in np.flatnonzero(beside) if at in left}
                left -= reached
        assert pieces[unit] == count


@pytest.mark.parametrize(("sides", "count"), [((3, 3), 4), ((2, 5), 2), ((7,), 3), ((1, 4), 4)])
def test_the_distance_of_random_places_is_the_mean_over_all_samples(sides, count):
    places = np.array(list(itertools.product(*map(range, sides))))
    means = []
    for chosen in itertools.combinations(range(len(places)), count):
        apart = np.sqrt(np.square(places[list(chosen), None] - places[list(chosen)]).sum(-1))
        means.append((apart + np.diag([np.inf] * count)).min(0).mean())
    assert extent.random_neighbour_distance(sides, count) == pytest.approx(np.mean(means))


def test_a_planted_window_is_found_and_its_sampling_told():
    rng = np.random.default_rng(0)
    kernel, width = np.zeros((16, 20, 3, 300)), 7
    thirds = np.arange(300) % 3  # scattered at random; every second place; two solid rows
    for unit in range(300):
        mask = np.zeros((width, width), bool)
        mask.flat[rng.choice(49, 16, False)] = True
        mask[[0, -1], [0, -1]] = True
        if thirds[unit] == 1:
            mask[:] = (np.arange(7) % 2 == 0) & (np.arange(7) % 2 == 0)[:, None]
        elif thirds[unit] == 2:
            mask[:] = False
            mask[:2], mask[-1, -2:] = True, True
        top, left = rng.integers(0, 10), rng.integers(0, 14)
        values = rng.uniform(1, 2, (width, width, 3)) * rng.choice([-1, 1], (width, width, 3))
        kernel[top : top + 7, left : left + 7, :, unit] = values * mask[..., None]
    found = analysis.fields(kernel.reshape(-1, 300), (16, 20, 3), share=1.0)
    assert (found.window == width).all()
    random, even, solid = (found.evenness[thirds == each] for each in range(3))
    assert random.mean() == pytest.approx(1, abs=0.03)
    assert even.min() > 1.3
    assert solid.max() < 0.95
    assert (found.filled[thirds == 1] == 16 / 49).all()
    assert (found.clumps[thirds == 1] == 16).all()
    assert (found.clumps[thirds == 2] == 2).all()


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([(12, 9, 3), (8, 14, 1), (16, 2)]), st.booleans(), SEEDS)
def test_sign_scale_and_place_do_not_matter(image_shape, periodic, seed):
    rng = np.random.default_rng(seed)
    *sides, channels = image_shape
    kernel = np.zeros((*image_shape, 3))
    kernel[(slice(1, 5),) * len(sides)] = rng.normal(size=(4,) * len(sides) + (channels, 3))
    kernel *= rng.random(kernel.shape) < 0.6
    kernel[(1,) * len(sides)] = kernel[(4,) * len(sides)] = 1.5
    moves = [rng.integers(0, side if periodic else side - 5 + 1) for side in sides]
    moved = np.roll(kernel, moves, tuple(range(len(sides)))) * np.array([-1.0, 1e-200, 3e100])
    before, after = (
        analysis.fields(each.reshape(-1, 3), image_shape, periodic=periodic)
        for each in (kernel, moved)
    )
    for name, value in before._asdict().items():
        np.testing.assert_allclose(getattr(after, name), value, rtol=1e-6, err_msg=name)


@settings(deadline=None, max_examples=30)
@given(st.integers(-7, 7), st.integers(-7, 7), st.floats(0, 6.28), st.sampled_from([1, 3]))
def test_a_grating_has_its_frequency_and_orientation(rows, columns, phase, channels):
    if (rows, columns) == (0, 0):
        return
    y, x = np.mgrid[:16, :16]
    wave = np.cos(2 * np.pi * (rows * y + columns * x) / 16 + phase)
    kernel = np.repeat(wave.reshape(-1, 1), channels, 0)
    found = analysis.fields(kernel, (16, 16, channels), periodic=True)
    assert found.frequency[0] == pytest.approx(np.hypot(rows, columns) / 16)
    assert found.selectivity[0] == pytest.approx(1)
    # Along the stripes the phase stays: a step (Δx, Δy) of angle θ, rows running downwards.
    along = -rows * np.sin(found.orientation[0]) + columns * np.cos(found.orientation[0])
    assert along == pytest.approx(0, abs=1e-9)
    assert 0 <= found.orientation[0] < np.pi


def test_a_gabor_patch_has_its_orientation_and_noise_prefers_none():
    y, x = np.mgrid[:24, :32]
    for degrees in (0, 30, 60, 90, 120, 150):
        angle = np.radians(degrees)
        across = (x - 15.3) * np.sin(angle) + (y - 11.0) * np.cos(angle)
        patch = np.exp(-((x - 15.3) ** 2 + (y - 11.0) ** 2) / 32) * np.cos(2 * np.pi * across / 5)
        found = analysis.tuning(patch.reshape(-1, 1), (24, 32, 1))
        error = np.mod(found.orientation[0] - angle + np.pi / 2, np.pi) - np.pi / 2
        assert abs(error) < np.radians(8)
        assert found.frequency[0] == pytest.approx(0.2, abs=0.025)
        assert found.selectivity[0] > 0.8
    noise = np.random.default_rng(0).normal(size=(24 * 32, 50))
    assert analysis.tuning(noise, (24, 32, 1)).selectivity.mean() < 0.1
    blob = analysis.tuning(np.exp(-((x - 15) ** 2 + (y - 11) ** 2) / 9).reshape(-1, 1), (24, 32, 1))
    assert blob.frequency[0] == 0
    assert np.isnan(blob.orientation[0])


def test_a_signal_has_a_frequency_and_no_orientation():
    wave = np.sin(2 * np.pi * 3 * np.arange(40) / 40).reshape(-1, 1)
    found = analysis.tuning(wave, (40, 1))
    assert found.frequency[0] == pytest.approx(3 / 40)
    assert np.isnan([found.orientation[0], found.selectivity[0]]).all()


def test_grey_is_told_from_opponent_colours():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.normal(size=(36, 1)), 3, 0)
    red_green = np.outer(rng.normal(size=36), [1, -1, 0]).reshape(-1, 1)
    red = np.outer(rng.normal(size=36), [1, 0, 0]).reshape(-1, 1)
    kernel = np.concatenate([grey, red_green, red], 1)
    found = analysis.opponency(kernel, (6, 6, 3))
    np.testing.assert_allclose(found, [0, 1, 2 / 3], atol=1e-12)
    assert analysis.opponency(kernel, (6, 18, 1)).max() == 0
    assert analysis.opponency(rng.normal(size=(3000, 20)), (1000, 3)).mean() == pytest.approx(
        2 / 3, abs=0.02
    )


def test_units_of_no_weight_and_of_one_have_what_is_defined():
    kernel = np.zeros((5 * 6 * 3, 3))
    kernel[40, 1] = -2.0
    kernel[[39, 41], 2] = 1.0  # two channels of one place
    found = analysis.fields(kernel, (5, 6, 3))
    expected = {
        "weights": [0, 1, 2],
        "clumps": [0, 1, 1],
        "ipr": [np.nan, 1, 0.5],
        "spread": [np.nan, 0, 0],
        "window": [np.nan, 1, 1],
        "filled": [np.nan, 1, 1],
        "opponency": [np.nan, 2 / 3, 1 / 3],
    }
    for name, values in found._asdict().items():
        np.testing.assert_allclose(values, expected.get(name, [np.nan] * 3), err_msg=name)


@pytest.mark.slow
def test_local_units_differ_from_both_nulls_and_a_random_cloud_from_none():
    rng = np.random.default_rng(0)
    kernel = np.zeros((12, 12, 200))
    for unit in range(200):
        top, left = rng.integers(0, 8, 2)
        kernel[top : top + 5, left : left + 5, unit] = rng.normal(size=(5, 5))
    kernel = kernel.reshape(144, 200) * (rng.random((144, 200)) < 0.5)
    cloud = rng.permuted(kernel, axis=0)
    for null in ("margins", "counts"):
        found = analysis.compare_fields(kernel, (12, 12, 1), null=null, shuffles=5)
        for name in ("spread", "window", "neighbour", "clumps"):
            assert found[name].effect < -1
            assert found[name].z < -10
        assert found["filled"].effect > 1
        assert abs(found["opponency"].mean) < 1e-12
        assert np.isnan([found["opponency"].effect, found["opponency"].z]).all()
        none = analysis.compare_fields(cloud, (12, 12, 1), null=null, shuffles=5)
        assert max(abs(each.effect) for each in none.values() if not np.isnan(each.effect)) < 0.25


@pytest.mark.slow
def test_a_preference_of_all_units_is_local_by_counts_and_not_by_margins():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:14, :14] - 6.5
    chance = 0.6 * np.exp(-(rows**2 + columns**2) / 16).reshape(-1, 1)
    kernel = rng.normal(size=(196, 300)) * (rng.random((196, 300)) < chance)
    margins, counts = (
        analysis.compare_fields(kernel, (14, 14, 1), null=null, shuffles=4)["spread"]
        for null in ("margins", "counts")
    )
    assert abs(margins.effect) < 0.2
    assert counts.effect < -2


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(2, 8), SEEDS)
def test_contrast_is_the_textbook_s_and_leaves_out_nans(units, shuffles, seed):
    rng = np.random.default_rng(seed)
    values, nulls = rng.normal(2, 1, units), rng.normal(0, 2, (shuffles, units))
    found = analysis.contrast(
        np.append(values, np.nan), np.append(nulls, np.full((shuffles, 1), np.nan), 1)
    )
    assert found.units == units
    difference = values.mean() - nulls.mean()
    pooled = np.sqrt((np.var(values) + np.var(nulls)) / 2)
    assert found.effect == pytest.approx(difference / pooled)
    assert found.z == pytest.approx(difference / np.std(nulls.mean(1), ddof=1))


def test_bad_input_is_refused_by_name():
    kernel = np.ones((16, 3))
    with pytest.raises(ValueError, match="must have 15 rows"):
        analysis.fields(kernel, (5, 3, 1))
    with pytest.raises(ValueError, match=r"image_shape must be \(H, W, C\)"):
        analysis.fields(kernel, (2, 2, 2, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        analysis.fields(np.where(np.arange(16)[:, None] == 3, np.nan, kernel), (4, 4, 1))
    with pytest.raises(ValueError, match="share must be above 0"):
        analysis.fields(kernel, (4, 4, 1), share=0.0)
    with pytest.raises(ValueError, match="null must be one of margins, counts, values"):
        analysis.compare_fields(kernel, (4, 4, 1), null="shuffled")
    with pytest.raises(ValueError, match="shuffles must be 2 or more"):
        analysis.compare_fields(kernel, (4, 4, 1), shuffles=1)
