"""Class embeddings of people who do not exist, made from those of people who do."""

from __future__ import annotations

import numpy as np

WAYS = ("between", "away")
# Candidates of which the one farthest from everybody is taken.
_CANDIDATES = 64


def novel_class_rows(rows: np.ndarray, number: int, way: str, seed: int) -> np.ndarray:
    """Proposes class embeddings that are nobody's.

    "between" lies between two people's rows, nearer to the middle than to either. "away" is drawn
    from a Gaussian with the rows' mean and covariance, and of many draws the one is taken that is
    farthest from every person and from those taken before. Both are scaled to the rows' usual
    distance from their mean: averages alone would all be the average person.

    Args:
        rows: float [people, width], of the people the generator knows; at least 2, not all alike.
        number: rows to propose, at least 1; those of a smaller number come first in a larger one.
        way: "between" or "away".
        seed: of the drawing.

    Returns:
        float32 [number, width].

    Raises:
        ValueError: shapes that do not fit, rows all alike or not finite, or an unknown way.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"expected finite rows [people, width] of 2 people or more, {rows.shape}")
    if way not in WAYS or number < 1:
        raise ValueError(f"expected one of {WAYS} and a number from 1 on, got {way!r}, {number}")
    mean = rows.mean(axis=0)
    deviations = rows - mean
    radius = np.median(np.linalg.norm(deviations, axis=1))
    if radius == 0:
        raise ValueError("the rows are all alike; there is nothing between or away from them")
    random = np.random.default_rng(seed)
    taken = list(deviations)
    for _ in range(number):
        if way == "between":
            one, other = random.choice(len(rows), 2, replace=False)
            share = random.uniform(0.35, 0.65)
            proposed = share * deviations[one] + (1 - share) * deviations[other]
            # Of two opposite people nothing is left between them.
            if np.linalg.norm(proposed) < 1e-6 * radius:
                proposed = deviations[one]
            proposed = proposed * (radius / np.linalg.norm(proposed))
        else:
            # Mixtures of deviations have their covariance.
            drawn = random.normal(size=(_CANDIDATES, len(rows))) @ deviations
            drawn *= radius / np.linalg.norm(drawn, axis=1, keepdims=True)
            gaps = np.linalg.norm(drawn[:, None] - np.stack(taken)[None], axis=-1)
            proposed = drawn[gaps.min(axis=1).argmax()]
        taken.append(proposed)
    return (mean + np.stack(taken[len(rows) :])).astype(np.float32)
