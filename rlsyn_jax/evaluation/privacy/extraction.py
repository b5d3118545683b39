"""Extraction: training images that a generator draws again and again.

Of many samples of one person, those that come out nearly the same several times are what the
generator holds by heart; a training image beside them was extracted, without anybody having had to
know it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import einops
import numpy as np
from scipy.spatial import distance

from rlsyn_jax.evaluation.nearest_real import pixel_features
from rlsyn_jax.evaluation.proportion import Estimate, wilson_interval


class Extracted(NamedTuple):
    """A training image that samples repeat.

    Attributes:
        identity: the person.
        real: place of the training image.
        sample: place of the sample nearest to it among the duplicates.
        distance: between the two.
        num_duplicates: samples in the group.
    """

    identity: int
    real: int
    sample: int
    distance: float
    num_duplicates: int


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What came out.

    Attributes:
        extracted: training images found, nearest first, each once.
        num_groups: groups of duplicates, whether a training image lies beside them or not; those
            without one show a generator that has collapsed.
        share: of training images extracted, with Wilson's interval.
    """

    extracted: tuple[Extracted, ...]
    num_groups: int
    share: Estimate


# Why there is nothing to measure where `distance_within_people` is 0.
NOTHING_TELLS_ALIKE = "nobody has two different real images, which tell what is alike"


def extraction(
    samples: np.ndarray,
    sample_ids: np.ndarray,
    real: np.ndarray,
    real_ids: np.ndarray,
    *,
    max_distance: float,
    min_duplicates: int = 10,
    tiles: int = 1,
    confidence: float = 0.95,
) -> Extraction:
    """Finds groups of duplicate samples of one person, and the training images beside them.

    Held-out images in place of the training images must not come out: what they give is chance. A
    max_distance is right where it tells held-out images of one person apart.

    Args:
        samples: [n, h, w, c], uint8 or float in 0..1; many of each person.
        sample_ids: int [n].
        real: [m, h, w, c], training images of the same kind. real_ids: int [m].
        max_distance: root mean squared difference, 0..1, up to which images are the same.
        min_duplicates: samples that must all be the same as each other, at least 2.
        tiles: a side is cut into so many parts and the most different of the tiles counts, so that
            images do not pass for the same because of one background.
        confidence: of the interval.

    Returns:
        Training images found and how many groups there were.

    Raises:
        ValueError: shapes that do not fit, values outside 0..1, no training image, or a parameter
            out of range.

    Source: Carlini et al., Extracting Training Data from Diffusion Models, 2023, section 4. They
    look for cliques in the graph of equal samples; here those are grown greedily, each from the
    sample with most equals, as the largest ones are too dear to find.
    """
    samples, sample_ids = _checked("samples", samples, sample_ids, tiles)
    real, real_ids = _checked("real", real, real_ids, tiles)
    if not len(real) or samples.shape[1:] != real.shape[1:]:
        raise ValueError(
            "expected samples and at least one real image of one shape, got "
            f"{len(samples)} and {len(real)} images"
        )
    if not 0 < max_distance <= 1:
        raise ValueError(f"max_distance is {max_distance}; it must be in (0, 1]")
    if min_duplicates < 2:
        raise ValueError(f"min_duplicates is {min_duplicates}; it must be at least 2")
    found: dict[int, Extracted] = {}
    num_groups = 0
    for identity in np.unique(sample_ids):
        places = np.flatnonzero(sample_ids == identity)
        own = np.flatnonzero(real_ids == identity)
        alike = _distances(samples[places], samples[places]) <= max_distance
        for group in _cliques(alike, min_duplicates):
            num_groups += 1
            if not len(own):
                continue
            distances = _distances(samples[places[group]], real[own])  # [group, real]
            # All that lie beside the group, so that as many others say what chance is.
            for image in np.flatnonzero((distances <= max_distance).any(axis=0)):
                sample = distances[:, image].argmin()
                candidate = Extracted(
                    identity=int(identity),
                    real=int(own[image]),
                    sample=int(places[group[sample]]),
                    distance=float(distances[sample, image]),
                    num_duplicates=len(group),
                )
                known = found.get(candidate.real)
                if known is None or candidate.distance < known.distance:
                    found[candidate.real] = candidate
    return Extraction(
        extracted=tuple(sorted(found.values(), key=lambda one: one.distance)),
        num_groups=num_groups,
        share=wilson_interval(len(found), len(real), confidence=confidence),
    )


def distance_within_people(images: np.ndarray, people: np.ndarray, quantile: float) -> float:
    """How far apart real images of one person lie: a max_distance that tells most of them apart.

    Args:
        images: uint8 [n, h, w, c], real images. people: int [n].
        quantile: of the distances of all pairs of one person, in 0..1.

    Returns:
        Root mean squared difference, 0..1; 0 where nobody has two different images.
    """
    features = pixel_features(images)
    distances = np.concatenate(
        [distance.pdist(features[people == person]) for person in np.unique(people)]
    )
    # Two files of one image say nothing about how far apart images lie.
    distances = distances[distances > 0]
    return float(np.quantile(distances, quantile)) if len(distances) else 0.0


def _cliques(alike: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Returns groups, disjoint, whose members are all alike; alike is bool [n, n]."""
    left = np.ones(len(alike), bool)
    groups = []
    while left.sum() >= smallest:
        degrees = np.where(left, (alike & left).sum(axis=1), -1)
        centre = degrees.argmax()
        if degrees[centre] < smallest:
            break
        group, candidates = [centre], alike[centre] & left
        candidates[centre] = False
        while candidates.any():
            # The one that leaves most others.
            common = np.where(candidates, (alike & candidates).sum(axis=1), -1)
            member = common.argmax()
            group.append(member)
            candidates &= alike[member]
            candidates[member] = False
        if len(group) >= smallest:
            groups.append(np.array(group))
            left[group] = False
        else:
            left[centre] = False
    return groups


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean squared difference of the most different tiles, [n, m], of [n or m, tiles, dim]."""
    largest = np.zeros((len(one), len(other)))
    for tile in range(one.shape[1]):
        a, b = one[:, tile].astype(np.float64), other[:, tile].astype(np.float64)
        squared = np.square(a).sum(axis=1)[:, None] - 2 * a @ b.T + np.square(b).sum(axis=1)[None]
        np.maximum(largest, squared, out=largest)
    return np.sqrt(largest / one.shape[2])


def _checked(name: str, images, identities, tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as float32 [n, tiles, dim] in 0..1, and identities."""
    images, identities = np.asarray(images), np.asarray(identities)
    if images.ndim != 4 or identities.shape != (len(images),):
        raise ValueError(
            f"{name}: expected images [n, h, w, c] and identities [n], got {images.shape} and "
            f"{identities.shape}"
        )
    if tiles < 1 or images.shape[1] % tiles or images.shape[2] % tiles:
        raise ValueError(
            f"tiles is {tiles}; it must divide the sides of {images.shape[1]} x "
            f"{images.shape[2]} pixels"
        )
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"{name}: images must be uint8, or numbers in 0..1")
    return (
        einops.rearrange(
            images.astype(np.float32), "n (a h) (b w) c -> n (a b) (h w c)", a=tiles, b=tiles
        ),
        identities,
    )
