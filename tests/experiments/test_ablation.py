"""What the study makes of its runs, from written values: claims that hold or do not, and tables."""

import json
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ablation
import pytest
from study.chosen_settings import keep_choices, written_choices
from study.claims import COMPARISONS, GOAL
from study.comparing import compare
from study.design import (
    ALL_TARGETS,
    CHOOSERS,
    HEADROOM,
    MEASURES,
    STARTS,
    TARGETS,
    TINY,
    Choice,
    augmenter,
    cells,
    chooser,
    choosing_cells,
    headroom_cells,
    headroom_title,
    names_of_cells,
    title,
    variation_title,
)
from study.gathering import Runs, choose, decide, stage_hours
from study.samples import COMPARED_SETS
from study.tables import HEADROOM_HEADING, headings
from study.variations import ARMS_OF_VARIATIONS, OF_OTHER_PRIORS, TOLD_NOBODY, VARIATIONS
from study.written_results import parts_of, read_results
from sweeping.jobs import Job
from sweeping.plan import Plan, read_plan, write_plan
from sweeping.python_files import load_base

from rlsyn_jax import config as configuration
from rlsyn_jax.config_checks import validate

ROOT = Path(__file__).parents[2]

# Of what metrics.json has; the set "best_of" was not measured, and copies of one were not counted.
SETS = {
    "synthetic": {
        "cold_start": {
            "identity_accuracy": {"mean": 0.5},
            "frechet_distance": {"mean": 0.2},
            "recall": {"mean": 0.5},
        },
        "reinforced": {
            "identity_accuracy": {"mean": 0.875},
            "frechet_distance": {"mean": 0.1234},
            "recall": {"mean": 0.5},
        },
    },
    "privacy": {
        "memorisation": {
            "judge": {"reinforced": {"share": {"mean": 0.02}}},
            "pixels": {"reinforced": {"share": {"mean": 0.31}}},
        }
    },
}
UNVARIED = [comparison for comparison in COMPARISONS if not comparison.variation]
OF_ONE_TRAINING = [comparison for comparison in UNVARIED if not comparison.longer]
# By the runs of write_settings_runs.
CHOICES = {
    "random": Choice("CosFace, twice the rate", "affine"),
    "general": Choice("twice the rate", "rand_augment"),
}
GAIN = {"real_affine": 0.02, "real_reinforced_selected": 0.08, "real_reinforced": 0.05}


def write_run(folder, arms, gain, people=20):
    """Writes what a run measures: each arm so much above the first, and noise of people."""
    names = [f"person {number}" for number in range(people)]
    arms = {
        arm: {
            measure: {name: [0.3 + gain.get(arm, 0.0) + 0.001 * i] for i, name in enumerate(names)}
            for measure in MEASURES
        }
        for arm in arms
    }
    content = {"weights": {m: dict.fromkeys(names, 3) for m in MEASURES}, "arms": arms}
    folder.mkdir(parents=True)
    (folder / "per_person.json").write_text(json.dumps(content))
    (folder / "metrics.json").write_text(json.dumps(SETS))
    record = {"seconds": 3600.0, "complete": True, "fingerprint": folder.parent.name}
    (folder / "stage.json").write_text(json.dumps(record))


def plan_of(cells):
    """Returns a plan of cells whose runs measure what `write_run` writes."""
    fingerprints = {name: {"evaluate": name} for name in cells}
    jobs = [
        Job(name, f"cells/{name}", {}, fingerprints[name], links={}, after=(), cells=(name,))
        for name in cells
    ]
    return Plan("base.py", "Faces", cells, jobs)


@pytest.mark.parametrize("name", TARGETS)
def test_every_cell_of_a_target_is_a_config_that_can_run(name):
    target = TARGETS[name]
    file, _, variant = target.base.partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    choices = dict.fromkeys(STARTS, Choice("the default rate", "affine"))
    made = choosing_cells(target, "data", "") + cells(target, "data", "", 1, choices)
    for changes in made + headroom_cells(target, "data", "", 1, choices):
        config = get_config(variant) if variant else get_config()
        config.update_from_flattened_dict(changes)
        validate(config)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_runs_the_variations_that_change_its_config(name):
    target = TARGETS[name]
    _, config = load_base(str(ROOT / target.base))
    assert target.samples == config.synthesize.images
    for variation, changes in VARIATIONS.items():
        changed = any(
            configuration.field(config, path) != value
            for path, value in changes.items()
            # What goes along with another algorithm.
            if path not in ("reinforce.micro_batch", "reinforce.samples_per_start")
        )
        if variation in OF_OTHER_PRIORS and name in ("orl", "procedural"):
            assert variation not in target.variations
        else:
            assert changed == (variation in target.variations), variation


