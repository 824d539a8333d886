"""Filters are laid out where they belong."""

import numpy as np
import pytest

from lconv_jax import analysis
from lconv_jax.analysis import filter_key


def test_dense_filters_are_the_columns_of_the_kernel():
    kernel = np.arange(4 * 5 * 3 * 7.0).reshape(60, 7)
    filters = analysis.first_layer_filters(kernel, (4, 5, 3))
    assert filters.shape == (7, 4, 5, 3)
    np.testing.assert_array_equal(filters[6].reshape(-1), kernel[:, 6])


def test_convolution_filters_are_its_kernels():
    kernel = np.arange(3 * 3 * 2 * 5.0).reshape(3, 3, 2, 5)
    filters = analysis.first_layer_filters(kernel, (8, 8, 2))
    np.testing.assert_array_equal(filters[4], kernel[..., 4])


def test_local_filters_are_the_windows_of_each_position():
    kernel = np.arange(2 * 4 * 3 * 3 * 2 * 5.0).reshape(2, 4, 3, 3, 2, 5)
    filters = analysis.first_layer_filters(kernel, (8, 8, 2))
    assert filters.shape == (2 * 4 * 5, 3, 3, 2)
    np.testing.assert_array_equal(filters[(1 * 4 + 2) * 5 + 3], kernel[1, 2, ..., 3])


def test_a_signal_is_a_picture_of_height_one():
    assert analysis.first_layer_filters(np.ones((12, 5)), (12, 1)).shape == (5, 1, 12, 1)


def test_chosen_filters_have_enough_weights_then_the_fullest_follow():
    filters = np.zeros((30, 5, 5, 1), np.float32)
    for unit in range(30):
        filters[unit].reshape(-1)[: unit % 26] = 1
    chosen = analysis.choose_filters(filters, 10, min_nonzeros=20)
    counts = np.count_nonzero(chosen.reshape(10, -1), axis=1)
    assert (counts[:6] >= 20).all()
    np.testing.assert_array_equal(counts[6:], [19, 18, 17, 16])
    np.testing.assert_array_equal(chosen, analysis.choose_filters(filters, 10, min_nonzeros=20))


def test_tile_is_white_at_zero_red_above_and_blue_below():
    filters = np.zeros((1, 1, 3, 1), np.float32)
    filters[0, 0, :, 0] = [-2.0, 0.0, 2.0]
    negative, zero, positive = analysis.tile(filters, scale=1, gap=0)[0].astype(int)
    assert tuple(zero) == (255, 255, 255)
    assert positive[0] > positive[2] + 50
    assert negative[2] > negative[0] + 50


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_tile_has_a_place_for_every_filter(count):
    rng = np.random.default_rng(0)
    filters = rng.normal(size=(count, 4, 6, 3)).astype(np.float32)
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    assert analysis.tile(filters, scale=2, gap=2).shape == (rows * 10 + 2, columns * 14 + 2, 3)


def test_a_colour_filter_is_told_from_the_next_and_its_weights_from_grey():
    """One weight of each colour: grey around it, lines around the filter, the key below."""
    filters = np.zeros((4, 32, 32, 3), np.float32)
    for unit in range(3):
        filters[unit, 4, 5, unit] = -2.0
        filters[unit, 20, 9, unit] = 1.0
    shown = analysis.picture(filters).astype(int)
    scale = 3  # 96 pixels a filter
    cell = 32 * scale + 2
    for unit in range(3):
        top, left = np.array(divmod(unit, 2)) * cell + 2
        drawn = shown[top : top + cell - 2, left : left + cell - 2]
        others = [channel for channel in range(3) if channel != unit]
        assert drawn[4 * scale, 5 * scale, unit] == 0  # the largest magnitude, negative
        assert drawn[20 * scale, 9 * scale, unit] == round(255 * 0.75 - 0.5)
        assert (drawn[..., others] == 127).all()
        for line in (shown[top - 1, left - 1 : left + cell - 1], shown[top : top + cell, left - 1]):
            assert (line == 255).all()
    key = shown[2 * cell + 2 :]
    # A bar a colour, from taking it away to adding it, between other colours at grey.
    for channel, weak, strong in ((0, 3, 250), (1, 3, 250), (2, 3, 250)):
        bar = key[(np.delete(key, channel, axis=-1) == 127).all(-1)][:, channel]
        assert bar.min() < weak
        assert bar.max() > strong


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (9, 9, 3), (4, 60, 1)])
def test_a_picture_shows_each_filter_on_40_pixels_or_more(shape):
    count = 9
    dark = analysis.picture(-np.ones((count, *shape), np.float32)).astype(int)
    ink = (dark == dark[3, 3]).all(-1)
    rows, columns = ink[:, 3].sum(), ink[3].sum()
    assert min(rows, columns) >= 3 * 40
    assert max(rows, columns) >= 3 * 96


