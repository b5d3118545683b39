"""Whether the prior draws whom it is asked for: what it does not know, no cold start builds upon.

A prior draws clean strokes and skin long before it draws the right people, so that its looks say
little about how much longer it should train.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.stages.extractors import Extractor, embed_images, in_memory, load_extractor
from rlsyn_jax.stages.generator import load_model, make_sampler
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.recognition_measures import figure

_PEOPLE = _SAMPLES = 128


def measure_prior(config: ConfigDict, workdir: Path) -> dict | None:
    """Measures how often samples of the prior's own people show whom they were asked for.

    They are drawn from noise, by config.synthesize, and named by the judge, which knows the same
    people, as the nearest of at most 128 of them.

    Args:
        config: complete configuration.
        workdir: of the run, whose stage pretrain is complete.

    Returns:
        {"people": how many, "guided": with config.synthesize.guidance_scale, "unguided": without,
        "real": their real images, as figures in [0, 1]}; None where the run did not train the
        prior.
    """
    if config.pretrain.source != "train":
        return None
    general = in_memory(load_general(config, workdir))
    people = np.unique(
        np.linspace(0, general.num_identities - 1, min(_PEOPLE, general.num_identities)).astype(int)
    )
    labels = np.resize(people, _SAMPLES).astype(np.int32)
    shares = functools.partial(
        shares_of_right_ones, config, load_extractor(config, workdir, "judge"), general, people
    )
    params = load_model(config, workdir, "pretrain")
    classes = params["y_embedder"]["embedding_table"].shape[0] - 1
    result: dict = {"people": len(people)}
    for name, scale in (("guided", config.synthesize.guidance_scale), ("unguided", 1.0)):
        drawn_with = config.copy_and_resolve_references()
        drawn_with.synthesize.guidance_scale = scale
        sampler = make_sampler(drawn_with, classes)
        key = jax.random.key(config.seed + 9)
        result[name] = shares(np.asarray(sampler(params, key, np.arange(_SAMPLES), labels)), labels)
    rows = np.flatnonzero(np.isin(general.identities, people))
    result["real"] = shares(general.images[rows], general.identities[rows])
    return result


def shares_of_right_ones(
    config: ConfigDict,
    judge: Extractor,
    general: IdentityDataset,
    people: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
) -> dict:
    """Measures how many images the judge names rightly, by the mean real image of each person.

    Args:
        config: complete configuration.
        judge: the extractor that names.
        general: real images of the people.
        people: int [k], those among whom it chooses.
        images: uint8 [n, h, w, c].
        labels: int [n], whom they should show, each one of `people`.

    Returns:
        A figure, whose interval is by bootstrap over people.
    """
    rows = np.flatnonzero(np.isin(general.identities, people))
    _, hits = nearest_centroid_accuracy(
        embed_images(judge, general.images[rows]),
        general.identities[rows],
        embed_images(judge, images),
        labels,
    )
    return figure(
        *cluster_bootstrap(
            hits.astype(np.float64),
            labels,
            num_resamples=config.evaluate.bootstrap_resamples,
            seed=config.seed,
        )
    )


def describe_prior(measured: dict | None) -> list[str]:
    """Returns what the report says of `measure_prior`'s figures: a sentence, or none."""
    if not measured:
        return []
    guided, unguided = (
        "{:.0f} % ({:.0f} to {:.0f})".format(
            *(100 * measured[name][part] for part in measured[name])
        )
        for name in ("guided", "unguided")
    )
    return [
        f"The prior: of samples of {measured['people']} of its own people, drawn from noise, "
        f"{guided} show whom they were asked for, by the judge, and {unguided} without guidance; "
        f"of real images {100 * measured['real']['mean']:.0f} %. Where few do, it has not trained "
        "for long enough."
    ]