def test_more_real_images_are_measured_with_what_was_chosen():
    target, choices = TARGETS["omniglot"], dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    for cell in headroom_cells(target, "data", "", 1, choices):
        assert cell["recognize.loss"] == "cosface" and cell["recognize.augmentation"] == "affine"


@pytest.mark.parametrize(("name", "updates"), [("omniglot", 1600), ("lfw", 800)])
def test_updates_are_so_many_times_the_configured_ones(name, updates):
    choice = Choice("eight times the rate, four times the updates", "")
    assert choice.fields(TARGETS[name])["recognize.steps"] == updates


def write_settings_runs(folder):
    """CosFace serves random starts, twice the rate the joint training of others."""
    helped = {
        ("random", "CosFace, twice the rate"): "real_affine",
        ("general", "twice the rate"): "real_joint",
    }
    plan = {}
    for start, arms in CHOOSERS.items():
        for setting in TARGETS["lfw"].settings:
            name = chooser(start, setting)
            plan[name] = {"name": name, "seed": 0}
            gain = {helped[start, setting]: 0.1} if (start, setting) in helped else {}
            write_run(folder / "cells" / name / "evaluate", arms, gain)
    for augmentation, gain in (("erasing", -0.1), ("rand_augment", 0.2), ("affine", 0.1)):
        name = augmenter("general", augmentation)
        plan[name] = {"name": name, "seed": 0}
        write_run(folder / "cells" / name / "evaluate", ["real_joint"], {"real_joint": gain})
    write_plan(plan_of(plan), folder)


@pytest.fixture(name="workdir")
def written_study(tmp_path):
    plan = {}
    for seed in range(3):
        for start, arms in STARTS.items():
            name = f"cell {seed} {start}"
            plan[name] = {"name": title(1, start), "seed": seed}
            gain = GAIN if start == "random" else {}
            write_run(tmp_path / "lfw" / "cells" / name / "evaluate", arms, gain)
    plan["not complete"] = {"name": title(2, "random"), "seed": 0}
    write_plan(plan_of(plan), tmp_path / "lfw")
    more = {}
    # Settings that were not chosen are not shown.
    for images, gain, setting in (
        (1, 0.0, "CosFace, twice the rate"),
        (0, 0.3, "CosFace, twice the rate"),
        (2, 0.2, "twice the rate"),
    ):
        named = headroom_title(images, "random", setting)
        more[f"more {images}"] = {"name": named, "seed": 0}
        folder = tmp_path / "lfw_headroom" / "cells" / f"more {images}" / "evaluate"
        write_run(folder, CHOOSERS["random"], {"real_erasing": gain})
    write_plan(plan_of(more), tmp_path / "lfw_headroom")
    write_settings_runs(tmp_path / "lfw_settings")
    return tmp_path


