"""Embeddings as rows of length one: checked, normalised a part at a time, and placed on devices.

Nothing overflows or vanishes on the way, and no copy of all of them is left on the host.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from rlsyn_jax.training.meshes import batch_sharding

_NORMALISED_ROWS = 65536  # Made unit length at a time.


def checked_pair(synthetic: ArrayLike, real: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of embeddings that can be compared.

    Args:
        synthetic: [n, d], any length but zero.
        real: [m, d], likewise.

    Returns:
        Both as arrays, as they came.

    Raises:
        ValueError: shapes that do not fit, or rows that are zero or not finite.
    """
    synthetic, real = np.asarray(synthetic), np.asarray(real)
    for name, embeddings in (("synthetic", synthetic), ("real", real)):
        _check_rows(name, embeddings)
    if synthetic.shape[1] != real.shape[1]:
        raise ValueError(
            f"synthetic embeddings have width {synthetic.shape[1]}, real ones {real.shape[1]}; "
            "both must come from the same feature extractor"
        )
    return synthetic, real


def _check_rows(name: str, embeddings: np.ndarray) -> None:
    """Raise a ValueError unless embeddings are [n, d] and have directions."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"{name} has shape {embeddings.shape}; it must be [rows, width] with at least one row "
            "and a width of at least 1"
        )
    unusable = []
    for start in range(0, len(embeddings), _NORMALISED_ROWS):
        rows = _floats(embeddings[start : start + _NORMALISED_ROWS])
        extreme = np.flatnonzero(~_is_ordinary(_squares(rows)))
        largest = np.abs(rows[extreme]).max(axis=1)
        unusable.extend(start + extreme[~np.isfinite(largest) | (largest == 0)])
    if unusable:
        raise ValueError(
            f"{name} has {len(unusable)} rows that are zero or not finite, the first being row "
            f"{unusable[0]}; every embedding must be finite and have a direction"
        )


def place_unit_rows(embeddings: np.ndarray, num_rows: int, mesh: Mesh) -> jax.Array:
    """Split unit rows over a mesh, of which no copy of all is left on the host.

    Args:
        embeddings: [n, d], checked.
        num_rows: with rows of zeros at the end; a multiple of the devices.
        mesh: of the devices.

    Returns:
        float32 [num_rows, d].
    """

    def part(index):
        start, stop, _ = index[0].indices(num_rows)
        return unit_rows(embeddings[start:stop], stop - start)

    shape = num_rows, embeddings.shape[1]
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def unit_rows(embeddings: np.ndarray, num_rows: int | None = None) -> np.ndarray:
    """Divide embeddings by their lengths.

    Args:
        embeddings: [n, d], checked.
        num_rows: with rows of zeros at the end; None = n.

    Returns:
        float32 [num_rows, d].
    """
    num_rows = len(embeddings) if num_rows is None else num_rows
    unit = np.zeros((num_rows, embeddings.shape[1]), np.float32)
    for start in range(0, len(embeddings), _NORMALISED_ROWS):
        rows = _floats(embeddings[start : start + _NORMALISED_ROWS])
        squares = _squares(rows)
        extreme = np.flatnonzero(~_is_ordinary(squares))
        if len(extreme):
            # Divided by their largest number, so that no square overflows or vanishes.
            rows = rows.copy()
            rows[extreme] /= np.abs(rows[extreme]).max(axis=1, keepdims=True)
            squares[extreme] = _squares(rows[extreme])
        np.divide(
            rows,
            np.sqrt(squares)[:, None],
            out=unit[start : start + len(rows)],
            casting="same_kind",
        )
    return unit


def _squares(rows: np.ndarray) -> np.ndarray:
    """Squared lengths [n] of rows [n, d]; infinite where they overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum("nd,nd->n", rows, rows)


def _is_ordinary(squares: np.ndarray) -> np.ndarray:
    """Whether squared lengths lie where float32 holds them, and their numbers, in full."""
    return (squares > 1e-20) & (squares < 1e30)


def _floats(rows: np.ndarray) -> np.ndarray:
    """Rows in float32, or in float64 where they are."""
    return rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)
