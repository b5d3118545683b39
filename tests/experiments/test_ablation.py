"""The command of the study: which cells it runs, that it stops, and a tiny one from nothing."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import ablation
import pytest
from study.claims import COMPARISONS
from study.design import (
    HEADROOM,
    MEASURES,
    STARTS,
    TARGETS,
    TINY,
    Choice,
    cells,
    headroom_cells,
    names_of_cells,
    title,
)

UNVARIED = [comparison for comparison in COMPARISONS if not comparison.variation]


def test_the_sweep_file_gives_the_cells():
    choices = dict.fromkeys(STARTS, Choice("the default rate", ""))
    changes = cells(TARGETS["omniglot"], "/x", "/priors", 2, choices)
    scope: dict = {}
    exec(ablation.sweep_file(TARGETS["omniglot"], changes), scope)
    assert scope["get_hyper"](None) == changes
    assert scope["BASE"].endswith("configs/omniglot.py:small2")


def cells_asked_for(made, *flags):
    options = ablation.parse(["--workdir=DIR", "--targets=omniglot", *flags])
    return [cell for cell in made if ablation.is_asked_for(cell, options)]


def test_the_command_of_a_table_runs_its_cells_alone():
    target = TARGETS["omniglot"]
    planned = target, "data", "", 5, dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    made, more = cells(*planned), headroom_cells(*planned)
    assert cells_asked_for(made) == made and cells_asked_for(more) == more
    names = {cell["name"] for cell in made + more}
    assert names <= names_of_cells(target)
    for name in {cell["name"] for cell in made}:
        found = cells_asked_for(made + more, f"--only={name}", "--seeds=2")
        seeds = (5, 6) if "further seeds" in name else (0, 1)
        assert [(cell["name"], cell["seed"]) for cell in found] == [(name, seed) for seed in seeds]
    assert cells_asked_for(made + more, f"--only={HEADROOM}") == more
    several = cells_asked_for(made, "--only=strength *", "--only=2 images, *", "--seeds=1")
    of_two = len(STARTS) * len(target.trainings)
    assert len(several) == of_two + sum(name.startswith("strength ") for name in target.variations)


def test_names_that_no_cell_has_are_refused(capsys):
    with pytest.raises(SystemExit):
        ablation.parse(["--workdir=DIR", "--targets=omniglot", "--only=strength 0.85"])
    said = capsys.readouterr().err
    assert "strength 0.85 is like no cell's name; there are" in said and "'strength 0.7'" in said


def test_folders_that_cannot_be_are_told_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation, "sweep", lambda *_: pytest.fail("ran"))
    (tmp_path / "file").touch()
    for flags, expected in (
        (["--workdir="], "argument --workdir: it is empty; name a folder"),
        ([f"--workdir={tmp_path}/file"], "file is a file; name a folder"),
        ([f"--workdir={tmp_path}", f"--results={tmp_path}/file"], "--results: .* is a file"),
        ([f"--workdir={tmp_path}/no", "--gather"], "--workdir is .*no, which is not there"),
        ([f"--workdir={tmp_path}", f"--data={tmp_path}"], "lfw_target is not there, of the targ"),
    ):
        with pytest.raises(SystemExit) as refusal:
            ablation.main(flags)
        assert re.search(expected, f"{refusal.value.code} {capsys.readouterr().err}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_study_that_is_stopped_stops_its_sweep_and_goes_on(tmp_path):
    command = [sys.executable, ablation.__file__, f"--workdir={tmp_path}", "--targets=tiny"]
    with subprocess.Popen(
        [*command, "--seeds=1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as study:
        said = ""
        while "0/" not in said:
            said = study.stdout.readline()
            assert said, "the study ended before its first run began"
        study.terminate()
        rest = study.stdout.read()
    assert study.returncode == 128 + signal.SIGTERM
    assert "stopped; the same command goes on from here" in rest and "results:" not in rest
    # Nobody holds the sweep any more.
    again = subprocess.run(
        [*command, "--gather"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "results:" in again.stdout


@pytest.mark.slow
def test_a_tiny_study_runs_from_nothing_to_its_tables_and_its_claims(tmp_path):
    command = [sys.executable, ablation.__file__, f"--workdir={tmp_path}", "--targets=tiny"]
    subprocess.run([*command, "--seeds=1"], check=True, cwd=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == len(UNVARIED) * len(MEASURES)
    assert all(result["low"] <= result["difference"] <= result["high"] for result in results)
    assert all((r["seeds"], r["images"], r["claimed"]) == (1, 2, False) for r in results)
    page = (tmp_path / "RESULTS.md").read_text()
    varied = [f"{name} ({title(2, 'random')})" for name in TINY.variations]
    made = [title(2, start, longer=longer) for start in STARTS for longer in TINY.trainings]
    for heading in (*made, *varied):
        assert f"{heading}: 1 seeds" in page
    assert all(f"| {arm} |" in page for arms in STARTS.values() for arm in arms)
    # All cells share the prior, and those of one seed the generator.
    folders = [*(tmp_path / "tiny" / "cells").iterdir()]
    assert len(folders) == len(made) + len(varied) == 5
    assert len({Path(folder / "pretrain").resolve() for folder in folders}) == 1
