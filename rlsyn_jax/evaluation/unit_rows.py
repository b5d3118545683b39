"""Embeddings as directions, which is how all measures compare them."""

from __future__ import annotations

import numpy as np


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Returns each row divided by its length; a row of zeros stays one.

    Args:
        embeddings: float [n, dim].

    Returns:
        [n, dim] of the same dtype, rows of length 1.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12)
