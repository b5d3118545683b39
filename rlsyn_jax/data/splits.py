"""Which images train, and which measure: known identities (closed set) and unseen ones (open set).

The closed set asks whether unseen images of the training identities are recognised. The open set
holds identities that no training image shows, divided into queries and a gallery so that
Market-1501's protocol (same identity and same camera removed) leaves every query a match. A data
set that comes with a published split keeps it: its query and gallery are the open set.
"""

import dataclasses
import logging

import numpy as np

from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset

_HOLD_OUT, _TRAIN, _OPEN = range(3)


@dataclasses.dataclass(frozen=True)
class Splits:
    """Indices into a data set; no index is in two of the four sets.

    Attributes:
        train: int64 [num_train], images of the training identities to learn from.
        closed_query: int64 [num_closed], other images of the training identities.
        open_query: int64 [num_query], images of held-out identities to search for.
        open_gallery: int64 [num_gallery], images of held-out identities to search in.
        open_query_cameras: int32 [num_query]; where the data set knows no cameras, all 0.
        open_gallery_cameras: int32 [num_gallery]; where the data set knows no cameras, all 1.
        open_query_people: int32 [num_query], label + 1: how the ranking's protocol counts people.
        open_gallery_people: int32 [num_gallery], label + 1, and 0 for distractors.
        train_identities: int32 [num_train_identities], labels, ascending.
        open_identities: int32 [num_open_identities], labels, ascending.
        identities_without_closed_query: int32, training labels that have a single image, which
            goes to `train`; empty where no closed images were asked for.
    """

    train: np.ndarray
    closed_query: np.ndarray
    open_query: np.ndarray
    open_gallery: np.ndarray
    open_query_cameras: np.ndarray
    open_gallery_cameras: np.ndarray
    open_query_people: np.ndarray
    open_gallery_people: np.ndarray
    train_identities: np.ndarray
    open_identities: np.ndarray
    identities_without_closed_query: np.ndarray


def split_dataset(
    dataset: IdentityDataset,
    *,
    held_out_fraction: float,
    train_images_per_identity: int,
    closed_images_per_identity: int,
    seed: int,
    train_first: bool = False,
) -> Splits:
    """Divide a data set into training, closed-set and open-set images.

    Where the data set comes with a published split, the open set is its query and gallery as they
    are, `held_out_fraction` is not used, and the closed set is kept back from its training images.

    For one seed the held-out identities, the closed set and the open set do not depend on
    `train_images_per_identity`, and the training images of a smaller number are among those of a
    larger one, so that curves over the number of real images compare like with like (with
    `train_first` the closed set does, where people have too few images for both).

    Args:
        dataset: the images to divide; only labels and cameras are read.
        held_out_fraction: share of the identities kept for the open set, 0 to below 1; rounded to
            a whole number, at least one where it is positive.
        train_images_per_identity: training images of each identity; 0 takes all that are left
            after the closed set, and an identity that has fewer gives what it has.
        closed_images_per_identity: images of each training identity kept for the closed set, as
            far as one image is left to train on; 0 keeps none.
        seed: 0 or more; decides every choice.
        train_first: where an identity has too few images for both, training has as many as asked
            for, and the closed set at least one; otherwise it is the other way round.

    Returns:
        The sets of indices, each in ascending order.

    Raises:
        ValueError: where an argument is out of range, fewer than two identities are left to train
            on, no training identity has a second image for the closed set, or no held-out image
            could be a query.
    """
    if not 0 <= held_out_fraction < 1:
        raise ValueError(f"held_out_fraction is {held_out_fraction}; expected 0 to below 1.")
    for name, value in {
        "train_images_per_identity": train_images_per_identity,
        "closed_images_per_identity": closed_images_per_identity,
        "seed": seed,
    }.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; expected 0 or more.")

    published = dataset.subsets is not None
    if published:
        trains = dataset.subsets == Subset.TRAIN
        train_identities = np.unique(dataset.identities[trains])
        searched = np.isin(dataset.subsets, (Subset.QUERY, Subset.GALLERY))
        open_identities = np.unique(dataset.identities[searched])
        if len(train_identities) < 2:
            raise ValueError(
                f"{dataset.name!r} has {len(train_identities)} identities to train on; at least 2 "
                "are needed."
            )
    else:
        trains = np.ones(len(dataset.identities), bool)
        train_identities, open_identities = _hold_out(dataset, held_out_fraction, seed)

    train, closed_query, without_closed = [], [], []
    for identity in train_identities:
        indices = _shuffled_indices(dataset, identity, seed, _TRAIN)
        indices = indices[trains[indices]]
        most = len(indices) - 1
        if train_first:
            most = min(most, max(1, len(indices) - train_images_per_identity))
        num_closed = min(closed_images_per_identity, most)
        closed_query.extend(indices[:num_closed])
        remaining = indices[num_closed:]
        train.extend(remaining[: train_images_per_identity or None])
        if closed_images_per_identity > 0 and num_closed == 0:
            without_closed.append(identity)
    if closed_images_per_identity > 0 and not closed_query:
        raise ValueError(
            f"closed_images_per_identity is {closed_images_per_identity}, but no training identity "
            f"of {dataset.name!r} has a second image. Give some identities two or more images."
        )
    if without_closed:
        logging.info(
            "%d of %d training identities have a single image and are not in the closed set.",
            len(without_closed),
            len(train_identities),
        )

    return Splits(
        train=_sorted_indices(train),
        closed_query=_sorted_indices(closed_query),
        **_open_set(dataset, open_identities, seed),
        train_identities=train_identities.astype(np.int32),
        identities_without_closed_query=np.array(without_closed, dtype=np.int32),
    )


