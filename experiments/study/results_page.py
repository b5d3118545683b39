"""Writes results.json and RESULTS.md: what runs say, beside what is written of others."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rlsyn_jax.training.atomic_files import write_json, write_text
from study.claims import GOAL
from study.comparing import compare, compare_samples
from study.decisions import decisions_table
from study.design import ALL_TARGETS, Choice
from study.gathering import Runs, choose
from study.samples import samples_table
from study.tables import LEAKAGE_HEADING, headings, tables
from study.written_results import (
    COMPARISONS_FILE,
    TABLES_FILE,
    ResultsError,
    WrittenResults,
    choices_of,
    merged,
    merged_parts,
    parts_of,
    read_results,
)

_ABOUT = (
    "In points, with 95 % intervals by bootstrap over seeds and people, each for itself: nothing",
    "is corrected for how many comparisons there are. What is claimed, by five seeds, is bold: the",
    f"interval lies above 0, and from scratch the mean is at least {GOAL}. Intervals of fewer",
    "seeds may be too narrow. The method is real images and reinforced samples with dynamic",
    "selection; the others of a comparison are the best of their kind; equal information is that",
    "of who has the prior's data and labels. The better of both is that of cold start and best of",
    "N, which was asked when runs of it were known. Longer training is so many times the updates",
    "that were chosen for real images; who trains so is compared with the best of those who do and",
    "of those who do not.",
    "",
)
_ABOUT_SAMPLES = (
    "And what reinforcement does to samples, before anybody trains on them, by measures in which",
    "no reward has a part: changes in points, of distances as they are, with 95 % intervals by",
    "Student's t over seeds; as seeds share people, they may be a little narrow. It was asked when",
    "the runs were known, but for those by a prior that is told nobody, and nothing of it is a",
    "claim. Fewer near copies and a smaller distance are better.",
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
        if any((workdir / f"{name}{part}" / "sweep.json").exists() for part in ("", "_headroom")):
            runs, draws = Runs(workdir / name), []
            choices = settled(name, workdir, written, results, keep=keep)
            found = [*compare(name, runs), *compare_samples(name, runs)]
            comparisons = merged(comparisons if keep else (), found)
            of_runs = parts_of(tables(name, runs, workdir, results, choices, draws))
            parts = merged_parts(parts if keep else {}, of_runs)
            if parts.get(LEAKAGE_HEADING) is of_runs.get(LEAKAGE_HEADING):
                charts += draws
        claims += comparisons
        for heading in dict.fromkeys([*headings(target), *parts]):
            lines += parts[heading].text() if heading in parts else ()
    write_json(results / COMPARISONS_FILE, claims)
    decided = [*decisions_table(claims), ""]
    if samples := [*samples_table(claims)]:
        decided += [*_ABOUT_SAMPLES, *samples, ""]
    lines = ["# Results", "", *_ABOUT, *decided, *_ABOUT_TABLES, "", *lines]
    write_text(results / TABLES_FILE, "\n".join(lines) + "\n")
    for draw in charts:
        draw()
    print(f"results: {results / COMPARISONS_FILE}, {results / TABLES_FILE}", flush=True)


def settled(
    name: str, workdir: Path, written: WrittenResults, results: Path, *, keep: bool
) -> dict[str, Choice]:
    """Returns how a target's recognisers train, as its runs say, or else as is written.

    Args:
        name: of the target.
        workdir: of the study.
        written: what stands in the folder of results.
        results: that folder.
        keep: whether what stands there stays.

    Returns:
        start -> choice; nothing, where neither says it.

    Raises:
        ResultsError: tables by several settings would stand on one page.
    """
    target, before, now = ALL_TARGETS[name], {}, {}
    with contextlib.suppress(LookupError):
        before = choices_of(written.sections.get(name, ()), target.settings)
    with contextlib.suppress(LookupError):
        now = choose(Runs(workdir / f"{name}_settings"), target)
    if keep and before and now and before != now:
        raise ResultsError(
            f"nothing is written in {results}, whose tables of {name} are by other settings "
            f"of recognisers than were chosen in {workdir}: {before}, now {now}; gather with "
            "--replace to lose them, or with another --results"
        )
    return now or before
