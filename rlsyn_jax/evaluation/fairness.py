"""Does recognition work equally well for every group of people? RFW's protocol, and spreads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.verification import check_folds, pair_distances, ten_fold_accuracy

# The four subsets of Racial Faces in the Wild, as its folders are named.
RFW_GROUPS = ("African", "Asian", "Caucasian", "Indian")
_THRESHOLDS = np.arange(0, 4, 0.01)
_SPREADS = ("mean", "std", "gap", "skewed_error_ratio", "gini")


@dataclasses.dataclass(frozen=True)
class GroupAccuracies:
    """Accuracies of the groups, and how unequal they are.

    Attributes:
        accuracies: group -> accuracy, 0..1.
        mean: over groups, each counting the same.
        std: standard deviation over groups, with g - 1 in the denominator as in RFW's tables.
        gap: largest less smallest accuracy.
        skewed_error_ratio: largest over smallest error, 1 or more; infinite where only the smallest
            is 0, and 1 where all are.
        gini: Gini coefficient of the errors, 0 (all equal) to 1 - 1 / g (one group has them all).
    """

    accuracies: dict[str, float]
    mean: float
    std: float
    gap: float
    skewed_error_ratio: float
    gini: float


@dataclasses.dataclass(frozen=True)
class FairnessResult:
    """Accuracies with a threshold for each group, and with one for all.

    Attributes:
        own_threshold: each group at the threshold that is best for it, as RFW is reported.
        shared_threshold: every group at the threshold that is best for all of them together, as a
            system in use has it.
        shared_thresholds: float64 [folds], on the squared distance of unit embeddings, 0..4.
        false_accept_rates: group -> share of its impostor pairs accepted at the shared threshold.
        false_reject_rates: group -> share of its genuine pairs rejected at the shared threshold.
        own_fold_accuracies, shared_fold_accuracies: group -> float64 [folds], of which the
            accuracies are means.
    """

    own_threshold: GroupAccuracies
    shared_threshold: GroupAccuracies
    shared_thresholds: np.ndarray
    false_accept_rates: dict[str, float]
    false_reject_rates: dict[str, float]
    own_fold_accuracies: dict[str, np.ndarray]
    shared_fold_accuracies: dict[str, np.ndarray]


def group_fairness(
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    groups: Sequence[str],
    *,
    group_names: Sequence[str] = RFW_GROUPS,
    num_folds: int = 10,
) -> FairnessResult:
    """Measures verification in each group of people by ten folds.

    A fold of all pairs is made of the same fold of every group; the shared threshold is the one of
    best mean accuracy over groups on the other folds.

    Args:
        first, second: float [n, dim], the two images of each pair.
        is_same: bool [n], whether the pair shows one person.
        groups: [n], the group's name of each pair.
        group_names: the names that there are; at least 2, and each must have pairs.
        num_folds: contiguous folds of equal size in each group, in the given order.

    Returns:
        Accuracies, errors and spreads.

    Raises:
        ValueError: bad pairs, an unknown group, a group without pairs or without both kinds of
            them, or pairs that do not divide into folds.

    Source: Wang et al., Racial Faces in the Wild, ICCV 2019; skewed error ratio: Wang and Deng,
    Mitigating Bias in Face Recognition Using Skewness-Aware Reinforcement Learning, CVPR 2020.
    """
    distances, is_same = pair_distances(first, second, is_same)
    groups = np.asarray(groups)
    members = _members(groups, len(distances), group_names)
    correct, own = [], {}
    for name, places in members.items():
        same = is_same[places]
        if same.all() or not same.any():
            raise ValueError(
                f"group {name!r} needs genuine and impostor pairs, got {same.sum()} and "
                f"{(~same).sum()}"
            )
        try:
            check_folds(len(places), num_folds)
        except ValueError as error:
            raise ValueError(f"group {name!r}: {error}") from error
        own[name] = ten_fold_accuracy(
            np.asarray(first)[places], np.asarray(second)[places], same, num_folds=num_folds
        ).fold_accuracies
        right = (distances[places][None] < _THRESHOLDS[:, None]) == same[None]
        correct.append(right.reshape(len(_THRESHOLDS), num_folds, -1).mean(axis=2))
    by_fold = np.stack(correct)  # [groups, thresholds, folds]
    best = [np.delete(by_fold, fold, 2).mean(axis=(0, 2)).argmax() for fold in range(num_folds)]
    shared = dict(zip(members, by_fold[:, best, np.arange(num_folds)]))
    limits = _THRESHOLDS[best]
    accepts, rejects = {}, {}
    for name, places in members.items():
        accepted = distances[places] < np.repeat(limits, len(places) // num_folds)
        accepts[name] = float(accepted[~is_same[places]].mean())
        rejects[name] = float((~accepted[is_same[places]]).mean())
    return FairnessResult(
        own_threshold=spread(_means(own)),
        shared_threshold=spread(_means(shared)),
        shared_thresholds=limits,
        false_accept_rates=accepts,
        false_reject_rates=rejects,
        own_fold_accuracies=own,
        shared_fold_accuracies=shared,
    )


def spread(accuracies: dict[str, float]) -> GroupAccuracies:
    """Measures how unequal accuracies are.

    Args:
        accuracies: group -> accuracy, 0..1; at least 2 groups.

    Returns:
        Mean, deviation, gap, skewed error ratio and Gini coefficient.

    Raises:
        ValueError: fewer than two groups, or an accuracy outside 0..1.
    """
    values = np.array(list(accuracies.values()), np.float64)
    if len(values) < 2 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"expected accuracies in 0..1 of 2 groups or more, got {accuracies}")
    errors = 1 - values
    lowest, highest = errors.min(), errors.max()
    if lowest > 0:
        ratio = highest / lowest
    else:
        ratio = math.inf if highest > 0 else 1.0
    return GroupAccuracies(
        accuracies=dict(accuracies),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)),
        gap=float(highest - lowest),
        skewed_error_ratio=float(ratio),
        gini=gini_coefficient(errors),
    )


def spread_intervals(
    fold_accuracies: dict[str, np.ndarray],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """Measures how unequal accuracies are, with percentile intervals from resampling folds.

    A fold is drawn for all groups together, so that arms and groups share what makes it easy.
    Unequal by chance is unequal, too: but for the mean, the intervals of equal groups leave out
    equality. What chance does, `spreads_by_chance` has.

    Args:
        fold_accuracies: group -> float [folds], 0..1; at least 2 groups with as many folds.
        num_resamples: draws, at least 1.
        seed: of the drawing.
        confidence: in (0, 1).

    Returns:
        {"mean", "std", "gap", "skewed_error_ratio", "gini"} -> (value, low, high), as in
        `GroupAccuracies`; infinite ratios stay infinite.

    Raises:
        ValueError: as `spread`, or groups with different numbers of folds.
    """
    table = _table(fold_accuracies)
    folds = table.shape[1]
    random = np.random.default_rng(seed)
    drawn = random.integers(0, folds, (num_resamples, folds))
    center = _measured(table.mean(axis=1))
    draws = np.array([_measured(table[:, places].mean(axis=1)) for places in drawn])
    tail = (1 - confidence) / 2
    ends = np.quantile(draws, [tail, 1 - tail], axis=0, method="nearest")  # Ratios may be infinite.
    return {
        name: (value, float(low), float(high))
        for name, value, low, high in zip(_SPREADS, center, *ends)
    }


def spreads_by_chance(
    fold_accuracies: dict[str, np.ndarray],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float]:
    """How unequal groups that are no different would look, of folds like these.

    Within each fold the groups' accuracies are given to them anew, which changes nothing where
    groups are alike.

    Args:
        fold_accuracies, num_resamples, seed: as in `spread_intervals`.
        confidence: share of such permutations that lie no higher, in (0, 1).

    Returns:
        {"std", "gap", "skewed_error_ratio", "gini"} -> what they reach at most; more tells that
        groups differ.

    Raises:
        ValueError: as `spread_intervals`.

    Source: Fisher's permutation test, within blocks.
    """
    table = _table(fold_accuracies)
    random = np.random.default_rng(seed)
    draws = np.array(
        [_measured(random.permuted(table, axis=0).mean(axis=1)) for _ in range(num_resamples)]
    )
    # Ratios may be infinite.
    highest = np.quantile(draws, confidence, axis=0, method="higher")
    return {name: float(value) for name, value in zip(_SPREADS, highest) if name != "mean"}


def _table(fold_accuracies: dict[str, np.ndarray]) -> np.ndarray:
    """Returns accuracies [groups, folds]."""
    lengths = {len(each) for each in fold_accuracies.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected as many folds of every group, got {sorted(lengths)}")
    return np.stack(list(fold_accuracies.values()))


def _measured(accuracies: np.ndarray) -> list[float]:
    """Returns the spreads of groups' accuracies in the order of their names."""
    found = spread({str(group): float(value) for group, value in enumerate(accuracies)})
    return [getattr(found, name) for name in _SPREADS]


