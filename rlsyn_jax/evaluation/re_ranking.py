"""k-reciprocal re-ranking: neighbours that name each other say more than distances alone."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from rlsyn_jax.evaluation.unit_rows import unit_rows

_BLOCK = 512


def re_rank(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Distances after k-reciprocal encoding, by which the gallery is ranked anew.

    Distances are squared Euclidean ones of unit embeddings, each row over its largest value, as in
    the published code; ties of neighbours go to the one that comes first, query before gallery.
    Only neighbours are kept, never a matrix of all images by all images: memory is that of the
    result, of the embeddings, and of some hundred numbers an image.

    Args:
        query: float [q, dim].
        gallery: float [g, dim].
        k1: neighbours that must name each other; below q + g.
        k2: neighbours whose encodings are averaged, 1..k1 + 1; 1 leaves them as they are.
        lambda_value: weight of the plain distance beside the Jaccard distance, 0..1.

    Returns:
        float32 [q, g], 0..1; for `reid.evaluate_distances`.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite, or a parameter out of
            range.

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017.
    """
    features, num_queries = _checked(query, gallery)
    number = len(features)
    if not 1 <= k1 < number:
        raise ValueError(f"k1 is {k1}; it must be at least 1 and below {number}, query and gallery")
    if not 1 <= k2 <= k1 + 1:
        raise ValueError(f"k2 is {k2}; it must be in 1..{k1 + 1}, k1 + 1")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}; it must be in 0..1")
    neighbors, farthest = _neighbors(features, k1)
    encodings = _encodings(features, neighbors, farthest, k1)
    if k2 > 1:
        encodings = _indicator(neighbors[:, :k2], number) @ encodings / k2
    encodings = sparse.csr_array(encodings)

    of_queries, of_gallery = encodings[:num_queries], encodings[num_queries:].tocsc()
    distances = np.empty((num_queries, number - num_queries), np.float32)
    for start in range(0, num_queries, _BLOCK):
        block = slice(start, start + _BLOCK)
        plain = _distances(features[:num_queries][block], features[num_queries:])
        distances[block] = lambda_value * plain / farthest[:num_queries][block, None]
    for row, rest in enumerate(distances):
        first, end = of_queries.indptr[row : row + 2]
        overlap = _overlap(of_queries.indices[first:end], of_queries.data[first:end], of_gallery)
        rest += (1 - lambda_value) * (1 - overlap / (2 - overlap))
    return distances


def _neighbors(features: np.ndarray, k1: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns everyone's k1 + 1 nearest, nearest first, int64 [n, k1 + 1], and largest distance."""
    neighbors = np.empty((len(features), k1 + 1), np.int64)
    farthest = np.empty(len(features), np.float32)
    for start in range(0, len(features), _BLOCK):
        block = slice(start, start + _BLOCK)
        distances = _distances(features[block], features)  # [block, n]
        farthest[block] = distances.max(axis=1)
        nearest = np.sort(np.argpartition(distances, k1, axis=1)[:, : k1 + 1], axis=1)
        near = np.take_along_axis(distances, nearest, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        # A partition takes any of the items that tie for the last place.
        limit = near.max(axis=1, keepdims=True)
        for row in np.flatnonzero((distances <= limit).sum(axis=1) > k1 + 1):
            nearest[row] = np.argsort(distances[row], kind="stable")[: k1 + 1]
        neighbors[block] = nearest
    # Where all embeddings are equal, distances are 0 to rounding; they stay so.
    return neighbors, np.where(farthest > 1e-6, farthest, 1)


def _encodings(
    features: np.ndarray, neighbors: np.ndarray, farthest: np.ndarray, k1: int
) -> sparse.csr_array:
    """Returns each image's weights of its expanded k-reciprocal neighbours; rows sum to 1."""
    number = len(features)
    reciprocal = _reciprocal(neighbors, number)
    half = _reciprocal(neighbors[:, : int(np.around(k1 / 2)) + 1], number)
    # A neighbour's own set is taken in where more than two thirds of it are in the image's set.
    common = (reciprocal @ half.T).multiply(reciprocal).tocoo()
    sizes = np.diff(half.indptr)
    taken = common.data > 2 / 3 * sizes[common.col]
    candidates = sparse.csr_array(
        (np.ones(taken.sum()), (common.row[taken], common.col[taken])), shape=(number, number)
    )
    expanded = sparse.csr_array(reciprocal + candidates @ half)
    expanded.sort_indices()
    for row in range(number):
        first, end = expanded.indptr[row : row + 2]
        members = expanded.indices[first:end]
        distances = _distances(features[row : row + 1], features[members])[0] / farthest[row]
        weights = np.exp(-distances.astype(np.float64))
        expanded.data[first:end] = weights / weights.sum()
    return expanded


def _reciprocal(neighbors: np.ndarray, number: int) -> sparse.csr_array:
    names = _indicator(neighbors, number)
    return sparse.csr_array(names.multiply(names.T))


def _indicator(neighbors: np.ndarray, number: int) -> sparse.csr_array:
    """Returns [n, n] with 1 where a row names a column among its neighbours [n, k]."""
    rows, count = neighbors.shape
    pointers = np.arange(0, rows * count + 1, count)
    return sparse.csr_array((np.ones(rows * count), neighbors.ravel(), pointers), (rows, number))


def _overlap(members: np.ndarray, weights: np.ndarray, gallery: sparse.csc_array) -> np.ndarray:
    """Returns sum of min(own weight, gallery item's weight) for every gallery item, [g]."""
    firsts = gallery.indptr[members]
    counts = gallery.indptr[members + 1] - firsts
    # Places of all entries of all the members' columns, one behind the other.
    entries = np.repeat(firsts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    smaller = np.minimum(np.repeat(weights, counts), gallery.data[entries])
    return np.bincount(gallery.indices[entries], weights=smaller, minlength=gallery.shape[0])


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared distances of unit embeddings, 0..4."""
    return np.maximum(2 - 2 * (one @ other.T), 0)


def _checked(query, gallery) -> tuple[np.ndarray, int]:
    query, gallery = np.asarray(query, np.float32), np.asarray(gallery, np.float32)
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            "expected query [q, dim] and gallery [g, dim] of one dim, got "
            f"{query.shape} and {gallery.shape}"
        )
    if not (len(query) and len(gallery)):
        raise ValueError(
            f"at least one query and one gallery item are needed, got {len(query)} and "
            f"{len(gallery)}"
        )
    features = np.concatenate([query, gallery])
    if not np.isfinite(features).all():
        raise ValueError("embeddings must be finite numbers")
    return unit_rows(features), len(query)
