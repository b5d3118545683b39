"""Shares with intervals: how often something happened, and how sure one can be."""

from __future__ import annotations

from typing import NamedTuple

from scipy import stats


class Estimate(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


def wilson_interval(hits: int, total: int, *, confidence: float = 0.95) -> Estimate:
    """Share of independent trials that hit, with Wilson's interval.

    Args:
        hits: 0..total.
        total: trials, at least 1.
        confidence: share of intervals that hold the true share, in (0, 1).

    Returns:
        hits / total and the interval, all in 0..1.

    Raises:
        ValueError: no trial, hits outside 0..total, or a confidence outside (0, 1).

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    if not 0 <= hits <= total or total < 1:
        raise ValueError(f"expected hits in 0..total and a trial at least, got {hits} of {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    interval = stats.binomtest(int(hits), int(total)).proportion_ci(confidence, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high))
