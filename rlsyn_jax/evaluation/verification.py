"""Verification: are two images of one person? LFW's ten-fold protocol, and rates at a threshold."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlsyn_jax.evaluation.proportion import Estimate, wilson_interval
from rlsyn_jax.evaluation.unit_rows import unit_rows

_THRESHOLDS = np.arange(0, 4, 0.01)


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """Accuracy of each fold, at the threshold that is best on the other folds.

    Attributes:
        accuracy_mean: mean over folds, 0..1.
        accuracy_std: standard deviation over folds.
        thresholds: float64 [folds], on the squared distance of unit embeddings, 0..4.
        fold_accuracies: float64 [folds].
        correct: bool [n], whether each pair is judged rightly, at its fold's threshold.
    """

    accuracy_mean: float
    accuracy_std: float
    thresholds: np.ndarray
    fold_accuracies: np.ndarray
    correct: np.ndarray


def ten_fold_accuracy(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray, *, num_folds: int = 10
) -> VerificationResult:
    """Measures verification with the threshold chosen on the other folds.

    Args:
        first: float [n, dim], one image of each pair.
        second: float [n, dim], the other.
        is_same: bool [n], whether the pair shows one person.
        num_folds: contiguous folds of equal size, in the given order.

    Returns:
        Accuracies and thresholds.

    Raises:
        ValueError: shapes that do not fit, pairs that do not divide into folds, or embeddings not
            finite.

    Source: Huang et al., Labeled Faces in the Wild, 2007 (image-restricted protocol).
    """
    distances, is_same = pair_distances(first, second, is_same)
    check_folds(len(distances), num_folds)
    correct = (distances[None] < _THRESHOLDS[:, None]) == is_same[None]  # [thresholds, n]
    folds = np.array_split(np.arange(len(first)), num_folds)
    accuracies, thresholds, judged = [], [], []
    for fold in folds:
        others = np.delete(correct, fold, axis=1).mean(axis=1)
        best = int(np.argmax(others))
        thresholds.append(_THRESHOLDS[best])
        accuracies.append(correct[best, fold].mean())
        judged.append(correct[best, fold])
    return VerificationResult(
        accuracy_mean=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        thresholds=np.array(thresholds),
        fold_accuracies=np.array(accuracies),
        correct=np.concatenate(judged),
    )


@dataclasses.dataclass(frozen=True)
class RocPoints:
    """Rates at every threshold that tells pairs apart, from accepting none to accepting all.

    Attributes:
        thresholds: float64 [t], falling; pairs at least as similar are accepted. The first is
            infinite.
        false_accept_rates: float64 [t], share of impostor pairs accepted, rising from 0 to 1.
        true_accept_rates: float64 [t], share of genuine pairs accepted, rising from 0 to 1.
        num_genuine: genuine pairs.
        num_impostors: impostor pairs.
    """

    thresholds: np.ndarray
    false_accept_rates: np.ndarray
    true_accept_rates: np.ndarray
    num_genuine: int
    num_impostors: int


def roc_points(similarities: np.ndarray, is_same: np.ndarray) -> RocPoints:
    """Accept rates of genuine and impostor pairs at every threshold.

    Args:
        similarities: float [n], larger for pairs that look more alike.
        is_same: bool [n], whether the pair shows one person.

    Returns:
        One point for each different similarity, and the one that accepts nothing.

    Raises:
        ValueError: shapes that do not fit, similarities not finite, or no genuine or impostor pair.
    """
    similarities, is_same = np.asarray(similarities, np.float64), np.asarray(is_same).astype(bool)
    if similarities.ndim != 1 or similarities.shape != is_same.shape:
        raise ValueError(
            "expected similarities [n] and is_same [n], got "
            f"{similarities.shape} and {is_same.shape}"
        )
    if not np.isfinite(similarities).all():
        raise ValueError("similarities must be finite numbers")
    num_genuine = int(is_same.sum())
    num_impostors = len(is_same) - num_genuine
    if not (num_genuine and num_impostors):
        raise ValueError(
            f"genuine and impostor pairs are needed, got {num_genuine} and {num_impostors}"
        )
    order = np.argsort(-similarities)
    falling, genuine = similarities[order], np.cumsum(is_same[order])
    last_of_ties = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    accepted = genuine[last_of_ties]
    return RocPoints(
        thresholds=np.append(np.inf, falling[last_of_ties]),
        false_accept_rates=np.append(0, last_of_ties + 1 - accepted) / num_impostors,
        true_accept_rates=np.append(0, accepted) / num_genuine,
        num_genuine=num_genuine,
        num_impostors=num_impostors,
    )


def true_accept_rates_at(points: RocPoints, false_accept_rates: np.ndarray) -> np.ndarray:
    """Reads a ROC curve at some false accept rates, such as those of a chart.

    Args:
        points: of roc_points.
        false_accept_rates: float [n], 0..1.

    Returns:
        float64 [n], true accept rates at the lowest thresholds that accept no more impostors than
        that: a threshold accepts what it accepts, and no two are mixed.
    """
    wanted = np.asarray(false_accept_rates) * (1 + 1e-9)
    return points.true_accept_rates[np.searchsorted(points.false_accept_rates, wanted, "right") - 1]


@dataclasses.dataclass(frozen=True)
class AcceptRates:
    """What a threshold lets through.

    Attributes:
        true_accept_rate: share of genuine pairs accepted, with Wilson's interval.
        false_accept_rate: share of impostor pairs accepted, at most the one asked for, with
            Wilson's interval.
        threshold: pairs at least as similar are accepted.
        num_genuine: genuine pairs.
        num_impostors: impostor pairs.
    """

    true_accept_rate: Estimate
    false_accept_rate: Estimate
    threshold: float
    num_genuine: int
    num_impostors: int


def true_accept_rate(
    similarities: np.ndarray,
    is_same: np.ndarray,
    false_accept_rate: float,
    *,
    confidence: float = 0.95,
) -> AcceptRates:
    """TAR at FAR, at the lowest threshold that accepts no more impostors than asked for.

    The intervals take pairs for independent; where people come up in many pairs, draw people by
    `bootstrap.paired_bootstrap`.

    Args:
        similarities: float [n]. is_same: bool [n]; as in roc_points.
        false_accept_rate: share of impostor pairs that may be accepted, in (0, 1).
        confidence: of the intervals.

    Returns:
        The rates at that threshold.

    Raises:
        ValueError: bad pairs, a rate outside (0, 1), or one below one impostor pair, which so few
            pairs cannot measure.
    """
    points = roc_points(similarities, is_same)
    if not 0 < false_accept_rate < 1:
        raise ValueError(f"false_accept_rate is {false_accept_rate}; it must be between 0 and 1")
    allowed = allowed_impostors(false_accept_rate, points.num_impostors)
    accepted = np.rint(points.false_accept_rates * points.num_impostors)
    chosen = np.flatnonzero(accepted <= allowed)[-1]
    genuine = round(points.true_accept_rates[chosen] * points.num_genuine)
    return AcceptRates(
        true_accept_rate=wilson_interval(genuine, points.num_genuine, confidence=confidence),
        false_accept_rate=wilson_interval(
            int(accepted[chosen]), points.num_impostors, confidence=confidence
        ),
        threshold=float(points.thresholds[chosen]),
        num_genuine=points.num_genuine,
        num_impostors=points.num_impostors,
    )


def allowed_impostors(false_accept_rate: float, num_impostors: int) -> int:
    """Returns how many of the impostor pairs a false accept rate lets through, at least 1.

    Raises:
        ValueError: less than one: the rate is not measurable on so few pairs.
    """
    # 1e-3 of 3,000 is 3 and not 2, whatever the product's last digit is.
    allowed = int(np.floor(false_accept_rate * num_impostors * (1 + 1e-12)))
    if allowed < 1:
        raise ValueError(
            f"a false accept rate of {false_accept_rate:g} is not measurable with {num_impostors} "
            f"impostor pairs: it is less than one of them; give at least "
            f"{int(np.ceil(1 / false_accept_rate))} pairs, or ask for {1 / num_impostors:.3g} or "
            "more"
        )
    return allowed


def equal_error_rate(similarities: np.ndarray, is_same: np.ndarray) -> tuple[float, float]:
    """The error where as many genuine pairs are rejected as impostor pairs are accepted.

    Args:
        similarities: float [n]. is_same: bool [n]; as in roc_points.

    Returns:
        (rate 0..1, threshold); between two thresholds both are interpolated linearly.

    Raises:
        ValueError: bad pairs, as in roc_points.
    """
    points = roc_points(similarities, is_same)
    gaps = points.false_accept_rates + points.true_accept_rates - 1  # Rising from -1 to 1.
    after = int(np.flatnonzero(gaps >= 0)[0])
    before = after - 1
    fraction = gaps[before] / (gaps[before] - gaps[after])
    accepts = points.false_accept_rates[[before, after]]
    thresholds = points.thresholds[[before, after]]
    if not np.isfinite(thresholds[0]):
        thresholds[0] = thresholds[1]
    return (
        float(accepts[0] + fraction * (accepts[1] - accepts[0])),
        float(thresholds[0] + fraction * (thresholds[1] - thresholds[0])),
    )


def pair_distances(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of pairs of unit embeddings; 1 - distance / 2 is their cosine similarity.

    Args:
        first: float [n, dim]. second: float [n, dim]. is_same: [n].

    Returns:
        (float64 [n], 0..4; is_same as bool [n]).

    Raises:
        ValueError: shapes that do not fit, or embeddings not finite.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    is_same = np.asarray(is_same).astype(bool)
    if first.ndim != 2 or first.shape != second.shape or is_same.shape != (len(first),):
        raise ValueError(
            "expected first [n, dim], second [n, dim] and is_same [n], got "
            f"{first.shape}, {second.shape} and {is_same.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("embeddings must be finite numbers")
    return np.square(unit_rows(first) - unit_rows(second)).sum(axis=1), is_same


def check_folds(num_pairs: int, num_folds: int) -> None:
    """Raises ValueError unless pairs divide into at least two folds of equal size."""
    if num_folds < 2 or num_pairs < num_folds or num_pairs % num_folds:
        raise ValueError(
            f"{num_pairs} pairs do not make {num_folds} folds; at least 2 folds are needed, and as "
            "many pairs in each of them: give a multiple"
        )


def make_pairs(
    identities: np.ndarray, num_pairs: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws genuine and impostor pairs, by turns, so that every fold is balanced.

    Args:
        identities: int [n], who is in each image.
        num_pairs: even number of pairs; drawn anew only where all different pairs are used up.
        seed: of the drawing.

    Returns:
        (first int64 [num_pairs], second int64 [num_pairs], is_same bool [num_pairs]).

    Raises:
        ValueError: an odd number, or no genuine or no impostor pair exists.
    """
    identities = np.asarray(identities)
    if num_pairs < 2 or num_pairs % 2:
        raise ValueError(f"num_pairs is {num_pairs}; it must be an even number of at least 2")
    one, other = np.triu_indices(len(identities), k=1)
    same = identities[one] == identities[other]
    random = np.random.default_rng(seed)
    chosen = []
    for wanted, kind in ((same, "genuine"), (~same, "impostor")):
        pairs = np.flatnonzero(wanted)
        if not len(pairs):
            raise ValueError(
                f"there is no {kind} pair among {len(identities)} images; two people with two "
                "images each are needed"
            )
        rounds = -(-(num_pairs // 2) // len(pairs))
        order = np.concatenate([random.permutation(pairs) for _ in range(rounds)])
        chosen.append(order[: num_pairs // 2])
    places = np.stack(chosen, axis=1).reshape(-1)
    return one[places], other[places], same[places]


def has_both_kinds(identities: np.ndarray) -> bool:
    """Returns whether some two of the images int [n] show one person, and some two show two."""
    _, counts = np.unique(identities, return_counts=True)
    return len(counts) > 1 and bool((counts > 1).any())


def pairs_of_both_kinds(
    identities: np.ndarray, max_pairs: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns every genuine and every impostor pair, or so many drawn ones of a kind with more.

    Args:
        identities: int [n], who is in each image.
        max_pairs: of each kind, at least 1.
        seed: of the drawing.

    Returns:
        (first int64 [m], second int64 [m], is_same bool [m]), genuine pairs first.

    Raises:
        ValueError: max_pairs below 1.
    """
    if max_pairs < 1:
        raise ValueError(f"max_pairs is {max_pairs}; it must be at least 1")
    identities = np.asarray(identities)
    one, other = np.triu_indices(len(identities), k=1)
    same = identities[one] == identities[other]
    random = np.random.default_rng(seed)
    kinds = []
    for wanted in (same, ~same):
        pairs = np.flatnonzero(wanted)
        if len(pairs) > max_pairs:
            pairs = np.sort(random.choice(pairs, max_pairs, replace=False))
        kinds.append(pairs)
    places = np.concatenate(kinds)
    return one[places], other[places], same[places]
