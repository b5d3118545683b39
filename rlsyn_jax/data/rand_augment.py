"""RandAugment on the device: a few operations an image, drawn from fourteen, at one magnitude.

Cubuk et al., arXiv 1909.13719; operations and their strengths are torchvision's. Images are float
in [-1, 1], [batch, height, width, channels]; inside, they are whole levels 0..255, on which the
operations are defined.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
MAX_MAGNITUDE = 30
# Those that are as likely to go the other way.
_SIGNED = OPERATIONS[OPERATIONS.index("shear_x") : OPERATIONS.index("posterize")]
_LUMINANCE = np.float32((0.2989, 0.587, 0.114))


def rand_augment(
    key: jax.Array, images: jax.Array, num_operations: int, magnitude: float
) -> jax.Array:
    """Changes each image by operations drawn for it, one after the other.

    Args:
        key: typed random key.
        images: float [b, h, w, c] in [-1, 1], of 1 or 3 channels.
        num_operations: operations of an image, at least 1; one may come twice.
        magnitude: 0 to MAX_MAGNITUDE, of all of them.

    Returns:
        Images of the same shape and dtype, at 256 levels.

    Raises:
        ValueError: num_operations or magnitude out of its range.
    """
    if num_operations < 1:
        raise ValueError(f"num_operations is {num_operations}; expected 1 or more.")
    strengths = jnp.asarray(strengths_of(magnitude, images.shape[1:3]))
    signed = jnp.array([name in _SIGNED for name in OPERATIONS])

    def one(images: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        drawn_key, sign_key = jax.random.split(key)
        drawn = jax.random.randint(drawn_key, len(images), 0, len(OPERATIONS))
        turned = jax.random.bernoulli(sign_key, 0.5, drawn.shape) & signed[drawn]
        strength = jnp.where(turned, -strengths[drawn], strengths[drawn])
        return apply_operations(images, drawn, strength), None

    # In a loop, so that several operations compile as fast as one.
    return jax.lax.scan(one, images, jax.random.split(key, num_operations))[0]


def strengths_of(magnitude: float, size: tuple[int, int]) -> np.ndarray:
    """Returns the strength of each operation at a magnitude, as `apply_operations` takes it.

    Args:
        magnitude: 0 to MAX_MAGNITUDE.
        size: height and width of the images.

    Returns:
        float32 [operations].

    Raises:
        ValueError: the magnitude is out of its range.
    """
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(f"magnitude is {magnitude}; expected 0 to {MAX_MAGNITUDE}.")
    share = magnitude / MAX_MAGNITUDE
    height, width = size
    strengths = dict.fromkeys(OPERATIONS, 0.0)
    strengths |= dict.fromkeys(("shear_x", "shear_y"), 0.3 * share)
    strengths["translate_x"] = 150 / 331 * width * share
    strengths["translate_y"] = 150 / 331 * height * share
    strengths["rotate"] = 30 * share
    strengths |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9 * share)
    strengths["posterize"] = 8 - round(4 * share)
    strengths["solarize"] = 255 * (1 - share)
    return np.float32([strengths[name] for name in OPERATIONS])


def apply_operations(images: jax.Array, operations: jax.Array, strengths: jax.Array) -> jax.Array:
    """Applies one operation to each image.

    Args:
        images: float [b, h, w, c] in [-1, 1].
        operations: int [b], places in OPERATIONS.
        strengths: float [b]. Shears: tangent of the angle; translations: pixels, whose fraction is
            dropped; rotate: degrees; brightness, color, contrast and sharpness: what is added to
            the factor 1; posterize: bits kept; solarize: level from which on levels are inverted.

    Returns:
        Images of the same shape and dtype, at 256 levels.
    """
    levels = jnp.round((images.astype(jnp.float32) + 1) * 127.5)
    changed = jnp.round(jnp.clip(jax.vmap(_apply)(levels, operations, strengths), 0, 255))
    return (changed / 127.5 - 1).astype(images.dtype)


def _apply(image: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """One operation on the levels of one image [h, w, c].

    All images of a batch go through all operations, and keep the result of their own: so the five
    moves share one, and the four blends another.
    """

    def is_one_of(*names: str) -> jax.Array:
        return jnp.isin(operation, jnp.array([OPERATIONS.index(name) for name in names]))

    grey = jnp.round(image @ _LUMINANCE[:, None]) if image.shape[-1] == 3 else image
    pale = jnp.select(
        [is_one_of("brightness"), is_one_of("color"), is_one_of("contrast")],
        [jnp.zeros_like(image), jnp.broadcast_to(grey, image.shape), jnp.full_like(image, 1.0)],
        _smooth(image),
    )
    pale = jnp.where(is_one_of("contrast"), grey.mean(), pale)
    kept = 2.0 ** (8 - strength)
    return jnp.select(
        [
            is_one_of("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
            is_one_of("brightness", "color", "contrast", "sharpness"),
            is_one_of("posterize"),
            is_one_of("solarize"),
            is_one_of("auto_contrast"),
            is_one_of("equalize"),
        ],
        [
            _move(image, operation, strength),
            pale + (1 + strength) * (image - pale),
            jnp.floor(image / kept) * kept,
            jnp.where(image >= strength, 255 - image, image),
            _stretch(image),
            _equalize(image),
        ],
        image,
    )


def _move(image: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Shears, shifts or rotates; each pixel takes the nearest one's level, 0 from outside."""
    height, width, _ = image.shape

    def strength_of(name: str) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), strength, 0.0)

    angle = jnp.deg2rad(strength_of("rotate"))
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    # Rotations leave the centre where it is, shears the upper left corner.
    middle = (height - 1) / 2, (width - 1) / 2
    down, right = rows - middle[0], columns - middle[1]
    from_row = middle[0] + jnp.cos(angle) * down + jnp.sin(angle) * right
    from_column = middle[1] + jnp.cos(angle) * right - jnp.sin(angle) * down
    from_row += strength_of("shear_y") * (columns + 0.5) - jnp.trunc(strength_of("translate_y"))
    from_column += strength_of("shear_x") * (rows + 0.5) - jnp.trunc(strength_of("translate_x"))
    from_row = jnp.floor(from_row + 0.5).astype(jnp.int32)
    from_column = jnp.floor(from_column + 0.5).astype(jnp.int32)
    inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
    moved = image[jnp.clip(from_row, 0, height - 1), jnp.clip(from_column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, 0.0)


def _smooth(image: jax.Array) -> jax.Array:
    """Mean over 3 x 3 places, of which the middle counts five times; the border stays."""
    if min(image.shape[:2]) < 3:
        return image
    height, width, _ = image.shape
    around = sum(
        image[row : height - 2 + row, column : width - 2 + column]
        for row in range(3)
        for column in range(3)
    )
    # Of levels, as PIL's and torchvision's are.
    inner = jnp.round((around + 4 * image[1:-1, 1:-1]) / 13)
    return image.at[1:-1, 1:-1].set(inner)


def _stretch(image: jax.Array) -> jax.Array:
    """Spreads the levels of each channel over 0..255; a channel of one level stays."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    scale = 255 / jnp.maximum(high - low, 1)
    return jnp.where(high > low, (image - low) * scale, image)


def _equalize(image: jax.Array) -> jax.Array:
    """Gives each channel about as many pixels of each level, in whole steps as PIL does."""

    def channel(levels: jax.Array) -> jax.Array:
        levels = levels.astype(jnp.int32)
        counts = jnp.bincount(levels.reshape(-1), length=256)
        highest = jnp.max(levels)
        step = (counts.sum() - counts[highest]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table[levels], levels).astype(jnp.float32)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
