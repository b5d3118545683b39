"""Settings of recognisers: chosen by runs, read from what is written, never mixed."""

import shutil
from pathlib import Path

import ablation
import pytest
from study.chosen_settings import written_choices
from study.design import (
    STARTS,
    TARGETS,
    Choice,
    cells,
    title,
)
from study.gathering import Runs, choose
from sweeping.plan import read_plan, write_plan


def test_settings_are_those_of_the_best_arm_without_synthetic_images(written, workdir):
    choices = choose(Runs(workdir / "lfw_settings"), TARGETS["lfw"])
    assert choices == written.choices
    for cell in cells(TARGETS["lfw"], "data", "priors", 1, choices):
        if cell["recognize.start"] == "random":
            assert cell["recognize.loss"] == "cosface" and cell["recognize.learning_rate"] == 2e-3
            assert cell["recognize.augmentation"] == "affine"
        else:
            assert cell["recognize.learning_rate"] == 2e-3 and "recognize.loss" not in cell
            assert cell["recognize.augmentation"] == "rand_augment"
        # What is varied is seen beside real images that are changed alike.
        assert "real_affine" in cell["recognize.arms"]


def test_nothing_is_gathered_where_settings_are_not_known(workdir, capsys):
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    before = [(workdir / name).read_text() for name in ("results.json", "RESULTS.md")]
    shutil.rmtree(workdir / "lfw_settings")
    capsys.readouterr()
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    said = capsys.readouterr().out
    assert "lfw: nothing is gathered without recognisers' settings: the run 'random" in said
    assert [(workdir / name).read_text() for name in ("results.json", "RESULTS.md")] == before


def test_tables_by_several_settings_are_not_put_together(gathered, asked_for):
    flags, results = gathered
    page = results / "RESULTS.md"
    tables = page.read_text()
    for setting, why in (
        ("half the rate", "by other settings of recognisers, random start: CosFace, .* half the"),
        ("of before", "tables of lfw are written whose settings of general start the study does"),
    ):
        of_before = tables.replace("start: **twice the rate**", f"start: **{setting}**")
        page.write_text(of_before)
        with pytest.raises(SystemExit, match=why):
            ablation.main(flags)
        asked_for.clear()
        with pytest.raises(SystemExit, match=why):
            ablation.main(flags[:-1])
        # Settings were chosen, and no cell ran by them.
        assert [*asked_for] == ["lfw_settings"] and page.read_text() == of_before
    ablation.main([*flags, "--replace"])
    assert page.read_text() == tables


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recognize.learning_rate", 4e-3),
        ("recognize.augmentation", "erasing"),
        ("recognize.loss", "cross_entropy_triplet"),
        ("recognize.steps", 123),
    ],
)
def test_runs_that_were_planned_by_other_settings_are_not_gathered(gathered, field, value):
    flags, results = gathered
    before = (results / "RESULTS.md").read_text()
    folder = Path(flags[0].partition("=")[2]) / "lfw"
    plan = read_plan(folder)
    list(plan.cells.values())[-1][field] = value
    write_plan(plan, folder)
    with pytest.raises(SystemExit, match="lfw were planned by other settings"):
        ablation.main(flags)
    assert (results / "RESULTS.md").read_text() == before


def test_a_setting_that_was_not_chosen_is_told_by_what_it_sets(gathered):
    """CosFace, where a plain loss was chosen that names none."""
    folder = Path(gathered[0][0].partition("=")[2]) / "lfw"
    plan = read_plan(folder)
    general = [cell for cell in plan.cells.values() if cell["recognize.start"] == "general"]
    general[0]["recognize.loss"] = "cosface"
    write_plan(plan, folder)
    with pytest.raises(SystemExit, match="were planned by other settings"):
        ablation.main(gathered[0])


@pytest.mark.parametrize("more", [(), ("--replace",)])
def test_cells_run_by_written_settings_and_their_tables_say_so(
    written, gathered, tmp_path_factory, asked_for, more
):
    _, results = gathered
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lines = (results / "RESULTS.md").read_text().splitlines()
    settings = [line for line in lines if " start: **" in line]
    assert len(settings) == len(STARTS)
    cell = title(3, "random")
    flags = [f"--workdir={elsewhere}", f"--results={results}", "--targets=lfw", f"--only={cell}"]
    ablation.main([*flags, "--written-settings", *more])
    assert [*asked_for] == ["lfw"]  # Nothing was tried.
    assert {each["recognize.loss"] for each in asked_for["lfw"]} == {"cosface"}
    # Gathered without the flag, and wherever else.
    name = cells(TARGETS["lfw"], "", "", 1, written.choices)[0]["name"]
    written.run(elsewhere / "lfw" / "cells" / "three" / "evaluate", STARTS["random"], written.gain)
    write_plan(written.plan({"three": {"name": cell, "seed": 0}}), elsewhere / "lfw")
    ablation.main([*flags[:3], "--gather", *more])
    now = (results / "RESULTS.md").read_text().splitlines()
    assert [line for line in now if " start: **" in line] == settings
    assert f"### {cell}: 1 seeds" in now and (f"### {name}: 1 seeds" in now) == (not more)
    alone = elsewhere / "alone"
    ablation.main([flags[0], f"--results={alone}", "--targets=lfw", "--gather"])
    now = (alone / "RESULTS.md").read_text().splitlines()
    assert [line for line in now if " start: **" in line] == [
        f"- {start} start: **{choice.setting}**, {choice.augmentation}"
        for start, choice in written.choices.items()
    ]
    assert written_choices(now, TARGETS["lfw"].settings) == written.choices


def test_settings_that_are_not_written_are_refused_before_anything_runs(gathered, asked_for):
    flags, results = gathered
    flags = [*flags[:2], "--written-settings"]
    page = results / "RESULTS.md"
    for target, why in (
        ("omniglot", "has no settings of random and general start of omniglot"),
        ("lfw", "has no settings of general start of lfw; leave out --written-settings"),
    ):
        with pytest.raises(SystemExit, match=why):
            ablation.main([*flags, f"--targets={target}"])
        page.write_text(page.read_text().replace("**, rand_augment", "**, of before"))
    assert not asked_for


def test_no_augmentation_is_one():
    lines = ["- random start: **CosFace**, no augmentation", "- general start: **CosFace**, affine"]
    choices = written_choices(lines, TARGETS["lfw"].settings + ("CosFace",))
    assert choices == {"random": Choice("CosFace", ""), "general": Choice("CosFace", "affine")}