def test_claims_hold_where_mean_and_interval_say_so(workdir):
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    results = json.loads((workdir / "results.json").read_text())
    # One number of images is complete, and nothing that trained longer.
    of_samples = [result for result in results if result["name"] in COMPARED_SETS]
    assert len(results) == len(OF_ONE_TRAINING) * len(MEASURES) + len(of_samples)
    assert [(each["measure"], each["difference"], each["holds"]) for each in of_samples] == [
        ("right identity, %", 37.5, True),
        ("Frechet distance", -0.0766, True),
        ("recall, %", 0.0, False),
    ]
    found = {result["name"]: result for result in results if result["measure"] == "open_map"}
    scratch = found["the method against real images, from scratch"]
    assert scratch["baseline"] == "real_affine" and scratch["holds"]
    assert scratch["difference"] == scratch["low"] == scratch["high"] == pytest.approx(6.0)
    # Three seeds are too few for a claim.
    assert (scratch["seeds"], scratch["images"], scratch["claimed"]) == (3, 1, False)
    assert not found["the method against equal information"]["holds"]
    assert found["reinforced against best of N"]["difference"] == pytest.approx(5.0)
    page = (workdir / "RESULTS.md").read_text()
    assert "### 1 images, random start: 3 seeds" in page and "2 images" not in page
    first = "| lfw, 1 | reinforced against cold start | 3 | +38 (38 to 38) | -0.08 (-0.08 to -0.08)"
    assert f"\n{first} | +0 (0 to 0) |  |  |\n" in page
    assert "| 1 | random | 1 | 30.9 (real) | 30.9 (real) |\n" in page
    assert "| all | random | 1 | 61.0 (real_erasing) | 61.0 (real_erasing) |\n" in page
    assert "| 2 | random |" not in page
    # Three seeds of a table, two runs with more images; what was tried, and augmentations.
    command = "python experiments/ablation.py --workdir=DIR --data=FOLDER --targets=lfw"
    only = f"--only={shlex.quote(title(1, 'random'))}"
    assert f"\n`{command} --seeds=3 {only}`: 3.0 hours\n" in page
    assert scratch["command"] == f"{command} --seeds=3 {only}"
    assert {each["command"] for each in of_samples} == {scratch["command"]}
    assert {(each["data"], each["images"], each["claimed"]) for each in of_samples} == {
        ("lfw", 1, False)
    }
    more = [
        shlex.quote(headroom_title(images, "random", "CosFace, twice the rate"))
        for images in (1, 0)
    ]
    shown = f"{command} --seeds=1 --only={more[0]} --only={more[1]}"
    assert f"\n`{shown}`: 2.0 hours\n" in page
    assert (
        f"\n{2 * len(TARGETS['lfw'].settings) + 3}.0 hours, by the first of the commands below.\n"
        in page
    )
    assert "| arm, and change to real_affine |" in page and "| real_affine | 33.0 | " in page
    assert "| real_reinforced_selected | 38.9  +6.0 (6.0 to 6.0) |" in page
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines()}
    for arm in ("real_reinforced_selected", "synthetic_only"):
        assert rows[arm].endswith(" | 88 | 0.123 | 50 | 31 | 2 |")
    # Not of the nearest: they are some of a set, and it was measured whole.
    for arm in ("real", "real_best_of", "real_joint", "real_reinforced_nearest"):
        assert rows[arm].endswith(" |  |  |  |  |  |")
    assert "- random start: **CosFace, twice the rate**, affine, of the default rate 30.9; " in page
    general = "- general start: **twice the rate**, rand_augment, of the default rate 30.9; "
    (line,) = (line for line in page.splitlines() if line.startswith(general))
    assert "; twice the rate 41.0; " in line


def test_more_real_images_alone_have_their_table(workdir):
    shutil.rmtree(workdir / "lfw")
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    page = (workdir / "RESULTS.md").read_text()
    assert "### Headroom" in page and "seeds\n" not in page
    assert json.loads((workdir / "results.json").read_text()) == []


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


def test_targets_that_were_run_before_are_not_forgotten(workdir):
    ablation.main([f"--workdir={workdir}", "--targets=orl", "--gather"])
    assert {result["data"] for result in json.loads((workdir / "results.json").read_text())} == {
        "lfw"
    }