def training_side(dataset: IdentityDataset, splits: Splits) -> IdentityDataset:
    """Keep what a choice of settings may look at: the images of who trains, without the test's.

    Args:
        dataset: that was split.
        splits: of it.

    Returns:
        The training identities' images without the closed set, relabelled, without a published
        split: dividing it again holds people out for validation.
    """
    stays = np.isin(dataset.identities, splits.train_identities)
    stays[splits.closed_query] = False
    if dataset.subsets is not None:
        stays &= dataset.subsets == Subset.TRAIN
    kept = dataset.subset(np.flatnonzero(stays), relabel=True)
    return dataclasses.replace(kept, subsets=None)


def search_split(dataset: IdentityDataset, *, seed: int) -> Splits:
    """Make an open set of a whole data set, of which nothing is trained on.

    Args:
        dataset: the images; its published query and gallery where it has them, all identities
            otherwise.
        seed: 0 or more; decides what is a query.

    Returns:
        Splits whose training and closed sets are empty.

    Raises:
        ValueError: the seed is below 0, or no image could be a query.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    searched = np.ones(len(dataset.identities), bool)
    if dataset.subsets is not None:
        searched = np.isin(dataset.subsets, (Subset.QUERY, Subset.GALLERY))
        if not (dataset.subsets == Subset.QUERY).any():
            raise ValueError(f"{dataset.name!r} has no query.")
    none, nobody = np.zeros(0, np.int64), np.zeros(0, np.int32)
    return Splits(
        train=none,
        closed_query=none,
        **_open_set(dataset, np.unique(dataset.identities[searched]), seed),
        train_identities=nobody,
        identities_without_closed_query=nobody,
    )


def _open_set(dataset: IdentityDataset, open_identities: np.ndarray, seed: int) -> dict:
    """Return the fields of Splits that say who is searched for, and where."""
    published = dataset.subsets is not None
    if published:
        open_query = np.flatnonzero(dataset.subsets == Subset.QUERY)
        open_gallery = np.flatnonzero(np.isin(dataset.subsets, (Subset.GALLERY, Subset.DISTRACTOR)))
    else:
        open_query, open_gallery = _divide_open_set(dataset, open_identities, seed)

    query, gallery = _sorted_indices(open_query), _sorted_indices(open_gallery)
    if dataset.has_cameras:
        query_cameras, gallery_cameras = dataset.cameras[query], dataset.cameras[gallery]
    else:
        query_cameras, gallery_cameras = np.zeros(len(query)), np.ones(len(gallery))
    people = dataset.identities + 1
    if published:
        people = np.where(dataset.subsets == Subset.DISTRACTOR, 0, people)
    return {
        "open_query": query,
        "open_gallery": gallery,
        "open_query_cameras": query_cameras.astype(np.int32),
        "open_gallery_cameras": gallery_cameras.astype(np.int32),
        "open_query_people": people[query].astype(np.int32),
        "open_gallery_people": people[gallery].astype(np.int32),
        "open_identities": open_identities.astype(np.int32),
    }


def _hold_out(
    dataset: IdentityDataset, held_out_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels to train on and those of the open set, both ascending."""
    labels = np.unique(dataset.identities)
    num_held_out = round(held_out_fraction * len(labels))
    num_held_out = max(num_held_out, 1) if held_out_fraction > 0 else 0
    if len(labels) - num_held_out < 2:
        raise ValueError(
            f"held_out_fraction {held_out_fraction} keeps {num_held_out} of the {len(labels)} "
            f"identities of {dataset.name!r} and leaves {len(labels) - num_held_out} to train on; "
            "at least 2 are needed. Use a smaller fraction or more identities."
        )
    shuffled = np.random.default_rng([seed, _HOLD_OUT]).permutation(labels)
    return np.sort(shuffled[num_held_out:]), np.sort(shuffled[:num_held_out])


