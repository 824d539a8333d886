"""Image files decoded: upright, opaque, of eight bits; what has no known range is refused."""

import io

import numpy as np
import PIL.Image
import pytest

from lconv_jax import data
from lconv_jax.data.sources import images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI"])
def test_lossless_formats_come_back_bit_for_bit(kind):
    content = encoded(COLOUR, kind)
    np.testing.assert_array_equal(images.decode(content), COLOUR)
    assert images.look(content) == (5, 7, False)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_files_have_one_channel_unless_three_are_asked_for(kind):
    content = encoded(GREY, kind)
    assert images.look(content) == (5, 7, True)
    np.testing.assert_array_equal(images.decode(content), GREY[..., None])
    np.testing.assert_array_equal(
        images.decode(content, channels=3), np.repeat(GREY[..., None], 3, 2)
    )


def test_colours_become_grey_by_their_luminance():
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    grey = images.decode(encoded(COLOUR), channels=1)[..., 0]
    assert np.abs(grey - COLOUR @ weights).max() <= 1


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})]
)
def test_other_formats_are_what_pillow_makes_of_them(kind, options):
    content = encoded(COLOUR, kind, **options)
    with PIL.Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(images.decode(content), np.asarray(image.convert("RGB")))


# How the picture that is stored must be turned to be upright: EXIF 2.32, tag 274.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encoded(COLOUR, kind, exif=exif, **{"lossless": True} if kind == "WEBP" else {})
    expected = UPRIGHT[orientation](COLOUR)
    np.testing.assert_array_equal(images.decode(content), expected)
    assert images.look(content) == (*expected.shape[:2], False)


def test_the_orientation_of_a_16_bit_image():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    content = encoded(GREY.astype(np.uint16) * 257, exif=exif)
    np.testing.assert_array_equal(images.decode(content)[..., 0], np.rot90(GREY, -1))


def test_alpha_is_composited_onto_white():
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[2:], alpha[4:] = 128, 255
    colours = np.concatenate([COLOUR, alpha], -1)
    share = alpha / 255
    exact = share * COLOUR + (1 - share) * 255
    found = images.decode(encoded(colours))
    assert np.abs(found - exact).max() <= 1
    np.testing.assert_array_equal(found[:2], 255)
    np.testing.assert_array_equal(found[4:], COLOUR[4:])
    grey = np.stack([GREY, alpha[..., 0]], -1)
    found = images.decode(encoded(PIL.Image.fromarray(grey, "LA")))
    assert found.shape == (5, 7, 1)
    assert np.abs(found - (share * GREY[..., None] + (1 - share) * 255)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PCX"])
def test_a_palette_is_grey_if_all_of_it_is(kind):
    values = (np.arange(35) % 3).astype(np.uint8).reshape(5, 7)
    for third, grey in ((90, True), (91, False)):
        image = PIL.Image.fromarray(values, "P")
        image.putpalette([7, 7, 7, 200, 200, 200, 90, 90, third])
        content = encoded(image, kind)
        assert images.look(content) == (5, 7, grey)
        expected = np.array([[7] * 3, [200] * 3, [90, 90, third]])[values]
        np.testing.assert_array_equal(images.decode(content), expected[..., : 1 if grey else 3])


def test_a_transparent_colour_of_a_palette_becomes_white():
    palette = PIL.Image.fromarray((np.arange(35) % 3).astype(np.uint8).reshape(5, 7), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])[np.arange(35) % 3]
    for kind in ("PNG", "GIF"):
        found = images.decode(encoded(palette, kind, transparency=1))
        np.testing.assert_array_equal(found.reshape(35, 3), expected)


def test_a_transparent_grey_becomes_white_at_8_and_at_16_bits():
    values = np.array([[0, 3, 200, 3]], np.uint8)
    for image, transparent in ((values, 3), (values.astype(np.uint16) * 257, 3 * 257)):
        found = images.decode(encoded(image, transparency=transparent))
        np.testing.assert_array_equal(found[0, :, 0], [0, 255, 200, 255])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(kind):
    wide = np.array([[0, 128, 129, 255, 256, 257, 20_000, 40_000, 65_535]], np.uint16)
    found = images.decode(encoded(wide, kind))
    np.testing.assert_array_equal(found[0, :, 0], np.round(wide[0] / 257))
    every = np.arange(256, dtype=np.uint16)[None] * 257  # eight bits as sixteen
    np.testing.assert_array_equal(images.decode(encoded(every, kind))[0, :, 0], np.arange(256))


def test_one_bit_is_black_and_white():
    bits = GREY > 127
    found = images.decode(encoded(PIL.Image.fromarray(bits)))
    np.testing.assert_array_equal(found[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize(
    "values", [GREY.astype(np.float32), GREY.astype(np.int32)], ids=["float32", "int32"]
)
def test_values_without_a_known_range_are_refused(values, request):
    with pytest.raises(data.DataError, match=r"x\.tiff: .*float32|int32.*which of them is white"):
        images.decode(encoded(values, "TIFF"), where="x.tiff")


def test_the_first_picture_of_an_animation():
    pictures = [PIL.Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (7, 99)]
    content = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    np.testing.assert_array_equal(images.decode(content, channels=1), 7)


def test_resizing_keeps_what_is_constant_and_what_has_that_size():
    plain = np.full((40, 10, 3), (9, 200, 31), np.uint8)
    np.testing.assert_array_equal(
        images.decode(encoded(plain), size=8), np.broadcast_to((9, 200, 31), (8, 8, 3))
    )
    square = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.decode(encoded(square), size=8), square)
    # Reducing averages, so that a fine pattern becomes its mean and does not alias.
    pattern = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (16, 16))
    assert np.abs(images.decode(encoded(pattern), size=4).astype(int) - 127).max() <= 3


def test_transparent_pixels_do_not_bleed_when_they_are_resized():
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = (255, 255, 255, 255)  # white; the rest is transparent black
    np.testing.assert_array_equal(images.decode(encoded(image), size=2), 255)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "of no format that Pillow reads"),
        (b"some words", r"of no format that Pillow reads; begins with b'some wor'"),
        (encoded(COLOUR)[:60], "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "of no format that Pillow reads"),
    ],
    ids=["empty", "text", "truncated", "PostScript"],
)
def test_what_is_no_image_is_named(content, message):
    with pytest.raises(data.DataError, match=f"^a/b.png: .*{message}.*Replace or remove it$"):
        images.decode(content, where="a/b.png")
