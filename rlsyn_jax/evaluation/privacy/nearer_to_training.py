"""Do synthetic images lie nearer to training images than to other images of the same person?

Blurred or flat images lie near everything, so that nearness to training images alone does not tell
copies. Held-out images of the same person are near for the same reasons, and were not copied.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import distance
from scipy.special import gammaln

from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.nearest_real import METRICS
from rlsyn_jax.evaluation.proportion import Estimate
from rlsyn_jax.evaluation.unit_rows import unit_rows


def nearer_to_training(
    synthetic: np.ndarray,
    synthetic_ids: np.ndarray,
    real: np.ndarray,
    real_ids: np.ndarray,
    held_out: np.ndarray,
    held_out_ids: np.ndarray,
    *,
    metric: str = "cosine",
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate | None:
    """How often a person's nearest training image is nearer than the nearest of as many others.

    Of the larger of both sets all choices of as many images as the smaller one has are averaged.

    Args:
        synthetic: float [n, dim]. synthetic_ids: int [n], the training person each is of.
        real: float [m, dim], training images. real_ids: int [m].
        held_out: float [h, dim], images that the generator never saw. held_out_ids: int [h].
        metric: "cosine" or "euclidean".
        num_resamples, seed, confidence: of the bootstrap interval over people.

    Returns:
        The share of synthetic images, 0.5 where training images are no nearer than others; None
        where no person of the synthetic images has images of both kinds.

    Raises:
        ValueError: an unknown metric, or shapes that do not fit.

    Source: the share of records closer to training than to holdout data (Platzer and Reutterer,
    Holdout-Based Empirical Assessment of Mixed-Type Synthetic Data, 2021), person by person.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; it must be one of {METRICS}")
    sets = {"synthetic": (synthetic, synthetic_ids), "real": (real, real_ids)}
    sets["held_out"] = held_out, held_out_ids
    for name, (features, people) in sets.items():
        features, people = np.asarray(features, np.float64), np.asarray(people)
        if features.ndim != 2 or people.shape != (len(features),):
            raise ValueError(
                f"{name}: expected features [n, dim] and people [n], got {features.shape} and "
                f"{people.shape}"
            )
        sets[name] = (unit_rows(features) if metric == "cosine" else features), people
    shares, shown = [], []
    for person in np.unique(sets["synthetic"][1]):
        own, trained, others = (features[people == person] for features, people in sets.values())
        if len(trained) and len(others):
            shares.append(_share_nearer(distance.cdist(own, trained), distance.cdist(own, others)))
            shown.append(np.full(len(own), person))
    if not shares:
        return None
    return Estimate(
        *cluster_bootstrap(
            np.concatenate(shares),
            np.concatenate(shown),
            num_resamples=num_resamples,
            seed=seed,
            confidence=confidence,
        )
    )


def _share_nearer(trained: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns each sample's share, float [n], of distances [n, trained] and [n, others]."""
    if trained.shape[1] > others.shape[1]:
        return 1 - _share_nearer(others, trained)
    number = trained.shape[1]
    nearest = trained.min(axis=1, keepdims=True)
    # Choices of as many others of which none is nearer; of images that are equal half of them.
    shares = []
    for nearer in (others < nearest, others <= nearest):
        farther = others.shape[1] - nearer.sum(axis=1)
        enough = farther >= number
        # As logarithms, since the choices of many images are more than a float holds.
        ratio = _log_choices(np.maximum(farther, number), number)
        ratio = ratio - _log_choices(others.shape[1], number)
        shares.append(np.where(enough, np.exp(ratio), 0.0))
    return np.mean(shares, axis=0)


def _log_choices(images, number: int):
    """Logarithm of how many choices of so many of the images there are."""
    return gammaln(images + 1) - gammaln(number + 1) - gammaln(images - number + 1)
