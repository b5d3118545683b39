"""What of a run's folders does not fit what they are for, told before anything is made."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.config import PATH_SOURCES, ConfigError, field
from rlsyn_jax.data.exports import check_not_mistaken
from rlsyn_jax.stages.dataset_exports import real_images

_CACHES = ("data.cache", "general_data.cache", "autoencoder.cache", "pretrain.cache")


def check_folders(config: ConfigDict, workdir: Path) -> None:
    """Checks where a run writes.

    Args:
        config: complete configuration.
        workdir: of the run.

    Raises:
        ConfigError: the run would write among the files of a data set that it reads, which would
            be another one then.
        ValueError: the run exports into Market-1501's layout from a folder whose path that
            layout's readers would take for an image's.
    """
    written = {"--workdir": workdir}
    written |= {f"config.{path}": field(config, path) for path in _CACHES if field(config, path)}
    for section in ("data", "general_data"):
        source = config[section]
        if source.source not in PATH_SOURCES or not source.path:
            continue
        root = Path(source.path).resolve()
        for name, folder in written.items():
            if Path(folder).resolve().is_relative_to(root):
                raise ConfigError(
                    f"{name} is {str(folder)!r}, inside of config.{section}.path "
                    f"({source.path!r}): what the run writes there would count as part of the data "
                    "set; choose a folder outside of it"
                )
    if "market1501" in config.synthesize.exports and real_images(config) is not None:
        check_not_mistaken(workdir)
