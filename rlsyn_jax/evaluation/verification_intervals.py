"""Verification rates of several recognisers on the same pairs, with intervals over people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlsyn_jax.evaluation.bootstrap import PairedIntervals
from rlsyn_jax.evaluation.proportion import Estimate
from rlsyn_jax.evaluation.verification import allowed_impostors


@dataclasses.dataclass(frozen=True)
class VerificationIntervals:
    """Rates of every arm, and their differences to the baseline's.

    Attributes:
        equal_error_rate: 0..1, the smaller the better.
        true_accept_rates: {false accept rate: share of genuine pairs accepted there}.
    """

    equal_error_rate: PairedIntervals
    true_accept_rates: dict[float, PairedIntervals]


def verification_intervals(
    similarities: Mapping[str, np.ndarray],
    is_same: np.ndarray,
    people: np.ndarray,
    *,
    false_accept_rates: Sequence[float],
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> VerificationIntervals:
    """Percentile intervals of rates by drawing people, as bootstrap.paired_bootstrap draws them.

    What that function would sort anew in each resample is sorted once and weighted: each pair
    counts as often as its people were drawn. The threshold of a rate is found in every resample.

    Args:
        similarities: arm -> float [n] or [seeds, n], larger for pairs that look more alike; a rate
            is the mean over seeds. The first arm is the baseline.
        is_same: bool [n].
        people: int [n, 2], who is in the two images of each pair.
        false_accept_rates: in (0, 1), of at least one impostor pair.
        num_resamples: draws; those that leave no genuine or no impostor pair are not counted.
        seed, confidence: as in paired_bootstrap.

    Returns:
        Rates, differences to the first arm, and their intervals.

    Raises:
        ValueError: shapes that do not fit, no arm, no genuine or impostor pair, a rate that so few
            impostors cannot measure, or no resample that counts.
    """
    is_same, people = np.asarray(is_same).astype(bool), np.asarray(people)
    arms = {name: np.atleast_2d(np.asarray(rows)) for name, rows in similarities.items()}
    for name, rows in arms.items():
        if rows.ndim != 2 or is_same.shape != rows.shape[1:] or people.shape != (len(is_same), 2):
            raise ValueError(
                f"{name}: expected similarities [seeds, n], is_same [n] and people [n, 2], got "
                f"{rows.shape}, {is_same.shape} and {people.shape}"
            )
    if not arms or num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"expected an arm, a resample and a confidence between 0 and 1, got {len(arms)} arms, "
            f"{num_resamples} and {confidence}"
        )
    num_impostors = int((~is_same).sum())
    if num_impostors in (0, len(is_same)):
        raise ValueError(
            f"genuine and impostor pairs are needed, got {len(is_same) - num_impostors} and "
            f"{num_impostors}"
        )
    for rate in false_accept_rates:
        if not 0 < rate < 1:
            raise ValueError(f"a false accept rate is {rate}; it must be between 0 and 1")
        allowed_impostors(rate, num_impostors)
    ranked = {name: [_Ranked(row, is_same) for row in rows] for name, rows in arms.items()}

    def rates(weights) -> np.ndarray:
        """Returns [arms, 1 + rates]."""
        each = [
            np.mean([row.rates(weights, false_accept_rates) for row in rows], axis=0)
            for rows in ranked.values()
        ]
        return np.stack(each)

    values = rates(np.ones(len(is_same), np.int64))
    draws = []
    names = np.unique(people)
    for weights in _weights_of_pairs(is_same, people, num_resamples, seed):
        draws.append(rates(weights))
    if not draws:
        raise ValueError(f"no resample of {len(names)} people has both kinds of pairs")
    draws = np.stack(draws)  # [resamples, arms, 1 + rates]

    def intervals(column) -> PairedIntervals:
        return _paired(list(ranked), values[:, column], draws[:, :, column], confidence)

    return VerificationIntervals(
        equal_error_rate=intervals(0),
        true_accept_rates={rate: intervals(n + 1) for n, rate in enumerate(false_accept_rates)},
    )


def accuracy_intervals(
    correct: Mapping[str, np.ndarray],
    is_same: np.ndarray,
    people: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedIntervals:
    """Percentile intervals of accuracies on pairs, by drawing people as verification_intervals.

    Folds of pairs that are drawn from all pairs share people, so that their accuracies say little
    of how uncertain their mean is. A resample keeps the share of genuine pairs.

    Args:
        correct: arm -> bool [n] or [seeds, n], whether a pair was judged rightly; the accuracy is
            the mean over seeds. The first arm is the baseline.
        is_same, people, num_resamples, seed, confidence: as in verification_intervals.

    Returns:
        Accuracies, and differences to the first arm's, with their intervals.

    Raises:
        ValueError: no arm, shapes that do not fit, or no resample with both kinds of pairs.
    """
    is_same, people = np.asarray(is_same).astype(bool), np.asarray(people)
    arms = {name: np.atleast_2d(np.asarray(rows, np.float64)) for name, rows in correct.items()}
    if (
        not arms
        or any(rows.shape[1:] != is_same.shape for rows in arms.values())
        or people.shape != (len(is_same), 2)
    ):
        raise ValueError(
            "expected correct [seeds, n] of at least one arm, is_same [n] and people [n, 2], got "
            f"{[rows.shape for rows in arms.values()]}, {is_same.shape} and {people.shape}"
        )
    each = np.stack([rows.mean(axis=0) for rows in arms.values()])  # [arms, n]
    genuine = is_same.mean()

    def accuracies(weights) -> np.ndarray:
        means = [
            each[:, kind] @ weights[kind] / weights[kind].sum() for kind in (is_same, ~is_same)
        ]
        return genuine * means[0] + (1 - genuine) * means[1]

    draws = [accuracies(w) for w in _weights_of_pairs(is_same, people, num_resamples, seed)]
    if not draws:
        raise ValueError(f"no resample of {len(np.unique(people))} people has both kinds of pairs")
    return _paired(list(arms), each.mean(axis=1), np.stack(draws), confidence)


def _weights_of_pairs(is_same, people, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each pair is drawn, int [n]; draws without both kinds are left out."""
    names, members = np.unique(people, return_inverse=True)
    first, second = members.reshape(-1, 2).T
    random = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
        weights = drawn[first] * np.where(first == second, 1, drawn[second])
        if weights[is_same].any() and weights[~is_same].any():
            yield weights


