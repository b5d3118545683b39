"""A synthetic data set of people who do not exist, which no training person is recognised in.

Their class embeddings lie between or away from the training people's. An image that the judge takes
for any training person is left out; a person of whom less than half of the images are left is left
out as a whole, and the next candidate takes the place.
"""

from __future__ import annotations

from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter
from rlsyn_jax.evaluation.verification import has_both_kinds, pairs_of_both_kinds, true_accept_rate
from rlsyn_jax.models.novel_classes import novel_class_rows
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import load_model, make_sampler
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import barrier

STAGE, FOLDER = "reinforce", "novel"
FALSE_ACCEPT_RATE = 1e-3
_PAIRS = 200_000
_TABLE = "y_embedder/embedding_table"


def match_threshold(
    config: ConfigDict, embeddings: np.ndarray, people: np.ndarray
) -> tuple[float, float]:
    """Returns the similarity above which two images count as one person, by unseen people.

    Args:
        config: complete configuration.
        embeddings: float [n, dim], unit, of people that nothing was trained on. people: int [n].

    Returns:
        (cosine similarity, false accept rate it was set at: 1e-3, or one impostor pair where there
        are fewer than 1000).

    Raises:
        ValueError: there are no pairs of both kinds (`check_unseen_people`).
    """
    first, second, is_same = pairs_of_both_kinds(people, _PAIRS, config.seed)
    if is_same.all() or not is_same.any():
        raise ValueError("a threshold needs pairs of one person and of two")
    rate = max(FALSE_ACCEPT_RATE, 1 / int((~is_same).sum()))
    similarities = np.einsum("nd,nd->n", embeddings[first], embeddings[second])
    return true_accept_rate(similarities, is_same, rate).threshold, rate


def check_unseen_people(config: ConfigDict, dataset: IdentityDataset, splits: Splits) -> None:
    """Checks that there are pairs of unseen people to set the threshold by.

    Raises:
        ConfigError: there are none.
    """
    _, people = unseen_images(dataset, splits)
    if not has_both_kinds(people):
        raise ConfigError(
            "config.synthesize.identities is 'novel', and the threshold above which an image shows "
            f"a training person needs two unseen people, one of them with two images; "
            f"{len(np.unique(people))} are held out: set config.split.held_out_fraction higher"
        )


