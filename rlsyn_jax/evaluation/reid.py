"""Re-identification: mean average precision, mINP and CMC by Market-1501's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from rlsyn_jax.evaluation.unit_rows import unit_rows

_JUNK, _DISTRACTOR = -1, 0
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class RankingResult:
    """What a ranking of the gallery for every query reaches.

    Attributes:
        mean_average_precision: mean over valid queries, 0..1.
        mean_inverse_negative_penalty: mINP, mean over valid queries of the number of matches over
            the rank of the last one, 0..1: how much must be looked at to find them all.
        cmc: float64 [max_rank], share of valid queries with a match among the first k + 1.
        num_valid_queries: queries that have a match in the gallery.
        average_precisions: float64 [num_valid_queries].
        inverse_negative_penalties: float64 [num_valid_queries].
        valid_queries: int64 [num_valid_queries], their places among the queries.
        first_hits: int64 [num_valid_queries], place of the first match, from 0 on.
    """

    mean_average_precision: float
    mean_inverse_negative_penalty: float
    cmc: np.ndarray
    num_valid_queries: int
    average_precisions: np.ndarray
    inverse_negative_penalties: np.ndarray
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
    skipped. Average precision is the mean of the precision at each match. Of equally similar items
    the one that comes first in the gallery is ranked first.

    Args:
        query: float [q, dim]. query_ids: int [q]. query_cameras: int [q].
        gallery: float [g, dim]. gallery_ids: int [g]. gallery_cameras: int [g].
        max_rank: length of the CMC curve; beyond the gallery's size its last value stands.

    Returns:
        The figures of the ranking.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite, or no valid query.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015; mINP: Ye et
    al., Deep Learning for Person Re-identification: A Survey and Outlook, 2020.
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
    query, gallery = (unit_rows(rows.astype(np.float32, copy=False)) for rows in (query, gallery))
    blocks = (
        query[start : start + _BLOCK] @ gallery.T for start in range(0, len(query), _BLOCK)
    )  # [block, g]
    return _measure(
        blocks, query_ids, query_cameras, gallery_ids, gallery_cameras, max_rank=max_rank
    )


def evaluate_distances(
    distances: np.ndarray,
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    *,
    max_rank: int = 50,
) -> RankingResult:
    """Measures the ranking that distances give, such as those after re-ranking.

    Args:
        distances: float [q, g], of each query to each gallery item.
        query_ids, query_cameras: int [q]. gallery_ids, gallery_cameras: int [g].
        max_rank: as in evaluate_ranking, whose protocol this is.

    Returns:
        The figures of the ranking.

    Raises:
        ValueError: shapes that do not fit, distances that are not finite, or no valid query.
    """
    distances = np.asarray(distances)
    if distances.ndim != 2:
        raise ValueError(f"expected distances [q, g], got shape {distances.shape}")
    _, query_ids, query_cameras = _checked(
        "query", distances, query_ids, query_cameras, what="distances", width="g"
    )
    _, gallery_ids, gallery_cameras = _checked(
        "gallery", distances.T, gallery_ids, gallery_cameras, what="distances", width="q"
    )
    blocks = (-distances[start : start + _BLOCK] for start in range(0, len(distances), _BLOCK))
    return _measure(
        blocks, query_ids, query_cameras, gallery_ids, gallery_cameras, max_rank=max_rank
    )


def _measure(
    blocks: Iterable[np.ndarray],
    query_ids,
    query_cameras,
    gallery_ids,
    gallery_cameras,
    *,
    max_rank: int,
) -> RankingResult:
    """Measures rankings by similarity [block, g], which is overwritten."""
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}; it must be at least 1")
    junk = gallery_ids == _JUNK
    by_person = np.argsort(gallery_ids, kind="stable")
    firsts, ends = (
        np.searchsorted(gallery_ids[by_person], query_ids, side=side) for side in ("left", "right")
    )
    precisions, penalties, valid, first_hits = [], [], [], []
    for place, similarity in enumerate(_rows(blocks)):
        same_person = by_person[firsts[place] : ends[place]]
        same_view = gallery_cameras[same_person] == query_cameras[place]
        matches = same_person[~same_view]
        if query_ids[place] in (_JUNK, _DISTRACTOR) or not len(matches):
            continue
        similarity[junk] = -np.inf
        similarity[same_person[same_view]] = -np.inf
        hits = _places(similarity, matches)
        precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
        penalties.append(len(hits) / (hits[-1] + 1))
        valid.append(place)
        first_hits.append(hits[0])
    if not valid:
        raise ValueError(_without_match(query_cameras, gallery_cameras))
    first_hits = np.array(first_hits)
    length = min(max_rank, np.count_nonzero(~junk))
    cmc = np.array([(first_hits <= rank).mean() for rank in range(length)])
    return RankingResult(
        mean_average_precision=float(np.mean(precisions)),
        mean_inverse_negative_penalty=float(np.mean(penalties)),
        cmc=np.pad(cmc, (0, max_rank - length), mode="edge"),
        num_valid_queries=len(valid),
        average_precisions=np.array(precisions),
        inverse_negative_penalties=np.array(penalties),
        valid_queries=np.array(valid),
        first_hits=first_hits,
    )


def _rows(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        yield from block


def _places(similarity: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Places of some items in the falling order of [g], ascending; ties in the given order.

    The order itself is never made: sorting values alone takes a fraction of a stable argsort.
    """
    rising, wanted = np.sort(similarity), similarity[matches]
    not_greater = np.searchsorted(rising, wanted, side="right")
    places = len(similarity) - not_greater
    equal = not_greater - np.searchsorted(rising, wanted, side="left")
    for tied in np.flatnonzero(equal > 1):
        places[tied] += np.count_nonzero(similarity[: matches[tied]] == wanted[tied])
    return np.sort(places)


def _without_match(query_cameras, gallery_cameras) -> str:
    cameras = np.union1d(query_cameras, gallery_cameras)
    if len(cameras) == 1:
        return (
            f"no query has a match in the gallery: every image is of camera {cameras[0]}, and a "
            "match must come from another camera than the query; give the cameras, or another "
            "number to the query's"
        )
    return (
        "no query has a match in the gallery: each needs an item of the same identity (above 0) "
        "from another camera"
    )


def _checked(
    name: str, rows, ids, cameras, *, what: str = "embeddings", width: str = "dim"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, ids, cameras = np.asarray(rows), np.asarray(ids), np.asarray(cameras)
    if rows.ndim != 2 or ids.shape != (len(rows),) or cameras.shape != ids.shape:
        raise ValueError(
            f"{name}: expected {what} [n, {width}], identities [n] and cameras [n], got "
            f"{rows.shape}, {ids.shape} and {cameras.shape}"
        )
    if len(rows) == 0:
        raise ValueError(f"{name} is empty; at least one image is needed")
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{name}: {what} must be finite numbers, and row "
            f"{np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]} is not"
        )
    return rows, ids, cameras
