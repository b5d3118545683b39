"""Where the class rows of the target's people begin."""

import jax
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.config_checks import validate
from rlsyn_jax.models.class_rows import predict_class_rows
from rlsyn_jax.stages.adapt import rows_by_appearance
from rlsyn_jax.stages.extractors import class_means, embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_general, load_target, train_labels
from rlsyn_jax.training.checkpoints import restore_params


def test_rows_begin_where_the_looks_of_people_say(program, tmp_path):
    fields = {"adapt.class_rows": "embedding", "adapt.steps": 1, "adapt.learning_rate": 1e-9}
    log = program.run(tmp_path, "--stages=pretrain,adapt", fields=fields)
    assert "% of what sets the prior's class rows apart" in log
    config = program.config()
    config.update_from_flattened_dict(fields)
    prior = restore_params(tmp_path / "pretrain" / "model")
    extractor = load_extractor(config, tmp_path, "start")
    dataset, splits = load_target(config, tmp_path)
    target = train_labels(dataset, splits)
    general = load_general(config, tmp_path)
    begun = restore_params(tmp_path / "adapt" / "model")["y_embedder"]["embedding_table"]
    np.testing.assert_allclose(
        begun[:-1], rows_by_appearance(config, tmp_path, prior, *target), atol=1e-5
    )

    def looks(images):
        return embed_images(extractor, images).mean(axis=0)

    new = [
        looks(dataset.images[[i for i in splits.train if dataset.identities[i] == person]])
        for person in splits.train_identities
    ]
    known = [looks(general.images[general.identities == person]) for person in range(6)]
    known, new = np.array(known), np.array(new)
    # Rows that say what their people look like.
    table = prior["y_embedder"]["embedding_table"]
    turn = np.random.default_rng(0).normal(size=(known.shape[1], table.shape[1]))
    prior["y_embedder"]["embedding_table"] = np.concatenate([known @ turn, table[-1:]])
    found = rows_by_appearance(config, tmp_path, prior, *target)
    assert found.std(axis=0).min() > 1e-3
    expected = predict_class_rows(known @ turn, known, new).rows
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    # Another generator's people are others.
    prior["y_embedder"]["embedding_table"] = table[1:]
    with pytest.raises(ConfigError, match="it has rows for 5, and there are 6"):
        rows_by_appearance(config, tmp_path, prior, *target)


def test_without_an_update_it_is_the_prior_with_rows_that_looks_tell(program, tmp_path):
    fields = {"adapt.class_rows": "embedding", "adapt.steps": 0}
    program.run(tmp_path, "--stages=pretrain,adapt,reinforce", fields=fields)
    prior, begun = (restore_params(tmp_path / stage / "model") for stage in ("pretrain", "adapt"))
    config = program.config()
    config.update_from_flattened_dict(fields)
    told = rows_by_appearance(
        config, tmp_path, prior, *train_labels(*load_target(config, tmp_path))
    )
    rows, table = (params.pop("y_embedder")["embedding_table"] for params in (begun, prior))
    np.testing.assert_allclose(rows, np.concatenate([told, table[-1:]]), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, begun, prior)
    config.adapt.class_rows = "mean"
    with pytest.raises(ConfigError, match="adapt.steps.*above 0 where adapt.class_rows is not"):
        validate(config)


def test_low_rank_pairs_that_learnt_on_several_devices_meet_the_network(program, tmp_path):
    fields = {"adapt.trainable": "lora", "adapt.steps": 2, "adapt.learning_rate": 1e-2}
    program.run(tmp_path, "--stages=pretrain,adapt", fields=fields, devices=2)
    prior, begun = (restore_params(tmp_path / stage / "model") for stage in ("pretrain", "adapt"))
    for params in (prior, begun):
        params.pop("y_embedder")
    assert jax.tree.structure(prior) == jax.tree.structure(begun)
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), prior, begun)
    assert max(jax.tree.leaves(moved)) > 1e-5


def test_a_loss_that_is_no_number_at_the_last_step_ends_the_run(program, tmp_path):
    fields = {"adapt.steps": 5, "adapt.learning_rate": 1e30, "adapt.gradient_clip": 0.0}
    fields["adapt.checkpoint_every"] = 9
    process = program.start(tmp_path, "--stages=pretrain,adapt", fields=fields)
    log = program.log_of(process)
    assert process.returncode == 1 and " at step 5; lower config.adapt.learning_rate" in log
    assert not (tmp_path / "adapt" / "model").exists()


def test_means_of_classes():
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    means = class_means(embeddings, np.array([1, 0, 1]))
    np.testing.assert_allclose(means, [[0.0, 2.0], [2.0, 0.0]])
