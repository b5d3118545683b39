"""Gathering adds to what is written, and loses nothing that it does not have better."""

import json
import shutil
from pathlib import Path

import ablation
import pytest
from study.chosen_settings import keep_choices, written_choices
from study.design import (
    ALL_TARGETS,
    MEASURES,
    STARTS,
    TARGETS,
    title,
)
from study.samples import COMPARED_SETS
from study.tables import HEADROOM_HEADING, headings
from study.written_results import parts_of, read_results
from sweeping.python_files import load_base

from rlsyn_jax import config as configuration

ROOT = Path(__file__).parents[3]


def test_targets_that_were_run_before_are_not_forgotten(workdir):
    ablation.main([f"--workdir={workdir}", "--targets=orl", "--gather"])
    assert {result["data"] for result in json.loads((workdir / "results.json").read_text())} == {
        "lfw"
    }


def test_results_of_targets_that_were_run_elsewhere_are_kept(written, workdir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for folder in workdir.glob("lfw*"):
        shutil.copytree(folder, other / folder.name.replace("lfw", "orl"))
    keep_choices(other, "orl", written.choices)
    results = other / "together"
    both = [f"--results={results}", "--gather"]
    ablation.main([f"--workdir={other}", *both])
    ablation.main([f"--workdir={workdir}", *both])
    comparisons = json.loads((results / "results.json").read_text())
    assert list(dict.fromkeys(each["data"] for each in comparisons)) == ["lfw", "orl"]
    page = (results / "RESULTS.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## lfw", "## orl"]
    # Whichever is gathered again, and where neither is, nothing changes.
    (other / "none").mkdir()
    for folder in (workdir, other, other / "none"):
        ablation.main([f"--workdir={folder}", *both])
        assert (results / "RESULTS.md").read_text() == page
        assert json.loads((results / "results.json").read_text()) == comparisons


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
def test_nothing_runs_whose_results_could_not_be_written(gathered, asked_for, field):
    flags, results = gathered
    comparisons = json.loads((results / "results.json").read_text())
    text = json.dumps([comparisons[0] | {field: "of before"}])
    (results / "results.json").write_text(text)
    with pytest.raises(SystemExit, match=f"whose '{field}' is 'of before', which the study has"):
        ablation.main(flags[:-1])
    assert not asked_for and (results / "results.json").read_text() == text


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"name": "of before"}]', "[3]"])
def test_a_damaged_file_of_comparisons_is_not_replaced(gathered, content):
    flags, results = gathered
    (results / "results.json").write_text(content)
    with pytest.raises(SystemExit, match="results.json is not as the study writes it .*; mend it"):
        ablation.main(flags)
    assert (results / "results.json").read_text() == content


def test_a_page_of_somebody_else_is_not_replaced(gathered):
    flags, results = gathered
    (results / "RESULTS.md").write_text("# Mine\n")
    with pytest.raises(SystemExit, match="RESULTS.md does not begin with '# Results', so that"):
        ablation.main(flags)
    assert (results / "RESULTS.md").read_text() == "# Mine\n"


def test_sections_of_others_are_not_lost(gathered):
    flags, results = gathered
    with (results / "RESULTS.md").open("a") as page:
        page.write("## Notes\n")
    with pytest.raises(SystemExit, match="has a section 'Notes'; the study's are lfw, omniglot"):
        ablation.main(flags)


def test_what_the_repository_has_written_is_read():
    results = read_results(ROOT / "experiments", ALL_TARGETS)
    choices = written_choices(results.sections["lfw"], TARGETS["lfw"].settings)
    config = load_base(str(ROOT / TARGETS["lfw"].base))[1]
    fields = choices["random"].fields(TARGETS["lfw"])
    # The config trains longer than what was chosen for real images.
    assert fields.pop("recognize.steps") * TARGETS["lfw"].longer == config.recognize.steps
    assert all(configuration.field(config, path) == value for path, value in fields.items())
    for name, section in results.sections.items():
        parts = parts_of(section)
        assert set(parts) <= set(headings(TARGETS[name]))
        assert [line for part in parts.values() for line in part.lines] == section
