"""A synthetic data set of the prior's own people, whose samples some arms learn to tell apart, too.

The prior knows them by far more images than the target has of its people, and what it knows of how
images of a person differ reaches a recogniser through them. Nothing of the target is in them.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic
from rlsyn_jax.evaluation.identification import named_by_others, nearest_centroid_accuracy
from rlsyn_jax.stages.extractors import embed_images, load_extractor, looks_of_people
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
from rlsyn_jax.training.processes import barrier, own_share

STAGE, FOLDER = "pretrain", "prior"


def write_prior_people(config: ConfigDict, record: StageRecord) -> dict:
    """Writes or completes the data set of people whom the prior learnt.

    They are those of whom the general data have the most images, as the prior knows them best.
    Samples begin with noise. Of config.synthesize.candidates for each image those are kept that the
    rewards' extractor finds most alike to the person's real images.

    Args:
        config: complete configuration.
        record: of the stage.

    Returns:
        What gate.json has of it: {"identities", "images", "candidates_per_image",
        "identity_accuracy", "real_identity_accuracy" (None where nobody has two images), "usable",
        "verdict"}.

    Raises:
        ConfigError: see `check_prior_people`.
    """
    settings, workdir = config.synthesize, record.directory.parent
    general, params = check_prior_people(config, workdir)
    known = num_classes(params)
    number, reward = settings.prior_identities, load_extractor(config, workdir, "reward")
    chosen = people_with_most_images(general.identities, number)
    real = general.subset(np.flatnonzero(np.isin(general.identities, chosen)), relabel=True)
    real_labels = real.identities
    means = looks_of_people(reward, real.images, real_labels)
    names = tuple(general.identity_names[person] for person in chosen)
    writer = SyntheticDatasetWriter(
        record.directory / FOLDER,
        identity_names=names,
        image_format=settings.image_format,
        divided=True,
    )
    barrier("synthesize prior: every process has read the journal")
    sampler, key = make_sampler(config, known), jax.random.key(config.seed + 11)
    # Whole people at a time, whose candidates fill so many batches.
    at_once = max(1, settings.batch_size // settings.images)
    sample = in_batches(sampler, params, key, at_once * settings.images)
    drawn = settings.images * settings.candidates

    def write_people(first: int) -> None:
        """Draws people from number `first` on, and writes what is not there of them."""
        people = np.arange(first, min(first + at_once, number))
        if all(writer.existing(names[i], n) for i in people for n in range(settings.images)):
            return
        labels = np.repeat(people, drawn)
        numbers = labels * drawn + np.tile(np.arange(drawn), len(people))
        images = sample(numbers, chosen[labels].astype(np.int32))
        alike = np.einsum("nd,nd->n", embed_images(reward, images), means[labels])
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

    progress = Progress(
        "synthesize prior", number, first_step=0, every_seconds=config.log_every_seconds
    )
    for turn, part in enumerate(own_share(-(-number // at_once)), 1):
        if part is not None:
            write_people(part * at_once)
        done = min(turn * jax.process_count() * at_once, number)
        progress.update(done)
        end_if_preempted(f"synthesize prior, {done} people,")
    writer.gather()
    writer.finish(card=_card(config, writer), metadata={"config": config.name})
    barrier("synthesize prior: the data set is on disk")
    made, _ = load_synthetic(record.directory / FOLDER)
    # What is alike is told by the one extractor, and whether it is, by the other.
    judge = load_extractor(config, workdir, "judge")
    enrolled = embed_images(judge, real.images)
    accuracy, _ = nearest_centroid_accuracy(
        enrolled, real_labels, embed_images(judge, made.images), made.identities
    )
    hits, _ = named_by_others(enrolled, real_labels)
    real_accuracy = float(hits.mean()) if len(hits) else None
    usable = accuracy >= settings.gate_share * (1.0 if real_accuracy is None else real_accuracy)
    verdict = (
        f"{FOLDER}: an independent recogniser names the right one of {number} people whom the "
        f"prior learnt in {accuracy:.0%} of the synthetic images"
        + ("." if real_accuracy is None else f", and in {real_accuracy:.0%} of real images.")
        + (
            " The samples are usable."
            if usable
            else " The samples are NOT usable: they do not show the people they are labelled with. "
            "The prior may have to train longer, or knows other people than config.general_data."
        )
    )
    (logging.info if usable else logging.warning)("synthesize: %s", verdict)
    return {
        "identities": number,
        "images": len(made.images),
        "candidates_per_image": settings.candidates,
        "identity_accuracy": float(accuracy),
        "real_identity_accuracy": real_accuracy,
        "usable": bool(usable),
        "verdict": verdict,
    }


def people_with_most_images(identities: np.ndarray, number: int) -> np.ndarray:
    """Returns those with the most images; among equals, those who come first.

    Args:
        identities: int [images], of each image.
        number: of people, at most as many as there are.

    Returns:
        int [number], ascending.
    """
    counts = np.bincount(identities)
    return np.sort(np.argsort(-counts, kind="stable")[:number])


def check_prior_people(config: ConfigDict, workdir: Path) -> tuple[IdentityDataset, dict]:
    """Checks that the run's prior can be asked for config.synthesize.prior_identities.

    Args:
        config: complete configuration.
        workdir: of the run, whose stage pretrain is complete.

    Returns:
        The general people, and the prior's parameters.

    Raises:
        ConfigError: the prior knows another number of people than config.general_data has, or fewer
            than asked for.
    """
    general, params = load_general(config, workdir), load_model(config, workdir, STAGE)
    known = num_classes(params)
    check_knows_general(known, general, "synthesize.prior_identities")
    check_prior_identities(config, known)
    return general, params


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
