"""Writes results.json and RESULTS.md: what runs say, beside what is written of others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlsyn_jax.training.atomic_files import write_json, write_text
from study.chosen_settings import (
    check_planned,
    check_same,
    choices_of_cells,
    written_choices,
)
from study.claims import GOAL
from study.comparing import compare, compare_samples
from study.decisions import decisions_table
from study.design import ALL_TARGETS
from study.gathering import Runs
from study.samples import samples_table
from study.tables import LEAKAGE_HEADING, charted, headings, tables
from study.written_results import (
    COMPARISONS_FILE,
    TABLES_FILE,
    TITLE,
    Part,
    WrittenResults,
    merged,
    merged_parts,
    parts_of,
    read_results,
)

_ABOUT = (
    "In points, with 95 % intervals by bootstrap over seeds and people, each for itself: nothing",
    "is corrected for how many comparisons there are. What is claimed, by five seeds, is bold: the",
    "interval lies above 0, and against real images alone, from scratch, the mean is at least",
    f"{GOAL}. Intervals of fewer seeds may be too narrow. The method is real images and reinforced",
    "samples with dynamic selection; the others of a comparison are the best of their kind; equal",
    "information is that of who has the prior's data and labels. The better of both is that of",
    "cold start and best of N, which was asked when runs of it were known. Longer training is so",
    "many times the updates that were chosen for real images; who trains so is compared with the",
    "best of those who do and of those who do not. By a prior that is told nobody all arms are of",
    "the same runs, whose real images are augmented as the others; the networks of rewards and",
    "judge have learnt the general people's labels there, too. Further seeds (5 to 9) decide by",
    "themselves, and were planned when the first ones (0 to 4) were known.",
    "",
)
_ABOUT_SAMPLES = (
    "And what reinforcement does to samples, before anybody trains on them, by measures in which",
    "no reward has a part: changes in points, of distances as they are, with 95 % intervals by",
    "Student's t over seeds; as seeds share people, they may be a little narrow. Nothing of it is",
    "a claim: it was asked when the runs were known, but by a prior that is told nobody before",
    "them, of its 120 samples when two seeds of 40 were known, and of further seeds when the first",
    "ones were. Fewer near copies and a smaller distance are better, though sharper images are",
    "fewer copies by pixels whatever they copy.",
    "",
)
_ABOUT_TABLES = (
    "Under each table stands the command that makes its runs, and what they took: hours of all",
    "their stages by a clock, also of runs that shared the cores. Stages that several tables rest",
    "on count in each; priors and extractors, which are kept, and the choosing of settings, which",
    "the first command does, do not. What is said of samples is of all that an arm may draw; the",
    "nearest, which real_reinforced_nearest keeps of the reinforced, were not measured apart, and",
    "older tables have the figures of all there. Who has more real images of a person enrols as",
    "many, so that the headroom in rank-1 is that of training on more and of enrolling more;",
    "samples are never enrolled.",
)


def write_results(workdir: Path, results: Path, *, keep: bool) -> None:
    """Writes comparisons, tables and charts of all targets.

    Args:
        workdir: of the study; what other commands ran in it is gathered, too.
        results: folder that they are written to, where may stand what was run elsewhere.
        keep: whether what stands there and rests on more seeds than the workdir has of it stays.

    Raises:
        ResultsError: what stands there is nothing of the study, or cannot stay beside what was
            found; nothing is written.
    """
    written = read_results(results, ALL_TARGETS)
    claims, lines, charts = [], [], []
    for name, target in ALL_TARGETS.items():
        comparisons = [each for each in written.comparisons if each["data"] == name]
        parts = parts_of(written.sections.get(name, ()))
        if gathered := _of_runs(name, workdir, results, written, keep=keep):
            comparisons, parts, drawn, kept = gathered
            charts += drawn
            for each in kept:
                print(
                    f"{name}, {each}: stays as it is written, by more seeds or measures", flush=True
                )
        claims += comparisons
        for heading in dict.fromkeys([*headings(target), *parts]):
            lines += parts[heading].text() if heading in parts else ()
    write_json(results / COMPARISONS_FILE, claims)
    decided = [*decisions_table(claims), ""]
    if samples := [*samples_table(claims)]:
        decided += [*_ABOUT_SAMPLES, *samples, ""]
    lines = [TITLE, "", *_ABOUT, *decided, *_ABOUT_TABLES, "", *lines]
    write_text(results / TABLES_FILE, "\n".join(lines) + "\n")
    for draw in charts:
        draw()
    print(f"results: {results / COMPARISONS_FILE}, {results / TABLES_FILE}", flush=True)


class _Gathered(NamedTuple):
    comparisons: list[Mapping[str, Any]]
    parts: dict[str, Part]
    draws: list[Callable[[], None]]
    kept: list[str]


def _of_runs(
    name: str, workdir: Path, results: Path, written: WrittenResults, *, keep: bool
) -> _Gathered | None:
    """Returns a target's results by its runs and what stays; None where it has not been run."""
    folders = (workdir / f"{name}{part}" / "sweep.json" for part in ("", "_headroom"))
    if not any(folder.exists() for folder in folders):
        return None
    try:
        choices = choices_of_cells(workdir, name)
    except LookupError as error:
        print(f"{name}: nothing is gathered without recognisers' settings: {error}", flush=True)
        return None
    check_planned(name, workdir, choices)
    section = written.sections.get(name, ())
    if keep:
        check_same(name, section, choices)
    before, draws, runs = parts_of(section), [], Runs(workdir / name)
    settings = ()
    with contextlib.suppress(LookupError):
        if written_choices(section, ALL_TARGETS[name].settings) == choices:
            settings = before[""].lines[1:]  # Without the target's name.
    found = parts_of(tables(name, runs, workdir, results, choices, settings, draws))
    parts, kept = merged_parts(before if keep else {}, found)
    if LEAKAGE_HEADING in parts and any(
        parts.get(heading) is not found.get(heading) for heading in charted(ALL_TARGETS[name])
    ):
        # What stands there shows more runs.
        parts[LEAKAGE_HEADING], draws = before.get(LEAKAGE_HEADING, parts[LEAKAGE_HEADING]), []
    comparisons, stay = merged(
        [each for each in written.comparisons if keep and each["data"] == name],
        [*compare(name, runs), *compare_samples(name, runs)],
    )
    return _Gathered(comparisons, parts, draws, stay + [f"table {heading!r}" for heading in kept])
