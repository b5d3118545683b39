"""A finished run's embeddings of its synthetic and its real images, for the selection command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_target, train_labels


def embed_for_selection(
    config: ConfigDict, workdir: str | Path, manifest: str | Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeds a manifest's images and the run's training images by the extractor "reward".

    Args:
        config: of the run.
        workdir: of the run.
        manifest: a synthetic data set's manifest, beside its images.

    Returns:
        (float32 [n, d] in the manifest's order; float32 [m, d]; m names of the people in the real
        images).

    Raises:
        ValueError: the manifest is not of a synthetic data set, or an image is damaged.
    """
    synthetic, _ = load_synthetic(manifest)
    dataset, splits = load_target(config, Path(workdir))
    images, labels = train_labels(dataset, splits)
    names = [dataset.identity_names[label] for label in splits.train_identities]
    extractor = load_extractor(config, Path(workdir), "reward")
    return (
        embed_images(extractor, synthetic.images),
        embed_images(extractor, images),
        [names[label] for label in labels],
    )
