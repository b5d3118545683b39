"""The networks of a run: the sizes they see, and the weights they begin with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.recognition.embedding import embed_images
from rlsyn_jax.recognition.recognizer import init_recognizer
from rlsyn_jax.stages.networks import (
    check_starting_weights,
    extractor_network,
    feature_width,
    read_weights,
    recognizer_network,
)
from rlsyn_jax.training.checkpoints import CheckpointStore


def write(folder, network, size):
    variables = network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
    with CheckpointStore(folder) as store:
        store.save(1, variables, config={}, iterator_state=None)
    return str(folder), variables


def test_networks_see_the_size_of_recognize_or_of_the_images(program):
    config = program.config()
    assert recognizer_network(config).image_size == (16, 16)
    config = program.config(recognize={"image_size": 12, "image_width": 8})
    for name in ("reward", "judge", "start"):
        assert extractor_network(config, name).image_size == (12, 8)
    config = program.config(recognize={"image_size": 12})
    assert recognizer_network(config).image_size == (12, 12)


@pytest.mark.parametrize(
    "fields", [{}, {"extractor": {"width": 8}, "recognize": {"embedding_dim": 0}}]
)
def test_features_are_as_wide_as_they_are_planned(program, fields):
    config = program.config(**fields)
    network = extractor_network(config, "reward")
    variables = init_recognizer(network, jax.random.key(0), (16, 16, 3), 1)
    embeddings = embed_images(network, variables, np.zeros((1, 16, 16, 3), np.uint8))
    assert feature_width(config) == embeddings.shape[-1] > 0


def test_weights_come_back_and_others_are_refused_by_field(program, tmp_path):
    config = program.config()
    path, variables = write(tmp_path / "reward", extractor_network(config, "reward"), 16)
    network = extractor_network(config, "reward")
    params, statistics = read_weights(config, network, path, "extractor.weights")
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    jax.tree.map(np.testing.assert_array_equal, statistics, variables["batch_stats"])
    config.extractor.weights = path
    check_starting_weights(config)
    # Imported weights take the mean of places; the power of another pooling is fresh then.
    config.recognize.pooling = "gem"
    network = extractor_network(config, "reward")
    params, _ = read_weights(config, network, path, "extractor.weights")
    assert params["gem"]["p"].tolist() == [3.0]
    fresh = init_recognizer(network, jax.random.key(0), (16, 16, 3), 1)["params"]["backbone"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)
    np.testing.assert_array_equal(fresh["gem"]["p"], params["gem"]["p"])
    check_starting_weights(config)
    config.recognize.pooling = "mean"
    # The judge is wider.
    config.extractor.judge_weights = path
    with pytest.raises(ConfigError, match=r"config.extractor.judge_weights is .*does not fit"):
        check_starting_weights(config)
    config.extractor.judge_weights = ""
    config.recognize.start = str(tmp_path / "absent")
    with pytest.raises(ConfigError, match="config.recognize.start is .*absent"):
        check_starting_weights(config)
