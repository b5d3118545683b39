"""Random changes of image batches on the device: pure, keyed, and safe to jit.

Functions take float images in [-1, 1] laid out [batch, height, width, channels], draw independent
numbers for every image of the batch, and return the same shape and dtype; `augment` takes them as
uint8.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from rlsyn_jax.data.identity_dataset import to_device_range


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half.

    Args:
        key: typed random key.
        images: [batch, height, width, channels].

    Returns:
        Images of the same shape.
    """
    flip = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def random_crop(
    key: jax.Array, images: jax.Array, padding: int, fill: float | None = None
) -> jax.Array:
    """Pad each image on all sides and cut the original size out at a random place.

    Args:
        key: typed random key.
        images: [batch, height, width, channels].
        padding: pixels added on each side; the shift is uniform in [-padding, padding].
        fill: value of the added pixels; None repeats the edge.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: where `padding` is negative.
    """
    if padding < 0:
        raise ValueError(f"padding is {padding}; expected 0 or more pixels.")
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = (
        jnp.pad(images, border, mode="edge")
        if fill is None
        else jnp.pad(images, border, constant_values=fill)
    )
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


def random_affine(
    key: jax.Array,
    images: jax.Array,
    max_rotation_degrees: float,
    max_scale: float,
    max_translation: float,
    fill: float | None = None,
) -> jax.Array:
    """Rotate, scale and shift each image about its centre, with bilinear interpolation.

    Args:
        key: typed random key.
        images: [batch, height, width, channels].
        max_rotation_degrees: the angle is uniform in [-max, max] degrees.
        max_scale: the logarithm of the magnification is uniform in +-log(1 + max_scale).
        max_translation: the shift is uniform in [-max, max] as a fraction of height and width.
        fill: value outside the image; None repeats the edge.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: where a range is negative.
    """
    ranges = {
        "max_rotation_degrees": max_rotation_degrees,
        "max_scale": max_scale,
        "max_translation": max_translation,
    }
    for name, value in ranges.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; expected 0 or more.")
    batch, height, width, _ = images.shape
    rotation_key, scale_key, translation_key = jax.random.split(key, 3)
    angles = jnp.deg2rad(max_rotation_degrees) * jax.random.uniform(
        rotation_key, (batch,), minval=-1.0
    )
    scales = jnp.exp(jnp.log1p(max_scale) * jax.random.uniform(scale_key, (batch,), minval=-1.0))
    shifts = max_translation * jax.random.uniform(translation_key, (batch, 2), minval=-1.0)
    shifts = shifts * jnp.array([height, width])

    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    grid = jnp.stack([rows, columns]) - centre[:, None, None]  # [2, height, width]

    def warp(image: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        inverse = jnp.array([[cosine, sine], [-sine, cosine]]) / scale
        offset = grid - shift[:, None, None]
        source = jnp.einsum("ij,jhw->ihw", inverse, offset, precision="highest")
        source = source + centre[:, None, None]

        def sample(channel: jax.Array) -> jax.Array:
            mode = "nearest" if fill is None else "constant"
            return jax.scipy.ndimage.map_coordinates(
                channel, list(source), order=1, mode=mode, cval=0.0 if fill is None else fill
            )

        channels_first = rearrange(image, "height width channels -> channels height width")
        return rearrange(
            jax.vmap(sample)(channels_first), "channels height width -> height width channels"
        )

    return jax.vmap(warp)(images, angles, scales, shifts).astype(images.dtype)


def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    flip: bool,
    max_rotation_degrees: float,
    max_scale: float,
    max_translation: float,
) -> jax.Array:
    """Mirrors and moves images as a generator's training wants them.

    Args:
        keys: two typed keys, [2]: of mirroring and of moving.
        images: uint8 [b, h, w, c].
        flip: mirror half of the images.
        max_rotation_degrees, max_scale, max_translation: as in `random_affine`; 0 of all = none.

    Returns:
        float32 [b, h, w, c] in [-1, 1].
    """
    images = to_device_range(images)
    if flip:
        images = random_flip(keys[0], images)
    if max_rotation_degrees or max_scale or max_translation:
        images = random_affine(
            keys[1],
            images,
            max_rotation_degrees=max_rotation_degrees,
            max_scale=max_scale,
            max_translation=max_translation,
        )
    return images


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: float = 0.3,
    fill: float | None = None,
    num_attempts: int = 20,
) -> jax.Array:
    """Overwrite a random rectangle of each image with some probability.

    Random Erasing Data Augmentation (Zhong et al., 2020), Algorithm 1. The paper draws again until
    the rectangle fits; here `num_attempts` rectangles are drawn at once and the first that fits is
    used (the image stays whole where none does).

    Args:
        key: typed random key.
        images: [batch, height, width, channels] in [-1, 1].
        probability: chance that an image is erased, 0 to 1.
        area: smallest and largest share of the image that is erased.
        ratio: smallest aspect ratio height / width; the largest is 1 / ratio.
        fill: the value written; None writes uniform noise in [-1, 1] at every pixel.
        num_attempts: rectangles drawn for each image.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: where a probability, area or ratio is out of its range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; expected 0 to 1.")
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area is {area}; expected 0 < smallest <= largest <= 1.")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio}; expected 0 < ratio <= 1.")
    batch, height, width, _ = images.shape
    erase_key, area_key, ratio_key, place_key, fill_key = jax.random.split(key, 5)
    attempts = (batch, num_attempts)
    erased_area = jax.random.uniform(area_key, attempts, minval=area[0], maxval=area[1])
    erased_area = erased_area * height * width
    aspect = jax.random.uniform(ratio_key, attempts, minval=ratio, maxval=1 / ratio)
    heights = jnp.round(jnp.sqrt(erased_area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(erased_area / aspect)).astype(jnp.int32)
    fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
    chosen = jnp.argmax(fits, axis=1)
    heights, widths = heights[jnp.arange(batch), chosen], widths[jnp.arange(batch), chosen]

    place = jax.random.uniform(place_key, (2, batch))
    top = jnp.floor(place[0] * (height - heights + 1)).astype(jnp.int32)
    left = jnp.floor(place[1] * (width - widths + 1)).astype(jnp.int32)
    erase = fits.any(axis=1) & jax.random.bernoulli(erase_key, probability, (batch,))

    row, column = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    top, left, heights, widths, erase = (
        value[:, None, None] for value in (top, left, heights, widths, erase)
    )
    inside_rows = (row >= top) & (row < top + heights)
    inside_columns = (column >= left) & (column < left + widths)
    inside = (erase & inside_rows & inside_columns)[..., None]
    written = jax.random.uniform(fill_key, images.shape, images.dtype, minval=-1.0)
    return jnp.where(inside, written if fill is None else fill, images)
