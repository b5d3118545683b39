"""Measures recognisers and synthetic sets, each figure with an interval, into metrics.json.

metrics.json: {"run", "protocol", "arms": {arm: {metric: figure}}, "differences": {arm: {metric:
figure}}, "synthetic": {set: {metric: figure}}}, where a figure is {"mean", "low", "high"} and, for
arms, "seeds" with each seed's value. Shares are in [0, 1].
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.fidelity import frechet_distance, precision_recall_density_coverage
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy, rank1_identification
from rlsyn_jax.evaluation.jackknife import jackknife_interval
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances
from rlsyn_jax.evaluation.reid import evaluate_ranking
from rlsyn_jax.evaluation.verification import make_pairs, ten_fold_accuracy
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.recognize import load_recognizer
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.stages.synthesize import GENERATORS, read_gate
from rlsyn_jax.training.atomic_files import write_json

FIELDS = (*TARGET_FIELDS, "evaluate")
INPUTS = ("pretrain", "synthesize", "recognize")
# Pairs are drawn from all pairs of at most so many images, which are 8 million.
_PAIRED_IMAGES = 4096


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs or skips the stage."""
    record = StageRecord(workdir, "evaluate", config, FIELDS, inputs=INPUTS)
    if record.complete:
        return
    dataset, splits = load_target(config, workdir)
    arms, differences = _recognition(config, workdir, dataset, splits)
    content = {
        "run": config.name,
        "protocol": {
            "train_identities": len(splits.train_identities),
            "train_images": len(splits.train),
            "held_out_identities": len(splits.open_identities),
            "held_out_queries": len(splits.open_query),
            "closed_queries": len(splits.closed_query),
            "seeds": config.recognize.seeds,
            "chance_closed_rank1": 1 / len(splits.train_identities),
        },
        "arms": arms,
        "differences": differences,
        "synthetic": _synthetic_sets(config, workdir, dataset, splits),
    }
    write_json(record.directory / "metrics.json", content)
    for arm, figures in arms.items():
        shown = ", ".join(
            f"{name} {100 * f['mean']:.1f} [{100 * f['low']:.1f}, {100 * f['high']:.1f}]"
            for name, f in figures.items()
        )
        logging.info("evaluate: %s: %s", arm, shown)
    record.finish()


def read_results(workdir: Path) -> dict:
    """Returns the content of metrics.json."""
    return json.loads((Path(workdir) / "evaluate" / "metrics.json").read_text())


def _recognition(config, workdir, dataset, splits) -> tuple[dict, dict]:
    """Figures of every arm, and of its difference to the first arm, paired by query."""
    pairs = _verification_pairs(config, dataset, splits)
    values: dict = {}
    for arm in config.recognize.arms:
        for seed in range(config.recognize.seeds):
            extractor = load_recognizer(config, workdir, seed, arm)
            embeddings = embed_images(extractor, dataset.images)
            for name, parts in _measure(dataset, splits, embeddings, pairs).items():
                values.setdefault(arm, {}).setdefault(name, []).append(parts)
    interval = functools.partial(
        cluster_bootstrap, num_resamples=config.evaluate.bootstrap_resamples, seed=config.seed
    )
    arms, differences = {}, {}
    baseline = config.recognize.arms[0]
    for arm, metrics in values.items():
        for name, seeds in metrics.items():
            clusters = seeds[0][1]
            each = np.stack([value for value, _ in seeds])  # [seeds, queries]
            mean, low, high = interval(each.mean(axis=0), clusters)
            arms.setdefault(arm, {})[name] = {
                **_figure(mean, low, high),
                "seeds": [float(value) for value in each.mean(axis=1)],
            }
            if arm != baseline:
                base = np.stack([value for value, _ in values[baseline][name]])
                change = interval(each.mean(axis=0) - base.mean(axis=0), clusters)
                differences.setdefault(arm, {})[name] = _figure(*change)
    return arms, differences


