"""A prior whose rows are told from another image of the person: a run by it, kept and resumed."""

import shutil

import numpy as np
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.config_checks import validate
from rlsyn_jax.stages.extractors import class_means, embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.pretrain import prior_fingerprint
from rlsyn_jax.training.appearance_rows import class_table
from rlsyn_jax.training.checkpoints import restore_params

FIELDS = {"pretrain.class_rows": "appearance", "adapt.class_rows": "embedding"}


def table_of(folder):
    params = restore_params(folder)
    # Checkpoints of training hold the part that trains.
    return params.get("params", params)["y_embedder"]["embedding_table"]


def test_people_have_the_rows_that_their_looks_tell(program, tmp_path):
    cache, first, second = (tmp_path / name for name in ("cache", "first", "second"))
    fields = {**FIELDS, "pretrain.cache": str(cache), "pretrain.checkpoint_every": 2}
    program.run(first, "--stages=pretrain,adapt", fields=fields)
    config = program.config()
    general = load_general(config, first)
    extractor = load_extractor(config, first, "start")
    means = class_means(embed_images(extractor, general.images), general.identities)
    learnt, table = (table_of(first / "pretrain" / part) for part in ("checkpoints", "model"))
    assert learnt.shape[0] == means.shape[1] + 2
    np.testing.assert_allclose(table, class_table(learnt, means), atol=1e-6)
    assert np.ptp(table[:-1], axis=0).max() > 1e-3
    # Another run has the prior and the extractors from the cache.
    log = program.run(second, "--stages=pretrain", fields=fields)
    assert "the prior of this config was trained before" in log
    np.testing.assert_array_equal(table_of(second / "pretrain" / "model"), table)
    # One that was killed after a checkpoint ends with the same numbers.
    shutil.rmtree(cache)
    shutil.rmtree(second / "pretrain" / "model")
    shutil.copytree(first / "pretrain" / "checkpoints", second / "pretrain" / "checkpoints")
    steps = sorted(int(path.name) for path in (second / "pretrain" / "checkpoints").iterdir())
    assert len(steps) > 1
    shutil.rmtree(second / "pretrain" / "checkpoints" / str(steps[-1]))
    for made in ("stage.json", "samples.png"):
        (second / "pretrain" / made).unlink()
    program.run(second, "--stages=pretrain", fields=fields)
    np.testing.assert_allclose(table_of(second / "pretrain" / "model"), table, atol=1e-6)


def test_such_a_prior_is_another_and_hangs_on_the_extractor(program):
    config = program.config()
    learnt = prior_fingerprint(config)
    config.extractor.steps += 1
    assert prior_fingerprint(config) == learnt
    config.pretrain.class_rows = "appearance"
    told = prior_fingerprint(config)
    config.extractor.steps += 1
    assert len({learnt, told, prior_fingerprint(config)}) == 3


def test_a_prior_that_is_not_trained_here_has_the_rows_it_has(program):
    config = program.config()
    config.pretrain.update({"class_rows": "appearance", "source": "shipped"})
    with pytest.raises(ConfigError, match="pretrain.class_rows.*'learnt' where"):
        validate(config)
