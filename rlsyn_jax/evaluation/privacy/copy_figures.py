"""What was found of near copies and of extracted images, as plain figures: of runs and of sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.privacy.extraction import Extraction
from rlsyn_jax.evaluation.privacy.memorisation import Memorisation
from rlsyn_jax.evaluation.proportion import Estimate

# Pairs shown and listed, and listed at most where more are near copies.
SHOWN, _LISTED = 10, 100


def too_few_held_out(number: int, quantile: float) -> str:
    """Returns why so many held-out images have no such quantile; "" where they have one."""
    if number * quantile >= 1 - 1e-9:
        return ""
    return (
        f"the {quantile:g} quantile of {number} held-out images of training people is less than "
        "one of them"
    )


def closest_images(found: Memorisation) -> np.ndarray:
    """Returns the places of the synthetic images nearest to real ones, int [n], nearest first."""
    closest = np.argsort(found.distances, kind="stable")
    return closest[: max(SHOWN, min(len(found.near_copies), _LISTED))]


def memorisation_figures(
    found: Memorisation, nearer: Estimate | None, files: Sequence[str] | None = None
) -> dict:
    """Returns how many synthetic images are near copies, and the closest pairs.

    Args:
        found: of one feature space.
        nearer: share nearer to training images than to as many others, as nearer_to_training has
            it.
        files: of the synthetic images; None = their places stand for them.

    Returns:
        {"share": figure, "expected_share", "threshold", "num_near_copies", "nearer_to_training":
        figure or None, "closest": [{"file" or "synthetic_image", "train_image", "distance"}]}.
    """
    return {
        "share": _figure(found.share),
        "expected_share": found.expected_share,
        "threshold": found.threshold,
        "num_near_copies": len(found.near_copies),
        "nearer_to_training": None if nearer is None else _figure(nearer),
        "closest": [
            {
                **({"synthetic_image": int(place)} if files is None else {"file": files[place]}),
                "train_image": int(found.nearest[place]),
                "distance": float(found.distances[place]),
            }
            for place in closest_images(found)
        ],
    }


def extraction_figures(
    found: Extraction, chance: Extraction | None, num_samples: int, max_distance: float
) -> dict:
    """Returns how many training images came out, beside held-out ones that did.

    Args:
        found, chance: of training and of held-out images; None = there are none of those.
        num_samples: that were looked at.
        max_distance: of images that count as the same.

    Returns:
        {"share": figure, "chance": figure or None, "extracted", "num_groups", "num_samples",
        "max_distance"}.
    """
    return {
        "share": _figure(found.share),
        "chance": None if chance is None else _figure(chance.share),
        "extracted": [one._asdict() for one in found.extracted],
        "num_groups": found.num_groups,
        "num_samples": num_samples,
        "max_distance": max_distance,
    }


def _figure(estimate: Estimate) -> dict[str, float]:
    """Returns {"mean", "low", "high"} of an estimate."""
    return dict(zip(("mean", "low", "high"), map(float, estimate)))
