"""The recognition networks of a run, as its config names them, and the weights they begin with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.models.resnet import FRESH_POWER
from rlsyn_jax.recognition.networks import (
    RecognitionNetwork,
    build_network,
    check_fits,
    embedding_width,
    has_pooling,
)
from rlsyn_jax.recognition.recognizer import init_recognizer
from rlsyn_jax.stages.latent_space import image_shape
from rlsyn_jax.training.checkpoints import restore_params

# What all networks of a run share, of config.recognize.
SHARED_FIELDS = tuple(
    f"recognize.{name}"
    for name in "embedding_dim pooling image_size image_width normalisation dtype".split()
)


def recognizer_network(config: ConfigDict) -> RecognitionNetwork:
    """Returns the network of the recognisers."""
    recognize = config.recognize
    return _build(config, recognize.network, recognize.width, recognize.dropout_rate)


def extractor_network(config: ConfigDict, name: str) -> RecognitionNetwork:
    """Returns the network of the extractor "reward", "judge" or "start", without dropout."""
    recognize, settings = config.recognize, config.extractor
    if name == "start":
        return _build(config, recognize.network, recognize.width, 0.0)
    if name == "judge":
        return _build(config, settings.judge_network, settings.judge_width, 0.0)
    return _build(config, settings.network, settings.width, 0.0)


def feature_width(config: ConfigDict, name: str = "reward") -> int:
    """Returns the width of an extractor's embeddings, by default of those of rewards."""
    network, shape = extractor_network(config, name), image_shape(config)
    variables = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0)
    )
    return embedding_width(network, variables, shape)


def read_weights(
    config: ConfigDict, network: RecognitionNetwork, path: str, field: str
) -> tuple[dict, dict]:
    """Reads the weights that a network is to begin with.

    Args:
        config: complete configuration.
        network: which must be that of the weights.
        path: checkpoint of models/import_weights.py, or of a run's extractor or recogniser.
        field: of the config that names the path, for errors.

    Returns:
        ("params", "batch_stats") of the network.

    Raises:
        ConfigError: the checkpoint cannot be read, or is another network's.
    """
    expected = jax.eval_shape(
        lambda: init_recognizer(network, jax.random.key(0), image_shape(config), 1)
    )
    expected = {
        "params": expected["params"]["backbone"],
        "batch_stats": expected["batch_stats"],
    }
    try:
        found = {part: restore_params(path, collection=part) for part in expected}
        found["params"] = found["params"].get("backbone", found["params"])
        if "gem" in expected["params"] and "gem" not in found["params"]:
            # Imported weights are of networks that take the mean.
            found["params"] = {**found["params"], "gem": {"p": np.full(1, FRESH_POWER, np.float32)}}
        check_fits(found, expected, f"the checkpoint {path}")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ConfigError(f"config.{field} is {path!r}: {error}") from error
    return found["params"], found["batch_stats"]


def check_starting_weights(config: ConfigDict) -> None:
    """Reads all weights that networks are to begin with, so that what is wrong is told first.

    Raises:
        ConfigError: names the field of a checkpoint that cannot be read or does not fit.
    """
    for field, name in (("weights", "reward"), ("judge_weights", "judge")):
        path = config.extractor[field]
        if path:
            read_weights(config, extractor_network(config, name), path, f"extractor.{field}")
    if config.recognize.start not in ("general", "random"):
        network = recognizer_network(config)
        read_weights(config, network, config.recognize.start, "recognize.start")


def _build(config: ConfigDict, name: str, width: int, dropout_rate: float) -> RecognitionNetwork:
    recognize = config.recognize
    height, image_width, _ = image_shape(config)
    if recognize.image_size:
        height = recognize.image_size
        image_width = recognize.image_width or height
    return build_network(
        name,
        image_size=(height, image_width),
        normalisation=recognize.normalisation,
        width=width,
        embedding_dim=recognize.embedding_dim,
        pooling=recognize.pooling if has_pooling(name) else "mean",
        dropout_rate=dropout_rate,
        dtype=recognize.dtype,
    )
