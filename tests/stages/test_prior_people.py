"""The prior's own people as a data set: the most alike are kept, and a kill loses nothing."""

import shutil

import jax
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.synthetic_writer import load_synthetic, read_manifest
from rlsyn_jax.stages import prior_people
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.generator import load_model, make_sampler
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.other_people import load_other_people
from rlsyn_jax.stages.prior_people import people_with_most_images, write_prior_people
from rlsyn_jax.stages.stage_record import StageRecord

FIELDS = {
    "synthesize.prior_identities": 3,
    "synthesize.images": 2,
    "synthesize.candidates": 4,
    "synthesize.strength": 0.8,
    "pretrain.steps": 2,
}


@pytest.fixture(name="drawn", scope="module")
def drawn_people(program, tmp_path_factory):
    """A finished stage pretrain, its config, and the data set with what is told of it."""
    workdir = tmp_path_factory.mktemp("prior_people")
    program.run(workdir, "--stages=pretrain", fields=FIELDS)
    config = program.config()
    config.update_from_flattened_dict(FIELDS)
    return workdir, config, write_prior_people(config, record_of(workdir, config))


def record_of(workdir, config):
    return StageRecord(workdir, "synthesize", config, ("synthesize",))


def test_the_most_alike_of_the_candidates_are_kept(drawn):
    workdir, config, gate = drawn
    made, columns = load_synthetic(workdir / "synthesize" / "prior")
    assert gate["images"] == len(made.images) == 3 * 2 and gate["identities"] == 3
    assert columns["label"] == made.identities.tolist() == [0, 0, 1, 1, 2, 2]
    general = load_general(config, workdir)
    assert made.identity_names == tuple(general.identity_names[:3])
    extractor = load_extractor(config, workdir, "reward")
    sampler, params = make_sampler(config, 6), load_model(config, workdir, "pretrain")
    for person in range(3):
        numbers = np.arange(person * 8, (person + 1) * 8)
        classes = np.full(8, person, np.int32)
        key = jax.random.key(config.seed + 11)
        images = np.asarray(sampler(params, key, numbers, classes))
        real = embed_images(extractor, general.images[general.identities == person]).mean(axis=0)
        alike = embed_images(extractor, images) @ real
        best = np.argsort(-alike)[:2]
        rows = made.identities == person
        assert np.array(columns["seed"])[rows].tolist() == numbers[best].tolist()
        np.testing.assert_array_equal(made.images[rows], images[best])


def test_those_with_the_most_images_are_drawn_as_themselves(drawn, tmp_path, monkeypatch):
    workdir, config, _ = drawn
    shutil.copytree(workdir / "pretrain", tmp_path / "pretrain")
    general = load_general(config, workdir)
    # Of persons 0, 2 and 4 an image is missing.
    fewer = np.delete(
        np.arange(len(general.images)), np.searchsorted(general.identities, [0, 2, 4])
    )
    monkeypatch.setattr(prior_people, "load_general", lambda *_: general.subset(fewer))
    write_prior_people(config, record_of(tmp_path, config))
    made, columns = load_synthetic(tmp_path / "synthesize" / "prior")
    assert made.identity_names == tuple(general.identity_names[person] for person in (1, 3, 5))
    assert columns["label"] == made.identities.tolist() == [0, 0, 1, 1, 2, 2]
    sampler, params = make_sampler(config, 6), load_model(config, workdir, "pretrain")
    numbers = np.array(columns["seed"])
    classes = np.repeat([1, 3, 5], 2).astype(np.int32)
    images = sampler(params, jax.random.key(config.seed + 11), numbers, classes)
    np.testing.assert_array_equal(made.images, np.asarray(images))


def test_people_with_as_many_images_come_in_their_order():
    identities = np.array([0, 1, 1, 2, 2, 2, 3, 3])
    assert people_with_most_images(identities, 2).tolist() == [1, 2]
    assert people_with_most_images(identities, 3).tolist() == [1, 2, 3]
    assert people_with_most_images(identities, 4).tolist() == [0, 1, 2, 3]


def test_their_labels_count_on_from_the_target_s(drawn):
    workdir, config, _ = drawn
    images, labels = load_other_people(config, workdir, "prior", 5)
    assert len(images) == 6 and labels.tolist() == [5, 5, 6, 6, 7, 7]


def test_a_kill_loses_nothing(drawn):
    workdir, config, gate = drawn
    folder = workdir / "synthesize" / "prior"
    before = read_manifest(folder)
    journal = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(journal[:3]))
    (folder / "manifest.parquet").unlink()
    assert write_prior_people(config, record_of(workdir, config)) == gate
    assert read_manifest(folder) == before
    card = (folder / "README.md").read_text()
    assert "6 images of 3 people" in card and "best of 4" in card


def test_people_whom_the_prior_does_not_know_are_told(drawn):
    workdir, config, _ = drawn
    record = record_of(workdir, config)
    config = config.copy_and_resolve_references()
    config.synthesize.prior_identities = 7
    with pytest.raises(ConfigError, match="the prior knows 6 people"):
        write_prior_people(config, record)
    config.general_data.num_identities = 5
    with pytest.raises(ConfigError, match="it has rows for 6, and there are 5"):
        write_prior_people(config, record)


def test_too_many_of_them_are_told_before_anything_is_made(program, tmp_path):
    process = program.start(tmp_path, fields={"synthesize.prior_identities": 7})
    assert "the prior knows 6 people; set it to 6 or less" in program.log_of(process)
    assert process.returncode == 1
    assert not (tmp_path / "pretrain" / "model").exists()


def test_too_many_of_them_are_told_before_any_set_is_drawn(drawn, program, tmp_path):
    """Where the prior was complete before they were asked for."""
    shutil.copytree(drawn[0] / "pretrain", tmp_path / "pretrain")
    more = {"synthesize.prior_identities": 7, "synthesize.images": 4}
    process = program.start(tmp_path, fields={**FIELDS, **more})
    assert "the prior knows 6 people; set it to 6 or less" in program.log_of(process)
    assert (tmp_path / "reinforce" / "model").exists()
    assert not list((tmp_path / "synthesize").glob("*/"))


def test_a_set_of_other_people_is_told(drawn, tmp_path, caplog):
    """As by an imported prior that knows as many people, but others."""
    workdir, config, gate = drawn
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    config = config.copy_and_resolve_references()
    reached = gate["identity_accuracy"] / gate["real_identity_accuracy"]
    for share, usable in ((reached - 0.01, True), (min(1.0, reached + 0.01), False)):
        shutil.rmtree(tmp_path / "synthesize")
        caplog.clear()
        config.synthesize.gate_share = share
        told = write_prior_people(config, record_of(tmp_path, config))
        assert told["usable"] == usable
        assert ("NOT usable" in told["verdict"]) == ("NOT usable" in caplog.text) == (not usable)