def _measure(dataset, splits, embeddings, pairs) -> dict:
    """Returns {metric: (value of each query or fold, its cluster)} of one recogniser."""
    result = {}
    if len(splits.open_query):
        query, gallery = splits.open_query, splits.open_gallery
        ranking = evaluate_ranking(
            embeddings[query],
            splits.open_query_people,
            splits.open_query_cameras,
            embeddings[gallery],
            splits.open_gallery_people,
            splits.open_gallery_cameras,
        )
        people = dataset.identities[query][ranking.valid_queries]
        result["open_map"] = (ranking.average_precisions, people)
        result["open_rank1"] = (ranking.first_hits == 0, people)
    if len(splits.closed_query):
        train, query = splits.train, splits.closed_query
        _, hits = rank1_identification(
            embeddings[train],
            dataset.identities[train],
            embeddings[query],
            dataset.identities[query],
        )
        result["closed_rank1"] = (hits, dataset.identities[query])
    if pairs is not None:
        first, second, is_same = pairs
        folds = ten_fold_accuracy(embeddings[first], embeddings[second], is_same)
        result["verification"] = (folds.fold_accuracies, np.arange(10))
    return {name: (np.asarray(v, np.float64), c) for name, (v, c) in result.items()}


def _verification_pairs(config, dataset, splits):
    """Pairs of images of people that training never saw, or None where nobody is held out."""
    people = splits.open_gallery[splits.open_gallery_people > 0]  # Distractors are nobody.
    shown = np.concatenate([splits.open_query, people])
    if not len(shown):
        return None
    if len(shown) > _PAIRED_IMAGES:
        shown = np.random.default_rng(config.seed).choice(shown, _PAIRED_IMAGES, replace=False)
    first, second, is_same = make_pairs(
        dataset.identities[shown], config.evaluate.verification_pairs, config.seed
    )
    return shown[first], shown[second], is_same


def _synthetic_sets(config, workdir, dataset, splits) -> dict:
    """Fidelity, coverage, identity and nearness of each synthetic set, by the judge.

    All are compared with real images of the same people that no training saw; the row "real_train"
    is what the real training images themselves reach.
    """
    judge = load_extractor(config, workdir, "judge")
    images, labels = train_labels(dataset, splits)
    enrolled = embed_images(judge, images)
    held_out = embed_images(judge, dataset.images[splits.closed_query])
    held_out_labels = np.searchsorted(
        splits.train_identities, dataset.identities[splits.closed_query]
    )
    sets = {"real_train": (enrolled, labels)}
    for name in GENERATORS:
        synthetic, _ = load_synthetic(workdir / "synthesize" / name)
        if len(synthetic.images) > config.evaluate.num_neighbors:
            sets[name] = (embed_images(judge, synthetic.images), synthetic.identities)
    gate = read_gate(workdir)
    result = {}
    for name, (embeddings, people) in sets.items():
        figures = _fidelity(config, held_out, held_out_labels, embeddings, people)
        if name == "real_train":
            compared, clusters = held_out, held_out_labels
            figures["near_copies"] = None
        else:
            compared, clusters = embeddings, people
            figures["near_copies"] = gate[name]["near_copies_left_out"]
        distances, _ = nearest_real_distances(compared, enrolled)
        _, hits = nearest_centroid_accuracy(enrolled, labels, compared, clusters)
        for metric, values in (
            ("nearest_real_distance", distances),
            ("identity_accuracy", hits),
        ):
            figures[metric] = _figure(
                *cluster_bootstrap(
                    np.asarray(values, np.float64),
                    clusters,
                    num_resamples=config.evaluate.bootstrap_resamples,
                    seed=config.seed,
                )
            )
        result[name] = figures
    return result


def _fidelity(config, real, real_labels, fake, fake_labels) -> dict:
    """Set statistics with jackknife intervals over people."""

    def kept(identities):
        return real[np.isin(real_labels, identities)], fake[np.isin(fake_labels, identities)]

    def neighbors_based(name):
        def statistic(identities):
            some_real, some_fake = kept(identities)
            number = min(config.evaluate.num_neighbors, len(some_real) - 1, len(some_fake) - 1)
            result = precision_recall_density_coverage(some_real, some_fake, num_neighbors=number)
            return getattr(result, name)

        return statistic

    people = np.intersect1d(real_labels, fake_labels)
    statistics = {"frechet_distance": lambda identities: frechet_distance(*kept(identities))}
    for name in ("precision", "recall", "density", "coverage"):
        statistics[name] = neighbors_based(name)
    return {
        name: _figure(*jackknife_interval(statistic, people))
        for name, statistic in statistics.items()
    }


def _figure(mean: float, low: float, high: float) -> dict:
    return {"mean": float(mean), "low": float(low), "high": float(high)}
