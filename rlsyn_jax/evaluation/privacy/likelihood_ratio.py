"""Membership scores of images under a recogniser: LiRA, the likelihood ratio with shadow models.

Shadow models are trained as the attacked one, each on a random half of the images. How confident
they are of an image when it was trained on and when it was not gives two Gaussians; the score says
by which of them the attacked model's confidence is explained better. Higher looks like a member;
`membership.membership_inference` measures the scores.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats


def shadow_memberships(num_images: int, num_shadows: int, seed: int) -> np.ndarray:
    """Draws who trains on what, so that each image is in exactly half of the shadow models.

    Args:
        num_images: images that the attack is about.
        num_shadows: models, an even number.
        seed: of the drawing.

    Returns:
        bool [num_shadows, num_images].

    Raises:
        ValueError: an odd number of models, or none.
    """
    if num_shadows < 2 or num_shadows % 2:
        raise ValueError(f"num_shadows is {num_shadows}; it must be an even number of at least 2")
    places = np.random.default_rng(seed).random((num_shadows, num_images)).argsort(axis=0)
    return places < num_shadows // 2


def logit_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Confidence in the right class as log(p / (1 - p)), which is nearly Gaussian over models.

    Args:
        logits: float [..., n, classes], before the softmax; at least 2 classes.
        labels: int [n].

    Returns:
        float64 [..., n], unbounded.

    Raises:
        ValueError: shapes that do not fit, logits not finite, or a label out of range.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim < 2 or labels.shape != logits.shape[-2:-1] or logits.shape[-1] < 2:
        raise ValueError(
            "expected logits [..., n, classes] of 2 classes or more and labels [n], got "
            f"{logits.shape} and {labels.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite numbers")
    if len(labels) and not (0 <= labels.min() and labels.max() < logits.shape[-1]):
        raise ValueError(
            f"labels must be in 0..{logits.shape[-1] - 1}, got {labels.min()}..{labels.max()}"
        )
    right = np.arange(logits.shape[-1]) == labels[:, None]  # [n, classes]
    own = np.where(right, logits, 0).sum(axis=-1)
    # 1 - p from the other classes, which does not round to 0 where p is nearly 1.
    return own - special.logsumexp(np.where(right, -np.inf, logits), axis=-1)


def likelihood_ratio_scores(
    confidences: np.ndarray,
    shadow_confidences: np.ndarray,
    is_member: np.ndarray,
    *,
    offline: bool = False,
    shared_variance: bool = False,
) -> np.ndarray:
    """Log-likelihood ratio of an image having been trained on.

        online: log N(c; mean_in, var_in) - log N(c; mean_out, var_out)
        offline: (c - mean_out) / deviation_out, whose order is that of 1 - P(N(out) > c)

    Args:
        confidences: float [n], of the attacked model, by logit_confidence.
        shadow_confidences: float [s, n], of the shadow models.
        is_member: bool [s, n], whether the shadow model was trained on the image.
        offline: read only the shadow models that were not trained on an image.
        shared_variance: one variance over all images, for fewer than about 64 shadow models.

    Returns:
        float64 [n].

    Raises:
        ValueError: shapes that do not fit, confidences not finite, or an image with too few shadow
            models on a side: one with shared_variance, else two.

    Source: Carlini et al., Membership Inference Attacks From First Principles, 2022, algorithm 1.
    """
    confidences = np.asarray(confidences, np.float64)
    shadows = np.asarray(shadow_confidences, np.float64)
    is_member = np.asarray(is_member).astype(bool)
    if (
        confidences.ndim != 1
        or shadows.shape[1:] != confidences.shape
        or shadows.shape != is_member.shape
    ):
        raise ValueError(
            "expected confidences [n], shadow_confidences [s, n] and is_member [s, n], got "
            f"{confidences.shape}, {shadows.shape} and {is_member.shape}"
        )
    if not (np.isfinite(confidences).all() and np.isfinite(shadows).all()):
        raise ValueError("confidences must be finite numbers; logit_confidence gives such")
    mean, deviation = _gaussian("without", shadows, ~is_member, shared_variance)
    if offline:
        return (confidences - mean) / deviation
    member_mean, member_deviation = _gaussian("with", shadows, is_member, shared_variance)
    return stats.norm.logpdf(confidences, member_mean, member_deviation) - stats.norm.logpdf(
        confidences, mean, deviation
    )


def _gaussian(name: str, values, chosen, shared_variance: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation of the chosen values [s, n] of each column, [n] each."""
    counts = chosen.sum(axis=0)
    needed = 1 if shared_variance else 2
    if (counts < needed).any():
        raise ValueError(
            f"image {np.argmin(counts)} has {counts.min()} shadow models {name} it; at least "
            f"{needed} are needed" + ("" if shared_variance else ", or 1 with shared_variance")
        )
    mean = np.where(chosen, values, 0).sum(axis=0) / counts
    squares = np.where(chosen, values - mean, 0) ** 2
    if shared_variance:
        if counts.sum() == len(counts):
            raise ValueError(
                f"a variance needs an image with two shadow models {name} it, and none has more "
                "than one"
            )
        variance = np.full(len(mean), squares.sum() / (counts - 1).sum())
    else:
        variance = squares.sum(axis=0) / (counts - 1)
    # Models that agree to the last digit would make any other confidence infinitely unlikely.
    return mean, np.sqrt(np.maximum(variance, 1e-12))
