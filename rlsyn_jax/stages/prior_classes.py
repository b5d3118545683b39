"""Whom a generator knows: its class rows, and whether they can be the general people's."""

from __future__ import annotations

from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.identity_dataset import IdentityDataset


def num_classes(params: dict) -> int:
    """Returns how many classes a generator's table has, without the null row."""
    return params["y_embedder"]["embedding_table"].shape[0] - 1


def num_prior_classes(config: ConfigDict, general: int) -> int:
    """Returns how many class rows a prior has that is trained on so many general people."""
    return 1 if config.pretrain.class_rows == "shared" else general


def check_prior_identities(config: ConfigDict, known: int) -> None:
    """Checks that there are as many people as config.synthesize.prior_identities says.

    Args:
        config: complete configuration.
        known: people whom the prior knows.

    Raises:
        ConfigError: there are fewer.
    """
    if config.synthesize.prior_identities > known:
        raise ConfigError(
            f"config.synthesize.prior_identities is {config.synthesize.prior_identities}, and the "
            f"prior knows {known} people; set it to {known} or less"
        )


def check_knows_general(known: int, general: IdentityDataset, setting: str) -> None:
    """Checks that a prior's class rows can be those of the general people.

    Args:
        known: rows of the prior.
        general: the general-domain data set.
        setting: the field that needs it, for the message.

    Raises:
        ConfigError: the numbers differ.
    """
    if known != general.num_identities:
        raise ConfigError(
            f"config.{setting} needs a prior that knows the people of config.general_data; it has "
            f"rows for {known}, and there are {general.num_identities}"
        )
