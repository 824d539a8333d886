"""Filters are laid out where they belong."""

import numpy as np
import pytest

from lconv_jax import analysis


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


def test_saved_filters_are_the_tile(tmp_path):
    from matplotlib import image

    filters = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    analysis.save_filters(filters, tmp_path / "filters.png")
    saved = (image.imread(tmp_path / "filters.png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(saved, analysis.tile(filters, scale=3))


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
    np.testing.assert_array_equal(saved, analysis.draw_signals(filters))
