"""Whom do synthetic images show, as a recogniser in use would say at its thresholds?

Two rates at each threshold: a synthetic image matches the training person that it was made for, or
another one. Some matches come by chance, the more people there are, so that both are compared with
what images of unseen real people reach on the same training people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.bootstrap import resampled_means
from rlsyn_jax.evaluation.proportion import Estimate
from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.evaluation.verification import allowed_impostors

_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Leakage:
    """How often images match training people at one threshold; intervals are over people.

    Attributes:
        rate: share of synthetic images that match.
        chance: the same of images of unseen people.
        corrected: (rate - chance) / (1 - chance): 0 for chance, 1 where all match.
    """

    rate: Estimate
    chance: Estimate
    corrected: Estimate


@dataclasses.dataclass(frozen=True)
class LeakageAtRate:
    """Leakage at the threshold of one false accept rate.

    Attributes:
        false_accept_rate: share of impostor pairs accepted, at most the one asked for.
        threshold: cosine similarity; images at least as similar match.
        num_impostors: pairs of unseen people behind the threshold.
        own: matches with an image of the training person that the synthetic image was made for;
            chance is a match of an unseen person with one training person.
        other: matches with an image of any other training person; chance is a match of an unseen
            person with any of as many people.
    """

    false_accept_rate: float
    threshold: float
    num_impostors: int
    own: Leakage
    other: Leakage


def identity_leakage(
    synthetic: np.ndarray,
    synthetic_ids: np.ndarray,
    train: np.ndarray,
    train_ids: np.ndarray,
    unseen: np.ndarray,
    unseen_ids: np.ndarray,
    *,
    false_accept_rates: Sequence[float] = (1e-3, 1e-4),
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[float, LeakageAtRate]:
    """Measures matches with training people at thresholds set on unseen real people.

    Real held-out images of the training people in place of the synthetic ones give the rate that a
    perfect likeness would reach.

    Args:
        synthetic: float [n, dim], of a recogniser that had no part in making the images.
        synthetic_ids: int [n], the training person each was made for.
        train: float [m, dim], real training images. train_ids: int [m], at least 2 people.
        unseen: float [u, dim], real images of people that nothing was trained on.
        unseen_ids: int [u], at least 2 people, none of train_ids.
        false_accept_rates: of pairs of images of two unseen people, in (0, 1).
        num_resamples, seed, confidence: of the bootstrap intervals.

    Returns:
        {false accept rate: leakage at its threshold}.

    Raises:
        ValueError: shapes that do not fit, embeddings not finite, people who are unseen and trained
            on, synthetic people who are not trained on, or a rate below one impostor pair.
    """
    synthetic, synthetic_ids = _checked("synthetic", synthetic, synthetic_ids)
    train, train_ids = _checked("train", train, train_ids)
    unseen, unseen_ids = _checked("unseen", unseen, unseen_ids)
    if not synthetic.shape[1] == train.shape[1] == unseen.shape[1]:
        raise ValueError(
            f"embeddings have {synthetic.shape[1]}, {train.shape[1]} and {unseen.shape[1]} "
            "numbers; they must come from one network"
        )
    people, members = np.unique(train_ids, return_inverse=True)
    for name, found in (("train", people), ("unseen", np.unique(unseen_ids))):
        if len(found) < 2:
            raise ValueError(f"{name}: at least 2 people are needed, got {len(found)}")
    both = np.intersect1d(people, unseen_ids)
    if len(both):
        raise ValueError(f"people {both[:5].tolist()} are both unseen and trained on")
    strange = np.setdiff1d(synthetic_ids, people)
    if len(strange):
        raise ValueError(f"synthetic people {strange[:5].tolist()} are none of the training people")
    if not len(false_accept_rates):
        raise ValueError("at least one false accept rate is needed")

    thresholds = _thresholds(unseen, unseen_ids, false_accept_rates)
    order = np.argsort(members, kind="stable")
    train, members = train[order], members[order]
    own_person = np.searchsorted(people, synthetic_ids)
    own, other = _scores(synthetic, train, members, own_person)
    # An unseen image against each training person; [u, people] is small beside [u, m].
    by_person = np.concatenate(
        [_person_scores(block, train, members) for block in _blocks(unseen)], axis=0
    )

    def estimate(value, means) -> Estimate:
        ends = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(value), *map(float, ends))

    def compared(matches, chances) -> Leakage:
        rates = resampled_means(matches, synthetic_ids, num_resamples=num_resamples, seed=seed)
        chance = resampled_means(chances, unseen_ids, num_resamples=num_resamples, seed=seed + 1)
        return Leakage(
            estimate(matches.mean(), rates),
            estimate(chances.mean(), chance),
            estimate(_corrected(matches.mean(), chances.mean()), _corrected(rates, chance)),
        )

    result = {}
    for rate, (threshold, reached, num_impostors) in thresholds.items():
        hits = by_person >= threshold  # [u, people]
        # Of the people one is left out, as a synthetic image's own is: a lone match is among the
        # others for all but one choice.
        among_others = np.where(hits.sum(axis=1) == 1, 1 - 1 / len(people), hits.any(axis=1))
        result[rate] = LeakageAtRate(
            false_accept_rate=reached,
            threshold=threshold,
            num_impostors=num_impostors,
            own=compared(own >= threshold, hits.mean(axis=1)),
            other=compared(other >= threshold, among_others),
        )
    return result


def _corrected(rate, chance):
    return (rate - chance) / np.maximum(1 - chance, 1e-12)


def _thresholds(embeddings, identities, rates) -> dict:
    """Returns {rate: (similarity, rate reached, impostor pairs)} of pairs of two people."""
    counts = np.unique(identities, return_counts=True)[1]
    number = (len(identities) ** 2 - np.square(counts).sum()) // 2
    allowed = {rate: allowed_impostors(rate, number) for rate in _in_range(rates)}
    # The one after the last that is accepted is needed, too.
    kept = min(max(allowed.values()) + 1, number)
    highest = np.empty(0, embeddings.dtype)
    for start in range(0, len(embeddings), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(embeddings)))
        similarity = embeddings[rows] @ embeddings[start:].T
        pairs = (identities[rows][:, None] != identities[start:][None]) & (
            rows[:, None] < np.arange(start, len(embeddings))[None]
        )
        highest = np.concatenate([highest, similarity[pairs]])
        if len(highest) > kept:
            highest = np.partition(highest, len(highest) - kept)[-kept:]
    falling = np.sort(highest)[::-1]
    result = {}
    for rate, count in allowed.items():
        # Ties with the first pair that is too many are all rejected.
        limit = falling[count] if count < len(falling) else -np.inf
        accepted = np.count_nonzero(falling > limit)
        threshold = falling[accepted - 1] if accepted else np.nextafter(limit, np.inf)
        result[rate] = float(threshold), float(accepted / number), int(number)
    return result


def _in_range(rates):
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"a false accept rate is {rate}; it must be between 0 and 1")
    return rates


def _scores(synthetic, train, members, own_person) -> tuple[np.ndarray, np.ndarray]:
    """Returns each image's highest similarity to its own person's images and to all others'."""
    own, other = [], []
    for start, block in zip(range(0, len(synthetic), _BLOCK), _blocks(synthetic)):
        scores = _person_scores(block, train, members)
        rows, columns = np.arange(len(block)), own_person[start : start + _BLOCK]
        own.append(scores[rows, columns])
        scores[rows, columns] = -np.inf
        other.append(scores.max(axis=1))
    return np.concatenate(own), np.concatenate(other)


def _person_scores(images, train, members) -> np.ndarray:
    """Returns the highest similarity of images to each person's, [n, people]; members rise."""
    firsts = np.searchsorted(members, np.arange(members[-1] + 1))
    return np.maximum.reduceat(images @ train.T, firsts, axis=1)


def _blocks(embeddings):
    return [embeddings[start : start + _BLOCK] for start in range(0, len(embeddings), _BLOCK)]


def _checked(name: str, embeddings, identities) -> tuple[np.ndarray, np.ndarray]:
    embeddings, identities = np.asarray(embeddings, np.float32), np.asarray(identities)
    if embeddings.ndim != 2 or identities.shape != (len(embeddings),):
        raise ValueError(
            f"{name}: expected embeddings [n, dim] and identities [n], got {embeddings.shape} and "
            f"{identities.shape}"
        )
    if not len(embeddings) or not np.isfinite(embeddings).all():
        raise ValueError(f"{name}: at least one embedding is needed, and all must be finite")
    return unit_rows(embeddings), identities
