"""What the recognisers reach: every arm and seed on the same queries and pairs, with intervals."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.identification import rank1_identification
from rlsyn_jax.evaluation.ranking_lists import ranking_lists, spread_queries
from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import RankingResult, evaluate_distances, evaluate_ranking
from rlsyn_jax.evaluation.verification import (
    equal_error_rate,
    has_both_kinds,
    make_pairs,
    pairs_of_both_kinds,
    roc_points,
    ten_fold_accuracy,
    true_accept_rate,
    true_accept_rates_at,
)
from rlsyn_jax.evaluation.verification_intervals import accuracy_intervals, verification_intervals
from rlsyn_jax.stages.extractors import embed_images
from rlsyn_jax.stages.person_values import PersonValues
from rlsyn_jax.stages.recognize import load_recognizer

RANKS = (1, 5, 10)
FALSE_ACCEPT_RATES = {1e-2: "tar_at_far_1e-2", 1e-3: "tar_at_far_1e-3"}
# Pairs are drawn from all pairs of at most so many images, which are 8 million.
_PAIRED_IMAGES = 4096
# Of each kind, for rates at thresholds; those of one person are far fewer.
_PAIRS = 50_000
_CURVE_RANKS, _CURVE_POINTS = 20, 60
_SHOWN_QUERIES = 6


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Pairs of images of unseen people."""

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray

    def similarities(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine similarity of each pair's unit embeddings, float32 [n]."""
        return np.einsum("nd,nd->n", embeddings[self.first], embeddings[self.second])


def measure_recognition(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> tuple[dict, dict, dict]:
    """Measures every arm, and its difference to the first arm on the same queries and pairs.

    Args:
        config: complete configuration.
        workdir: of the run.
        dataset, splits: the target.

    Returns:
        ({"arms", "differences", "not_measured"} as metrics.json has them; {"cmc", "roc",
        "rankings"} for pictures, as curves.json has them; each person's values, as per_person.json
        has them).
    """
    folds, pairs = _folds(config, dataset, splits), _pairs(config, dataset, splits)
    values: dict = {}
    correct: dict = {}
    similarities: dict = {}
    cmc: dict = {}
    lists = {}
    of_people = PersonValues(dataset.identity_names)
    for arm in config.recognize.arms:
        for seed in range(config.recognize.seeds):
            embeddings = embed_images(load_recognizer(config, workdir, seed, arm), dataset.images)
            measures, ranking = _measure(config, dataset, splits, embeddings)
            for name, parts in measures.items():
                of_people.add(arm, name, *parts)
            if folds is not None:
                verified = ten_fold_accuracy(
                    embeddings[folds.first], embeddings[folds.second], folds.is_same
                )
                correct.setdefault(arm, []).append(verified.correct)
                # Both images of a pair count for who is in them.
                both = dataset.identities[np.concatenate([folds.first, folds.second])]
                of_people.add(arm, "verification", np.tile(verified.correct, 2), both)
            for name, parts in measures.items():
                values.setdefault(arm, {}).setdefault(name, []).append(parts)
            if ranking is not None:
                cmc.setdefault(arm, []).append(ranking.cmc[:_CURVE_RANKS])
                if seed == 0:
                    lists[arm] = _lists(splits, embeddings, ranking)
            if pairs is not None:
                similarities.setdefault(arm, []).append(pairs.similarities(embeddings))
    arms, differences = _intervals(config, values)
    if folds is not None:
        _add_accuracies(config, dataset, folds, correct, arms, differences)
    not_measured = {}
    curves: dict = {
        "cmc": {arm: np.mean(each, axis=0).tolist() for arm, each in cmc.items()},
        "roc": {},
        "rankings": {},
    }
    if lists:
        best = max(lists, key=lambda arm: arms[arm]["open_map"]["mean"])
        curves["rankings"] = {"arm": best, "lists": lists[best]}
    if pairs is None:
        people = len(splits.open_identities)
        reason = f"{people} people are held out (config.split), which make no pairs of both kinds"
        not_measured = {name: reason for name in ("verification", *FALSE_ACCEPT_RATES.values())}
    else:
        rates, reasons = _measurable(pairs)
        not_measured |= reasons
        _add_rates(config, dataset, pairs, similarities, rates, arms, differences)
        _add_accepted(of_people, dataset, pairs, similarities, rates)
        curves["roc"] = _roc(pairs, similarities)
    content = {"arms": arms, "differences": differences, "not_measured": not_measured}
    return content, curves, of_people.content()


def figure(mean: float, low: float, high: float) -> dict:
    """Returns a figure with its interval as metrics.json has it."""
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _measure(config, dataset, splits, embeddings) -> tuple[dict, RankingResult | None]:
    """Returns {metric: (value of each query, whom it shows)}, and the ranking."""
    result, ranking = {}, None
    if len(splits.open_query):
        ranking = _rank(splits, embeddings)
        people = dataset.identities[splits.open_query][ranking.valid_queries]
        result["open_map"] = (ranking.average_precisions, people)
        result["open_minp"] = (ranking.inverse_negative_penalties, people)
        for rank in RANKS:
            result[f"open_rank{rank}"] = (ranking.first_hits < rank, people)
        if config.evaluate.re_ranking:
            again = _rank_again(splits, embeddings)
            result["open_map_re_ranked"] = (again.average_precisions, people)
    if len(splits.closed_query):
        train, query = splits.train, splits.closed_query
        _, hits = rank1_identification(
            embeddings[train],
            dataset.identities[train],
            embeddings[query],
            dataset.identities[query],
        )
        result["closed_rank1"] = (hits, dataset.identities[query])
    values = {name: (np.asarray(v, np.float64), c) for name, (v, c) in result.items()}
    return values, ranking


def _rank(splits: Splits, embeddings) -> RankingResult:
    return evaluate_ranking(
        embeddings[splits.open_query],
        splits.open_query_people,
        splits.open_query_cameras,
        embeddings[splits.open_gallery],
        splits.open_gallery_people,
        splits.open_gallery_cameras,
    )


def _rank_again(splits: Splits, embeddings) -> RankingResult:
    """The ranking after k-reciprocal re-ranking, with fewer neighbours where images are few."""
    neighbors = min(20, len(splits.open_query) + len(splits.open_gallery) - 1)
    distances = re_rank(
        embeddings[splits.open_query],
        embeddings[splits.open_gallery],
        k1=neighbors,
        k2=min(6, neighbors),
    )
    return evaluate_distances(
        distances,
        splits.open_query_people,
        splits.open_query_cameras,
        splits.open_gallery_people,
        splits.open_gallery_cameras,
    )


def _intervals(config, values) -> tuple[dict, dict]:
    """Returns figures and differences of what has one value a query."""
    interval = functools.partial(
        cluster_bootstrap, num_resamples=config.evaluate.bootstrap_resamples, seed=config.seed
    )
    arms: dict = {}
    differences: dict = {}
    baseline = config.recognize.arms[0]
    for arm, metrics in values.items():
        for name, seeds in metrics.items():
            clusters = seeds[0][1]
            each = np.stack([value for value, _ in seeds])  # [seeds, queries]
            arms.setdefault(arm, {})[name] = {
                **figure(*interval(each.mean(axis=0), clusters)),
                "seeds": [float(value) for value in each.mean(axis=1)],
            }
            if arm != baseline:
                base = np.stack([value for value, _ in values[baseline][name]])
                change = interval(each.mean(axis=0) - base.mean(axis=0), clusters)
                differences.setdefault(arm, {})[name] = figure(*change)
    return arms, differences


def _folds(config, dataset, splits) -> _Pairs | None:
    """Pairs for ten-fold verification, as many of one person as of two."""
    shown = _shown(config, splits)
    # Nobody is held out, or one person, or nobody has two images.
    if not has_both_kinds(dataset.identities[shown]):
        return None
    first, second, is_same = make_pairs(
        dataset.identities[shown], config.evaluate.verification_pairs, config.seed
    )
    return _Pairs(shown[first], shown[second], is_same)


def _pairs(config, dataset, splits) -> _Pairs | None:
    """All pairs, or many, for rates at few false accepts."""
    shown = _shown(config, splits)
    if not has_both_kinds(dataset.identities[shown]):
        return None
    first, second, is_same = pairs_of_both_kinds(dataset.identities[shown], _PAIRS, config.seed)
    return _Pairs(shown[first], shown[second], is_same)


def _shown(config, splits) -> np.ndarray:
    """Images of people that training never saw, none where nobody is held out."""
    people = splits.open_gallery[splits.open_gallery_people > 0]  # Distractors are nobody.
    shown = np.concatenate([splits.open_query, people])
    if len(shown) > _PAIRED_IMAGES:
        shown = np.random.default_rng(config.seed).choice(shown, _PAIRED_IMAGES, replace=False)
    return shown


def _measurable(pairs: _Pairs) -> tuple[list[float], dict]:
    """Returns the false accept rates that so many impostors can measure, and why not the others."""
    impostors = int((~pairs.is_same).sum())
    rates = [rate for rate in FALSE_ACCEPT_RATES if rate * impostors >= 1]
    reasons = {
        name: f"a false accept rate of {rate:g} is less than one of {impostors} impostor pairs"
        for rate, name in FALSE_ACCEPT_RATES.items()
        if rate not in rates
    }
    return rates, reasons


def _add_accuracies(config, dataset, folds: _Pairs, correct, arms, differences) -> None:
    """Adds ten-fold accuracy of every arm."""
    found = accuracy_intervals(
        {arm: np.stack(rows) for arm, rows in correct.items()},
        folds.is_same,
        dataset.identities[np.stack([folds.first, folds.second], axis=1)],
        num_resamples=config.evaluate.bootstrap_resamples,
        seed=config.seed,
    )
    for arm, estimate in found.values.items():
        seeds = [float(row.mean()) for row in correct[arm]]
        arms.setdefault(arm, {})["verification"] = {**figure(*estimate), "seeds": seeds}
    for arm, estimate in found.differences.items():
        differences.setdefault(arm, {})["verification"] = figure(*estimate)


def _add_rates(config, dataset, pairs, similarities, rates, arms, differences) -> None:
    """Adds equal error rate and TAR at FAR of every arm."""
    intervals = verification_intervals(
        {arm: np.stack(rows) for arm, rows in similarities.items()},
        pairs.is_same,
        dataset.identities[np.stack([pairs.first, pairs.second], axis=1)],
        false_accept_rates=rates,
        num_resamples=config.evaluate.bootstrap_resamples,
        seed=config.seed,
    )
    found = {"equal_error_rate": (intervals.equal_error_rate, _equal_error)}
    for rate in rates:
        accepted = functools.partial(_accepted, rate=rate)
        found[FALSE_ACCEPT_RATES[rate]] = (intervals.true_accept_rates[rate], accepted)
    for name, (paired, of_seed) in found.items():
        for arm, estimate in paired.values.items():
            seeds = [of_seed(row, pairs.is_same) for row in similarities[arm]]
            arms[arm][name] = {**figure(*estimate), "seeds": seeds}
        for arm, estimate in paired.differences.items():
            differences[arm][name] = figure(*estimate)


def _add_accepted(of_people: PersonValues, dataset, pairs, similarities, rates) -> None:
    """Adds each person's share of genuine pairs accepted, at the thresholds of all people."""
    people = dataset.identities[pairs.first[pairs.is_same]]
    for rate in rates:
        for arm, rows in similarities.items():
            for row in rows:
                threshold = true_accept_rate(row, pairs.is_same, rate).threshold
                accepted = row[pairs.is_same] >= threshold
                of_people.add(arm, FALSE_ACCEPT_RATES[rate], accepted, people)


def _equal_error(similarities, is_same) -> float:
    return equal_error_rate(similarities, is_same)[0]


def _accepted(similarities, is_same, *, rate: float) -> float:
    return true_accept_rate(similarities, is_same, rate).true_accept_rate.value


def _roc(pairs: _Pairs, similarities) -> dict:
    """Mean over seeds of the share of genuine pairs accepted, at rising false accept rates."""
    impostors = int((~pairs.is_same).sum())
    rates = np.geomspace(1 / impostors, 1, _CURVE_POINTS)
    result: dict = {"false_accept_rates": rates.tolist(), "arms": {}}
    for arm, rows in similarities.items():
        curves = [true_accept_rates_at(roc_points(row, pairs.is_same), rates) for row in rows]
        result["arms"][arm] = np.mean(curves, axis=0).tolist()
    return result


def _lists(splits: Splits, embeddings, ranking: RankingResult) -> list[dict]:
    """What some queries find, from the worst ranking to the best; images are places in the set."""
    lists = ranking_lists(
        embeddings[splits.open_query],
        splits.open_query_people,
        splits.open_query_cameras,
        embeddings[splits.open_gallery],
        splits.open_gallery_people,
        splits.open_gallery_cameras,
        spread_queries(ranking.average_precisions, ranking.valid_queries, _SHOWN_QUERIES),
    )
    return [
        {
            "query": int(splits.open_query[found.query]),
            "gallery": splits.open_gallery[list(found.gallery)].tolist(),
            "right": list(found.right),
        }
        for found in lists
    ]
