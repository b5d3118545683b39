"""Confidence intervals: over seeds by Student's t, over people by resampling them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from rlsyn_jax.evaluation.proportion import Estimate


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
    means = resampled_means(values, clusters, num_resamples=num_resamples, seed=seed)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.mean(values)), float(low), float(high)


def resampled_means(
    values: np.ndarray, clusters: np.ndarray, *, num_resamples: int, seed: int
) -> np.ndarray:
    """Means of values over resamples of whole clusters, for statistics made of several means.

    Args:
        values: float [n]. clusters: int [n]. num_resamples: at least 1. seed: of the drawing.

    Returns:
        float64 [num_resamples].

    Raises:
        ValueError: shapes that do not fit, or no value.
    """
    values, clusters = np.asarray(values, np.float64), np.asarray(clusters)
    _check(values)
    if clusters.shape != values.shape or num_resamples < 1:
        raise ValueError(
            f"expected one cluster a value and at least 1 resample, got {values.shape} values, "
            f"{clusters.shape} clusters and {num_resamples} resamples"
        )
    _, members = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(members, weights=values), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(num_resamples, len(sums)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)


@dataclasses.dataclass(frozen=True)
class PairedIntervals:
    """Figures of several arms on the same items, and their differences to one of the arms.

    Attributes:
        values: arm -> figure with its interval.
        differences: every other arm -> its figure less the baseline's, with the interval of the
            difference.
    """

    values: dict[str, Estimate]
    differences: dict[str, Estimate]


def paired_bootstrap(
    statistics: Mapping[str, Callable[[np.ndarray], float]],
    clusters: np.ndarray,
    *,
    baseline: str | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedIntervals:
    """Percentile intervals of any statistics of the same items, by drawing whole clusters.

    All arms see the same draws, so that what makes a draw easy cancels in the differences. An item
    of two people, such as a pair, is drawn as often as the product of both people's draws, a pair
    of one person as often as that person.

    Args:
        statistics: arm -> function of the items drawn, their places int [m] with repetitions.
        clusters: int [n], the person of each item, or int [n, 2], the two people of each pair.
        baseline: arm that the others are compared with; default the first.
        num_resamples: draws, at least 1.
        seed: of the drawing.
        confidence: in (0, 1).

    Returns:
        Figures on all items, and differences.

    Raises:
        ValueError: no arm, an unknown baseline, or shapes that do not fit.

    Source: Efron and Tibshirani, 1993; pairs: Snijders and Borgatti, Non-Parametric Standard Errors
    and Tests for Network Statistics, 1999.
    """
    clusters = np.asarray(clusters)
    if clusters.ndim not in (1, 2) or clusters.shape[1:] not in ((), (2,)) or not len(clusters):
        raise ValueError(f"expected clusters [n] or [n, 2], got shape {clusters.shape}")
    baseline = next(iter(statistics), None) if baseline is None else baseline
    if baseline not in statistics:
        raise ValueError(f"baseline {baseline!r} is none of the arms {list(statistics)}")
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least 1 resample and a confidence between 0 and 1, got {num_resamples} "
            f"and {confidence}"
        )
    people, members = np.unique(clusters, return_inverse=True)
    members = members.reshape(len(clusters), -1)  # [n, 1 or 2]
    random = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {arm: [] for arm in statistics}
    for _ in range(num_resamples):
        drawn = np.bincount(random.integers(len(people), size=len(people)), minlength=len(people))
        times = drawn[members[:, 0]]
        if members.shape[1] == 2:
            times = times * np.where(members[:, 0] == members[:, 1], 1, drawn[members[:, 1]])
        places = np.repeat(np.arange(len(clusters)), times)
        for arm, statistic in statistics.items():
            draws[arm].append(float(statistic(places)))
    everything = np.arange(len(clusters))
    values = {arm: float(statistic(everything)) for arm, statistic in statistics.items()}

    def estimate(value, samples):
        ends = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(value, *map(float, ends))

    return PairedIntervals(
        values={arm: estimate(values[arm], draws[arm]) for arm in statistics},
        differences={
            arm: estimate(values[arm] - values[baseline], np.subtract(draws[arm], draws[baseline]))
            for arm in statistics
            if arm != baseline
        },
    )


def _check(values: np.ndarray, confidence: float = 0.95) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"expected values [n] with n at least 1, got shape {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