def _paired(names: Sequence[str], values, draws, confidence: float) -> PairedIntervals:
    """Intervals of values [arms] and of differences to the first, of draws [resamples, arms]."""

    def estimate(value, samples) -> Estimate:
        ends = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(value), *map(float, ends))

    return PairedIntervals(
        values={name: estimate(values[arm], draws[:, arm]) for arm, name in enumerate(names)},
        differences={
            name: estimate(values[arm] - values[0], draws[:, arm] - draws[:, 0])
            for arm, name in enumerate(names)
            if arm
        },
    )


class _Ranked:
    """Pairs in the falling order of their similarity."""

    def __init__(self, similarities, is_same):
        self.order = np.argsort(-similarities, kind="stable")
        falling = similarities[self.order]
        self.last_of_ties = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        self.genuine = is_same[self.order]

    def rates(self, weights, false_accept_rates) -> list[float]:
        """Returns the equal error rate and the true accept rate at each false accept rate."""
        weights = weights[self.order]
        accepted = np.cumsum(weights)[self.last_of_ties]
        genuine = np.cumsum(weights * self.genuine)[self.last_of_ties]
        impostors = accepted - genuine
        false, true = impostors / impostors[-1], genuine / genuine[-1]
        result = [_equal_error(false, true)]
        for rate in false_accept_rates:
            allowed = np.floor(rate * impostors[-1] * (1 + 1e-12))
            place = np.searchsorted(impostors, allowed, side="right") - 1
            result.append(true[place] if place >= 0 else 0.0)
        return result


def _equal_error(false, true) -> float:
    """As verification.equal_error_rate, of rising accept rates [t] that end at 1."""
    after = int(np.argmax(false + true >= 1))
    before = (false[after - 1], true[after - 1]) if after else (0.0, 0.0)
    gap = before[0] + before[1] - 1
    fraction = gap / (gap - (false[after] + true[after] - 1))
    return before[0] + fraction * (false[after] - before[0])
