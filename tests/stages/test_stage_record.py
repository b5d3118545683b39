"""What a stage will have been made from can be told before it runs."""

import json
import shutil

import pytest

from rlsyn_jax import config as configuration
from rlsyn_jax.main import STAGES
from rlsyn_jax.stages import _module, stage_fingerprints
from rlsyn_jax.stages.extractors import NAMES, extractor_fingerprint
from rlsyn_jax.stages.pretrain import kept_as, prior_fingerprint
from rlsyn_jax.stages.stage_record import StageError, StageRecord


def run_nothing(config, workdir):
    """Goes through the records of all stages; returns the fingerprints they write."""
    written = {}
    for stage in STAGES:
        module = _module(stage)
        record = StageRecord(workdir, stage, config, module.FIELDS, module.INPUTS)
        record.finish()
        written[stage] = record.fingerprint
    return written


def test_fingerprints_told_before_a_run_are_those_it_writes(program, tmp_path):
    config = program.config()
    assert stage_fingerprints(config) == run_nothing(config, tmp_path)


def test_a_field_changes_the_first_stage_that_reads_it_and_all_after(program):
    before = stage_fingerprints(program.config())
    assert tuple(before) == STAGES
    for field, first in {"seed": 0, "adapt": 1, "rewards": 2, "recognize": 4, "report": 6}.items():
        change = {
            "seed": {"seed": 1},
            "rewards": {"rewards": {"coverage": {"weight": 0.1}}},
            "report": {"report": {"identities": 2}},
        }.get(field, {field: {"steps": 9}})
        after = stage_fingerprints(program.config(**change))
        changed = [before[stage] != after[stage] for stage in STAGES]
        assert changed == [place >= first for place in range(len(STAGES))], field


def test_an_arm_changes_the_synthetic_sets_only_where_it_needs_one_of_its_own(program):
    before = stage_fingerprints(program.config())
    for arm, first in {"real_affine": 4, "real_best_of": 3}.items():
        arms = (*program.config().recognize.arms, arm)
        after = stage_fingerprints(program.config(recognize={"arms": arms}))
        changed = [before[stage] != after[stage] for stage in STAGES]
        assert changed == [place >= first for place in range(len(STAGES))], arm


def test_what_was_made_before_a_field_existed_is_not_made_again(program, tmp_path, monkeypatch):
    config = program.config()
    before = stage_fingerprints(config)
    monkeypatch.setitem(configuration.ADDED_LATER, "adapt.lora_rank", 4)
    # As a folder of before says it: without the field.
    without = stage_fingerprints(config)
    changed = [before[stage] != without[stage] for stage in STAGES]
    assert changed == [place >= 1 for place in range(len(STAGES))]
    run_nothing(config, tmp_path)
    record = tmp_path / "adapt" / "stage.json"
    (tmp_path / "adapt" / "made.txt").touch()
    content = json.loads(record.read_text())
    del content["config"]["adapt"]["lora_rank"]
    record.write_text(json.dumps(content))
    assert run_nothing(config, tmp_path) == without
    record.write_text(json.dumps(content))
    config.adapt.lora_rank = 5
    assert stage_fingerprints(config)["adapt"] != without["adapt"]
    with pytest.raises(StageError, match="config.adapt.lora_rank: 4 there, 5 now"):
        run_nothing(config, tmp_path)


def folder_of_images(path, people=4, images=5):
    for person in range(people):
        (path / f"person {person}").mkdir(parents=True)
        for image in range(images):
            (path / f"person {person}" / f"{image}.png").write_bytes(bytes(person + image + 1))
    return path


def test_other_files_of_a_data_set_are_refused_and_a_copy_is_not(program, tmp_path):
    data = folder_of_images(tmp_path / "set")
    config = program.config(data={"source": "folder", "path": str(data)})
    run_nothing(config, tmp_path / "run")
    for stage in STAGES:
        (tmp_path / "run" / stage / "made.txt").touch()
    shutil.move(data, tmp_path / "away")
    run_nothing(config, tmp_path / "run")  # What is complete does not need them.
    shutil.copytree(tmp_path / "away", data)
    (data / "person 1" / ".DS_Store").write_bytes(b"1")
    (data / "person 1" / ".ipynb_checkpoints").mkdir()
    (data / "person 1" / ".ipynb_checkpoints" / "0.png").write_bytes(b"1")
    run_nothing(config, tmp_path / "run")
    added = data / "person 1" / "5.png"
    added.write_bytes(b"1")
    with pytest.raises(StageError, match="was made from other files of config.data.path, .*set"):
        run_nothing(config, tmp_path / "run")
    added.unlink()
    run_nothing(config, tmp_path / "run")
    # What was made before files were written down says nothing of them.
    for stage in STAGES:
        record = tmp_path / "run" / stage / "stage.json"
        content = json.loads(record.read_text())
        assert content.pop("files")
        record.write_text(json.dumps(content))
    added.write_bytes(b"1")
    run_nothing(config, tmp_path / "run")


def test_other_files_of_the_general_data_are_refused_by_every_stage(program, tmp_path):
    general = folder_of_images(tmp_path / "set")
    config = program.config(general_data={"source": "folder", "path": str(general)})
    run_nothing(config, tmp_path / "run")
    for stage in STAGES:
        (tmp_path / "run" / stage / "made.txt").touch()
    (general / "person 0" / "0.png").write_bytes(b"another")
    for stage in STAGES:
        module = _module(stage)
        with pytest.raises(StageError, match="other files of config.general_data.path"):
            StageRecord(tmp_path / "run", stage, config, module.FIELDS, module.INPUTS)


def test_what_is_kept_of_general_people_is_of_their_files(program, tmp_path):
    general = folder_of_images(tmp_path / "set")
    config = program.config(general_data={"source": "folder", "path": str(general)})
    planned = prior_fingerprint(config)

    def kept():
        return [kept_as(config, 4), *(extractor_fingerprint(config, name, 4) for name in NAMES)]

    before = kept()
    assert before == kept() and before[0] != planned
    (general / "person 0" / "0.png").unlink()
    assert not set(before) & set(kept()) and prior_fingerprint(config) == planned
    config = program.config()
    assert kept_as(config, 4) == kept_as(config, 5) == prior_fingerprint(config)
    config.pretrain.class_rows = "appearance"  # Told by an extractor, which learns the people.
    assert len({kept_as(config, 4), kept_as(config, 5), prior_fingerprint(config)}) == 3


def test_fields_that_came_later_exist():
    for field, value in configuration.ADDED_LATER.items():
        assert configuration.field(configuration.default_config(), field) == value
