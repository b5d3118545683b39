"""Did the generator copy training images? Nearest real distances against real images it never saw.

A synthetic image may lie near a training image because people look like themselves; so the measure
is how near held-out real images of the same population lie.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from rlsyn_jax.evaluation.nearest_real import near_threshold, nearest_real_distances
from rlsyn_jax.evaluation.proportion import Estimate


class NearCopy(NamedTuple):
    """A synthetic image, the training image nearest to it, and how far it is."""

    synthetic: int
    real: int
    distance: float


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """How much nearer to the training images synthetic images are than held-out ones.

    Attributes:
        distances: float32 [n], of each synthetic image to its nearest training image.
        nearest: int64 [n], that image's place.
        held_out_distances: float32 [h], the same of held-out real images.
        threshold: quantile of held_out_distances below which an image is a near copy.
        expected_share: that quantile; what a generator reaches whose images lie as real ones do.
        share: of synthetic images nearer than the threshold, with an interval over people that
            knows that the threshold is an estimate too.
        near_copies: the synthetic images nearer than the threshold, nearest first.
    """

    distances: np.ndarray
    nearest: np.ndarray
    held_out_distances: np.ndarray
    threshold: float
    expected_share: float
    share: Estimate
    near_copies: tuple[NearCopy, ...]


def memorisation(
    synthetic: np.ndarray,
    real: np.ndarray,
    held_out: np.ndarray,
    *,
    synthetic_ids: np.ndarray | None = None,
    held_out_ids: np.ndarray | None = None,
    metric: str = "cosine",
    quantile: float = 0.05,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Memorisation:
    """Measures near copies in one feature space.

    Copies show best in spaces of image content (pixels by `nearest_real.pixel_features`, features
    for copy detection), worst in those of identity, where the right person is near by design: call
    once for each.

    Args:
        synthetic: float [n, dim].
        real: float [m, dim], the training images.
        held_out: float [h, dim], real images the generator never saw, of the same people where the
            synthetic images show them; at least 1 / quantile.
        synthetic_ids, held_out_ids: int [n] and [h], people that are drawn for the interval; by
            default every image stands for itself.
        metric: "cosine" or "euclidean".
        quantile: of held-out distances, in (0, 1).
        num_resamples, seed, confidence: of the bootstrap interval.

    Returns:
        Distances, the share of near copies, and the copies.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite, a set that is empty, or
            too few held-out images for the quantile.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
    if len(held_out) * quantile < 1 - 1e-9:
        raise ValueError(
            f"the {quantile:g}-quantile is not measurable with {len(held_out)} held-out images; "
            f"give at least {int(np.ceil(1 / quantile))}"
        )
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"expected at least 1 resample and a confidence between 0 and 1, got {num_resamples} "
            f"and {confidence}"
        )
    distances, nearest = nearest_real_distances(synthetic, real, metric=metric)
    if not len(distances):
        raise ValueError("at least one synthetic image is needed")
    held_out_distances, _ = nearest_real_distances(held_out, real, metric=metric)
    threshold = near_threshold(held_out_distances, quantile)
    random = np.random.default_rng(seed)
    draw_synthetic = _drawing(synthetic_ids, len(distances), random)
    draw_held_out = _drawing(held_out_ids, len(held_out_distances), random)
    shares = []
    for _ in range(num_resamples):
        drawn_threshold = near_threshold(held_out_distances[draw_held_out()], quantile)
        shares.append((distances[draw_synthetic()] < drawn_threshold).mean())
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2])
    order = np.argsort(distances, kind="stable")
    order = order[distances[order] < threshold]
    return Memorisation(
        distances=distances,
        nearest=nearest,
        held_out_distances=held_out_distances,
        threshold=threshold,
        expected_share=quantile,
        share=Estimate(float((distances < threshold).mean()), float(low), float(high)),
        near_copies=tuple(
            NearCopy(int(place), int(nearest[place]), float(distances[place])) for place in order
        ),
    )


def _drawing(identities, number: int, random: np.random.Generator):
    """Returns a function that draws people and returns the places of their images."""
    identities = np.arange(number) if identities is None else np.asarray(identities)
    if identities.shape != (number,):
        raise ValueError(f"expected a person for each of {number} images, got {identities.shape}")
    _, members = np.unique(identities, return_inverse=True)
    people = members.max() + 1

    def draw():
        times = np.bincount(random.integers(people, size=people), minlength=people)
        return np.repeat(np.arange(number), times[members])

    return draw