def unseen_images(dataset: IdentityDataset, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of people that nothing was trained on, and who is in them."""
    known = splits.open_gallery[splits.open_gallery_people > 0]
    places = np.concatenate([splits.open_query, known])
    return dataset.images[places], dataset.identities[places]


def write_novel(
    config: ConfigDict,
    record: StageRecord,
    dataset: IdentityDataset,
    splits: Splits,
) -> dict:
    """Writes or completes the data set of people who do not exist.

    Labels count on from those of the training people, who have no image in it.

    Args:
        config: complete configuration.
        record: of the stage.
        dataset, splits: the target.

    Returns:
        What gate.json has of it: {"identities", "candidates", "images", "left_out", "threshold",
        "false_accept_rate", "verdict"}.
    """
    settings, workdir = config.synthesize, record.directory.parent
    judge = load_extractor(config, workdir, "judge")
    train_images, _ = train_labels(dataset, splits)
    enrolled = embed_images(judge, train_images)
    unseen, unseen_people = unseen_images(dataset, splits)
    threshold, rate = match_threshold(config, embed_images(judge, unseen), unseen_people)

    training_names = tuple(dataset.identity_names[i] for i in splits.train_identities)
    names = tuple(f"novel_{number:05d}" for number in range(settings.num_novel))
    writer = SyntheticDatasetWriter(
        record.directory / FOLDER,
        identity_names=(*training_names, *names),
        image_format=settings.image_format,
    )
    barrier("synthesize novel: every process has read the journal")
    number = settings.num_novel * settings.max_attempts
    params = _with_novel_classes(config, workdir, number)
    sampler = make_sampler(config, number)
    progress = Progress(
        "synthesize novel",
        settings.num_novel,
        first_step=0,
        every_seconds=config.log_every_seconds,
    )
    at_once = max(1, settings.batch_size // settings.images)
    found, first = _reached(writer, at_once)
    while found < settings.num_novel and first < number:
        candidates = np.minimum(np.arange(first, first + at_once), number - 1)
        classes = np.repeat(candidates, settings.images).astype(np.int32)
        drawn = classes * settings.images + np.tile(np.arange(settings.images), at_once)
        images = np.asarray(sampler(params, jax.random.key(config.seed + 8), drawn, classes))
        similarity = (embed_images(judge, images) @ enrolled.T).max(axis=1)
        for place in range(min(at_once, number - first)):
            rows = slice(place * settings.images, (place + 1) * settings.images)
            matches = similarity[rows] >= threshold
            if found == settings.num_novel or 2 * matches.sum() > settings.images:
                continue
            for image_number, row in enumerate(range(rows.start, rows.stop)):
                entry = {
                    "label": len(training_names) + found,
                    "seed": int(drawn[row]),
                    "checkpoint": STAGE,
                    "candidate": first + place,
                    "nearest_real_distance": float(1 - similarity[row]),
                }
                if writer.existing(names[found], image_number):
                    continue
                if matches[image_number]:
                    writer.reject(names[found], image_number, entry)
                else:
                    writer.write_image(names[found], image_number, images[row], entry)
            found += 1
        first += at_once
        record.note_time()
        progress.update(found)
        end_if_preempted(f"synthesize novel, {found} people,")
    candidates = min(first, number)
    gate = {
        "identities": found,
        "candidates": candidates,
        "images": len(writer.records),
        "left_out": len(writer.rejected),
        "threshold": threshold,
        "false_accept_rate": rate,
        "verdict": f"novel: {found} of {settings.num_novel} people who do not exist, "
        f"of {candidates} candidates. None of their {len(writer.records)} images is taken for a "
        f"training person by the judge, at a threshold that {rate:.2%} of pairs of unseen people "
        f"pass; {len(writer.rejected)} other images of them were left out.",
    }
    writer.finish(card=_card(config, gate), metadata={"config": config.name})
    barrier("synthesize novel: the data set is on disk")
    (logging.info if found == settings.num_novel else logging.warning)(
        "synthesize: %s", gate["verdict"]
    )
    return gate


def _reached(writer: SyntheticDatasetWriter, at_once: int) -> tuple[int, int]:
    """Returns how many people are done, and the candidate to go on with.

    The last batch of candidates may lack images. It is drawn again as a whole, so that nothing is
    computed in another company than before, which would change last digits.
    """
    candidates = {entry["candidate"] for entry in writer.records.values()}
    first = max(candidates, default=0) // at_once * at_once
    return sum(candidate < first for candidate in candidates), first


def _with_novel_classes(config: ConfigDict, workdir: Path, number: int) -> dict:
    """Returns the reinforced generator with proposed rows in place of the training people's."""
    flat = flax.traverse_util.flatten_dict(load_model(config, workdir, STAGE), sep="/")
    table = np.asarray(flat[_TABLE])
    rows = novel_class_rows(table[:-1], number, config.synthesize.novel, config.seed)
    flat[_TABLE] = jnp.concatenate([jnp.asarray(rows, table.dtype), table[-1:]])
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _card(config: ConfigDict, gate: dict) -> str:
    return (
        f"# Synthetic identity data set: {config.name}, people who do not exist\n\n"
        f"{gate['images']} images of {gate['identities']} people, one folder an identity; "
        "manifest.parquet lists identity, file, label (counting on from the training people's), "
        "seed, checkpoint, candidate and the distance to the nearest real training image.\n\n"
        f"Made by the generator of stage `{STAGE}` with seed {config.seed}, from class embeddings "
        f"{config.synthesize.novel} the training people's.\n\n"
        "## Privacy\n\n"
        f"{gate['verdict']} Other recognisers may see it differently, and the generator was "
        "trained on the training people: that somebody is not recognised here is no proof that "
        "nothing of them is in the images.\n"
    )
