"""The nearest real image of every synthetic one: how much was copied."""

from __future__ import annotations

import numpy as np


def nearest_real_distances(
    synthetic: np.ndarray, real: np.ndarray, *, block_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Finds each synthetic embedding's nearest real one.

    Args:
        synthetic: float [n, dim]. real: float [m, dim], m at least 1.
        block_size: synthetic embeddings compared at a time.

    Returns:
        (float32 [n] cosine distance, 0 to 2; int64 [n] place of the nearest real one).

    Raises:
        ValueError: shapes that do not fit, or no real embedding.
    """
    synthetic, real = _unit(synthetic), _unit(real)
    if len(real) == 0 or synthetic.shape[1:] != real.shape[1:]:
        raise ValueError(
            "expected synthetic [n, dim] and real [m, dim] of one dim with m at least 1, got "
            f"{synthetic.shape} and {real.shape}"
        )
    distances = np.empty(len(synthetic), np.float32)
    nearest = np.empty(len(synthetic), np.int64)
    for start in range(0, len(synthetic), block_size):
        block = slice(start, start + block_size)
        similarity = synthetic[block] @ real.T
        nearest[block] = similarity.argmax(axis=1)
        distances[block] = np.clip(1 - similarity.max(axis=1), 0, 2)
    return distances, nearest


def _unit(embeddings) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2:
        raise ValueError(f"expected embeddings [n, dim], got shape {embeddings.shape}")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12)
