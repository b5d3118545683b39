"""The run's data sets as its config names them: target, general domain, and the target's split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.cache import cached_dataset
from rlsyn_jax.data.folder import read_folder
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.procedural import make_procedural_dataset
from rlsyn_jax.data.splits import Splits, split_dataset
from rlsyn_jax.data.tfds_source import read_tfds
from rlsyn_jax.stages.stage_record import fingerprint, plain

TARGET_FIELDS = ("data", "image", "split", "seed")
GENERAL_FIELDS = ("general_data", "image")


def load_target(config: ConfigDict, workdir: Path) -> tuple[IdentityDataset, Splits]:
    """Returns the target data set and its split by config.split and config.seed."""
    dataset = _load(config, "data", workdir)
    try:
        splits = split_dataset(
            dataset,
            held_out_fraction=config.split.held_out_fraction,
            train_images_per_identity=config.split.train_images,
            closed_images_per_identity=config.split.closed_images,
            seed=config.seed,
        )
    except ValueError as error:
        raise ConfigError(f"config.data cannot be divided by config.split: {error}") from error
    return dataset, splits


def load_general(config: ConfigDict, workdir: Path) -> IdentityDataset:
    """Returns the general-domain data set that the prior and the extractors learn from."""
    return _load(config, "general_data", workdir)


def train_labels(dataset: IdentityDataset, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Returns the target's train images and their labels 0..number of train identities - 1.

    Returns:
        images uint8 [n, h, w, c] and int32 [n]; label i is splits.train_identities[i].
    """
    images = dataset.images[splits.train]
    labels = np.searchsorted(splits.train_identities, dataset.identities[splits.train])
    return images, labels.astype(np.int32)


def _load(config: ConfigDict, section: str, workdir: Path) -> IdentityDataset:
    source, image = config[section], config.image
    if source.source == "procedural":
        dataset, _ = make_procedural_dataset(
            num_identities=source.num_identities,
            images_per_identity=source.images_per_identity,
            image_size=image.size,
            seed=0,
            identity_offset=source.identity_offset,
            name="procedural people",
        )
        return dataset
    size, resize = (image.size, image.width or image.size), image.resize
    channels = image.channels

    def read() -> IdentityDataset:
        if source.source == "folder":
            return read_folder(
                source.path,
                image_size=size,
                channels=channels,
                resize=resize,
                skip_damaged=image.skip_damaged,
                name=Path(source.path).resolve().name,
            )
        return read_tfds(
            source.source,
            data_dir=source.path or None,
            image_size=size,
            channels=channels,
            resize=resize,
        )

    listing = []
    if source.source == "folder":
        root = Path(source.path)
        if not root.is_dir():
            raise ConfigError(
                f"config.{section}.path is {source.path!r}, which is not a folder; give the folder "
                "that holds one folder of images for each identity"
            )
        listing = [
            (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]
    made_from = fingerprint([plain(source), plain(image), listing])
    cache = Path(source.cache) if source.cache else Path(workdir) / "data"
    dataset = cached_dataset(read, cache, made_from)
    counts = np.bincount(dataset.identities, minlength=dataset.num_identities)
    kept = np.flatnonzero(counts >= source.min_images)
    if source.num_identities:
        kept = kept[: source.num_identities]
    if len(kept) < 2:
        raise ConfigError(
            f"config.{section}: {len(kept)} identities are left of {dataset.num_identities} with "
            f"min_images {source.min_images}; at least 2 are needed"
        )
    if len(kept) < dataset.num_identities:
        logging.info("%s: %d of %d identities", section, len(kept), dataset.num_identities)
        dataset = dataset.subset(np.flatnonzero(np.isin(dataset.identities, kept)), relabel=True)
    return dataset