def test_results_of_targets_that_were_run_elsewhere_are_kept(workdir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for folder in workdir.glob("lfw*"):
        shutil.copytree(folder, other / folder.name.replace("lfw", "orl"))
    keep_choices(other, "orl", CHOICES)
    results = other / "together"
    both = [f"--results={results}", "--gather"]
    ablation.main([f"--workdir={other}", *both])
    ablation.main([f"--workdir={workdir}", *both])
    comparisons = json.loads((results / "results.json").read_text())
    assert list(dict.fromkeys(each["data"] for each in comparisons)) == ["lfw", "orl"]
    page = (results / "RESULTS.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## lfw", "## orl"]
    # Whichever is gathered again, and where neither is, nothing changes.
    for folder in (workdir, other, other / "none"):
        ablation.main([f"--workdir={folder}", *both])
        assert (results / "RESULTS.md").read_text() == page
        assert json.loads((results / "results.json").read_text()) == comparisons


@pytest.fixture(name="gathered")
def gathered_study(workdir, tmp_path_factory):
    """A study that has been gathered elsewhere, one seed of two images in it: flags, folder."""
    results = tmp_path_factory.mktemp("results")
    plan = read_plan(workdir / "lfw").cells | {"two": {"name": title(2, "random"), "seed": 0}}
    write_run(workdir / "lfw" / "cells" / "two" / "evaluate", STARTS["random"], GAIN)
    write_plan(plan_of(plan), workdir / "lfw")
    flags = [f"--workdir={workdir}", f"--results={results}", "--targets=lfw", "--gather"]
    ablation.main(flags)
    return flags, results


def test_comparisons_that_are_written_by_more_seeds_stay(gathered, capsys):
    flags, results = gathered
    comparisons = json.loads((results / "results.json").read_text())
    best_of, cold_start = "reinforced against best of N", "reinforced against cold start"
    of_samples = next(iter(COMPARED_SETS))
    for each in comparisons:
        if each["images"] == 1:
            change = {best_of: (4, 7.77), cold_start: (2, 6.66), of_samples: (2, 5.55)}
            before = each["seeds"], each["difference"]
            each["seeds"], each["difference"] = change.get(each["name"], before)
    gone = [each | {"images": 3, "seeds": 1} for each in comparisons if each["name"] == best_of]
    gone = gone[: len(MEASURES)]
    # What was measured of samples once, and is not now.
    copies = [each for each in comparisons if each["name"] == of_samples][0]
    copies = copies | {"measure": "near copies by pixels, %"}
    (results / "results.json").write_text(json.dumps([copies, *gone, *comparisons]))
    capsys.readouterr()
    ablation.main(flags)
    now = json.loads((results / "results.json").read_text())
    found = {(each["images"], each["name"], each["measure"]): each for each in now}
    assert len(now) == len(found) == len(comparisons) + len(gone) + 1
    for measure in MEASURES:
        assert found[1, best_of, measure]["difference"] == 7.77
        assert found[1, cold_start, measure]["seeds"] == 3
        assert found[1, cold_start, measure]["difference"] != 6.66
        assert found[3, best_of, measure]["seeds"] == 1
    # All measures of one are of the same runs.
    assert {each["seeds"] for each in now if each["name"] == of_samples} == {2}
    said = capsys.readouterr().out.splitlines()[:-1]
    assert said == [
        f"lfw, 1 images, {name}: stays as it is written, by more seeds or measures"
        for name in (best_of, of_samples)
    ]
    in_order = [each["images"] for each in now if each["name"] not in COMPARED_SETS]
    assert in_order == sorted(in_order) and set(in_order) == {1, 2, 3}
    assert [each["name"] in COMPARED_SETS for each in now] == sorted(
        each["name"] in COMPARED_SETS for each in now
    )


def test_tables_that_are_written_by_more_seeds_stay(gathered, capsys):
    flags, results = gathered
    page = results / "RESULTS.md"
    tables = page.read_text()
    changes = (
        ("### 1 images, random start: 3 seeds\n", "### 1 images, random start: 4 seeds\n"),
        ("| all | random | 1 | 61.0", "| all | random | 2 | 77.7"),
        # A table whose runs are gone, in its place.
        (
            "### Gain against",
            "### 3 images, random start: 1 seeds\n\nOf before.\n\n### Gain against",
        ),
    )
    changed = tables
    for before, after in changes:
        assert changed.count(before) == 1
        changed = changed.replace(before, after)
    # Of a table by as many seeds, which is made anew.
    row = next(line for line in tables.splitlines() if line.startswith("| real_rand_augment | 30."))
    first, last = changed.rsplit(row, 1)
    page.write_text(f"{first}| of before |{last}")
    capsys.readouterr()
    ablation.main(flags)
    assert page.read_text() == changed
    assert capsys.readouterr().out.splitlines()[:-1] == [
        f"lfw, table {heading!r}: stays as it is written, by more seeds or measures"
        for heading in (HEADROOM_HEADING, title(1, "random"))
    ]
    # What was not written before comes to its place.
    first, last = (changed.index(f"### {title(1, start)}") for start in STARTS)
    page.write_text(changed[:first] + changed[last:])
    ablation.main(flags)
    assert page.read_text() == changed.replace(*reversed(changes[0]))
    ablation.main([*flags, "--replace"])
    assert page.read_text() == tables


@pytest.mark.parametrize(
    "shown", [title(2, "random", longer=True), f"strength 0.7 ({title(2, 'random')})"]
)
def test_a_chart_that_shows_more_stays(gathered, shown):
    flags, results = gathered
    chart, page = results / "figures" / "gain_and_leakage_lfw.png", results / "RESULTS.md"
    chart.write_bytes(b"as it was")
    ablation.main(flags)
    assert chart.read_bytes().startswith(b"\x89PNG")
    more = f"### {shown}: 1 seeds\n\nOf before.\n\n### Gain against"
    page.write_text(page.read_text().replace("### Gain against", more))
    chart.write_bytes(b"as it was")
    ablation.main(flags)
    assert chart.read_bytes() == b"as it was" and more in page.read_text()
    ablation.main([*flags, "--replace"])
    assert chart.read_bytes().startswith(b"\x89PNG") and "Of before." not in page.read_text()


def run_nothing(monkeypatch):
    """Lets nothing run; returns which folders and cells would have."""
    asked_for = {}

    def sweep(folder, target, changes, asked, parallel):
        asked_for[folder.name] = asked
        if not (folder / "sweep.json").exists():
            write_plan(plan_of({}), folder)
        return True

    monkeypatch.setattr(ablation, "sweep", sweep)
    return asked_for


def test_tables_by_several_settings_are_not_put_together(gathered, monkeypatch):
    flags, results = gathered
    page = results / "RESULTS.md"
    written = page.read_text()
    asked_for = run_nothing(monkeypatch)
    for setting, why in (
        ("half the rate", "by other settings of recognisers, random start: CosFace, .* half the"),
        ("of before", "tables of lfw are written whose settings of general start the study does"),
    ):
        of_before = written.replace("start: **twice the rate**", f"start: **{setting}**")
        page.write_text(of_before)
        with pytest.raises(SystemExit, match=why):
            ablation.main(flags)
        asked_for.clear()
        with pytest.raises(SystemExit, match=why):
            ablation.main(flags[:-1])
        # Settings were chosen, and no cell ran by them.
        assert [*asked_for] == ["lfw_settings"] and page.read_text() == of_before
    ablation.main([*flags, "--replace"])
    assert page.read_text() == written


@pytest.mark.parametrize("more", [(), ("--replace",)])
def test_cells_run_by_written_settings_and_their_tables_say_so(
    gathered, tmp_path_factory, monkeypatch, more
):
    _, results = gathered
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lines = (results / "RESULTS.md").read_text().splitlines()
    settings = [line for line in lines if " start: **" in line]
    assert len(settings) == len(STARTS)
    asked_for = run_nothing(monkeypatch)
    cell = title(3, "random")
    flags = [f"--workdir={elsewhere}", f"--results={results}", "--targets=lfw", f"--only={cell}"]
    ablation.main([*flags, "--written-settings", *more])
    assert [*asked_for] == ["lfw"]  # Nothing was tried.
    assert {each["recognize.loss"] for each in asked_for["lfw"]} == {"cosface"}
    # Gathered without the flag, and wherever else.
    name = cells(TARGETS["lfw"], "", "", 1, CHOICES)[0]["name"]
    write_run(elsewhere / "lfw" / "cells" / "three" / "evaluate", STARTS["random"], GAIN)
    write_plan(plan_of({"three": {"name": cell, "seed": 0}}), elsewhere / "lfw")
    ablation.main([*flags[:3], "--gather", *more])
    now = (results / "RESULTS.md").read_text().splitlines()
    assert [line for line in now if " start: **" in line] == settings
    assert f"### {cell}: 1 seeds" in now and (f"### {name}: 1 seeds" in now) == (not more)
    alone = elsewhere / "alone"
    ablation.main([flags[0], f"--results={alone}", "--targets=lfw", "--gather"])
    now = (alone / "RESULTS.md").read_text().splitlines()
    assert [line for line in now if " start: **" in line] == [
        f"- {start} start: **{choice.setting}**, {choice.augmentation}"
        for start, choice in CHOICES.items()
    ]
    assert written_choices(now, TARGETS["lfw"].settings) == CHOICES


def test_settings_that_are_not_written_are_refused_before_anything_runs(gathered, monkeypatch):
    flags, results = gathered
    asked_for = run_nothing(monkeypatch)
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


def test_what_the_repository_has_written_is_read():
    written = read_results(ROOT / "experiments", ALL_TARGETS)
    choices = written_choices(written.sections["lfw"], TARGETS["lfw"].settings)
    config = load_base(str(ROOT / TARGETS["lfw"].base))[1]
    fields = choices["random"].fields(TARGETS["lfw"])
    # The config trains longer than what was chosen for real images.
    assert fields.pop("recognize.steps") * TARGETS["lfw"].longer == config.recognize.steps
    assert all(configuration.field(config, path) == value for path, value in fields.items())
    for name, section in written.sections.items():
        parts = parts_of(section)
        assert set(parts) <= set(headings(TARGETS[name]))
        assert [line for part in parts.values() for line in part.lines] == section


def test_what_was_written_by_other_rules_is_decided_anew(workdir):
    flags = [f"--workdir={workdir}", "--targets=lfw"]
    ablation.main([*flags, "--gather"])
    file = workdir / "results.json"
    comparisons = json.loads(file.read_text())
    for each in comparisons:
        each.update(data="orl", claimed=True, holds=not each["holds"])
    file.write_text(json.dumps(comparisons))
    ablation.main([*flags, "--gather"])
    now = [each for each in json.loads(file.read_text()) if each["data"] == "orl"]
    assert [(e["holds"], e["claimed"]) for e in now] == [
        (not e["holds"], False) for e in comparisons
    ]


@pytest.mark.parametrize("field", ["name", "data", "measure"])
def test_nothing_runs_whose_results_could_not_be_written(gathered, monkeypatch, field):
    flags, results = gathered
    asked_for = run_nothing(monkeypatch)
    comparisons = json.loads((results / "results.json").read_text())
    text = json.dumps([comparisons[0] | {field: "of before"}])
    (results / "results.json").write_text(text)
    with pytest.raises(SystemExit, match=f"whose '{field}' is 'of before', which the study has"):
        ablation.main(flags[:-1])
    assert not asked_for and (results / "results.json").read_text() == text


def test_sections_of_others_are_not_lost(gathered):
    flags, results = gathered
    with (results / "RESULTS.md").open("a") as page:
        page.write("## Notes\n")
    with pytest.raises(SystemExit, match="has a section 'Notes'; the study's are lfw, omniglot"):
        ablation.main(flags)


@pytest.mark.parametrize("longer", [False, True])
def test_within_a_variation_arms_are_compared_with_each_other(workdir, longer):
    plan = read_plan(workdir / "lfw").cells
    for seed in range(2):
        name = f"nobody {seed}"
        plan[name] = {"name": variation_title(TOLD_NOBODY, longer=longer), "seed": seed}
        arms = (*ARMS_OF_VARIATIONS[TOLD_NOBODY], "real_affine")
        gain = {"real_reinforced": 0.09, "real_best_of": 0.04}
        write_run(workdir / "lfw" / "cells" / name / "evaluate", arms, gain)
    write_plan(plan_of(plan), workdir / "lfw")
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    results = json.loads((workdir / "results.json").read_text())
    found = {
        each["name"]: each
        for each in results
        if TOLD_NOBODY in each["name"] and each["measure"] == "closed_rank1"
    }
    training = "; longer training" if longer else ""
    assert [*found] == [
        f"reinforced against {other}, by {TOLD_NOBODY}{training}"
        for other in (
            "real images augmented alike",
            "cold start",
            "best of N",
            "the better of both",
        )
    ]
    assert [each["difference"] for each in found.values()] == pytest.approx([9.0, 9.0, 5.0, 5.0])
    assert {each["images"] for each in found.values()} == {2}
    at_least = [each.at_least for each in COMPARISONS if each.name in found]
    assert at_least == [GOAL, 0.0, 0.0, 0.0]
    # Of real images alone, those that were run with it.
    assert [*found.values()][0]["baseline"] == "real_affine"
    of_samples = [each for each in results if each["name"] in COMPARED_SETS]
    assert {each["name"].partition(", by ")[2] for each in of_samples} == {"", TOLD_NOBODY}
    told = [each for each in of_samples if TOLD_NOBODY in each["name"]]
    assert {(each["seeds"], each["images"]) for each in told} == {(2, 2)}
    assert {each["baseline_cell"] for each in found.values()} == {plan["nobody 0"]["name"]}
    assert {each["seeds"] for each in found.values()} == {2}


def test_five_seeds_are_a_claim(tmp_path):
    plan = {}
    for seed in range(5):
        for start, arms in STARTS.items():
            plan[f"cell {seed} {start}"] = {"name": title(2, start), "seed": seed}
            folder = tmp_path / "lfw" / "cells" / f"cell {seed} {start}" / "evaluate"
            write_run(folder, arms, GAIN)
    write_plan(plan_of(plan), tmp_path / "lfw")
    keep_choices(tmp_path, "lfw", CHOICES)
    ablation.main([f"--workdir={tmp_path}", "--targets=lfw", "--gather"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(result["seeds"] == 5 for result in results)
    # What was asked of samples when runs of them were known never is.
    assert {r["name"] for r in results if r["claimed"]} == {c.name for c in OF_ONE_TRAINING}


def test_nothing_is_gathered_where_settings_are_not_known(workdir, capsys):
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    written = [(workdir / name).read_text() for name in ("results.json", "RESULTS.md")]
    shutil.rmtree(workdir / "lfw_settings")
    capsys.readouterr()
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    said = capsys.readouterr().out
    assert "lfw: nothing is gathered without recognisers' settings: the run 'random" in said
    assert [(workdir / name).read_text() for name in ("results.json", "RESULTS.md")] == written


def test_a_gain_below_the_goal_is_no_claim(workdir):
    runs = [*Runs(workdir / "lfw").named(title(1, "random")).values()]
    below = COMPARISONS[0].__class__("x", "real_affine", "random", ("real",), "random", 3.2)
    assert not decide(below, runs, {"": runs}, "open_map")["holds"]
    above = COMPARISONS[0].__class__("x", "real_affine", "random", ("real",), "random", 1.9)
    assert decide(above, runs, {"": runs}, "open_map")["holds"]


def test_baselines_that_were_not_run_are_passed_over_within_a_variation_alone(workdir):
    runs = [*Runs(workdir / "lfw").named(title(1, "random")).values()]
    for within in (True, False):
        asked = COMPARISONS[0].__class__(
            "x", "real_affine", "random", ("real", "not run"), "random", within=within
        )
        if within:
            assert decide(asked, runs, {"": runs}, "open_map")["baseline"] == "real"
        else:
            with pytest.raises(ValueError, match="there is no arm 'not run'"):
                decide(asked, runs, {"": runs}, "open_map")
    alone = COMPARISONS[0].__class__("x", "real", "random", ("not run",), "random", within=True)
    with pytest.raises(LookupError, match="has a baseline of 'x'"):
        decide(alone, runs, {"": runs}, "open_map")


def test_settings_are_those_of_the_best_arm_without_synthetic_images(workdir):
    choices = choose(Runs(workdir / "lfw_settings"), TARGETS["lfw"])
    assert choices == CHOICES
    for cell in cells(TARGETS["lfw"], "data", "priors", 1, choices):
        if cell["recognize.start"] == "random":
            assert cell["recognize.loss"] == "cosface" and cell["recognize.learning_rate"] == 2e-3
            assert cell["recognize.augmentation"] == "affine"
        else:
            assert cell["recognize.learning_rate"] == 2e-3 and "recognize.loss" not in cell
            assert cell["recognize.augmentation"] == "rand_augment"
        # What is varied is seen beside real images that are changed alike.
        assert "real_affine" in cell["recognize.arms"]


def test_the_sweep_file_gives_the_cells():
    choices = dict.fromkeys(STARTS, Choice("the default rate", ""))
    changes = cells(TARGETS["omniglot"], "/x", "/priors", 2, choices)
    scope: dict = {}
    exec(ablation.sweep_file(TARGETS["omniglot"], changes), scope)
    assert scope["get_hyper"](None) == changes
    assert scope["BASE"].endswith("configs/omniglot.py:small2")


def asked_for(made, *flags):
    options = ablation.parse(["--workdir=DIR", "--targets=omniglot", *flags])
    return [cell for cell in made if ablation.is_asked_for(cell, options)]


def test_the_command_of_a_table_runs_its_cells_alone():
    target = TARGETS["omniglot"]
    planned = target, "data", "", 5, dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    made, more = cells(*planned), headroom_cells(*planned)
    assert asked_for(made) == made and asked_for(more) == more
    names = {cell["name"] for cell in made + more}
    assert names <= names_of_cells(target)
    for name in {cell["name"] for cell in made}:
        found = asked_for(made + more, f"--only={name}", "--seeds=2")
        assert [(cell["name"], cell["seed"]) for cell in found] == [(name, 0), (name, 1)]
    assert asked_for(made + more, f"--only={HEADROOM}") == more
    several = asked_for(made, "--only=strength *", "--only=2 images, *", "--seeds=1")
    of_two = len(STARTS) * len(target.trainings)
    assert len(several) == of_two + sum(name.startswith("strength ") for name in target.variations)


def test_names_that_no_cell_has_are_refused(capsys):
    with pytest.raises(SystemExit):
        ablation.parse(["--workdir=DIR", "--targets=omniglot", "--only=strength 0.85"])
    said = capsys.readouterr().err
    assert "strength 0.85 is like no cell's name; there are" in said and "'strength 0.7'" in said


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


def test_a_variation_is_compared_with_the_cells_of_its_seeds(tmp_path):
    compared = [comparison for comparison in COMPARISONS if comparison.variation]
    assert compared and all(comparison.cells(1) is None for comparison in compared)
    plan, folder = {}, tmp_path / "omniglot"
    for name, seeds, gain in (
        (title(2, "random"), range(3), {"real_affine": 0.02, "real_reinforced_selected": 0.03}),
        *((c.variation, (1, 2), {c.arm: 0.09}) for c in compared[:1]),
    ):
        arms = STARTS["random"] if name == title(2, "random") else ARMS_OF_VARIATIONS[name]
        for seed in seeds:
            plan[f"{name} {seed}"] = {"name": name, "seed": seed}
            write_run(folder / "cells" / f"{name} {seed}" / "evaluate", arms, gain)
    write_plan(plan_of(plan), folder)
    found = {
        (result["name"], result["measure"]): result for result in compare("omniglot", Runs(folder))
    }
    for comparison, baseline, difference in zip(
        compared, ("real_affine", "real_reinforced_selected"), (7.0, 6.0)
    ):
        result = found[comparison.name, "open_map"]
        assert (result["baseline"], result["seeds"], result["images"]) == (baseline, 2, 2)
        assert result["difference"] == pytest.approx(difference)
        of_arm, of_baselines = comparison.cells(2)
        for name in (of_arm, *of_baselines):
            assert shlex.quote(name) in result["command"]


@pytest.mark.parametrize(("gain", "of_best"), [(0.03, False), (0.05, True)])
def test_who_trains_longer_is_compared_with_the_best_of_either_training(tmp_path, gain, of_best):
    plan, folder = {}, tmp_path / "lfw"
    for longer, gains, seeds in (
        (False, {"real_affine": 0.04}, range(3)),
        (True, {"real_erasing": gain, "real_reinforced_selected": 0.09}, (0, 2)),
    ):
        for seed in seeds:
            name = title(2, "random", longer=longer)
            plan[f"{name} {seed}"] = {"name": name, "seed": seed}
            write_run(folder / "cells" / f"{name} {seed}" / "evaluate", STARTS["random"], gains)
    write_plan(plan_of(plan), folder)
    found = {
        result["name"]: result
        for result in compare("lfw", Runs(folder))
        if result["measure"] == "open_map"
    }
    scratch = found["the method against real images, from scratch; longer training"]
    best = ("real_affine", "real_erasing")[of_best]
    assert (scratch["baseline"], scratch["seeds"]) == (best, 2)
    assert scratch["baseline_cell"] == title(2, "random", longer=of_best)
    assert scratch["difference"] == pytest.approx(4.0 if of_best else 5.0)
    for longer in (False, True):
        assert shlex.quote(f"{title(2, 'random', longer=longer)}") in scratch["command"]


def test_longer_training_makes_so_many_times_the_chosen_updates():
    choices = dict.fromkeys(STARTS, Choice("four times the rate, twice the updates", ""))
    made = cells(TARGETS["lfw"], "data", "", 1, choices)
    updates = {cell["name"]: cell["recognize.steps"] for cell in made}
    for start in STARTS:
        assert updates[title(1, start)] == 400
        assert updates[title(1, start, longer=True)] == 1600
    assert title(1, "random", longer=True) in names_of_cells(TARGETS["lfw"])
    assert title(1, "random", longer=True) not in names_of_cells(TARGETS["orl"])
