"""Which runs count, and the hours that they took."""

import json

from study.design import title
from study.gathering import Runs, stage_hours


def test_hours_are_those_of_the_seeds_of_a_table(workdir):
    for seeds, hours in (([0, 1, 2], 3), ([1], 1), ([], 0)):
        assert stage_hours(workdir / "lfw", [title(1, "random")], seeds) == hours


def test_what_was_made_by_another_configuration_is_not_counted(workdir):
    evaluate = workdir / "lfw" / "cells" / "cell 1 random" / "evaluate"
    record = json.loads((evaluate / "stage.json").read_text())
    (evaluate / "stage.json").write_text(json.dumps(record | {"fingerprint": "of before"}))
    assert [*Runs(workdir / "lfw").named(title(1, "random"))] == [0, 2]
    (evaluate / "stage.json").write_text(json.dumps(record | {"complete": False}))
    assert [*Runs(workdir / "lfw").named(title(1, "random"))] == [0, 2]
