"""What a run finds in the cache of another one, of another seed or target, and what it does not."""

from pathlib import Path

import jax
import numpy as np
import pytest

from rlsyn_jax.stages import kept_folders
from rlsyn_jax.stages.extractors import NAMES, extractor_fingerprint
from rlsyn_jax.training.checkpoints import restore_params


def weights(workdir, name):
    folder = workdir / "pretrain" / "extractors" / name
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restore_params(folder))]


def test_extractors_of_general_people_are_trained_once_for_all_seeds(program, tmp_path):
    def run(seed, cache, with_target):
        fields = {"pretrain.cache": tmp_path / cache, "extractor.with_target": with_target}
        workdir = tmp_path / str(seed)
        return program.run(workdir, "--stages=pretrain", fields={**fields, "seed": seed})

    assert "was trained before" not in run(0, "kept", False) + run(1, "elsewhere", False)
    for name in NAMES:
        for one, other in zip(weights(tmp_path / "0", name), weights(tmp_path / "1", name)):
            np.testing.assert_array_equal(one, other)
    # Those that know the target's images are made for it.
    log = run(2, "kept", True)
    assert "the prior of this config was trained before" in log
    assert "extractor start was trained before" in log
    assert "extractor reward: trained on" in log and "extractor judge: trained on" in log
    for one, other in zip(weights(tmp_path / "0", "start"), weights(tmp_path / "2", "start")):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("field", "value", "is_another"),
    [
        ("seed", 1, False),
        ("split.train_images", 1, False),
        ("extractor.with_target", False, False),
        ("general_data.cache", "elsewhere", False),
        ("general_data.num_identities", 5, True),
        ("image.channels", 1, True),
        ("extractor.steps", 5, True),
        ("recognize.embedding_dim", 8, True),
        ("recognize.flip", False, True),
    ],
)
def test_an_extractor_is_another_where_what_it_learns_from_is(program, field, value, is_another):
    config = program.config()
    before = [extractor_fingerprint(config, name, 6) for name in NAMES]
    assert len(set(before)) == 3
    config.update_from_flattened_dict({field: value})
    other = extractor_fingerprint(config, "start", 7)
    after = [extractor_fingerprint(config, name, 6) for name in NAMES]
    assert all((one != two) == is_another for one, two in zip(before, after))
    assert other not in after  # With room for more people.


def test_a_folder_is_kept_whole_and_replaces_what_is_there(tmp_path):
    made, kept = tmp_path / "made", tmp_path / "cache" / "key" / "model"
    made.mkdir()
    (made / "weights").write_text("new")
    assert not kept_folders.fetch(kept, tmp_path / "run")
    kept_folders.keep(made, kept)
    kept_folders.keep(made, kept)  # By another run at the same time.
    assert [path.name for path in kept.parent.iterdir()] == ["model"]
    run = tmp_path / "run"
    run.mkdir()
    (run / "half").write_text("old")
    assert kept_folders.fetch(kept, run)
    assert [path.name for path in run.iterdir()] == ["weights"]


def test_a_copy_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    made, kept, run = tmp_path / "made", tmp_path / "cache" / "model", tmp_path / "run"
    made.mkdir()
    (made / "weights").write_text("new")
    kept_folders.keep(made, kept)
    with monkeypatch.context() as patch:

        def dies(source, target, **options):
            Path(target).mkdir()
            raise KeyboardInterrupt

        patch.setattr(kept_folders.shutil, "copytree", dies)
        with pytest.raises(KeyboardInterrupt):
            kept_folders.fetch(kept, run)
        with pytest.raises(KeyboardInterrupt):
            kept_folders.keep(made, kept.with_name("other"))
    assert not run.exists() and not kept.with_name("other").exists()
    assert kept_folders.fetch(kept, run) and (run / "weights").read_text() == "new"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    made, blocked = tmp_path / "made", tmp_path / "file"
    made.mkdir()
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        kept_folders.keep(made, blocked / "key" / "model")
