"""Do the images of a synthetic person show one person, and do they differ from each other?"""

from __future__ import annotations

import dataclasses

import numpy as np

from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.evaluation.verification import equal_error_rate

_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class IdentitySet:
    """Consistency and diversity of a set of images of people, figures of people in one order.

    Attributes:
        identities: int64 [k], those with at least two images, rising.
        consistency: float64 [k], mean cosine similarity of a person's images to the mean direction
            of the person's other images, -1..1.
        diversity: float64 [k], mean cosine distance of a person's pairs of images, 0..2.
        vendi: float64 [k], Vendi score: how many different images the person's n are worth, 1..n.
        similarity_genuine: mean cosine similarity of pairs of one person's images.
        similarity_impostor: mean cosine similarity of pairs of two people's images.
        decidability: d', distance of those means in mean deviations.
        equal_error_rate: where pairs of one person are told from pairs of two, 0..1.
        uniqueness: share of people whose centre is not as near as unique_distance to one before.
    """

    identities: np.ndarray
    consistency: np.ndarray
    diversity: np.ndarray
    vendi: np.ndarray
    similarity_genuine: float
    similarity_impostor: float
    decidability: float
    equal_error_rate: float
    uniqueness: float


def identity_set(
    embeddings: np.ndarray,
    identities: np.ndarray,
    *,
    unique_distance: float = 0.3,
    max_impostor_pairs: int = 1_000_000,
    seed: int = 0,
) -> IdentitySet:
    """Measures how well people are kept together and apart, and how varied each one is.

    Compare with the same figures of real images by the same network: a generator that repeats one
    image is as consistent as can be, and has no diversity.

    Args:
        embeddings: float [n, dim], of a face or person recogniser that made none of the images.
        identities: int [n].
        unique_distance: cosine distance, 0..2, from which on two people's centres are two people.
        max_impostor_pairs: pairs of different people that are drawn where there are more.
        seed: of that drawing.

    Returns:
        Figures of each person with two images or more, and of all together.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite or have no direction, or
            less than two people with two images each.

    Source: consistency and uniqueness: Kim et al., DCFace, CVPR 2023; Vendi score: Friedman and
    Dieng, 2022; decidability: Daugman, 2000.
    """
    embeddings, identities = _checked(embeddings, identities)
    people, members = np.unique(identities, return_inverse=True)
    counts = np.bincount(members)
    several = np.flatnonzero(counts >= 2)
    if len(several) < 2:
        raise ValueError(
            f"{len(several)} of {len(people)} people have two images or more; at least 2 are needed"
        )
    if max_impostor_pairs < 1:
        raise ValueError(f"max_impostor_pairs is {max_impostor_pairs}; it must be at least 1")
    order = np.argsort(members, kind="stable")
    ends = np.cumsum(counts)
    consistency, diversity, vendi, genuine = [], [], [], []
    for person in several:
        own = embeddings[order[ends[person] - counts[person] : ends[person]]]
        similarity = own @ own.T  # [images, images]
        pairs = similarity[np.triu_indices(len(own), k=1)]
        genuine.append(pairs)
        diversity.append(1 - pairs.mean())
        vendi.append(_vendi(similarity))
        consistency.append(_consistency(own))
    genuine = np.concatenate(genuine)
    impostor = _impostors(embeddings, members, max_impostor_pairs, seed)
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    rate, _ = equal_error_rate(
        np.concatenate([genuine, impostor]), np.arange(len(genuine) + len(impostor)) < len(genuine)
    )
    return IdentitySet(
        identities=people[several].astype(np.int64),
        consistency=np.array(consistency),
        diversity=np.array(diversity),
        vendi=np.array(vendi),
        similarity_genuine=float(genuine.mean()),
        similarity_impostor=float(impostor.mean()),
        decidability=float(abs(genuine.mean() - impostor.mean()) / max(spread, 1e-12)),
        equal_error_rate=rate,
        uniqueness=_uniqueness(embeddings, members, unique_distance),
    )


def _consistency(own: np.ndarray) -> float:
    """Mean similarity of each image to the mean direction of the others."""
    others = own.sum(axis=0) - own
    lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-12)
    return float(((own * others).sum(axis=1) / lengths).mean())


def _vendi(similarity: np.ndarray) -> float:
    """Exponential of the entropy of the eigenvalues of similarity / n."""
    shares = np.linalg.eigvalsh(similarity / len(similarity))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _impostors(embeddings, members, max_pairs: int, seed: int) -> np.ndarray:
    """Similarities of all pairs of different people, or of as many drawn ones."""
    number = len(embeddings)
    if number * (number - 1) // 2 <= max_pairs:
        one, other = np.triu_indices(number, k=1)
    else:
        random = np.random.default_rng(seed)
        # Pairs with themselves and of one person are dropped below; few, and none is favoured.
        one, other = random.integers(number, size=(2, max_pairs))
    different = members[one] != members[other]
    one, other = one[different], other[different]
    similarity = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarity[block] = np.einsum("nd,nd->n", embeddings[one[block]], embeddings[other[block]])
    return similarity


def _uniqueness(embeddings, members, unique_distance: float) -> float:
    """Share of people whose centre is far from the centres of all people before them."""
    centres = np.zeros((members.max() + 1, embeddings.shape[1]))
    np.add.at(centres, members, embeddings)
    centres = unit_rows(centres)
    unique = np.ones(len(centres), bool)
    for start in range(1, len(centres), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(centres)))
        distances = 1 - centres[block] @ centres[: block[-1]].T
        before = np.arange(block[-1])[None] < block[:, None]
        unique[block] = (distances >= unique_distance).all(axis=1, where=before)
    return float(unique.mean())


def _checked(embeddings, identities) -> tuple[np.ndarray, np.ndarray]:
    embeddings, identities = np.asarray(embeddings, np.float64), np.asarray(identities)
    if embeddings.ndim != 2 or identities.shape != (len(embeddings),):
        raise ValueError(
            "expected embeddings [n, dim] and identities [n], got "
            f"{embeddings.shape} and {identities.shape}"
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError("embeddings must be finite numbers, not all 0 in a row")
    return embeddings / lengths, identities
