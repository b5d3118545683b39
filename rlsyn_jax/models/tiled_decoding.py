"""Decoding of large latents in overlapping tiles that are blended linearly.

Activations are needed for one tile at a time. Letters in comments: b batch, h w height and width,
c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> np.ndarray:
    """Returns where tiles begin along one axis.

    Args:
        length: places along the axis, at least `tile`.
        tile: places of a tile.
        overlap: places that neighbours share at least, below `tile`.

    Returns:
        int [tiles]: as few tiles as cover the axis, evenly spread, the last ending at its end.
    """
    count = 1 if length == tile else -(-(length - overlap) // (tile - overlap))
    return np.round(np.linspace(0, length - tile, count)).astype(np.int32)


def blend_weights(starts: np.ndarray, tile: int) -> np.ndarray:
    """Returns how much each tile counts at each of its places along one axis.

    Args:
        starts: int [tiles], ascending.
        tile: places of a tile.

    Returns:
        float32 [tiles, tile] above 0: rising and falling linearly where neighbours share places,
        and summing to 1 over the tiles of any place.
    """
    place = np.arange(tile) + 0.5
    weights = np.ones((len(starts), tile))
    for index, step in enumerate(np.diff(starts)):
        shared = tile - step
        if not shared:
            continue
        weights[index] = np.minimum(weights[index], (tile - place) / shared)
        weights[index + 1] = np.minimum(weights[index + 1], place / shared)
    # Three tiles share a place where the last ones are close.
    total = np.zeros(starts[-1] + tile)
    for start, weight in zip(starts, weights):
        total[start : start + tile] += weight
    for start, weight in zip(starts, weights):
        weight /= total[start : start + tile]
    return weights.astype(np.float32)


def decode_tiled(
    decode: Callable[[jax.Array], jax.Array],
    latents: jax.Array,
    *,
    tile_size: int,
    overlap: int,
) -> jax.Array:
    """Decodes latents tile by tile; all tiles have one shape, so that `decode` compiles once.

    What `decode` computes over the whole image, group normalisation and attention, it computes
    over a tile here; tiles as large as memory allows change an image least.

    Args:
        decode: images of latents, [b, h, w, c] -> [b, factor h, factor w, channels], for any
            h and w; a pure function.
        latents: [b, h, w, c].
        tile_size: height and width of a tile in latent places; an axis that is not longer is not
            divided.
        overlap: latent places that neighbours share at least, 0 to tile_size / 2.

    Returns:
        [b, factor h, factor w, channels] of decode's dtype; exactly decode(latents) where one
        tile holds all.

    Raises:
        ValueError: latents are not [b, h, w, c], tile_size or overlap are out of range, or decode
            does not multiply height and width by one whole factor.
    """
    if latents.ndim != 4 or 0 in latents.shape:
        raise ValueError(f"latents must be [b, h, w, c], got {list(latents.shape)}")
    if tile_size < 1 or not 0 <= 2 * overlap <= tile_size:
        raise ValueError(
            f"tile_size must be at least 1 and overlap 0 to half of it, got tile_size {tile_size} "
            f"and overlap {overlap}"
        )
    batch, height, width, channels = latents.shape
    tile_height, tile_width = min(height, tile_size), min(width, tile_size)
    tile_shape = (batch, tile_height, tile_width, channels)
    decoded = jax.eval_shape(decode, jax.ShapeDtypeStruct(tile_shape, latents.dtype))
    factor = decoded.shape[1] // tile_height
    if decoded.shape[:3] != (batch, factor * tile_height, factor * tile_width) or not factor:
        raise ValueError(
            f"decode must multiply height and width by one whole factor, but turns "
            f"{list(tile_shape)} into {list(decoded.shape)}"
        )
    if (tile_height, tile_width) == (height, width):
        return decode(latents)
    rows = tile_starts(height, tile_height, overlap)
    columns = tile_starts(width, tile_width, overlap)
    row_weights = jnp.asarray(blend_weights(factor * rows, factor * tile_height))
    column_weights = jnp.asarray(blend_weights(factor * columns, factor * tile_width))

    def add_tile(images, place):
        row, column = place
        top, left = jnp.asarray(rows)[row], jnp.asarray(columns)[column]
        tile = decode(jax.lax.dynamic_slice(latents, (0, top, left, 0), tile_shape))
        weight = row_weights[row][:, None, None] * column_weights[column][:, None]  # [h, w, 1]
        corner = (0, factor * top, factor * left, 0)
        before = jax.lax.dynamic_slice(images, corner, tile.shape)
        blended = before + weight * tile.astype(jnp.float32)
        return jax.lax.dynamic_update_slice(images, blended, corner), None

    places = np.meshgrid(np.arange(len(rows)), np.arange(len(columns)), indexing="ij")
    empty = jnp.zeros((batch, factor * height, factor * width, decoded.shape[-1]), jnp.float32)
    images, _ = jax.lax.scan(add_tile, empty, tuple(p.reshape(-1) for p in places))
    return images.astype(decoded.dtype)
