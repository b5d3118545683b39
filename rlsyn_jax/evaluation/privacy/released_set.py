"""What a set of synthetic images gives away, by embeddings and pictures, without any model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.nearest_real import averaged_pixels
from rlsyn_jax.evaluation.privacy.copy_figures import (
    extraction_figures,
    memorisation_figures,
    too_few_held_out,
)
from rlsyn_jax.evaluation.privacy.extraction import (
    NOTHING_TELLS_ALIKE,
    distance_within_people,
    extraction,
)
from rlsyn_jax.evaluation.privacy.leakage_figures import FALSE_ACCEPT_RATES, leakage_figures
from rlsyn_jax.evaluation.privacy.memorisation import Memorisation, memorisation
from rlsyn_jax.evaluation.privacy.nearer_to_training import nearer_to_training

SPACES = ("embeddings", "pixels")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images and the people in them.

    Attributes:
        embeddings: float [n, dim], of one network for all sets.
        ids: int [n].
        images: uint8 [n, h, w, c], or None.
    """

    embeddings: np.ndarray
    ids: np.ndarray
    images: np.ndarray | None = None

    def __getitem__(self, places: np.ndarray) -> ImageSet:
        """Returns some of the images."""
        images = None if self.images is None else self.images[places]
        return ImageSet(self.embeddings[places], self.ids[places], images)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class ReleasedSet:
    """What was found.

    Attributes:
        metrics: {"memorisation": {space: {"synthetic": ...}}, "identity_leakage": {false accept
            rate: {"synthetic", "held_out"}}, "extraction": {"synthetic": ...}}, with
            {"not_measured": why} in place of what cannot be.
        memorisation: {space: distances and near copies}, of the spaces that were measured.
    """

    metrics: dict
    memorisation: dict[str, Memorisation]


def measure_released_set(
    synthetic: ImageSet,
    train: ImageSet,
    held_out: ImageSet,
    *,
    quantile: float = 0.05,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
    min_duplicates: int = 4,
    num_resamples: int = 1000,
) -> ReleasedSet:
    """Looks for near copies, for people who are recognised, and for images that come out again.

    Held-out images of training people are the baseline of near copies, and chance in extraction;
    those of other people are the impostors.

    Args:
        synthetic: each image's id is the training person it was made for.
        train: real training images.
        held_out: real images that nothing was trained on.
        quantile: of held-out images' distances to training images; nearer ones are near copies. Of
            the distances between one person's real images; nearer ones are the same image.
        false_accept_rates: of pairs of two people, in (0, 1).
        min_duplicates: images of one person that must be the same, at least 2.
        num_resamples: of the bootstrap over people.

    Returns:
        Figures, and distances with near copies.

    Raises:
        ValueError: an empty set, embeddings of different networks, images of different sizes,
            people who are not trained on, or a parameter out of range.
    """
    _check_sets(synthetic, train, held_out)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
    if min_duplicates < 2:
        raise ValueError(f"min_duplicates is {min_duplicates}; it must be at least 2")
    known = np.isin(held_out.ids, train.ids)
    others, unseen = held_out[known], held_out[~known]
    measured: dict[str, Memorisation] = {}
    memorised = {}
    for space in SPACES:
        memorised[space], found = _memorisation(
            space, synthetic, train, others, quantile, num_resamples
        )
        if found is not None:
            measured[space] = found
    compared = {"synthetic": (synthetic.embeddings, synthetic.ids)}
    if len(others):
        compared["held_out"] = others.embeddings, others.ids
    metrics = {
        "memorisation": memorised,
        "identity_leakage": {"not_measured": "one training person has no others to be taken for"}
        if len(np.unique(train.ids)) < 2
        else leakage_figures(
            compared,
            train.embeddings,
            train.ids,
            unseen.embeddings,
            unseen.ids,
            false_accept_rates=false_accept_rates,
            num_resamples=num_resamples,
        ),
        "extraction": _extraction(synthetic, train, others, quantile, min_duplicates),
    }
    return ReleasedSet(metrics, measured)


def _check_sets(synthetic: ImageSet, train: ImageSet, held_out: ImageSet) -> None:
    sets = {"synthetic": synthetic, "train": train, "held_out": held_out}
    for name, images in sets.items():
        if not len(images):
            raise ValueError(f"{name} is empty; at least one image is needed")
    widths = [images.embeddings.shape[1] for images in sets.values()]
    if len(set(widths)) > 1:
        raise ValueError(
            f"embeddings of {', '.join(sets)} have {', '.join(map(str, widths))} numbers; they "
            "must come from one network"
        )
    sizes = {
        name: images.images.shape[1:] for name, images in sets.items() if images.images is not None
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(f"images must be of one size to be compared, got {sizes}")
    trained = {row.tobytes() for row in np.asarray(train.embeddings, np.float32)}
    shared = sum(row.tobytes() in trained for row in np.asarray(held_out.embeddings, np.float32))
    if shared:
        # They would lie at a distance of 0, which no copy comes below.
        raise ValueError(
            f"{shared} of {len(held_out)} held-out images have the embedding of a training image; "
            "leave out of held_out what was trained on"
        )
    strange = np.setdiff1d(synthetic.ids, train.ids)
    if len(strange):
        raise ValueError(f"synthetic people {strange[:5].tolist()} are none of the training people")


def _without_images(**sets: ImageSet) -> str:
    """Returns why pictures cannot be compared, or nothing."""
    without = [name for name, images in sets.items() if images.images is None]
    return f"no images were given of {', '.join(without)}" if without else ""


def _memorisation(
    space: str, synthetic, train, others, quantile, num_resamples
) -> tuple[dict, Memorisation | None]:
    reason = ""
    if space == "pixels":
        reason = _without_images(synthetic=synthetic, train=train, held_out=others)
    reason = too_few_held_out(len(others), quantile) or reason
    if reason:
        return {"not_measured": reason}, None
    drawn, real, other = (
        averaged_pixels(part.images) if space == "pixels" else part.embeddings
        for part in (synthetic, train, others)
    )
    metric = "euclidean" if space == "pixels" else "cosine"
    found = memorisation(
        drawn,
        real,
        other,
        synthetic_ids=synthetic.ids,
        held_out_ids=others.ids,
        metric=metric,
        quantile=quantile,
        num_resamples=num_resamples,
    )
    nearer = nearer_to_training(
        drawn, synthetic.ids, real, train.ids, other, others.ids,
        metric=metric, num_resamples=num_resamples,
    )  # fmt: skip
    return {"synthetic": memorisation_figures(found, nearer)}, found


def _extraction(synthetic, train, others, quantile, min_duplicates) -> dict:
    reason = _without_images(synthetic=synthetic, train=train)
    largest = int(np.unique(synthetic.ids, return_counts=True)[1].max())
    if not reason and largest < min_duplicates:
        reason = f"nobody has {min_duplicates} synthetic images; the most are {largest}"
    if reason:
        return {"not_measured": reason}
    real_images, real_ids = train.images, train.ids
    if others.images is not None:
        real_images = np.concatenate([real_images, others.images])
        real_ids = np.concatenate([real_ids, others.ids])
    max_distance = distance_within_people(real_images, real_ids, quantile)
    if not max_distance:
        return {"not_measured": NOTHING_TELLS_ALIKE}

    def find(real: ImageSet):
        return extraction(
            synthetic.images,
            synthetic.ids,
            real.images,
            real.ids,
            max_distance=max_distance,
            min_duplicates=min_duplicates,
        )

    compared = len(others) and others.images is not None
    chance = find(others) if compared else None
    return {"synthetic": extraction_figures(find(train), chance, len(synthetic), max_distance)}
