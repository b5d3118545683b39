"""The formats that config.synthesize.exports asks for, beside each synthetic data set."""

from __future__ import annotations

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.exports import export_insightface, export_into_market1501, export_webdataset
from rlsyn_jax.data.market1501 import cuhk03_np_folder
from rlsyn_jax.data.synthetic_writer import MOST_PEOPLE, export_market1501, read_manifest
from rlsyn_jax.training.atomic_files import whole_folder
from rlsyn_jax.training.processes import barrier, is_primary


def export_dataset(config: ConfigDict, directory: Path, *, of_target: bool = True) -> None:
    """Writes DIRECTORY_market1501, DIRECTORY_recordio and DIRECTORY_webdataset, those asked for.

    What is there already is whole, and left alone. "market1501" holds the real images too where
    those are in that layout and of the same people, and otherwise the synthetic ones alone, whose
    people are numbered anew. "recordio" holds them at the size that recognisers see.

    Args:
        config: complete configuration.
        directory: folder of a finished synthetic data set.
        of_target: whether the people in it are the target's.

    Raises:
        ValueError: the data set does not fit the format.
        StorageError: the disk is full or read-only.
    """
    if config.synthesize.exports and not read_manifest(directory)["identity"]:
        logging.warning("%s has no image to export", directory)
        return
    for kind in config.synthesize.exports:
        target = directory.with_name(f"{directory.name}_{kind}")
        if is_primary() and not target.exists():
            number = _export(config, kind, directory, target, of_target)
            logging.info("synthesize: %d images as %s in %s", number, kind, target)
        barrier(f"synthesize: {target.name} is written")


def real_images(config: ConfigDict) -> Path | None:
    """Returns the folder of the target's images where those are in Market-1501's layout."""
    kind, _, boxes = config.data.source.partition(":")
    if kind == "cuhk03_np":
        return cuhk03_np_folder(config.data.path, boxes)
    return Path(config.data.path) if kind == "market1501" else None


def check_exports(config: ConfigDict, num_identities: int) -> None:
    """Checks that the formats that are asked for hold as many people as data sets will have.

    Args:
        config: complete configuration.
        num_identities: of the target, that train.

    Raises:
        ConfigError: one does not.
    """
    if "market1501" not in config.synthesize.exports:
        return
    numbered_anew = [config.synthesize.prior_identities]
    if config.synthesize.identities == "novel":
        numbered_anew.append(config.synthesize.num_novel)
    if real_images(config) is None:
        numbered_anew.append(num_identities)
    if max(numbered_anew) > MOST_PEOPLE:
        raise ConfigError(
            f"config.synthesize.exports has 'market1501', whose names hold {MOST_PEOPLE} people, "
            f"and a data set will have {max(numbered_anew)}; leave it out"
        )


def _export(config: ConfigDict, kind: str, directory: Path, target: Path, of_target: bool) -> int:
    if kind == "recordio":
        recognize = config.recognize
        size = recognize.image_size, recognize.image_width or recognize.image_size
        return export_insightface(
            directory, target, image_size=size if recognize.image_size else None
        )
    if kind == "webdataset":
        return export_webdataset(directory, target)
    real = real_images(config)
    if of_target and real is not None:
        return export_into_market1501(directory, real, target)
    with whole_folder(target) as folder:
        return export_market1501(directory, folder)
