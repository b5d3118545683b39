"""Confidence intervals: over seeds by Student's t, over people by resampling them."""

from __future__ import annotations

import numpy as np
from scipy import stats


def mean_interval(values: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few independent values with Student's t interval.

    Args:
        values: float [n], n at least 1; one value has no interval and gives itself three times.
        confidence: share of intervals that hold the true mean, in (0, 1).

    Returns:
        (mean, low, high).

    Raises:
        ValueError: no value, or a confidence outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    _check(values, confidence)
    mean = values.mean()
    if len(values) == 1:
        return float(mean), float(mean), float(mean)
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error
    return float(mean), float(mean - half), float(mean + half)


def cluster_bootstrap(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of values with a percentile interval from resampling whole clusters.

    Values of one person depend on each other, so people are drawn with replacement, not values.

    Args:
        values: float [n]. clusters: int [n], whom each value belongs to.
        num_resamples: draws, at least 1.
        seed: of the drawing.
        confidence: in (0, 1).

    Returns:
        (mean, low, high).

    Raises:
        ValueError: shapes that do not fit, or no value.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """
    values, clusters = np.asarray(values, np.float64), np.asarray(clusters)
    _check(values, confidence)
    if clusters.shape != values.shape or num_resamples < 1:
        raise ValueError(
            f"expected one cluster a value and at least 1 resample, got {values.shape} values, "
            f"{clusters.shape} clusters and {num_resamples} resamples"
        )
    _, members = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(members, weights=values), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(num_resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values.mean()), float(low), float(high)


def _check(values: np.ndarray, confidence: float) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected values [n] with n at least 1, got shape {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
