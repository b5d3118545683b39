"""Membership inference: can one tell from a score whether an image was trained on?

Scores come from `diffusion_scores` (the generator), `likelihood_ratio` (the recogniser) or the
caller's own attack. An attack is as good as its true positive rate at few false alarms; the area
under the curve alone hides a few people who are certain to be found.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from rlsyn_jax.evaluation.proportion import Estimate
from rlsyn_jax.evaluation.verification import true_accept_rate


@dataclasses.dataclass(frozen=True)
class MembershipInference:
    """How well scores tell members from non-members.

    Attributes:
        auc: area under the ROC curve, with DeLong's interval over people; 0.5 is chance. Where it
            is 0 or 1 the interval is that point, however few the people are.
        true_positive_rate: share of members found at the false positive rate, with an interval over
            people that knows that the threshold is an estimate too; chance is that rate.
        false_positive_rate: share of non-members taken for members, at most the one asked for.
        threshold: scores at least as high are taken for members.
        num_members: members.
        num_non_members: non-members.
    """

    auc: Estimate
    true_positive_rate: Estimate
    false_positive_rate: float
    threshold: float
    num_members: int
    num_non_members: int


def membership_inference(
    member_scores: np.ndarray,
    non_member_scores: np.ndarray,
    *,
    member_ids: np.ndarray | None = None,
    non_member_ids: np.ndarray | None = None,
    false_positive_rate: float = 0.01,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> MembershipInference:
    """Measures an attack from the scores it gave.

    Args:
        member_scores: float [m], of training images, higher for what looks like a member.
        non_member_scores: float [n], of images of the same kind that were not trained on.
        member_ids, non_member_ids: int [m] and [n], the people in the images, whose images depend
            on each other; by default every image stands for itself.
        false_positive_rate: in (0, 1); at least one of the non-members.
        num_resamples, seed: of the true positive rate's bootstrap.
        confidence: of the intervals.

    Returns:
        Area, true positive rate, and the threshold.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, fewer than two people on
            either side, or a rate below one non-member.

    Source: DeLong et al., Comparing the Areas under Two or More Correlated ROC Curves, 1988;
    several images of one person: Obuchowski, Nonparametric Analysis of Clustered ROC Curve Data,
    1997; rates at few false alarms: Carlini et al., Membership Inference Attacks From First
    Principles, 2022.
    """
    members, member_ids = _checked("member", member_scores, member_ids)
    others, other_ids = _checked("non_member", non_member_scores, non_member_ids)
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least 1 resample and a confidence between 0 and 1, got {num_resamples} "
            f"and {confidence}"
        )
    if 0 < false_positive_rate * len(others) < 1 - 1e-9:
        raise ValueError(
            f"a false positive rate of {false_positive_rate:g} is less than one of {len(others)} "
            f"non-members and cannot be measured; give {int(np.ceil(1 / false_positive_rate))} or "
            "more"
        )
    rates = true_accept_rate(
        np.concatenate([members, others]),
        np.arange(len(members) + len(others)) < len(members),
        false_positive_rate,
    )
    if member_ids is None:
        # Nobody of the other side.
        member_ids = np.arange(len(members)) + (0 if other_ids is None else other_ids.max() + 1)
    if other_ids is None:
        other_ids = np.arange(len(others)) + member_ids.max() + 1
    area, deviation = _area(members, others, member_ids, other_ids)
    reach = stats.norm.ppf((1 + confidence) / 2) * deviation
    samples = _true_positive_rates(
        members, others, member_ids, other_ids, false_positive_rate, num_resamples, seed
    )
    ends = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return MembershipInference(
        auc=Estimate(area, max(area - reach, 0.0), min(area + reach, 1.0)),
        true_positive_rate=Estimate(rates.true_accept_rate.value, *map(float, ends)),
        false_positive_rate=rates.false_accept_rate.value,
        threshold=rates.threshold,
        num_members=rates.num_genuine,
        num_non_members=rates.num_impostors,
    )


def _area(members, others, member_ids, other_ids) -> tuple[float, float]:
    """Returns the area under the curve and its standard deviation."""
    m, n = len(members), len(others)
    together = stats.rankdata(np.concatenate([members, others]))
    # Share of the other side that each score is right about, ties counting half.
    above = (together[:m] - stats.rankdata(members)) / n
    below = 1 - (together[m:] - stats.rankdata(others)) / m
    area = above.mean()
    people, places = np.unique(np.concatenate([member_ids, other_ids]), return_inverse=True)
    own = np.bincount(places[:m], above - area, minlength=len(people))
    other = np.bincount(places[m:], below - area, minlength=len(people))
    variance = 0.0
    for sums, ids, size in ((own, member_ids, m), (other, other_ids, n)):
        count = len(np.unique(ids))
        variance += count / (count - 1) * np.square(sums).sum() / size**2
    # People with images on both sides.
    variance += 2 * len(people) / (len(people) - 1) * (own * other).sum() / (m * n)
    return float(area), float(np.sqrt(max(variance, 0.0)))


def _true_positive_rates(members, others, member_ids, other_ids, rate, num_resamples, seed):
    """Returns the rate in each resample of people, who are drawn with what both sides have of them.

    Who is on one side alone is drawn among those, so that no side is ever empty.
    """
    random = np.random.default_rng(seed)
    falling, member_falling = np.argsort(-others), np.argsort(-members)
    other_scores, member_scores = others[falling], members[member_falling]
    people, places = np.unique(np.concatenate([member_ids, other_ids]), return_inverse=True)
    member_people, other_people = places[: len(members)], places[len(members) :]
    sides = np.isin(np.arange(len(people)), member_people) + 2 * np.isin(
        np.arange(len(people)), other_people
    )
    alike = [np.flatnonzero(sides == kind) for kind in np.unique(sides)]
    member_people, other_people = member_people[member_falling], other_people[falling]

    samples = np.empty(num_resamples)
    for row in range(num_resamples):
        drawn = [group[random.integers(len(group), size=len(group))] for group in alike]
        times = np.bincount(np.concatenate(drawn), minlength=len(people))
        weights, member_weights = times[other_people], times[member_people]
        accepted = np.cumsum(weights)
        # The first non-member too many: everything above it is taken for a member.
        limit = np.searchsorted(accepted, np.floor(rate * accepted[-1] * (1 + 1e-12)), "right")
        found = member_scores > other_scores[limit] if limit < len(others) else True
        samples[row] = (member_weights * found).sum() / member_weights.sum()
    return samples


def _checked(name: str, scores, identities) -> tuple[np.ndarray, np.ndarray | None]:
    scores = np.asarray(scores, np.float64)
    identities = None if identities is None else np.asarray(identities)
    if scores.ndim != 1 or (identities is not None and identities.shape != scores.shape):
        raise ValueError(
            f"expected {name}_scores [n] and {name}_ids [n], got {scores.shape} and "
            f"{None if identities is None else identities.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}_scores must be finite numbers")
    people = len(scores) if identities is None else len(np.unique(identities))
    if people < 2:
        raise ValueError(f"{name}_scores: at least 2 people are needed, got {people}")
    return scores, identities
