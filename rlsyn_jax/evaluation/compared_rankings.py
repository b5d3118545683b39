"""Rankings of several arms on the same queries, with intervals over people, and what they find."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.ranking_lists import (
    RankingList,
    lists_by_similarity,
    ranking_lists,
    spread_queries,
)
from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import RankingResult, evaluate_distances, evaluate_ranking

RANKS = (1, 5, 10)
_CURVE_RANKS = 20


@dataclasses.dataclass(frozen=True)
class ComparedRankings:
    """Figures of arms, and of all but the first how they differ from it.

    Attributes:
        metrics: {arm: {metric: {"value", "low", "high"}}, "differences": {arm: {metric: ...}}}.
        cmc: {arm: float [k], share of queries with a match among the first 1, 2, ...}.
        num_queries: queries with a match.
        lists: {arm: what it finds for some queries}, the same queries for each, from the worst to
            the best by the first arm; empty where none were asked for.
    """

    metrics: dict
    cmc: dict[str, np.ndarray]
    num_queries: int
    lists: dict[str, list[RankingList]]


def compare_rankings(
    arms: Iterable[tuple[str, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    *,
    re_ranking: bool = False,
    num_resamples: int = 1000,
    num_lists: int = 0,
) -> ComparedRankings:
    """Ranks the gallery of each arm by Market-1501's protocol; differences are paired by query.

    Args:
        arms: (name, query, gallery), one at a time; both are {"embeddings": float [n, dim], "ids":
            int [n], -1 junk and 0 a distractor, "cameras": int [n]}.
        re_ranking: whether k-reciprocal re-ranking comes first.
        num_resamples: of the bootstrap over people.
        num_lists: queries of which the first answers are returned, at most.

    Returns:
        Figures, curves and answers.

    Raises:
        ValueError: bad arrays, no query with a match, or arms that are not of the same images.
    """
    values: dict[str, dict] = {}
    cmc, lists = {}, {}
    labels, people, shown = None, None, None
    for arm, query, gallery in arms:
        own_labels = [part[name] for part in (query, gallery) for name in ("ids", "cameras")]
        if labels is not None and not all(map(np.array_equal, labels, own_labels)):
            raise ValueError(
                f"{arm}: ids and cameras are not those of {next(iter(values))}; arms are compared "
                "on the same images in the same order"
            )
        labels = own_labels
        distances = _re_ranked(query, gallery) if re_ranking else None
        if distances is None:
            result = evaluate_ranking(
                query["embeddings"], *labels[:2], gallery["embeddings"], *labels[2:]
            )
        else:
            kept = labels[2] != -1
            result = evaluate_distances(distances, *labels[:2], labels[2][kept], labels[3][kept])
        values[arm] = _per_query(result)
        cmc[arm] = result.cmc[:_CURVE_RANKS]
        if shown is None:
            people = labels[0][result.valid_queries]
            shown = spread_queries(result.average_precisions, result.valid_queries, num_lists)
        if num_lists:
            lists[arm] = _lists(query, gallery, labels, distances, shown)

    def interval(each) -> dict:
        value, low, high = cluster_bootstrap(each, people, num_resamples=num_resamples)
        return {"value": value, "low": low, "high": high}

    metrics: dict = {
        arm: {name: interval(each) for name, each in figures.items()}
        for arm, figures in values.items()
    }
    first, *others = values
    metrics["differences"] = {
        arm: {name: interval(values[arm][name] - values[first][name]) for name in values[arm]}
        for arm in others
    }
    return ComparedRankings(metrics, cmc, len(people), lists)


def _re_ranked(query, gallery) -> np.ndarray:
    """Returns distances to what is no junk, which would take part in naming neighbours."""
    return re_rank(query["embeddings"], gallery["embeddings"][gallery["ids"] != -1])


def _per_query(result: RankingResult) -> dict[str, np.ndarray]:
    values = {"mAP": result.average_precisions, "mINP": result.inverse_negative_penalties}
    for rank in RANKS:
        values[f"rank-{rank}"] = (result.first_hits < rank).astype(np.float64)
    return values


def _lists(query, gallery, labels, distances, shown) -> list[RankingList]:
    if distances is None:
        return ranking_lists(
            query["embeddings"], *labels[:2], gallery["embeddings"], *labels[2:], shown
        )
    similarities = np.full((len(shown), len(labels[2])), -np.inf)
    similarities[:, labels[2] != -1] = -distances[shown]
    return lists_by_similarity(similarities, *labels, shown)
