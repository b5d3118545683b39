"""Class rows of new identities, told from what they look like.

A generator has learnt a row for each identity of the general domain; a recogniser's embeddings say
what these look like. As far as embeddings tell the rows, which is measured, they also tell where
identities that the generator has never seen should begin: where those are that look like them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

# Penalties that are tried, as multiples of the embeddings' mean squared singular value.
_PENALTIES = np.logspace(-4, 4, 33)


class PredictedRows(NamedTuple):
    """Rows of new identities, and how well known ones are told.

    Attributes:
        rows: float32 [new, width].
        explained: share of the known rows' variance that is told of each from all others; 0 or
            below = the embeddings say nothing, and the rows are all near the mean. It is the most
            that can be hoped for of new identities, whose embeddings are means of fewer images,
            by a network that has not learnt them.
    """

    rows: np.ndarray
    explained: float


def with_class_table(params: dict, table: jax.Array) -> dict:
    """Returns a generator's parameters with another class table, float32 [classes + 1, width]."""
    return {**params, "y_embedder": {"embedding_table": table}}


def predict_class_rows(
    rows: np.ndarray, embeddings: np.ndarray, new_embeddings: np.ndarray
) -> PredictedRows:
    """Predicts class rows from embeddings, by ridge regression.

    The penalty is the one by which each known row is told best from all others, by the exact
    leave-one-out errors of ridge regression.

    Args:
        rows: float [known, width], class rows of the identities that the generator knows; 3 or
            more.
        embeddings: float [known, d], of these identities.
        new_embeddings: float [new, d], of new ones.

    Returns:
        The predicted rows, and the share of the known ones that is told.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd edition,
    sections 3.4.1 (ridge regression) and 7.10 (leaving one out of a linear fit).
    """
    arrays = [np.asarray(array, np.float64) for array in (rows, embeddings, new_embeddings)]
    rows, embeddings, new_embeddings = arrays
    fits = all(array.ndim == 2 for array in arrays) and len(rows) == len(embeddings) > 2
    if not fits or embeddings.shape[1] != new_embeddings.shape[1]:
        raise ValueError(
            "expected rows [known, width] and embeddings [known, d] of 3 known identities or more, "
            f"and [new, d]; got {rows.shape}, {embeddings.shape} and {new_embeddings.shape}"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("rows and embeddings must be finite")
    row_mean, mean = rows.mean(axis=0), embeddings.mean(axis=0)
    # [known, r], [r], [r, d]: directions in which the known embeddings differ.
    left, scales, directions = np.linalg.svd(embeddings - mean, full_matrices=False)
    target = left.T @ (rows - row_mean)  # [r, width]
    best, least = 1.0, np.inf
    # Embeddings that are all alike tell nothing, by any penalty.
    for penalty in _PENALTIES * (np.mean(scales**2) or 1.0):
        shrinkage = scales**2 / (scales**2 + penalty)
        residuals = rows - row_mean - left @ (shrinkage[:, None] * target)
        leverage = 1 / len(rows) + (left**2) @ shrinkage  # [known]
        error = np.square(residuals / (1 - np.minimum(leverage, 1 - 1e-9))[:, None]).sum()
        if error < least:
            best, least = penalty, error
    weights = directions.T @ ((scales / (scales**2 + best))[:, None] * target)  # [d, width]
    # What the mean of all others leaves of each row.
    variance = np.square((rows - row_mean) * len(rows) / (len(rows) - 1)).sum()
    predicted = row_mean + (new_embeddings - mean) @ weights
    explained = 1 - least / variance if variance > 0 else 0.0
    return PredictedRows(predicted.astype(np.float32), float(explained))
