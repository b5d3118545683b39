"""What the synthetic sets and their generators give away about the people they were made from.

A set of the same identities shows those people by design. The measures ask for more: whether single
training images were copied or can be drawn out, how often an image shows its person at a threshold
in use, and whether one can tell which images of a person trained the generator or a recogniser.

metrics.json's "privacy": {"memorisation": {space: {set: ...}}, "identity_leakage": {false accept
rate: {set: ...}}, "membership": {generator: {attack: ...}}, "recognizer_membership": {arm: ...},
"extraction": {generator: ...}}, with
{"not_measured": why} in place of what cannot be. Beside it, nearest_SPACE.png: the synthetic images
after reinforcement nearest to a training image, in the row below it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.evaluation.nearest_real import averaged_pixels
from rlsyn_jax.evaluation.privacy.copy_figures import (
    SHOWN,
    closest_images,
    memorisation_figures,
    too_few_held_out,
)
from rlsyn_jax.evaluation.privacy.leakage_figures import leakage_figures
from rlsyn_jax.evaluation.privacy.memorisation import Memorisation, memorisation
from rlsyn_jax.evaluation.privacy.nearer_to_training import nearer_to_training
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator_attacks import attack_extraction, attack_membership
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.recognizer_attacks import attack_recognizers
from rlsyn_jax.stages.synthesize import data_sets
from rlsyn_jax.training.image_grids import make_grid, save_png

SPACES = ("judge", "reward", "pixels")


@dataclasses.dataclass(frozen=True)
class _Images:
    """Images and the labels of the people in them."""

    images: np.ndarray
    people: np.ndarray


def measure_privacy(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Runs the attacks of config.privacy.attacks.

    Args:
        config: complete configuration.
        workdir: of the run; pictures go to its folder evaluate/.
        dataset, splits: the target.

    Returns:
        {attack: what it found}.
    """
    images, labels = train_labels(dataset, splits)
    closed = splits.closed_query
    train = _Images(images, labels)
    held_out = _Images(
        dataset.images[closed],
        np.searchsorted(splits.train_identities, dataset.identities[closed]),
    )
    sets = {}
    for name in data_sets(config):
        synthetic, columns = load_synthetic(Path(workdir) / "synthesize" / name)
        if len(synthetic.images):
            sets[name] = (_Images(synthetic.images, synthetic.identities), columns["file"])

    def memorise():
        return {
            space: _memorisation(config, workdir, space, train, held_out, sets) for space in SPACES
        }

    def leak():
        unseen = np.concatenate(
            [splits.open_query, splits.open_gallery[splits.open_gallery_people > 0]]
        )
        # Labels beyond those of the people that were trained on.
        strangers = dataset.identities[unseen] + len(splits.train_identities)
        return _leakage(config, workdir, train, held_out, sets, dataset.images[unseen], strangers)

    attacks: dict[str, Callable[[], dict]] = {
        "memorisation": memorise,
        "identity_leakage": leak,
        "membership": lambda: attack_membership(config, workdir, dataset, splits),
        "recognizer_membership": lambda: attack_recognizers(config, workdir, dataset, splits),
        "extraction": lambda: attack_extraction(config, workdir, dataset, splits),
    }
    if not len(closed):
        for name in ("memorisation", "membership", "recognizer_membership"):
            attacks[name] = _without_held_out
    return {name: attacks[name]() for name in attacks if name in config.privacy.attacks}


def _without_held_out() -> dict:
    return {"not_measured": "no image of the training people is held out"}


def _memorisation(config, workdir, space: str, train, held_out, sets) -> dict:
    """Compares nearest training images of synthetic and held-out images in one feature space."""
    quantile = config.privacy.quantile
    reason = too_few_held_out(len(held_out.images), quantile)
    if reason:
        return {"not_measured": reason}
    features = _features(config, workdir, space)
    real, other = features(train.images), features(held_out.images)
    result = {}
    settings: dict = {
        "metric": "euclidean" if space == "pixels" else "cosine",
        "num_resamples": config.evaluate.bootstrap_resamples,
        "seed": config.seed,
    }
    for name, (synthetic, files) in sets.items():
        drawn = features(synthetic.images)
        found = memorisation(
            drawn,
            real,
            other,
            synthetic_ids=synthetic.people,
            held_out_ids=held_out.people,
            quantile=quantile,
            **settings,
        )
        nearer = nearer_to_training(
            drawn, synthetic.people, real, train.people, other, held_out.people, **settings
        )
        result[name] = memorisation_figures(found, nearer, files)
        if name == "reinforced":
            picture = _pairs_picture(synthetic.images, train.images, found)
            save_png(Path(workdir) / "evaluate" / f"nearest_{space}.png", picture)
    return result


def _pairs_picture(synthetic, train, found: Memorisation) -> np.ndarray:
    """Rows of synthetic images, each above the training images nearest to them."""
    closest = closest_images(found)
    columns = min(SHOWN, len(closest))
    pairs = np.stack([synthetic[closest], train[found.nearest[closest]]])
    return make_grid(rearrange(pairs, "two n h w c -> n (two h) w c"), columns)


def _features(config, workdir, space: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what maps uint8 images [n, h, w, c] to features [n, dim]."""
    if space == "pixels":
        return averaged_pixels
    extractor = load_extractor(config, workdir, space)
    return lambda images: embed_images(extractor, images)


def _leakage(config, workdir, train, held_out, sets, unseen, strangers) -> dict:
    """How often images match their own and other training people; held-out images beside."""
    people = len(np.unique(strangers))
    if people < 2:
        return {"not_measured": f"{people} unseen people give no impostor pairs"}
    judge = load_extractor(config, workdir, "judge")
    compared = {name: images for name, (images, _) in sets.items()}
    if len(held_out.images):
        compared = {"held_out": held_out, **compared}
    return leakage_figures(
        {
            name: (embed_images(judge, images.images), images.people)
            for name, images in compared.items()
        },
        embed_images(judge, train.images),
        train.people,
        embed_images(judge, unseen),
        strangers,
        num_resamples=config.evaluate.bootstrap_resamples,
        seed=config.seed,
    )
