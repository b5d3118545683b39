"""Identification among enrolled people: who of them is in an image?"""

from __future__ import annotations

import numpy as np

from rlsyn_jax.evaluation.unit_rows import unit_rows

# Queries that are compared with all enrolled images at once.
_BLOCK = 1024


def rank1_identification(
    enrolled: np.ndarray, enrolled_labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray
) -> tuple[float, np.ndarray]:
    """Names each query after its nearest enrolled image, by cosine similarity.

    Args:
        enrolled: float [n, dim]. enrolled_labels: int [n].
        queries: float [q, dim]. query_labels: int [q].

    Returns:
        (accuracy 0..1, bool [q] whether each query was named right).

    Raises:
        ValueError: shapes that do not fit, or nothing enrolled, or no query.
    """
    enrolled, enrolled_labels = _checked("enrolled", enrolled, enrolled_labels)
    queries, query_labels = _checked("queries", queries, query_labels)
    nearest = [
        (queries[first : first + _BLOCK] @ enrolled.T).argmax(axis=1)
        for first in range(0, len(queries), _BLOCK)
    ]
    hits = enrolled_labels[np.concatenate(nearest)] == query_labels
    return float(hits.mean()), hits


def nearest_centroid_accuracy(
    references: np.ndarray,
    reference_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Names each query after the person whose mean reference embedding is nearest.

    Args and Returns as rank1_identification, whose "enrolled" are the references.

    Raises:
        ValueError: shapes that do not fit, or no reference, or no query.
    """
    references, reference_labels = _checked("references", references, reference_labels)
    people, places = np.unique(reference_labels, return_inverse=True)
    centroids = np.zeros((len(people), references.shape[1]))
    np.add.at(centroids, places, references)
    return rank1_identification(centroids, people, queries, query_labels)


def named_by_others(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names every second image of each person by the mean of the others, as enrolled images are.

    An image that had a part in the mean would find itself in it.

    Args:
        embeddings: float [n, dim]. labels: int [n].

    Returns:
        (bool [m] whether each was named right, int [m] who is in it), m the images that are named;
        0 where nobody has two.

    Raises:
        ValueError: shapes that do not fit, or no embedding.
    """
    embeddings, labels = _checked("embeddings", embeddings, labels)
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.empty(len(labels), int)
    place[order] = np.arange(len(labels)) - np.repeat(first, counts)
    named = place % 2 == 1
    if not named.any():
        return np.zeros(0, bool), labels[named]
    _, hits = nearest_centroid_accuracy(
        embeddings[~named], labels[~named], embeddings[named], labels[named]
    )
    return hits, labels[named]


def _checked(name: str, embeddings, labels) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = np.asarray(embeddings, np.float64), np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise ValueError(
            f"{name}: expected embeddings [n, dim] and labels [n], got {embeddings.shape} and "
            f"{labels.shape}"
        )
    if len(embeddings) == 0:
        raise ValueError(f"{name}: at least one embedding is needed, got none")
    return unit_rows(embeddings), labels
