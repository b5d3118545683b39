"""A synthetic data set of the prior's own people, whose samples some arms learn to tell apart, too.

The prior knows them by far more images than the target has of its people, and what it knows of how
images of a person differ reaches a recogniser through them. Nothing of the target is in them.
"""

from __future__ import annotations

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.stages.adapt import class_means
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import in_batches, load_model, make_sampler
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.prior_classes import (
    check_knows_general,
    check_prior_identities,
    num_classes,
)
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import barrier

STAGE, FOLDER = "pretrain", "prior"


def write_prior_people(config: ConfigDict, record: StageRecord) -> dict:
    """Writes or completes the data set of people whom the prior learnt.

    Samples begin with noise. Of config.synthesize.candidates for each image those are kept that the
    rewards' extractor finds most alike to the person's real images.

    Args:
        config: complete configuration.
        record: of the stage.

    Returns:
        What gate.json has of it: {"identities", "images", "candidates_per_image",
        "identity_accuracy", "verdict"}.

    Raises:
        ConfigError: the prior knows other people than config.general_data, or fewer than asked for.
    """
    settings, workdir = config.synthesize, record.directory.parent
    general = load_general(config, workdir)
    params = load_model(config, workdir, STAGE)
    known = num_classes(params)
    check_knows_general(known, general, "synthesize.prior_identities")
    check_prior_identities(config, known)
    number, reward = settings.prior_identities, load_extractor(config, workdir, "reward")
    rows = np.flatnonzero(general.identities < number)
    real, real_labels = general.images[rows], general.identities[rows]
    means = unit_rows(class_means(embed_images(reward, real), real_labels))
    names = tuple(general.identity_names[:number])
    writer = SyntheticDatasetWriter(
        record.directory / FOLDER, identity_names=names, image_format=settings.image_format
    )
    barrier("synthesize prior: every process has read the journal")
    sampler, key = make_sampler(config, known), jax.random.key(config.seed + 11)
    sample = in_batches(sampler, params, key, settings.batch_size)
    drawn = settings.images * settings.candidates
    at_once = max(1, settings.batch_size // drawn)
    progress = Progress(
        "synthesize prior", number, first_step=0, every_seconds=config.log_every_seconds
    )
    for first in range(0, number, at_once):
        people = np.arange(first, min(first + at_once, number))
        if not all(writer.existing(names[i], n) for i in people for n in range(settings.images)):
            classes = np.repeat(people, drawn).astype(np.int32)
            numbers = classes * drawn + np.tile(np.arange(drawn), len(people))
            images = sample(numbers, classes)
            alike = np.einsum("nd,nd->n", embed_images(reward, images), means[classes])
            for place, person in enumerate(people):
                own = np.arange(place * drawn, (place + 1) * drawn)
                best = own[np.argsort(-alike[own], kind="stable")[: settings.images]]
                for image_number, row in enumerate(best):
                    if writer.existing(names[person], image_number):
                        continue
                    entry = {
                        "label": int(person),
                        "seed": int(numbers[row]),
                        "checkpoint": STAGE,
                        "reward_likeness": float(alike[row]),
                    }
                    writer.write_image(names[person], image_number, images[row], entry)
            record.note_time()
        progress.update(int(people[-1]) + 1)
        end_if_preempted(f"synthesize prior, {people[-1] + 1} people,")
    writer.finish(card=_card(config, writer), metadata={"config": config.name})
    barrier("synthesize prior: the data set is on disk")
    made, _ = load_synthetic(record.directory / FOLDER)
    # What is alike is told by the one extractor, and whether it is, by the other.
    judge = load_extractor(config, workdir, "judge")
    accuracy, _ = nearest_centroid_accuracy(
        embed_images(judge, real), real_labels, embed_images(judge, made.images), made.identities
    )
    verdict = (
        f"{FOLDER}: {len(made.images)} images of {number} people whom the prior learnt. An "
        f"independent recogniser names the right one of them in {accuracy:.0%} of the images."
    )
    logging.info("synthesize: %s", verdict)
    return {
        "identities": number,
        "images": len(made.images),
        "candidates_per_image": settings.candidates,
        "identity_accuracy": accuracy,
        "verdict": verdict,
    }


def _card(config: ConfigDict, writer: SyntheticDatasetWriter) -> str:
    people = len({identity for identity, _ in writer.records})
    return (
        f"# Synthetic identity data set: {config.name}, the prior's own people\n\n"
        f"{len(writer.records)} images of {people} people, one folder an identity; "
        "manifest.parquet lists identity, file, label, seed, checkpoint and how alike the rewards' "
        "extractor finds the image to the person's real ones.\n\n"
        f"Made by the generator of stage `{STAGE}` with seed {config.seed} from noise, each the "
        f"best of {config.synthesize.candidates}.\n\n"
        "## Privacy\n\n"
        "They are people of the general data, who can be recognised here: treat this data set as "
        "those data are treated. The prior has seen nobody of the target. Near copies of the "
        "general people's images were not looked for.\n"
    )
