"""Images of every common kind come out upright, 8-bit, and of the size and channels asked for."""

import io

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.image_decoding import DamagedImageError, decode_image

_GREY = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (8, 1))  # [8, 12]


def _encode(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data, channels=1, image_size=None, resize="stretch"):
    return decode_image(data, image_size=image_size, channels=channels, resize=resize)


def test_grey_and_colour_become_one_or_three_channels():
    np.testing.assert_array_equal(_decode(_encode(_GREY))[..., 0], _GREY)
    np.testing.assert_array_equal(_decode(_encode(_GREY), 3), np.repeat(_GREY[..., None], 3, 2))
    red = np.zeros((4, 5, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    np.testing.assert_array_equal(_decode(_encode(red), 3), red)
    assert (_decode(_encode(red), 1) == 76).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    deep = _GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(_decode(_encode(deep, kind))[..., 0], _GREY)


def test_one_bit_palette_and_other_colour_spaces():
    black_white = Image.fromarray(_GREY > 100)
    assert black_white.mode == "1"
    np.testing.assert_array_equal(_decode(_encode(black_white))[..., 0], (_GREY > 100) * 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert (_decode(_encode(palette), 3) == [10, 200, 30]).all()
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = _decode(_encode(inks, "JPEG"), 3).astype(int)
    assert (np.abs(red - [255, 0, 0]) < 12).all()


def test_transparency_is_shown_on_white():
    half = np.zeros((2, 2, 4), np.uint8)
    half[0] = [0, 0, 0, 255]
    np.testing.assert_array_equal(_decode(_encode(half))[..., 0], [[0, 0], [255, 255]])
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 0)])
    assert (_decode(_encode(grey_alpha), 3) == 255).all()
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0])
    assert (_decode(_encode(palette, transparency=0)) == 255).all()


def test_exif_orientation_is_applied():
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = _decode(_encode(_GREY, exif=tags.tobytes()))[..., 0]
    np.testing.assert_array_equal(turned, np.rot90(_GREY, -1))


def test_resizing_stretches_pads_or_crops():
    wide = np.full((10, 20), 200, np.uint8)
    wide[:, :5] = 100
    wide[:, 15:] = 100
    data = _encode(wide)
    stretched = _decode(data, image_size=8)[..., 0]
    assert stretched.shape == (8, 8)
    assert stretched[4, 0] < 120 and stretched[4, 4] > 180 and stretched[4, 7] < 120
    padded = _decode(data, image_size=(8, 8), resize="pad")[..., 0]
    assert (padded[:2] == 0).all() and (padded[6:] == 0).all() and (padded[2:6] > 90).all()
    cropped = _decode(data, image_size=(10, 10), resize="crop")[..., 0]
    np.testing.assert_array_equal(cropped, np.full((10, 10), 200))
    assert _decode(data, image_size=(5, 7)).shape == (5, 7, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"this is text", "UnidentifiedImageError"),
        (_encode(_GREY)[:-30], "cannot be read"),
        (_encode(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8), "JPEG")[:500], "t"),
        (_encode(_GREY.astype(np.float32), "TIFF"), "floating-point"),
        (_encode(_GREY.astype(np.int32) - 5, "TIFF"), "32-bit integers"),
        (_encode(_GREY, "GIF"), "UnidentifiedImageError"),
    ],
)
def test_damaged_images_are_named(data, message):
    with pytest.raises(DamagedImageError, match=message) as error:
        decode_image(data, image_size=None, channels=1, described_as="anna/3.png")
    assert "anna/3.png" in str(error.value)


@pytest.mark.parametrize("limit", [60, 40])
def test_decompression_bombs_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DamagedImageError, match=f"larger than {limit} pixels"):
        _decode(_encode(_GREY))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "channels is 4"),
        ({"resize": "zoom"}, "resize is 'zoom'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": (8, 8, 3)}, "image_size"),
        ({"image_size": (8, 2.5)}, "image_size"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _decode(_encode(_GREY), **options)
