"""The run's data sets as its config names them: target, general domain, and the target's split."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import PATH_SOURCES, ConfigError
from rlsyn_jax.data.cache import cached_dataset
from rlsyn_jax.data.cuhk03 import read_cuhk03
from rlsyn_jax.data.folder import read_folder
from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.insightface import read_insightface
from rlsyn_jax.data.market1501 import read_cuhk03_np, read_market1501
from rlsyn_jax.data.msmt17 import read_msmt17
from rlsyn_jax.data.parquet_images import read_parquet
from rlsyn_jax.data.procedural import make_procedural_dataset
from rlsyn_jax.data.splits import Splits, search_split, split_dataset, training_side
from rlsyn_jax.data.tfds_source import read_tfds
from rlsyn_jax.data.veri776 import read_veri776
from rlsyn_jax.data.webdataset_tar import read_webdataset
from rlsyn_jax.stages.source_files import source_files
from rlsyn_jax.stages.stage_record import fingerprint, plain

TARGET_FIELDS = ("data", "image", "split", "seed")
_READERS = {
    "folder": read_folder,
    "insightface": read_insightface,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
    "market1501": read_market1501,
    "msmt17": read_msmt17,
    "veri776": read_veri776,
}
GENERAL_FIELDS = ("general_data", "image")
# The target that was read last, by what it was made from and where it is cached: nearly every stage
# asks for it, and decoding it, or drawing it, takes a while.
_target: dict[tuple[str, Path], IdentityDataset] = {}


def load_target(config: ConfigDict, workdir: Path) -> tuple[IdentityDataset, Splits]:
    """Returns the target data set and its split by config.split and config.seed.

    For validation it is the training side of that split, and what divides it once more.
    """
    dataset = _load(config, "data", workdir)
    divide = functools.partial(
        split_dataset,
        held_out_fraction=config.split.held_out_fraction,
        train_images_per_identity=config.split.train_images,
        closed_images_per_identity=config.split.closed_images,
        seed=config.seed,
    )
    try:
        splits = divide(dataset)
        if config.split.measures == "validation":
            dataset = training_side(dataset, splits)
            splits = divide(dataset, train_first=True)
        if len(splits.closed_query) < 2:
            raise ValueError(
                "only one image of the training identities is kept to measure by, and a set of "
                "them needs two; give more identities a second image, or set "
                f"config.split.closed_images ({config.split.closed_images}) higher"
            )
    except ValueError as error:
        raise ConfigError(f"config.data cannot be divided by config.split: {error}") from error
    return dataset, splits


def searched_source(config: ConfigDict, data: str) -> ConfigDict:
    """Returns the configuration that reads another data set as a run's target is read.

    Args:
        config: of the run, whose sizes and colours hold.
        data: SOURCE:PATH, as config.data.source and config.data.path.

    Raises:
        ConfigError: no such source, or nothing is there.
    """
    source, _, path = data.rpartition(":")
    if source not in PATH_SOURCES and not source.startswith("tfds:"):
        raise ConfigError(
            f"data set {data!r} is not known; expected SOURCE:PATH with a source of "
            f"{', '.join(PATH_SOURCES)} or tfds:NAME"
        )
    other = config.copy_and_resolve_references()
    other.data.update(source=source, path=path, min_images=1, num_identities=0, cache="")
    if source in PATH_SOURCES:
        source_files(other, "data")
    return other


def load_searched(config: ConfigDict, workdir: Path) -> tuple[IdentityDataset, Splits]:
    """Returns another data set, and a split in which everybody is searched for.

    Args:
        config: as `searched_source` returns it.
        workdir: where the images are kept.

    Raises:
        ConfigError: a data set that cannot be read or searched.
    """
    dataset = _load(config, "data", workdir)
    try:
        return dataset, search_split(dataset, seed=config.seed)
    except ValueError as error:
        raise ConfigError(f"{config.data.path} cannot be searched: {error}") from error


def load_general(config: ConfigDict, workdir: Path) -> IdentityDataset | None:
    """Returns the general-domain data set that the prior and the extractors learn from, if any.

    Of a data set with a published split, these are the training images.
    """
    if config.general_data.source == "none":
        return None
    dataset = _load(config, "general_data", workdir)
    if dataset.subsets is None:
        return dataset
    training = dataset.subset(np.flatnonzero(dataset.subsets == Subset.TRAIN), relabel=True)
    return dataclasses.replace(training, subsets=None)


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
    files = source_files(config, section) if source.source in PATH_SOURCES else []
    made_from = fingerprint([plain(source), plain(image), files])
    cache = Path(source.cache) if source.cache else Path(workdir) / "data"
    if section != "data":
        return _make(config, section, cache, made_from)
    key = made_from, cache.absolute()
    if key not in _target:
        dataset = _make(config, section, cache, made_from)
        if isinstance(dataset.images, np.ndarray):
            dataset.images.setflags(write=False)  # Other stages will have the same array.
        _target.clear()
        _target[key] = dataset
    return _target[key]


def _make(config: ConfigDict, section: str, cache: Path, made_from: str) -> IdentityDataset:
    """Draws or reads the data set of a section, and keeps of it whom the section asks for."""
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
    dataset = cached_dataset(lambda: _read(source, image), cache, made_from)
    counted = dataset.identities
    if dataset.subsets is not None:
        counted = counted[dataset.subsets == Subset.TRAIN]
    counts = np.bincount(counted, minlength=dataset.num_identities)
    kept = np.flatnonzero(counts >= source.min_images)
    if source.num_identities:
        kept = kept[: source.num_identities]
    if len(kept) < 2:
        raise ConfigError(
            f"config.{section}: {len(kept)} identities are left of {np.count_nonzero(counts)} with "
            f"min_images {source.min_images}; at least 2 are needed"
        )
    if len(kept) < np.count_nonzero(counts):
        logging.info("%s: %d of %d identities", section, len(kept), np.count_nonzero(counts))
        stays = np.isin(dataset.identities, kept)
        if dataset.subsets is not None:
            stays |= dataset.subsets != Subset.TRAIN
        dataset = dataset.subset(np.flatnonzero(stays), relabel=True)
    return dataset


def _read(source: ConfigDict, image: ConfigDict) -> IdentityDataset:
    """Reads the data set that `source` names, at the size that `image` asks for."""
    size = image.size, image.width or image.size
    options = {"image_size": size, "channels": image.channels, "resize": image.resize}
    if source.source.startswith("tfds:"):
        return read_tfds(source.source, data_dir=source.path or None, **options)
    kind, _, variant = source.source.partition(":")
    if kind == "cuhk03":
        return read_cuhk03(source.path, variant, **options)
    options["skip_damaged"] = image.skip_damaged
    if kind == "cuhk03_np":
        return read_cuhk03_np(source.path, variant, **options)
    if kind == "folder":
        options["name"] = Path(source.path).resolve().name
    return _READERS[kind](source.path, **options)
