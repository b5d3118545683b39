"""A prior whose rows are told from another image of the person: a run by it, kept and resumed."""

import shutil

import numpy as np
import pytest

from rlsyn_jax.stages import prior_appearance
from rlsyn_jax.stages.adapt import rows_by_appearance
from rlsyn_jax.stages.extractors import Extractor, load_extractor, looks_of_people
from rlsyn_jax.stages.inputs import load_general, load_target, train_labels
from rlsyn_jax.stages.pretrain import prior_fingerprint
from rlsyn_jax.stages.prior_appearance import load_appearance_map
from rlsyn_jax.training.appearance_rows import APPEARANCES, class_table
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
    looks = looks_of_people(extractor, general.images, general.identities)
    np.testing.assert_allclose(np.linalg.norm(looks, axis=1), 1, rtol=1e-5)
    learnt, table = (table_of(first / "pretrain" / part) for part in ("checkpoints", "model"))
    assert learnt.shape[0] == looks.shape[1] + 2
    np.testing.assert_allclose(table, class_table(learnt, looks), atol=1e-6)
    assert np.ptp(table[:-1], axis=0).max() > 1e-3
    # The same tells new people, of whom there may be more than general ones.
    np.testing.assert_array_equal(load_appearance_map(first), learnt)
    target = train_labels(*load_target(config, first))
    begun = rows_by_appearance(config, first, restore_params(first / "pretrain" / "model"), *target)
    looks = looks_of_people(extractor, *target)
    np.testing.assert_allclose(begun, class_table(learnt, looks)[:-1], atol=1e-6)
    # Another run has the prior and the extractors from the cache.
    log = program.run(second, "--stages=pretrain", fields=fields)
    assert "the prior of this config was trained before" in log
    np.testing.assert_array_equal(table_of(second / "pretrain" / "model"), table)
    np.testing.assert_array_equal(load_appearance_map(second), learnt)
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
    np.testing.assert_array_equal(table_of(second / "pretrain" / "model"), table)


def test_such_a_prior_is_another_and_hangs_on_the_extractor(program):
    config = program.config()
    learnt = prior_fingerprint(config)
    config.extractor.steps += 1
    assert prior_fingerprint(config) == learnt
    config.pretrain.class_rows = "appearance"
    told = prior_fingerprint(config)
    config.extractor.steps += 1
    assert len({learnt, told, prior_fingerprint(config)}) == 3


def test_noise_of_looks_is_read_where_looks_tell(program):
    config = program.config()
    learnt = prior_fingerprint(config)
    config.pretrain.appearance_noise = 0.1
    assert prior_fingerprint(config) == learnt
    config.pretrain.class_rows = "appearance"
    told = prior_fingerprint(config)
    config.pretrain.appearance_noise = 0.2
    assert prior_fingerprint(config) != told


@pytest.mark.parametrize("mirrored", [True, False])
def test_mirror_images_tell_where_training_mirrors(program, tmp_path, monkeypatch, mirrored):
    config = program.config()
    config.pretrain.flip = mirrored
    extractor = Extractor(None, {})
    monkeypatch.setattr(
        prior_appearance, "embed_images", lambda _, images: images[:, 0, :2, 0].astype(np.float32)
    )
    general, seen = load_general(config, tmp_path), {}

    def train(**parts):
        seen.update(parts)
        return parts["trained"], parts["trained"]

    prior_appearance.train_by_appearance(config, extractor, general, train, seed=0)
    embeddings = seen["frozen"][APPEARANCES]["embeddings"]
    assert embeddings.shape == (len(general.images), 1 + mirrored, 2)
    np.testing.assert_array_equal(embeddings[:, 0], general.images[:, 0, :2, 0])
    if mirrored:
        np.testing.assert_array_equal(embeddings[:, 1], general.images[:, 0, :-3:-1, 0])


def test_a_prior_with_rows_of_its_own_has_no_map(program, tmp_path):
    program.run(tmp_path, "--stages=pretrain")
    assert load_appearance_map(tmp_path) is None
