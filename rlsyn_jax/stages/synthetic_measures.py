"""How good the synthetic sets are, by the judge: near real images, right people, varied people."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.diversity import identity_set
from rlsyn_jax.evaluation.fidelity import frechet_distance, precision_recall_density_coverage
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.evaluation.jackknife import jackknife_interval, jackknife_parts
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.recognition_measures import figure
from rlsyn_jax.stages.synthesize import data_sets, read_gate

# Precision, recall, density and coverage are of at most so many images of a set, drawn by the seed.
NEIGHBOR_IMAGES = 10_000
_SHARE, _NOT_NEGATIVE = (0.0, 1.0), (0.0, np.inf)
# Statistics of the whole set that identity_set gives, and what values they can have.
_OF_SETS = {"decidability": _NOT_NEGATIVE, "identity_error": _SHARE}


def measure_synthetic(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Measures fidelity, identity, variety and nearness of each synthetic set.

    All are compared with real images of the same people that no training saw. The row "real_train"
    is what the real training images themselves reach; its consistency and variety are those of the
    images that no training saw, where people have two. What rests on neighbours is of at most
    NEIGHBOR_IMAGES images of a set, drawn by the seed. Distances of distributions, recall,
    consistency and Vendi's share depend on how many images a set has, so that sets of like numbers
    compare, and the real images, which are fewer, with none.

    Args:
        config: complete configuration.
        workdir: of the run.
        dataset, splits: the target.

    Returns:
        {set: {"num_images", metric: figure, or None where it cannot be measured}}.
    """
    judge = load_extractor(config, workdir, "judge")
    images, labels = train_labels(dataset, splits)
    enrolled = embed_images(judge, images)
    held_out = embed_images(judge, dataset.images[splits.closed_query])
    held_out_labels = np.searchsorted(
        splits.train_identities, dataset.identities[splits.closed_query]
    )
    sets = {"real_train": (enrolled, labels)}
    for name in data_sets(config):
        synthetic, _ = load_synthetic(workdir / "synthesize" / name)
        if len(synthetic.images) > config.evaluate.num_neighbors:
            sets[name] = (embed_images(judge, synthetic.images), synthetic.identities)
    gate = read_gate(workdir)
    result = {}
    for name, (embeddings, people) in sets.items():
        figures = {"num_images": len(embeddings)}
        figures |= _fidelity(config, held_out, held_out_labels, embeddings, people)
        compared, clusters = embeddings, people
        if name == "real_train":
            compared, clusters = held_out, held_out_labels
            figures["near_copies"] = None
        else:
            figures["near_copies"] = gate[name]["near_copies_left_out"]
        distances, _ = nearest_real_distances(compared, enrolled)
        _, hits = nearest_centroid_accuracy(enrolled, labels, compared, clusters)
        figures["nearest_real_distance"] = _mean_over(config, distances, clusters)
        figures["identity_accuracy"] = _mean_over(config, hits, clusters)
        if name == "real_train" and (np.bincount(held_out_labels) >= 2).sum() < 2:
            compared, clusters = embeddings, people
        figures |= people_measures(config, compared, clusters)
        result[name] = figures
    return result


def people_measures(config: ConfigDict, embeddings: np.ndarray, people: np.ndarray) -> dict:
    """Measures how well people are kept together and apart, and how varied each of them is.

    Args:
        config: complete configuration.
        embeddings: float [n, dim]. people: int [n].

    Returns:
        {"identity_consistency", "diversity", "vendi_share", "decidability", "identity_error":
        figure}; None where fewer than two people have two images.
    """
    names = ("identity_consistency", "diversity", "vendi_share", *_OF_SETS)
    counts = np.bincount(people)
    several = np.flatnonzero(counts >= 2)
    if len(several) < 2:
        return dict.fromkeys(names)
    whole = identity_set(embeddings, people, seed=config.seed)
    each = {
        "identity_consistency": whole.consistency,
        "diversity": whole.diversity,
        # The score of n images lies in 1..n. The share falls as n grows, since more are alike.
        "vendi_share": (whole.vendi - 1) / (counts[whole.identities] - 1),
    }
    figures = {name: _mean_over(config, values, whole.identities) for name, values in each.items()}

    def statistic(kept, name):
        rows = np.isin(people, kept)
        part = identity_set(embeddings[rows], people[rows], seed=config.seed)
        return part.decidability if name == "decidability" else part.equal_error_rate

    for name, bounds in _OF_SETS.items():
        # A group that is left out must leave two people.
        if len(several) < 3:
            figures[name] = None
            continue
        of_kept = functools.partial(statistic, name=name)
        figures[name] = figure(*jackknife_interval(of_kept, several, bounds=bounds))
    return figures


def _mean_over(config, values, people) -> dict:
    return figure(
        *cluster_bootstrap(
            np.asarray(values, np.float64),
            people,
            num_resamples=config.evaluate.bootstrap_resamples,
            seed=config.seed,
        )
    )


def _drawn(config, labels) -> np.ndarray:
    """Places of the images that neighbours are looked for among, ascending: all, or so many."""
    if len(labels) <= NEIGHBOR_IMAGES:
        return np.arange(len(labels))
    random = np.random.default_rng(config.seed)
    return np.sort(random.choice(len(labels), NEIGHBOR_IMAGES, replace=False))


def _fidelity(config, real, real_labels, fake, fake_labels) -> dict:
    """Set statistics with jackknife intervals over people, cut off where their values end.

    None where people are too few, or have too few images, for every part of them to be measured.
    """
    # Neighbours take the square of the time; distributions are of all images.
    drawn_real, drawn_fake = (_drawn(config, labels) for labels in (real_labels, fake_labels))

    def kept(identities):
        return real[np.isin(real_labels, identities)], fake[np.isin(fake_labels, identities)]

    @functools.cache
    def neighbors_of(identities):
        some_real = real[drawn_real[np.isin(real_labels[drawn_real], identities)]]
        some_fake = fake[drawn_fake[np.isin(fake_labels[drawn_fake], identities)]]
        number = min(config.evaluate.num_neighbors, len(some_real) - 1, len(some_fake) - 1)
        return precision_recall_density_coverage(some_real, some_fake, num_neighbors=number)

    def neighbors_based(name):
        # The four figures of a group of people are computed once.
        return lambda identities: getattr(neighbors_of(tuple(identities.tolist())), name)

    people = np.intersect1d(real_labels, fake_labels)
    statistics = {
        "frechet_distance": (lambda identities: frechet_distance(*kept(identities)), _NOT_NEGATIVE)
    }
    for name in ("precision", "recall", "density", "coverage"):
        bounds = _NOT_NEGATIVE if name == "density" else _SHARE
        statistics[name] = (neighbors_based(name), bounds)
    parts = jackknife_parts(people)
    measurable = len(parts) > 1 and all(len(each) > 1 for part in parts for each in kept(part))
    if not measurable:
        return dict.fromkeys(statistics)
    return {
        name: figure(*jackknife_interval(statistic, people, bounds=bounds))
        for name, (statistic, bounds) in statistics.items()
    }
