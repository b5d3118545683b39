"""Re-identification: mean average precision and CMC by Market-1501's protocol."""

from __future__ import annotations

import dataclasses

import numpy as np

_JUNK, _DISTRACTOR = -1, 0
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class RankingResult:
    """What a ranking of the gallery for every query reaches.

    Attributes:
        mean_average_precision: mean over valid queries, 0..1.
        cmc: float64 [max_rank], share of valid queries with a match among the first k + 1.
        num_valid_queries: queries that have a match in the gallery.
        average_precisions: float64 [num_valid_queries].
        valid_queries: int64 [num_valid_queries], their places among the queries.
        first_hits: int64 [num_valid_queries], place of the first match, from 0 on.
    """

    mean_average_precision: float
    cmc: np.ndarray
    num_valid_queries: int
    average_precisions: np.ndarray
    valid_queries: np.ndarray
    first_hits: np.ndarray


def evaluate_ranking(
    query: np.ndarray,
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    *,
    max_rank: int = 50,
) -> RankingResult:
    """Ranks the gallery for each query by cosine similarity and measures the ranking.

    For each query, gallery items of the same person and the same camera are taken out, and so is
    junk (identity -1). Distractors (identity 0) stay as wrong answers. Queries without a match are
    skipped. Average precision is the mean of the precision at each match.

    Args:
        query: float [q, dim]. query_ids: int [q]. query_cameras: int [q].
        gallery: float [g, dim]. gallery_ids: int [g]. gallery_cameras: int [g].
        max_rank: length of the CMC curve; beyond the gallery's size its last value stands.

    Returns:
        The figures of the ranking.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite, or no valid query.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """
    query, query_ids, query_cameras = _checked("query", query, query_ids, query_cameras)
    gallery, gallery_ids, gallery_cameras = _checked(
        "gallery", gallery, gallery_ids, gallery_cameras
    )
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query embeddings have {query.shape[1]} numbers and gallery embeddings "
            f"{gallery.shape[1]}; they must come from one network"
        )
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}; it must be at least 1")
    kept = gallery_ids != _JUNK
    gallery, gallery_ids, gallery_cameras = gallery[kept], gallery_ids[kept], gallery_cameras[kept]
    length = min(max_rank, max(len(gallery), 1))

    average_precisions, valid, first_hits = [], [], []
    for start in range(0, len(query), _BLOCK):
        block = slice(start, start + _BLOCK)
        orders = np.argsort(-(query[block] @ gallery.T), axis=1, kind="stable")
        for place, order in enumerate(orders, start):
            person, camera = query_ids[place], query_cameras[place]
            if person in (_JUNK, _DISTRACTOR):
                continue
            same_view = (gallery_ids[order] == person) & (gallery_cameras[order] == camera)
            matches = (gallery_ids[order] == person)[~same_view]
            hits = np.flatnonzero(matches)
            if not len(hits):
                continue
            average_precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
            valid.append(place)
            first_hits.append(hits[0])
    if not valid:
        raise ValueError(
            "no query has a match in the gallery: each needs an item of the same identity (above "
            "0) from another camera"
        )
    first_hits = np.array(first_hits)
    cmc = np.array([(first_hits <= rank).mean() for rank in range(length)])
    return RankingResult(
        mean_average_precision=float(np.mean(average_precisions)),
        cmc=np.pad(cmc, (0, max_rank - length), mode="edge"),
        num_valid_queries=len(valid),
        average_precisions=np.array(average_precisions),
        valid_queries=np.array(valid),
        first_hits=first_hits,
    )


def _checked(name: str, embeddings, ids, cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    embeddings, ids, cameras = np.asarray(embeddings), np.asarray(ids), np.asarray(cameras)
    if embeddings.ndim != 2 or ids.shape != (len(embeddings),) or cameras.shape != ids.shape:
        raise ValueError(
            f"{name}: expected embeddings [n, dim], identities [n] and cameras [n], got "
            f"{embeddings.shape}, {ids.shape} and {cameras.shape}"
        )
    if len(embeddings) == 0:
        raise ValueError(f"{name} is empty; at least one embedding is needed")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"{name}: embeddings must be finite numbers")
    embeddings = embeddings.astype(np.float32)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12), ids, cameras
