"""The training images that samples of training people begin with, where a run wants that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset, to_device_range
from rlsyn_jax.data.padded_groups import padded_groups
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.diffusion.image_starts import ImageStarts
from rlsyn_jax.stages.inputs import train_labels
from rlsyn_jax.stages.latent_space import encoded_images


def training_starts(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> ImageStarts | None:
    """Returns each training person's images as the generator has them, or None for pure noise.

    Args:
        config: complete configuration; config.synthesize.strength decides.
        workdir: of the run, for the latents that the cold start was trained on.
        dataset, splits: the target.
    """
    if config.synthesize.strength == 1:
        return None
    images, labels = train_labels(dataset, splits)
    images = encoded_images(config, workdir, "target", images, mirrored=config.adapt.flip)
    if config.autoencoder.path:
        # Of the image as it is, the mean of its latents.
        samples = images[:][:, 0, 0].astype(np.float32)
    else:
        samples = np.asarray(to_device_range(images[:]))
    return group_by_class(samples, labels, len(splits.train_identities))


def group_by_class(images: np.ndarray, class_labels: np.ndarray, num_classes: int) -> ImageStarts:
    """Groups clean samples by class, on the host; within a class the order is kept.

    Args:
        images: float32 [n, h, w, c].
        class_labels: int [n], each of 0..num_classes - 1 at least once.
        num_classes: number of classes.

    Raises:
        ValueError: a class has no image.
    """
    grouped, counts = padded_groups(images.astype(np.float32), class_labels, num_classes)
    if not counts.all():
        raise ValueError(f"classes {np.flatnonzero(counts == 0)[:8].tolist()} have no image")
    return ImageStarts(grouped, counts)
