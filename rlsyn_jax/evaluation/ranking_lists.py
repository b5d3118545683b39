"""What queries find first, for people to look at: tops of rankings by Market-1501's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rlsyn_jax.evaluation.unit_rows import unit_rows


class RankingList(NamedTuple):
    """The first answers to one query.

    Attributes:
        query: its place among the queries.
        gallery: places in the gallery, nearest first.
        right: whether each shows the query's person.
    """

    query: int
    gallery: tuple[int, ...]
    right: tuple[bool, ...]


def ranking_lists(
    query: np.ndarray,
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    chosen: np.ndarray,
    *,
    length: int = 5,
) -> list[RankingList]:
    """Ranks the gallery for some queries; what the protocol leaves out is left out here too.

    Args:
        query: float [q, dim]. query_ids, query_cameras: int [q].
        gallery: float [g, dim]. gallery_ids, gallery_cameras: int [g]; -1 is junk.
        chosen: int [n], places of the queries wanted.
        length: answers of each, fewer where the gallery has no more.

    Returns:
        One list for each of `chosen`; ties in the order of the gallery.
    """
    # Long vectors of half precision have no norm in it.
    unit = unit_rows(np.asarray(gallery, np.float32))
    return lists_by_similarity(
        (unit @ query[place] for place in chosen),
        query_ids,
        query_cameras,
        gallery_ids,
        gallery_cameras,
        chosen,
        length=length,
    )


def lists_by_similarity(
    similarities: Iterable[np.ndarray],
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    chosen: np.ndarray,
    *,
    length: int = 5,
) -> list[RankingList]:
    """Ranks the gallery by given similarities, such as those after re-ranking.

    Args:
        similarities: float [g] of each query chosen, larger for what is ranked before.
        query_ids, query_cameras: int [q]. gallery_ids, gallery_cameras: int [g]; -1 is junk.
        chosen, length: as in ranking_lists.

    Returns:
        As ranking_lists.
    """
    lists = []
    for place, similarity in zip(chosen, similarities):
        same_person = gallery_ids == query_ids[place]
        left_out = same_person & (gallery_cameras == query_cameras[place])
        shown = np.flatnonzero(~left_out & (gallery_ids != -1))
        nearest = shown[np.argsort(-similarity[shown], kind="stable")[:length]]
        lists.append(
            RankingList(int(place), tuple(nearest.tolist()), tuple(same_person[nearest].tolist()))
        )
    return lists


def spread_queries(average_precisions: np.ndarray, valid_queries: np.ndarray, number: int):
    """Returns places of so many queries, evenly from the worst ranking to the best, int64 [n].

    Args:
        average_precisions: float [v]. valid_queries: int [v], as reid.RankingResult has them.
        number: at most v are given.
    """
    order = valid_queries[np.argsort(average_precisions, kind="stable")]
    return order[np.unique(np.linspace(0, len(order) - 1, number).astype(int))]
