"""From an encoded image of any common kind to 8-bit pixels of one size and channel number."""

import io
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from rlsyn_jax.data.pixel_memory import allocate_images

Resize = Literal["stretch", "pad", "crop"]
ImageSize = int | tuple[int, int]

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp", ".tif", ".tiff",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF")
_LARGEST_16_BIT = 2**16 - 1


class DamagedImageError(ValueError):
    """An image file that cannot be read as an image."""


def check_image_options(
    image_size: ImageSize | None, channels: int, resize: str
) -> tuple[int, int] | None:
    """Check the options of `decode_image` before any file is opened.

    Args:
        image_size: a side length, (height, width), or None to keep each image's size.
        channels: 1 or 3.
        resize: "stretch", "pad" or "crop".

    Returns:
        (height, width), or None where `image_size` is None.

    Raises:
        ValueError: where an option is none of these.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; expected 1 (grey) or 3 (RGB).")
    if resize not in ("stretch", "pad", "crop"):
        raise ValueError(f'resize is {resize!r}; expected "stretch", "pad" or "crop".')
    if image_size is None:
        return None
    size = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"image_size is {image_size}; expected a positive int or (height, width).")
    return size


def decode_image(
    source: str | Path | bytes,
    *,
    image_size: ImageSize | None,
    channels: int,
    resize: Resize = "stretch",
    described_as: str | None = None,
) -> np.ndarray:
    """Read one image as 8-bit grey or RGB pixels, upright and of the wanted size.

    The EXIF orientation is applied, transparent pixels are shown on white, palettes, CMYK and other
    colour spaces become RGB, 1-bit images become 0 and 255, and 16-bit grey is scaled to 8 bits.

    Args:
        source: path of a file, or the file's bytes.
        image_size: a side length, (height, width), or None to keep the size.
        channels: 1 or 3.
        resize: "stretch" ignores the aspect ratio; "pad" fits the whole image inside and centres
            it on black; "crop" fills the size and cuts off what stands over, evenly on both sides.
        described_as: how errors name the image; the path by default.

    Returns:
        uint8 [height, width, channels].

    Raises:
        DamagedImageError: where the file is empty, cut off, of another format, of a number format
            that has no fixed white, or so large that opening it could exhaust the memory.
        ValueError: where an option is not one of those listed.
    """
    size = check_image_options(image_size, channels, resize)
    if described_as is None:
        described_as = "bytes" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise DamagedImageError(
            f"Image {described_as} cannot be opened: {error.strerror}. Expected a file (or a link "
            "to one) that this user may read."
        ) from error
    if not data:
        raise DamagedImageError(
            f"Image {described_as} is empty (0 bytes). Replace it by an intact file or remove it."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                image.verify()
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                image.load()
                image = ImageOps.exif_transpose(image)
                image = _to_eight_bits(image).convert("L" if channels == 1 else "RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DamagedImageError(
            f"Image {described_as} claims to be larger than {Image.MAX_IMAGE_PIXELS} pixels and "
            f"is not opened ({error}). Remove it, or shrink it with an image editor."
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged files.
        raise DamagedImageError(
            f"Image {described_as} cannot be read: {type(error).__name__}: {error}. Replace it by "
            f"an intact file of one of the kinds {' '.join(_FORMATS)}, or remove it."
        ) from error
    if size is not None and image.size != size[::-1]:
        image = _resized(image, size, resize)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def decode_images(
    sources: Iterable[tuple[str | Path | bytes, str | None]],
    *,
    num_images: int,
    image_size: ImageSize,
    channels: int,
    resize: Resize,
    skip_damaged: bool,
    place: str,
) -> tuple[np.ndarray, list[int]]:
    """Read the images of a data set, one at a time.

    Args:
        sources: of each image, what `decode_image` takes as source and as described_as.
        num_images: how many there are at most.
        image_size: a side length or (height, width).
        channels, resize: as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names, instead of
            stopping at the first.
        place: where the images are, for the log.

    Returns:
        (uint8 [k, height, width, channels], the numbers of these k images among the sources).

    Raises:
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
        ValueError: where an option is not one of those listed.
    """
    size = check_image_options(image_size, channels, resize)
    images, kept, number = allocate_images((num_images, *size, channels)), [], -1
    for number, (source, described_as) in enumerate(sources):
        try:
            images[len(kept)] = decode_image(
                source,
                image_size=size,
                channels=channels,
                resize=resize,
                described_as=described_as,
            )
        except DamagedImageError as error:
            if not skip_damaged:
                raise
            logging.warning("Skipped: %s", error)
            continue
        kept.append(number)
    if len(kept) <= number:
        logging.warning(
            "%d of %d images in %s were skipped.", number + 1 - len(kept), number + 1, place
        )
    return images[: len(kept)], kept


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Reduce any Pillow mode to one of 8 bits per channel without transparency."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > _LARGEST_16_BIT:
            raise ValueError("its pixels are 32-bit integers; expected 8 or 16 bits")
        scaled = (values * 255 + _LARGEST_16_BIT // 2) // _LARGEST_16_BIT
        return Image.fromarray(scaled.astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode in ("L", "RGB") else _to_grey_or_colour(image)


def _to_grey_or_colour(image: Image.Image) -> Image.Image:
    return image.convert("L" if image.mode == "1" else "RGB")


def resize_pixels(pixels: np.ndarray, size: tuple[int, int], resize: Resize) -> np.ndarray:
    """Bring pixels to a size, as `decode_image` does; uint8 [height, width, 1 or 3]."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(_resized(image, size, resize)).reshape(*size, -1)


def _resized(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    width_height = size[::-1]
    if resize == "pad":
        return ImageOps.pad(image, width_height, Image.Resampling.BICUBIC)
    if resize == "crop":
        return ImageOps.fit(image, width_height, Image.Resampling.BICUBIC)
    return image.resize(width_height, Image.Resampling.BICUBIC)
