"""Stages that folders share: links, copies where there are none, and what counts as complete."""

import json
import os

import pytest
from sweeping.jobs import Job
from sweeping.progress import progress_line, seconds_left, seconds_of_stages
from sweeping.work_folders import adopt_stages, complete_stages, is_complete, link_stages


def make_stage(workdir, stage, fingerprint="f", complete=True, seconds=1.0):
    (workdir / stage).mkdir(parents=True)
    record = {"fingerprint": fingerprint, "complete": complete, "seconds": seconds}
    (workdir / stage / "stage.json").write_text(json.dumps(record))


def job(links=None, **fingerprints):
    return Job("cell", "cells/cell", {}, fingerprints, links or {}, (), ("cell",))


@pytest.fixture
def without_links(monkeypatch):
    def refuse(*arguments):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "symlink", refuse)


def test_links_are_relative_so_that_a_sweep_can_be_moved(tmp_path):
    make_stage(tmp_path / "a/shared/adapt-1", "adapt")
    link_stages(tmp_path / "a", job({"adapt": "shared/adapt-1"}))
    os.rename(tmp_path / "a", tmp_path / "b")
    assert json.loads((tmp_path / "b/cells/cell/adapt/stage.json").read_text())["complete"]


def test_where_links_are_not_possible_there_are_copies(tmp_path, without_links):
    make_stage(tmp_path / "shared/adapt-1", "adapt")
    for _ in range(2):
        link_stages(tmp_path, job({"adapt": "shared/adapt-1"}))
    place = tmp_path / "cells/cell/adapt"
    assert (place / "stage.json").exists() and not place.is_symlink()
    assert os.listdir(tmp_path / "cells/cell") == ["adapt"]


def test_prepared_data_come_along_and_latents_once_all_are_encoded(tmp_path):
    source = tmp_path / "shared/one"
    for stage in ("pretrain", "adapt"):
        make_stage(source, stage)
    for folder in ("data", "latents"):
        (source / folder).mkdir()
    link_stages(tmp_path, job({"pretrain": "shared/one"}))
    assert sorted(os.listdir(tmp_path / "cells/cell")) == ["data", "pretrain"]
    link_stages(tmp_path, job({"pretrain": "shared/one", "adapt": "shared/one"}))
    assert sorted(os.listdir(tmp_path / "cells/cell")) == ["adapt", "data", "latents", "pretrain"]


def test_a_stage_of_a_cells_own_stays_and_a_link_elsewhere_is_renewed(tmp_path):
    for name in ("one", "other"):
        make_stage(tmp_path / "shared" / name, "pretrain", fingerprint=name)
        make_stage(tmp_path / "shared" / name, "adapt", fingerprint=name)
    make_stage(tmp_path / "cells/cell", "pretrain", fingerprint="own")
    for name in ("one", "other"):
        link_stages(tmp_path, job({"pretrain": f"shared/{name}", "adapt": f"shared/{name}"}))
    place = tmp_path / "cells/cell"
    assert json.loads((place / "pretrain/stage.json").read_text())["fingerprint"] == "own"
    assert json.loads((place / "adapt/stage.json").read_text())["fingerprint"] == "other"


def test_a_stage_begun_before_it_was_shared_gives_way_to_the_complete_one(tmp_path):
    make_stage(tmp_path / "shared/one", "adapt", fingerprint="one")
    make_stage(tmp_path / "cells/cell", "adapt", fingerprint="own", complete=False)
    link_stages(tmp_path, job({"adapt": "shared/one"}))
    assert (tmp_path / "cells/cell/adapt").resolve() == (tmp_path / "shared/one/adapt").resolve()


def test_a_stage_that_is_not_complete_is_not_linked(tmp_path):
    make_stage(tmp_path / "shared/one", "adapt", complete=False)
    with pytest.raises(FileNotFoundError, match="shared/one/adapt, on which cell rests, is not"):
        link_stages(tmp_path, job({"adapt": "shared/one"}))


@pytest.mark.parametrize(
    ("fingerprint", "complete", "expected"),
    [("f", True, True), ("f", False, False), ("another", True, False)],
)
def test_complete_is_what_was_made_from_the_same_and_ended(
    tmp_path, fingerprint, complete, expected
):
    make_stage(tmp_path / "cells/cell", "adapt", fingerprint, complete)
    assert is_complete(tmp_path, job(adapt="f")) == expected
    assert not is_complete(tmp_path, job(adapt="f", report="f"))


def test_stages_made_before_are_found_by_their_fingerprint(tmp_path):
    make_stage(tmp_path / "cells/old", "adapt", "f")
    make_stage(tmp_path / "cells/old", "report", "g", complete=False)
    found = complete_stages(tmp_path)
    assert found == {"f": tmp_path / "cells/old/adapt"}
    adopt_stages(tmp_path, job(adapt="f", report="g"), found)
    assert is_complete(tmp_path, job(adapt="f"))
    assert os.listdir(tmp_path / "cells/cell") == ["adapt"]
    assert complete_stages(tmp_path) == found  # Not the link.


def test_time_left_is_that_of_the_stages_left(tmp_path):
    make_stage(tmp_path / "cells/cell", "adapt", seconds=4.0)
    make_stage(tmp_path / "cells/other", "adapt", seconds=8.0)
    make_stage(tmp_path / "cells/other", "report", seconds=2.0)
    done = [job(adapt="f"), Job("o", "cells/other", {}, {"adapt": "f", "report": "f"}, {}, (), ())]
    seconds = seconds_of_stages(tmp_path, done)
    assert seconds == {"adapt": 6.0, "report": 2.0}
    both, begun = (job(adapt="f", report="f"), 0.0), (job(adapt="f"), 2.5)
    assert seconds_left([both, begun], seconds, parallel=1) == 8.0 + 3.5
    assert seconds_left([both, begun], seconds, parallel=2) == 8.0  # The longer one.
    assert seconds_left([both, both, both, both], seconds, parallel=2) == 16.0
    assert seconds_left([(job(adapt="f"), 100.0)], seconds, parallel=1) == 0.0
    assert seconds_left([(job(pretrain="f"), 0.0)], seconds, parallel=1) is None
    assert seconds_left([], seconds, parallel=3) == 0.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3, 1, 12, 860.0), "3/12 cells, 1 failed, 14 min 20 s left"),
        ((0, 0, 12, None), "0/12 cells"),
        ((11, 1, 12, 0.0), "11/12 cells, 1 failed"),
    ],
)
def test_the_line_says_how_far_the_cells_are(arguments, expected):
    assert progress_line(*arguments) == expected