def test_the_key_is_read_off_the_drawing_it_is_below():
    """Of one channel its ends are the inks of the largest weights, its middle their white."""
    filters = np.zeros((1, 5, 5, 1), np.float32)
    filters[0, 0, :2, 0] = [3, -3]
    shown = analysis.picture(filters).astype(int)
    tile = analysis.tile(filters, scale=20)
    key = shown[tile.shape[0] :].reshape(-1, 3)
    for ink in (tile[5, 5], tile[5, 25]):
        assert np.abs(key - ink.astype(int)).max(1).min() <= 1
    assert "divided by its largest magnitude" in filter_key.rule("image", 1)


def test_saved_filters_are_the_picture(tmp_path):
    from matplotlib import image

    filters = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    analysis.save_filters(filters, tmp_path / "filters.png")
    saved = (image.imread(tmp_path / "filters.png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(saved, analysis.picture(filters))
    tile = analysis.tile(filters, scale=4)
    np.testing.assert_array_equal(saved[: tile.shape[0], : tile.shape[1]], tile)


def _ink(image):
    """Where a picture is red and where it is blue."""
    red, blue = image[..., 0].astype(int), image[..., 2].astype(int)
    return red > blue + 60, blue > red + 60


def test_a_signals_bars_stand_up_and_hang_down_at_their_positions():
    filters = np.zeros((2, 1, 40, 1), np.float32)
    filters[0, 0, 10, 0] = 0.5
    filters[0, 0, 30, 0] = -0.25
    red, blue = _ink(analysis.draw_signals(filters))
    up, down = np.argwhere(red), np.argwhere(blue)
    # The same bar width, the half of the height, one above and one below, twenty positions apart.
    assert np.ptp(up[:, 1]) == np.ptp(down[:, 1])
    assert np.ptp(up[:, 0]) == pytest.approx(2 * np.ptp(down[:, 0]), abs=3)
    assert up[:, 0].max() <= down[:, 0].min() + 1
    shift = down[:, 1].mean() - up[:, 1].mean()
    filters[0, 0, 30, 0], filters[0, 0, 20, 0] = 0.0, -0.25
    again = np.argwhere(_ink(analysis.draw_signals(filters))[1])[:, 1].mean() - up[:, 1].mean()
    assert shift == pytest.approx(2 * again, abs=2)
    filters[1, 0, 10, 0] = 7.0  # a filter of its own scale, in its own cell to the right
    more = np.argwhere(_ink(analysis.draw_signals(filters))[0])
    assert len(more) == 2 * len(up)
    assert more[:, 1].max() > up[:, 1].max() + 75


def test_a_signal_of_several_channels_is_a_heat_map_of_channels_by_positions():
    filters = np.zeros((1, 1, 15, 4), np.float32)
    filters[0, 0, 2, 0] = 1.0
    filters[0, 0, 14, 3] = -1.0
    red, blue = (np.argwhere(ink) for ink in _ink(analysis.draw_signals(filters)))
    (top, left), (bottom, right) = red.mean(0), blue.mean(0)
    for ink in (red, blue):  # a cell of 150 × 70 pixels, 15 positions wide and 4 channels high
        assert np.ptp(ink[:, 1]) == pytest.approx(10, abs=2)
        assert np.ptp(ink[:, 0]) == pytest.approx(70 / 4, abs=2)
    assert right - left == pytest.approx(12 * 10, abs=2)
    assert bottom - top == pytest.approx(3 * 70 / 4, abs=2)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 12), (64, 100), (9, 784)])
def test_a_picture_of_signals_has_a_place_for_every_filter(count, length):
    filters = np.ones((count, 1, length, 1), np.float32)
    image = analysis.picture(filters)
    assert image.shape[1] < 1700
    red = _ink(image)[0]
    assert red.sum() >= count * 35 * min(length, 150) / 2


def test_saved_filters_of_signals_are_the_drawing(tmp_path):
    from matplotlib import image

    filters = np.random.default_rng(0).normal(size=(4, 1, 30, 1)).astype(np.float32)
    analysis.save_filters(filters, tmp_path / "filters.png")
    saved = (image.imread(tmp_path / "filters.png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(saved, analysis.picture(filters))
    drawn = analysis.draw_signals(filters)
    np.testing.assert_array_equal(saved[: drawn.shape[0], : drawn.shape[1]], drawn)
