"""Writes the synthetic data sets: one from the cold start, one from the reinforced generator.

For the arm real_best_of there is a third one, the best of many cold-start samples. The others may
be sifted by the rewards, too: config.synthesize.candidates.

An image that lies closer to a real one than held-out real images do, by the judge or by pixels, is
a near copy: it is passed over for another candidate or drawn again with another seed, and where
there is nothing else it is left out and counted. A gate says whether a recogniser that had no part
in making the images would know the people in them. People who do not exist, and the prior's own,
have data sets of their own. The processes of a run share the people.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic
from rlsyn_jax.diffusion.image_starts import ImageStarts
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.evaluation.nearest_real import (
    averaged_pixels,
    near_threshold,
    nearest_real_distances,
)
from rlsyn_jax.stages import novel_identities, prior_people
from rlsyn_jax.stages.best_of import candidates_per_image, make_best_of_draw
from rlsyn_jax.stages.dataset_exports import export_dataset
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import in_batches, load_model, make_sampler
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.latent_space import LATENT_FIELDS, image_shape
from rlsyn_jax.stages.sample_scores import SampleScores
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.stages.training_starts import training_starts
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import barrier, own_share

FIELDS = (
    *TARGET_FIELDS,
    "generator",
    *LATENT_FIELDS,
    "synthesize",
    "rewards",
    "recognize.arms.real_best_of",
)
# Folder of a synthetic data set, and the stage whose generator makes it.
GENERATORS = {"cold_start": "adapt", "reinforced": "reinforce"}
INPUTS = ("pretrain", *GENERATORS.values())
BEST_OF = "best_of"


def data_sets(config: ConfigDict) -> dict[str, str]:
    """Returns folder and generator's stage of each data set of the training people."""
    if "real_best_of" not in config.recognize.arms:
        return GENERATORS
    return {**GENERATORS, BEST_OF: "adapt"}


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage.

    Raises:
        ConfigError: every image of a data set was left out as a near copy.
    """
    record = StageRecord(workdir, "synthesize", config, FIELDS, INPUTS)
    if record.complete:
        return
    if config.synthesize.prior_identities:
        prior_people.check_prior_people(config, workdir)
    dataset, splits = load_target(config, workdir)
    judge = load_extractor(config, workdir, "judge")
    train_images, labels = train_labels(dataset, splits)
    enrolled = embed_images(judge, train_images)
    held_out = embed_images(judge, dataset.images[splits.closed_query])
    held_out_labels = np.searchsorted(
        splits.train_identities, dataset.identities[splits.closed_query]
    )
    distances, _ = nearest_real_distances(held_out, enrolled)
    threshold = near_threshold(distances, config.synthesize.near_copy_quantile)
    pixel_threshold = _pixel_threshold(config, train_images, dataset.images[splits.closed_query])
    real_accuracy, _ = nearest_centroid_accuracy(enrolled, labels, held_out, held_out_labels)

    gate = {
        "near_copy_threshold": threshold,
        "pixel_copy_threshold": pixel_threshold,
        "real_identity_accuracy": float(real_accuracy),
    }
    scores = SampleScores(
        config,
        workdir,
        dataset,
        splits,
        judge=judge,
        enrolled=enrolled,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
    )
    starts = training_starts(config, workdir, dataset, splits)
    for name, stage in data_sets(config).items():
        counts = _write_dataset(config, record, name, stage, dataset, splits, scores, starts)
        export_dataset(config, record.directory / name)
        synthetic, _ = load_synthetic(record.directory / name)
        if not len(synthetic.images):
            raise ConfigError(
                f"synthesize {name}: all {counts['near_copies_left_out']} images were near copies "
                "of real ones; lower config.synthesize.near_copy_quantile or pixel_copy_quantile, "
                "or draw more candidates"
            )
        accuracy, _ = nearest_centroid_accuracy(
            enrolled, labels, embed_images(judge, synthetic.images), synthetic.identities
        )
        lacking = len(splits.train_identities) - len(np.unique(synthetic.identities))
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
            + (f" {lacking} people have no image left." if lacking else "")
        )
        (logging.info if usable else logging.warning)("synthesize: %s", verdict)
        gate[name] = {
            **counts,
            "people_without_images": lacking,
            "identity_accuracy": float(accuracy),
            "usable": bool(usable),
            "verdict": verdict,
        }
    if config.synthesize.identities == "novel":
        gate[novel_identities.FOLDER] = novel_identities.write_novel(
            config, record, dataset, splits
        )
        export_dataset(config, record.directory / novel_identities.FOLDER, of_target=False)
    if config.synthesize.prior_identities:
        gate[prior_people.FOLDER] = prior_people.write_prior_people(config, record)
        export_dataset(config, record.directory / prior_people.FOLDER, of_target=False)
    write_json(record.directory / "gate.json", gate)
    record.finish()


def read_gate(workdir: Path) -> dict:
    """Returns what the gate found."""
    return json.loads((Path(workdir) / "synthesize" / "gate.json").read_text())


def _write_dataset(
    config, record, name, stage, dataset, splits, scores: SampleScores, starts: ImageStarts | None
) -> dict:
    """Writes or completes one data set; returns its counts."""
    settings, workdir = config.synthesize, record.directory.parent
    num_classes = len(splits.train_identities)
    directory = record.directory / name
    identity_names = tuple(dataset.identity_names[i] for i in splits.train_identities)
    writer = SyntheticDatasetWriter(
        directory,
        identity_names=identity_names,
        image_format=settings.image_format,
        divided=True,
    )
    barrier(f"synthesize {name}: every process has read the journal")
    # Whole people at a time: set-level rewards belong to a person's set.
    people = max(1, settings.batch_size // settings.images)
    sampler = make_sampler(config, num_classes, starts)
    sample = in_batches(
        sampler,
        load_model(config, workdir, stage),
        jax.random.key(config.seed + 6),
        settings.images * people,
    )
    counts, made_by = {}, ""
    candidates = settings.candidates
    if name == BEST_OF:
        candidates = candidates_per_image(config, workdir, num_classes)
    if candidates > 1:
        draw = make_best_of_draw(config, sample, scores, num_classes, candidates)
        # As many as an iteration compares, over whom it may normalise.
        people = min(config.reinforce.identities, num_classes)
        counts["candidates_per_image"] = candidates
        made_by = f" They are the best of {candidates} times as many, by the run's rewards."
    else:
        draw = _redraw_near_copies(config, sample, scores, num_classes)

    def write_people(first: int) -> None:
        """Draws people from number `first` on, and writes what is not there of them."""
        identities = np.arange(first, first + people) % num_classes
        fresh = min(people, num_classes - first)
        wanted = [(i, n) for i in identities[:fresh] for n in range(settings.images)]
        if all(writer.existing(identity_names[i], n) for i, n in wanted):
            return
        images, seeds, distances, near = draw(identities)
        rewards = scores.rewards(images, identities)
        rewards = {reward: values.reshape(-1) for reward, values in rewards.items()}
        for row, (person, number) in enumerate(wanted):
            entry = {
                "seed": int(seeds[row]),
                "checkpoint": stage,
                "nearest_real_distance": float(distances[row]),
                **{f"reward_{reward}": float(values[row]) for reward, values in rewards.items()},
            }
            identity = identity_names[person]
            if near[row]:
                writer.reject(identity, number, entry)
            elif not writer.existing(identity, number):
                writer.write_image(identity, number, images[row], entry)
        record.note_time()

    progress = Progress(
        f"synthesize {name}", num_classes, first_step=0, every_seconds=config.log_every_seconds
    )
    for turn, part in enumerate(own_share(-(-num_classes // people)), 1):
        if part is not None:
            write_people(part * people)
        done = min(turn * jax.process_count() * people, num_classes)
        progress.update(done)
        end_if_preempted(f"synthesize {name}, {done} people,")
    writer.gather()
    counts |= {
        "images": len(writer.records),
        "near_copies_left_out": num_classes * settings.images - len(writer.records),
    }
    writer.finish(
        card=_data_card(config, name, stage, counts, scores, made_by),
        metadata={"config": config.name},
    )
    barrier(f"synthesize {name}: the data set is on disk")
    return counts


def _redraw_near_copies(
    config, sample: Callable, scores: SampleScores, num_classes: int
) -> Callable:
    """Returns identities [p] -> (samples, their numbers, distances to real images, near copies).

    A near copy is drawn again, from another number, up to config.synthesize.max_attempts times.
    """
    settings = config.synthesize

    def draw(identities):
        classes = np.repeat(identities, settings.images).astype(np.int32)
        numbers = np.tile(np.arange(settings.images), len(identities))
        images, seeds, near = None, None, np.ones(len(classes), bool)
        for attempt in range(settings.max_attempts):
            drawn = (attempt * num_classes + classes) * settings.images + numbers
            batch = sample(drawn, classes)
            if images is None:
                images, seeds = batch.copy(), drawn.copy()
            else:
                images[near], seeds[near] = batch[near], drawn[near]
            distances, near = scores.nearest_real(images)
            if not near.any():
                break
        return images, seeds, distances, near

    return draw


def _pixel_threshold(config: ConfigDict, train: np.ndarray, held_out: np.ndarray) -> float:
    """Returns the root mean squared difference below which images are near copies; 0 = none is."""
    quantile = config.synthesize.pixel_copy_quantile
    if not quantile:
        return 0.0
    distances, _ = nearest_real_distances(
        averaged_pixels(held_out), averaged_pixels(train[:]), metric="euclidean"
    )
    return near_threshold(distances, quantile)


def _data_card(
    config: ConfigDict, name: str, stage: str, counts: dict, scores: SampleScores, made_by: str
) -> str:
    solver = {"ddim": f"DDIM (eta {config.synthesize.eta})", "dpm_solver": "DPM-Solver++ 2M"}
    guided = config.synthesize.guidance_channels
    channels = f" of the first {guided} channels" if guided else ""
    height, width, _ = image_shape(config)
    strength = config.synthesize.strength
    begun = "noise"
    if strength < 1:
        begun = f"the person's training images, noised {strength:.0%} of the way"
    avoided = "passed over" if made_by else "drawn again"
    by_pixels = ""
    if scores.pixel_threshold:
        by_pixels = f" or {scores.pixel_threshold:.4f} (root mean squared difference of pixels)"
    return (
        f"# Synthetic identity data set: {config.name}, {name}\n\n"
        f"{counts['images']} images, {height} x {width} pixels, one folder "
        "an identity; manifest.parquet lists identity, file, seed, checkpoint, rewards and the "
        "distance to the nearest real training image.\n\n"
        f"Made by the generator of stage `{stage}` with seed {config.seed}, "
        f"{config.synthesize.num_steps} steps of {solver[config.synthesize.solver]} from {begun}, "
        "guidance "
        f"{config.synthesize.guidance_scale}{channels}.{made_by}\n\n"
        "## Privacy\n\n"
        "The images show the people of the training set by design: whoever is in that set can be "
        "recognised here too. Treat this data set as personal data of those people."
        + (
            " Each image was made from one of their training images.\n\n"
            if strength < 1
            else "\n\n"
        )
        + f"Images closer than {scores.threshold:.4f} (cosine distance of an independent "
        f"recogniser){by_pixels} to a real training image were {avoided}; "
        f"{counts['near_copies_left_out']} were left out.\n"
    )
