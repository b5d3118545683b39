"""Whom do synthetic images show, as a recogniser in use would say at its thresholds?

Two rates at each threshold: a synthetic image matches the training person that it was made for, or
another one. Some matches come by chance, the more people there are, so that both are compared with
what images of unseen real people reach on the same training people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.proportion import Estimate
from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.evaluation.verification import allowed_impostors

_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Leakage:
    """How often images match training people at one threshold.

    Intervals are over people, and know that the threshold is an estimate, too.

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
        threshold: cosine similarity, the lowest of this rate; images at least as similar match.
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

    impostors = _most_alike_impostors(unseen, unseen_ids, false_accept_rates)
    order = np.argsort(members, kind="stable")
    train, members = train[order], members[order]
    own, other = _scores(synthetic, train, members, np.searchsorted(people, synthetic_ids))
    # An unseen image against each training person; [u, people] is small beside [u, m].
    by_person = np.concatenate(
        [_person_scores(block, train, members) for block in _blocks(unseen)], axis=0
    )
    second, first = np.partition(by_person, -2, axis=1)[:, -2:].T
    shown, strangers = _People(synthetic_ids), _People(unseen_ids)
    drawn = shown.draws(num_resamples, np.random.default_rng(seed))
    # The same draws of unseen people give thresholds and chances.
    drawn_strangers = strangers.draws(
        num_resamples, np.random.default_rng(seed + 1), at_least_two=True
    )

    def estimate(values) -> Estimate:
        ends = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(values[0]), *map(float, ends))

    def compared(rates, chances) -> Leakage:
        return Leakage(estimate(rates), estimate(chances), estimate(_corrected(rates, chances)))

    result = {}
    for rate in false_accept_rates:
        # The threshold of all unseen people comes first, those of resamples of them follow.
        thresholds, reached = impostors.thresholds(rate, drawn_strangers)
        of_one = strangers.rates(by_person, thresholds, drawn_strangers)
        # Of the people one is left out, as a synthetic image's own is: a lone match is among the
        # others for all but one choice.
        of_any, of_two = (
            strangers.rates(scores, thresholds, drawn_strangers) for scores in (first, second)
        )
        result[rate] = LeakageAtRate(
            false_accept_rate=reached,
            threshold=float(thresholds[0]),
            num_impostors=impostors.number,
            own=compared(shown.rates(own, thresholds, drawn), of_one),
            other=compared(
                shown.rates(other, thresholds, drawn), of_any - (of_any - of_two) / len(people)
            ),
        )
    return result


class _People:
    """Whom images show, and rates of images over draws of them."""

    def __init__(self, identities: np.ndarray):
        """Takes identities int [n]."""
        _, self._members = np.unique(identities, return_inverse=True)
        self._images = np.bincount(self._members)

    def draws(self, number: int, random: np.random.Generator, *, at_least_two: bool = False):
        """Returns how often each person is drawn, int [1 + number, people]; first each once.

        At least two people are in a draw that is to have pairs of two.
        """
        people = len(self._images)
        drawn = [np.ones(people, np.int64)]
        while len(drawn) <= number:
            times = np.bincount(random.integers(people, size=people), minlength=people)
            if not at_least_two or np.count_nonzero(times) > 1:
                drawn.append(times)
        return np.stack(drawn)

    def rates(self, scores: np.ndarray, thresholds: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Returns the share of scores that reach each draw's threshold.

        Args:
            scores: float [n] or [n, k], of the images; k of one image count as much as one.
            thresholds: float [draws]. drawn: int [draws, people].

        Returns:
            float64 [draws].
        """
        scores = scores.reshape(len(self._members), -1)
        different, places = np.unique(thresholds, return_inverse=True)
        # As many of the rising thresholds as a score reaches; a threshold's hits are of more.
        reached = np.searchsorted(different, scores, side="right")
        width = len(different) + 1
        cells = (self._members[:, None] * width + reached).ravel()
        counted = np.bincount(cells, minlength=len(self._images) * width)
        hits = counted.reshape(-1, width)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        numbers = (drawn @ self._images) * scores.shape[1]
        return np.einsum("dp,pd->d", drawn, hits[:, places]) / numbers


@dataclasses.dataclass(frozen=True)
class _Impostors:
    """The most alike of the pairs of images of two unseen people, most alike first.

    Attributes:
        similarities: float32 [k].
        people: int [k, 2], places of the two in the order of identities.
        images: int [people], of each.
        number: of all pairs.
    """

    similarities: np.ndarray
    people: np.ndarray
    images: np.ndarray
    number: int

    def thresholds(self, rate: float, drawn: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the lowest threshold of each draw that lets so few through, and what the first
        lets through.

        Ties with the first pair that is too many are all rejected. Where a draw's pairs that are
        let through go beyond those that are kept, its threshold is the last one's.

        Args:
            rate: false accept rate.
            drawn: int [draws, people], how often each is.

        Returns:
            (float32 [draws], the rate reached in the first).
        """
        thresholds, reached = [], None
        for times in drawn:
            weights = np.cumsum(times[self.people[:, 0]] * times[self.people[:, 1]])
            images = times * self.images
            pairs = (images.sum() ** 2 - np.square(images).sum()) // 2
            allowed = np.floor(rate * pairs * (1 + 1e-12))
            place = min(np.searchsorted(weights, allowed, side="right"), len(weights) - 1)
            limit = self.similarities[place]
            thresholds.append(np.nextafter(limit, np.float32(np.inf)))
            if reached is None:
                accepted = np.count_nonzero(self.similarities > limit)
                reached = float(accepted / self.number)
        return np.array(thresholds), reached


def _corrected(rate, chance):
    return (rate - chance) / np.maximum(1 - chance, 1e-12)


def _most_alike_impostors(embeddings, identities, rates) -> _Impostors:
    """Returns as many pairs as thresholds of these rates rest on, also where people are drawn."""
    _, members, images = np.unique(identities, return_inverse=True, return_counts=True)
    number = int((len(identities) ** 2 - np.square(images).sum()) // 2)
    allowed = max(allowed_impostors(rate, number) for rate in _in_range(rates))
    # Those of few people may be drawn seldom, so that a draw's threshold lies further down.
    kept = min(4 * allowed + 1000, number)
    highest, people = np.empty(0, embeddings.dtype), np.empty((0, 2), members.dtype)
    for start in range(0, len(embeddings), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(embeddings)))
        similarity = embeddings[rows] @ embeddings[start:].T
        one, two = np.nonzero(
            (members[rows][:, None] != members[start:][None])
            & (rows[:, None] < np.arange(start, len(embeddings))[None])
        )
        if len(highest) == kept:
            above = similarity[one, two] > highest.min()
            one, two = one[above], two[above]
        highest = np.concatenate([highest, similarity[one, two]])
        people = np.concatenate([people, np.stack([members[rows[one]], members[start + two]], 1)])
        if len(highest) > kept:
            places = np.argpartition(highest, len(highest) - kept)[-kept:]
            highest, people = highest[places], people[places]
    falling = np.argsort(-highest, kind="stable")
    return _Impostors(highest[falling], people[falling], images, number)


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
