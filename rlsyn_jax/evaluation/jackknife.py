"""Intervals for statistics of whole sets (Frechet distance, coverage), by leaving people out.

A bootstrap would repeat images, which such statistics take for mode collapse; the delete-a-group
jackknife (Quenouille; Tukey) never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

NUM_GROUPS = 10


def jackknife_parts(identities: np.ndarray, *, num_groups: int = NUM_GROUPS) -> list[np.ndarray]:
    """Returns what is left of the identities without each group of them in turn.

    Args:
        identities: int [k], distinct, in ascending order.
        num_groups: groups, at most k.

    Returns:
        int [m] of each group.
    """
    groups = min(num_groups, len(identities))
    member = np.arange(len(identities)) % max(groups, 1)
    return [identities[member != group] for group in range(groups)]


def jackknife_interval(
    statistic: Callable[[np.ndarray], float],
    identities: np.ndarray,
    *,
    num_groups: int = NUM_GROUPS,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float, float]:
    """Estimates a statistic and its interval by leaving one group of identities out at a time.

    Args:
        statistic: function of the identities kept, int [m].
        identities: int [k], distinct; at least 2.
        num_groups: groups, at most k.
        confidence: of the interval.
        bounds: values the statistic can have, where the interval is cut off: Student's t knows of
            no share above 1.

    Returns:
        (value on everyone, low, high): Student's t with groups - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two identities.
    """
    identities = np.unique(identities)
    kept = jackknife_parts(identities, num_groups=num_groups)
    groups = len(kept)
    if groups < 2:
        raise ValueError(f"a jackknife needs at least 2 identities, got {len(identities)}")
    whole = float(statistic(identities))
    parts = np.array([statistic(some) for some in kept])
    error = np.sqrt((groups - 1) / groups * np.sum((parts - parts.mean()) ** 2))
    reach = stats.t.ppf(0.5 + confidence / 2, groups - 1) * error
    low, high = np.clip([whole - reach, whole + reach], *bounds)
    return whole, float(low), float(high)
