"""Where the class rows of the target's people begin."""

import numpy as np
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.stages.adapt import class_means, rows_by_appearance
from rlsyn_jax.training.checkpoints import restore_params


def test_rows_begin_where_the_looks_of_people_say(program, tmp_path):
    fields = {"adapt.class_rows": "embedding", "adapt.steps": 1, "adapt.learning_rate": 1e-9}
    log = program.run(tmp_path, "--stages=pretrain,adapt", fields=fields)
    assert "% of what sets the prior's class rows apart" in log
    config = program.config()
    config.update_from_flattened_dict(fields)
    prior = restore_params(tmp_path / "pretrain" / "model")
    expected = rows_by_appearance(config, tmp_path, prior)
    table = restore_params(tmp_path / "adapt" / "model")["y_embedder"]["embedding_table"]
    np.testing.assert_allclose(table[:-1], expected, atol=1e-5)
    known = np.asarray(prior["y_embedder"]["embedding_table"])
    np.testing.assert_allclose(table[-1], known[-1], atol=1e-5)
    # Another generator's people are others.
    prior["y_embedder"]["embedding_table"] = known[1:]
    with pytest.raises(ConfigError, match="it has rows for 5, and there are 6"):
        rows_by_appearance(config, tmp_path, prior)


def test_means_of_classes():
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    means = class_means(embeddings, np.array([1, 0, 1]))
    np.testing.assert_allclose(means, [[0.0, 2.0], [2.0, 0.0]])
