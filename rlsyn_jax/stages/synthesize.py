"""Writes the synthetic data sets: one from the cold start, one from the reinforced generator.

An image that lies closer to a real one than held-out real images do is a near copy: it is drawn
again with another seed, and where it stays one it is left out and counted. A gate says whether a
recogniser that had no part in making the images would know the people in them.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.stages.dataset_exports import export_dataset
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import load_model, make_sampler
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.latent_space import LATENT_FIELDS, image_shape
from rlsyn_jax.stages.novel_identities import FOLDER, write_novel
from rlsyn_jax.stages.reinforce import resolve_rewards
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import barrier

FIELDS = (*TARGET_FIELDS, "generator", *LATENT_FIELDS, "synthesize", "rewards")
# Folder of a synthetic data set, and the stage whose generator makes it.
GENERATORS = {"cold_start": "adapt", "reinforced": "reinforce"}
INPUTS = ("pretrain", *GENERATORS.values())


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "synthesize", config, FIELDS, INPUTS)
    if record.complete:
        return
    dataset, splits = load_target(config, workdir)
    judge = load_extractor(config, workdir, "judge")
    train_images, labels = train_labels(dataset, splits)
    enrolled = embed_images(judge, train_images)
    held_out = embed_images(judge, dataset.images[splits.closed_query])
    held_out_labels = np.searchsorted(
        splits.train_identities, dataset.identities[splits.closed_query]
    )
    distances, _ = nearest_real_distances(held_out, enrolled)
    threshold = float(np.quantile(distances, config.synthesize.near_copy_quantile))
    real_accuracy, _ = nearest_centroid_accuracy(enrolled, labels, held_out, held_out_labels)

    gate = {"near_copy_threshold": threshold, "real_identity_accuracy": float(real_accuracy)}
    for name, stage in GENERATORS.items():
        counts = _write_dataset(
            config, workdir, record, name, stage, dataset, splits, judge, enrolled, threshold
        )
        export_dataset(config, record.directory / name)
        synthetic, _ = load_synthetic(record.directory / name)
        accuracy, _ = nearest_centroid_accuracy(
            enrolled, labels, embed_images(judge, synthetic.images), synthetic.identities
        )
        usable = accuracy >= config.synthesize.gate_share * real_accuracy
        verdict = (
            f"{name}: an independent recogniser names the right one of "
            f"{len(splits.train_identities)} people in {accuracy:.0%} of the synthetic images, and "
            f"in {real_accuracy:.0%} of held-out real images. "
            + (
                "The samples are usable."
                if usable
                else "The samples are NOT usable: they do not show the people they are labelled "
                "with, and training on them is expected to do harm."
            )
            + (
                " That recogniser misses most real images too, so its word is weak."
                if real_accuracy < 0.5
                else ""
            )
        )
        (logging.info if usable else logging.warning)("synthesize: %s", verdict)
        gate[name] = {
            **counts,
            "identity_accuracy": float(accuracy),
            "usable": bool(usable),
            "verdict": verdict,
        }
    if config.synthesize.identities == "novel":
        gate[FOLDER] = write_novel(config, record, dataset, splits)
        export_dataset(config, record.directory / FOLDER)
    write_json(record.directory / "gate.json", gate)
    record.finish()


def read_gate(workdir: Path) -> dict:
    """Returns what the gate found."""
    return json.loads((Path(workdir) / "synthesize" / "gate.json").read_text())


def _write_dataset(
    config, workdir, record, name, stage, dataset, splits, judge, enrolled, threshold
) -> dict:
    """Writes or completes one data set; returns its counts."""
    settings = config.synthesize
    num_classes = len(splits.train_identities)
    directory = record.directory / name
    identity_names = tuple(dataset.identity_names[i] for i in splits.train_identities)
    writer = SyntheticDatasetWriter(
        directory, identity_names=identity_names, image_format=settings.image_format
    )
    barrier(f"synthesize {name}: every process has read the journal")
    sampler = make_sampler(config, num_classes)
    params = load_model(config, workdir, stage)
    rewards, _ = resolve_rewards(config)
    reward_extractor = load_extractor(config, workdir, "reward")
    train_images, labels = train_labels(dataset, splits)
    bank = build_reference_bank(embed_images(reward_extractor, train_images), labels, num_classes)
    score = jax.jit(
        lambda embeddings, references: {
            reward: function(embeddings, references) for reward, function in rewards.items()
        }
    )
    progress = Progress(
        f"synthesize {name}", num_classes, first_step=0, every_seconds=config.log_every_seconds
    )
    # Whole people at a time: set-level rewards belong to a person's set.
    people = max(1, settings.batch_size // settings.images)
    for first in range(0, num_classes, people):
        identities = np.arange(first, first + people) % num_classes
        fresh = min(people, num_classes - first)
        wanted = [(i, n) for i in identities[:fresh] for n in range(settings.images)]
        if all(writer.existing(identity_names[i], n) for i, n in wanted):
            progress.update(first + fresh)
            continue
        classes = np.repeat(identities, settings.images).astype(np.int32)
        numbers = np.tile(np.arange(settings.images), people)
        images, seeds, near = None, None, np.ones(len(classes), bool)
        for attempt in range(settings.max_attempts):
            drawn = (attempt * num_classes + classes) * settings.images + numbers
            batch = np.asarray(sampler(params, jax.random.key(config.seed + 6), drawn, classes))
            if images is None:
                images, seeds = batch.copy(), drawn.copy()
            else:
                images[near], seeds[near] = batch[near], drawn[near]
            distance, _ = nearest_real_distances(embed_images(judge, images), enrolled)
            near = distance < threshold
            if not near.any():
                break
        embeddings = embed_images(reward_extractor, images)
        scores = score(
            jnp.asarray(embeddings.reshape(people, settings.images, -1)),
            bank.take(jnp.asarray(identities)),
        )
        scores = {reward: np.asarray(value).reshape(-1) for reward, value in scores.items()}
        for row in range(fresh * settings.images):
            entry = {
                "seed": int(seeds[row]),
                "checkpoint": stage,
                "nearest_real_distance": float(distance[row]),
                **{f"reward_{reward}": float(value[row]) for reward, value in scores.items()},
            }
            identity = identity_names[classes[row]]
            if near[row]:
                writer.reject(identity, int(numbers[row]), entry)
            elif not writer.existing(identity, int(numbers[row])):
                writer.write_image(identity, int(numbers[row]), images[row], entry)
        record.note_time()
        progress.update(first + fresh)
        end_if_preempted(f"synthesize {name}, {first + fresh} people,")
    counts = {
        "images": len(writer.records),
        "near_copies_left_out": num_classes * settings.images - len(writer.records),
    }
    writer.finish(
        card=_data_card(config, name, stage, counts, threshold), metadata={"config": config.name}
    )
    barrier(f"synthesize {name}: the data set is on disk")
    return counts


def _data_card(config: ConfigDict, name: str, stage: str, counts: dict, threshold: float) -> str:
    solver = {"ddim": f"DDIM (eta {config.synthesize.eta})", "dpm_solver": "DPM-Solver++ 2M"}
    guided = config.synthesize.guidance_channels
    channels = f" of the first {guided} channels" if guided else ""
    height, width, _ = image_shape(config)
    return (
        f"# Synthetic identity data set: {config.name}, {name}\n\n"
        f"{counts['images']} images, {height} x {width} pixels, one folder "
        "an identity; manifest.parquet lists identity, file, seed, checkpoint, rewards and the "
        "distance to the nearest real training image.\n\n"
        f"Made by the generator of stage `{stage}` with seed {config.seed}, "
        f"{config.synthesize.num_steps} steps of {solver[config.synthesize.solver]}, guidance "
        f"{config.synthesize.guidance_scale}{channels}.\n\n"
        "## Privacy\n\n"
        "The images show the people of the training set by design: whoever is in that set can be "
        "recognised here too. Treat this data set as personal data of those people.\n\n"
        f"Images closer than {threshold:.4f} (cosine distance of an independent recogniser) to a "
        f"real training image were drawn again; {counts['near_copies_left_out']} were left out.\n"
    )
