"""Whether the prior draws whom it is asked for: what it does not know, no cold start builds upon.

A prior draws clean strokes and skin long before it draws the right people, so that its looks say
little about how much longer it should train.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap
from rlsyn_jax.evaluation.identification import named_by_others, nearest_centroid_accuracy
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import in_batches, load_model, make_sampler
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.prior_classes import num_classes
from rlsyn_jax.stages.recognition_measures import figure

_PEOPLE = _SAMPLES = 128
_IMAGES = 20  # Of a person, at most, whose mean names samples.


def measure_prior(config: ConfigDict, workdir: Path) -> dict | None:
    """Measures how often samples of the prior's own people show whom they were asked for.

    They are drawn from noise, by config.synthesize, and named by the judge, which knows the same
    people, as the nearest of at most 128 of them.

    Args:
        config: complete configuration.
        workdir: of the run, whose stage pretrain is complete.

    Returns:
        {"people": how many, "guided": with config.synthesize.guidance_scale, "unguided": without,
        the same where that is 1, "real": every second of their real images by the others, None
        where nobody has two; figures in [0, 1]}; None where the run did not train the prior, it
        was not told who is in an image, or its data are gone.
    """
    if config.pretrain.source != "train" or config.pretrain.class_rows == "shared":
        return None
    try:
        general = load_general(config, workdir)
    except ConfigError as error:
        logging.warning("evaluate: the prior is not measured, since its data are gone: %s", error)
        return None
    number = min(_PEOPLE, general.num_identities)
    people = np.linspace(0, general.num_identities - 1, number).round().astype(int)
    rows = np.concatenate([np.flatnonzero(general.identities == one)[:_IMAGES] for one in people])
    real, names = general.images[rows], general.identities[rows]
    judge = load_extractor(config, workdir, "judge")
    enrolled = embed_images(judge, real)
    labels = np.resize(people, _SAMPLES).astype(np.int32)
    params = load_model(config, workdir, "pretrain")
    known = num_classes(params)
    result: dict = {"people": number}
    for name, scale in (("unguided", 1.0), ("guided", config.synthesize.guidance_scale)):
        if name == "guided" and scale == 1:
            result[name] = result["unguided"]
            continue
        drawn_with = config.copy_and_resolve_references()
        drawn_with.synthesize.guidance_scale = scale
        sampler, key = make_sampler(drawn_with, known), jax.random.key(config.seed + 9)
        sample = in_batches(sampler, params, key, min(_SAMPLES, config.synthesize.batch_size))
        images = sample(np.arange(_SAMPLES), labels)
        _, hits = nearest_centroid_accuracy(enrolled, names, embed_images(judge, images), labels)
        result[name] = _share(config, hits, labels)
    hits, shown = named_by_others(enrolled, names)
    result["real"] = _share(config, hits, shown) if len(hits) else None
    return result


def _share(config: ConfigDict, hits: np.ndarray, labels: np.ndarray) -> dict:
    """Returns the share that is named rightly, its interval by bootstrap over people."""
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
    real = measured["real"]
    without = f", and {unguided} without guidance" if unguided != guided else ""
    return [
        f"The prior: of samples of {measured['people']} of its own people, drawn from noise, "
        f"{guided} show whom they were asked for, by the judge{without}"
        + (f"; of real images {100 * real['mean']:.0f} %" if real else "")
        + ". The judge has learnt these people. Where few do, the prior may have to train longer."
    ]
