"""How many people and images a run has, counted without reading an image."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.folder import count_images

# Their query and gallery are the open set.
_WITH_SPLIT = ("market1501", "cuhk03_np", "cuhk03", "msmt17", "veri776")
_ASSUMED_IMAGES = 72


def count_general(config: ConfigDict) -> int:
    """Returns how many people the prior is trained on.

    Raises:
        ConfigError: the data set is not there, or cannot be counted without reading it.
    """
    return len(_images_of_people(config, "general_data"))


def count_general_images(config: ConfigDict) -> int:
    """Returns how many images the prior is trained on; raises as `count_general`."""
    return sum(_images_of_people(config, "general_data"))


def count_target(config: ConfigDict) -> tuple[int, int]:
    """Returns how many people of the target train, and the most images that one of them has.

    Which people are held out is not looked at, so the second number is that of anybody. Of data
    sets with a published split config.data.num_identities are the people who train. Where all of
    their images do, as many are assumed as the person of Market-1501 has who has the most.

    Raises:
        ConfigError: the data set is not there, or cannot be counted without reading it.
    """
    images, split = _images_of_people(config, "data"), config.split
    held_out = round(split.held_out_fraction * len(images))
    held_out = max(held_out, 1) if split.held_out_fraction > 0 else 0
    if config.data.source.partition(":")[0] in _WITH_SPLIT:
        held_out = 0
    left = max(images) - min(split.closed_images, max(images) - 1)
    return len(images) - held_out, min(split.train_images or left, left)


def _images_of_people(config: ConfigDict, section: str) -> list[int]:
    """Returns the number of images of each person of a data set."""
    source = config[section]
    if source.source == "procedural":
        return [source.images_per_identity] * source.num_identities
    if source.source == "folder":
        if not Path(source.path).is_dir():
            raise ConfigError(f"config.{section}.path is {source.path!r}, which is not a folder")
        counts = [n for n in count_images(source.path).values() if n >= source.min_images]
        counts = counts[: source.num_identities or None]
        if len(counts) < 2:
            raise ConfigError(
                f"config.{section}: {len(counts)} identities of {source.path} are left with "
                f"min_images {source.min_images}; at least 2 are needed"
            )
        return counts
    if not source.num_identities:
        raise ConfigError(
            f"config.{section}.num_identities is 0 (all), and {source.source!r} cannot be counted "
            "without reading it; set it to the number of people, for the plan"
        )
    train_images = config.split.train_images or _ASSUMED_IMAGES
    return [train_images + config.split.closed_images] * source.num_identities