def _divide_open_set(
    dataset: IdentityDataset, open_identities: np.ndarray, seed: int
) -> tuple[list[int], list[int]]:
    """Return queries and gallery of the held-out identities."""
    open_query, open_gallery = [], []
    for identity in open_identities:
        indices = _shuffled_indices(dataset, identity, seed, _OPEN)
        if dataset.has_cameras:
            query, gallery = _query_each_camera(indices, dataset.cameras[indices])
        else:
            query, gallery = np.split(indices, [len(indices) // 2])
        open_query.extend(query)
        open_gallery.extend(gallery)
    if len(open_identities) and not open_query:
        need = "two images from different cameras" if dataset.has_cameras else "two images"
        raise ValueError(
            f"None of the {len(open_identities)} held-out identities of {dataset.name!r} has "
            f"{need}, so none can be searched for. Use another seed, a larger held_out_fraction, "
            "or 0."
        )
    return open_query, open_gallery


def _sorted_indices(indices: list[int]) -> np.ndarray:
    return np.sort(np.array(indices, dtype=np.int64))


def _shuffled_indices(
    dataset: IdentityDataset, identity: int, seed: int, purpose: int
) -> np.ndarray:
    """Return the images of one identity in an order of its own, whatever else is in the set."""
    indices = np.flatnonzero(dataset.identities == identity)
    return np.random.default_rng([seed, purpose, int(identity)]).permutation(indices)


def _query_each_camera(indices: np.ndarray, cameras: np.ndarray) -> tuple[list[int], list[int]]:
    """Take one query from each camera, as long as every query keeps a match from another camera.

    Args:
        indices: int [num_images], the shuffled images of one identity.
        cameras: int [num_images], their cameras.

    Returns:
        The queries and the gallery: together all images, none in both.
    """
    is_query = np.zeros(len(indices), dtype=bool)
    for position, camera in enumerate(cameras):
        if np.any(is_query & (cameras == camera)):
            continue
        is_query[position] = True
        gallery_cameras = cameras[~is_query]
        if not all(np.any(gallery_cameras != query) for query in cameras[is_query]):
            is_query[position] = False
    return list(indices[is_query]), list(indices[~is_query])
