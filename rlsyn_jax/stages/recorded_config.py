"""The configuration that a finished part of a run was made with."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.config import default_config
from rlsyn_jax.training.checkpoints import restore_config


def recorded_config(checkpoint: str | Path) -> ConfigDict:
    """Returns the configuration that a network's checkpoint carries.

    Args:
        checkpoint: folder of an extractor, such as RUN/pretrain/extractors/reward, or of a
            recogniser, such as RUN/recognize/seed_0/real.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: its fields are not those of this version of the package.
    """
    config = default_config()
    try:
        config.update(restore_config(checkpoint))
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{checkpoint} was made by another version of this package: {error}"
        ) from error
    return config
