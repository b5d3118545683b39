"""Are the people who do not exist nobody, and each of them somebody?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.novel_identities import FOLDER, match_threshold, unseen_images
from rlsyn_jax.stages.recognition_measures import figure
from rlsyn_jax.stages.synthetic_measures import people_measures


def measure_novel(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Measures how often images are taken for a training person, and how people are kept apart.

    The judge has left out what it takes for a training person, so that its share is 0; the network
    of the rewards had no say in that. Chance is the share of real images of unseen people.

    Args:
        config: complete configuration.
        workdir: of the run, whose stage synthesize wrote people who do not exist.
        dataset, splits: the target.

    Returns:
        {"matches": {"judge" or "reward": {"rate", "chance": figures, "threshold",
        "false_accept_rate"}}, and what people_measures gives}; {} of a data set without an image.
    """
    novel, _ = load_synthetic(Path(workdir) / "synthesize" / FOLDER)
    if not len(novel.images):
        return {}
    train_images, _ = train_labels(dataset, splits)
    unseen, unseen_people = unseen_images(dataset, splits)
    matches = {}
    for name in ("judge", "reward"):
        extractor = load_extractor(config, workdir, name)
        enrolled, strangers = (embed_images(extractor, images) for images in (train_images, unseen))
        threshold, rate = match_threshold(config, strangers, unseen_people)

        def share(embeddings, people, enrolled=enrolled, threshold=threshold) -> dict:
            hits = (embeddings @ enrolled.T).max(axis=1) >= threshold
            return figure(
                *cluster_bootstrap(
                    hits.astype(np.float64),
                    people,
                    num_resamples=config.evaluate.bootstrap_resamples,
                    seed=config.seed,
                )
            )

        embeddings = embed_images(extractor, novel.images)
        matches[name] = {
            "rate": share(embeddings, novel.identities),
            "chance": share(strangers, unseen_people),
            "threshold": threshold,
            "false_accept_rate": rate,
        }
        if name == "judge":
            apart = people_measures(config, embeddings, novel.identities)
    return {"matches": matches, **apart}
