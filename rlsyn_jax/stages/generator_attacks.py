"""Attacks on a generator by somebody who holds it: whose images trained it, and can it be made to
repeat them?
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset, to_device_range
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.evaluation.privacy.copy_figures import extraction_figures
from rlsyn_jax.evaluation.privacy.diffusion_scores import loss_scores, step_error_scores
from rlsyn_jax.evaluation.privacy.extraction import (
    NOTHING_TELLS_ALIKE,
    distance_within_people,
    extraction,
)
from rlsyn_jax.evaluation.privacy.membership import membership_inference
from rlsyn_jax.stages.generator import (
    alpha_bars,
    build_generator,
    in_batches,
    load_model,
    make_sampler,
)
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.latent_space import open_latent_space
from rlsyn_jax.stages.recognition_measures import figure
from rlsyn_jax.stages.synthesize import GENERATORS
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, replicated

FALSE_POSITIVE_RATE = 0.01
_BATCH = 64


def attack_membership(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Can one tell training images from other images of the same people by the generator's errors?

    Args:
        config: complete configuration.
        workdir: of the run.
        dataset, splits: the target; members are its training images, non-members its closed set.

    Returns:
        {generator: {"loss" or "step_error": of describe_membership}}.
    """
    attacked, classes, num_members = members_and_others(config, dataset, splits)
    score = _make_scores(config, len(splits.train_identities))
    result: dict = {}
    for name, stage in GENERATORS.items():
        scores = score(load_model(config, workdir, stage), attacked, classes)
        result[name] = {
            attack: describe_membership(config, values[:num_members], values[num_members:], classes)
            for attack, values in scores.items()
        }
    return result


def members_and_others(
    config: ConfigDict, dataset: IdentityDataset, splits: Splits
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the images that membership inference is about.

    Args:
        config: complete configuration; config.privacy.images is the most of either kind.
        dataset, splits: the target.

    Returns:
        (uint8 [m + n, h, w, c], training images and then other images of the same people; int32
        labels [m + n] of the people; m).
    """
    images, labels = train_labels(dataset, splits)
    others = dataset.images[splits.closed_query]
    other_labels = np.searchsorted(
        splits.train_identities, dataset.identities[splits.closed_query]
    ).astype(np.int32)
    members, non_members = (
        _some(number, config.privacy.images, config.seed) for number in (len(images), len(others))
    )
    return (
        np.concatenate([images[members], others[non_members]]),
        np.concatenate([labels[members], other_labels[non_members]]),
        len(members),
    )


def describe_membership(
    config: ConfigDict, member_scores: np.ndarray, other_scores: np.ndarray, people: np.ndarray
) -> dict:
    """Measures scores of members and non-members.

    Args:
        config: complete configuration.
        member_scores: float [m]. other_scores: float [n].
        people: int [m + n], in the images.

    Returns:
        {"auc", "true_positive_rate": figures, "num_members", "num_non_members"}, the rate at 1 %
        false positives, or None and "not_measured", where non-members are too few for that.
    """
    number = len(other_scores)
    measurable = number * FALSE_POSITIVE_RATE >= 1
    found = membership_inference(
        member_scores,
        other_scores,
        member_ids=people[: len(member_scores)],
        non_member_ids=people[len(member_scores) :],
        false_positive_rate=FALSE_POSITIVE_RATE if measurable else 1 / number,
        num_resamples=config.evaluate.bootstrap_resamples,
        seed=config.seed,
    )
    content = {
        "auc": figure(*found.auc),
        "true_positive_rate": figure(*found.true_positive_rate) if measurable else None,
        "num_members": found.num_members,
        "num_non_members": found.num_non_members,
    }
    if not measurable:
        content["not_measured"] = (
            f"{FALSE_POSITIVE_RATE:g} false positives are less than one of {number} non-members"
        )
    return content


def attack_extraction(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Do some of a person's samples come out alike, and beside a training image?

    Samples are drawn anew, from noise, and none is left out. Images count as the same that lie
    nearer than nearly all pairs of real images of one person.

    Args:
        config: complete configuration.
        workdir: of the run.
        dataset, splits: the target.

    Returns:
        {generator: {"share", "chance": figures, "extracted", "num_groups", "num_samples",
        "max_distance"}}, where chance is the share of held-out images that come out; or
        {"not_measured": why}.
    """
    settings, num_classes = config.privacy, len(splits.train_identities)
    images, labels = train_labels(dataset, splits)
    others = dataset.images[splits.closed_query]
    other_labels = np.searchsorted(splits.train_identities, dataset.identities[splits.closed_query])
    shown = np.unique(np.linspace(0, num_classes - 1, settings.extraction_identities).astype(int))
    (images, labels), (others, other_labels) = (
        (some[np.isin(people, shown)], people[np.isin(people, shown)])
        for some, people in ((images, labels), (others, other_labels))
    )
    max_distance = distance_within_people(
        np.concatenate([images, others]), np.concatenate([labels, other_labels]), settings.quantile
    )
    if not max_distance:
        return {"not_measured": NOTHING_TELLS_ALIKE}
    # From noise: who begins with a training image has it already.
    sampler = make_sampler(config, num_classes)
    classes = np.repeat(shown, settings.extraction_samples).astype(np.int32)
    result = {}
    for name, stage in GENERATORS.items():
        samples = _draw(config, sampler, load_model(config, workdir, stage), classes)
        find = functools.partial(
            extraction,
            samples,
            classes,
            max_distance=max_distance,
            min_duplicates=settings.extraction_duplicates,
        )
        chance = find(others, other_labels) if len(others) else None
        result[name] = extraction_figures(find(images, labels), chance, len(samples), max_distance)
    return result


def _some(number: int, most: int, seed: int) -> np.ndarray:
    """Returns the places of all, or of so many that are drawn."""
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(number, most, replace=False))


