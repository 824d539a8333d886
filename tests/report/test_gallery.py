"""Pictures of filters show the weights that they are of."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lconv_jax import analysis
from lconv_jax.report import gallery


def _pixels(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)


def test_a_grey_filter_has_a_pixel_a_weight_red_above_zero_blue_below():
    rng = np.random.default_rng(0)
    kernel = (
        rng.choice([-1, 1], (48, 5)) * rng.uniform(0.2, 1, (48, 5)) * (rng.random((48, 5)) < 0.5)
    )
    made = gallery.make(kernel, (8, 6, 1), most=5, window=2)
    assert [each.unit for each in made.filters] == [0, 1, 2, 3, 4]
    for each in made.filters:
        weights = kernel[:, each.unit].reshape(8, 6)
        red, _, blue = np.moveaxis(_pixels(each.picture), -1, 0)
        np.testing.assert_array_equal(np.sign(red - blue), np.sign(weights))
        assert each.nonzeros == np.count_nonzero(weights)
        assert each.largest == pytest.approx(np.abs(weights).max(), rel=1e-6)
        expected = analysis.window_share((weights != 0).reshape(-1, 1), (8, 6, 1), 2)
        assert each.share == pytest.approx(expected[0])


def test_a_colour_filter_is_grey_at_zero_and_comes_with_its_three_colours():
    kernel = np.zeros((4 * 4 * 3, 2))
    kernel[np.ravel_multi_index((1, 2, 0), (4, 4, 3)), 0] = 2.0
    kernel[np.ravel_multi_index((3, 0, 2), (4, 4, 3)), 0] = -1.0
    first = gallery.make(kernel, (4, 4, 3), most=2, window=None).filters[0]
    drawn = _pixels(first.picture)
    assert tuple(drawn[1, 2]) == (255, 127, 127)
    assert tuple(drawn[3, 0]) == (127, 127, 63)
    assert (np.delete(drawn.reshape(-1, 3), [6, 12], axis=0) == 127).all()
    red, green, blue = (_pixels(picture) for _, picture in first.parts)
    assert red[1, 2, 0] > red[1, 2, 2] + 100
    assert blue[3, 0, 2] > blue[3, 0, 0] + 50
    assert (green == 255).all()


def test_bars_of_a_signal_have_the_heights_of_its_weights():
    kernel = np.zeros((30, 1))
    kernel[4], kernel[20] = 0.5, -0.25
    (only,) = gallery.make(kernel, (30, 1), most=1, window=None).filters
    head, _, body = only.picture.partition(",")
    assert head == "data:image/svg+xml;base64"
    bars = list(ElementTree.fromstring(base64.b64decode(body)))[1:]
    up, down = ({k: each.attrib[k] for k in ("x", "y", "height")} for each in bars)
    assert float(up["height"]) == 2 * float(down["height"])
    assert float(up["y"]) + float(up["height"]) == float(down["y"])
    assert float(down["x"]) - float(up["x"]) == 4 * 16


def test_the_filters_are_those_that_a_picture_of_so_many_has():
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(49, 300)) * (rng.random((49, 300)) < rng.random(300))
    made = gallery.make(kernel, (7, 7, 1), most=20, window=None)
    filters = analysis.first_layer_filters(kernel, (7, 7, 1))
    expected = np.sort(analysis.choose_units(filters, 20))
    np.testing.assert_array_equal([each.unit for each in made.filters], expected)
    assert made.units == 300
    assert made.live == np.count_nonzero(kernel.any(0))


def test_a_dead_layer_has_a_gallery():
    made = gallery.make(np.zeros((9, 4)), (3, 3, 1), most=4, window=2)
    assert [each.share for each in made.filters] == [None] * 4
    assert made.live == 0