def gini_coefficient(values: np.ndarray) -> float:
    """Mean difference of all pairs of values over twice their mean.

    Args:
        values: float [n], 0 or more, n at least 1.

    Returns:
        0 where all are equal (also where all are 0), 1 - 1 / n where one has everything.

    Raises:
        ValueError: no value, or one below 0 or not finite.

    Source: Gini, Variabilita e mutabilita, 1912.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not (values >= 0).all() or np.isinf(values).any():
        raise ValueError(f"expected values [n] of 0 or more with n at least 1, got {values}")
    if values.sum() == 0:
        return 0.0
    return float(np.abs(values[:, None] - values[None]).mean() / (2 * values.mean()))


def _means(fold_accuracies: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in fold_accuracies.items()}


def _members(groups: np.ndarray, number: int, group_names: Sequence[str]) -> dict:
    """Returns {group: places of its pairs}, in the order of group_names."""
    if groups.shape != (number,):
        raise ValueError(
            f"expected a group for each of {number} pairs, got an array of shape {groups.shape}"
        )
    if len(set(group_names)) < 2 or len(set(group_names)) < len(group_names):
        raise ValueError(f"expected 2 different group names or more, got {tuple(group_names)}")
    unknown = sorted(set(groups.tolist()) - set(group_names))
    if unknown:
        raise ValueError(
            f"unknown groups {unknown}; the groups are {list(group_names)} (others are given as "
            "group_names)"
        )
    members = {name: np.flatnonzero(groups == name) for name in group_names}
    empty = [name for name, places in members.items() if not len(places)]
    if empty:
        raise ValueError(f"groups {empty} have no pair; leave them out of group_names")
    return members