def _make_scores(config: ConfigDict, num_classes: int) -> Callable:
    """Returns (params, images uint8 [n, h, w, c], class_labels [n]) -> {attack: float [n]}."""
    settings = config.privacy
    model, space = build_generator(config, num_classes), open_latent_space(config)
    mesh = make_mesh(devices=jax.local_devices())
    common = {
        "alpha_bars": alpha_bars(config),
        "prediction_type": config.generator.prediction_type,
    }
    last = config.generator.num_timesteps - 1
    # Neither the cleanest nor the noisiest levels, where no image differs from another.
    timesteps = np.linspace(0, last, settings.noise_levels + 2).astype(int)[1:-1]
    key = jax.random.key(config.seed + 30)

    @jax.jit
    def score(params, autoencoder, key, images, class_labels):
        def denoise(*inputs):
            return model.apply({"params": params}, *inputs)

        clean = to_device_range(images)
        if space.encode is not None:
            clean, _ = space.encode(autoencoder, clean)
        return {
            "loss": loss_scores(denoise, clean, class_labels, key, timesteps=timesteps, **common),
            "step_error": step_error_scores(
                denoise,
                clean,
                class_labels,
                timestep=settings.step_error_timestep,
                interval=settings.step_error_interval,
                **common,
            ),
        }

    def scores(params, images, class_labels) -> dict:
        whole = jax.device_put((params, space.params, key), replicated(mesh))
        size = -(-_BATCH // mesh.size) * mesh.size
        parts = []
        for start in range(0, len(images), size):
            # The last batch repeats an image, so that one program serves all.
            places = np.minimum(np.arange(start, start + size), len(images) - 1)
            batch = jax.device_put((images[places], class_labels[places]), batch_sharding(mesh))
            parts.append(jax.tree.map(np.asarray, score(*whole, *batch)))
        return {
            attack: np.concatenate([part[attack] for part in parts])[: len(images)]
            for attack in parts[0]
        }

    return scores


def _draw(config, sampler, params, classes) -> np.ndarray:
    """Draws one sample a class label, in batches of the size that stage synthesize has compiled."""
    settings = config.synthesize
    size = max(1, settings.batch_size // settings.images) * settings.images
    sample = in_batches(sampler, params, jax.random.key(config.seed + 31), size)
    return sample(np.arange(len(classes)), classes)
