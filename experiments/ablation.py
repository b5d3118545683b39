"""The study: does the method help, by how much, against what, on real images and with seeds.

    python experiments/ablation.py --workdir=DIR --data=FOLDER [--targets=lfw,omniglot] [--seeds=5]
        [--only='2 images, *'] [--results=DIR]

FOLDER has lfw_target, lfw_general, omniglot/small1, omniglot/small2 and orl_faces, one folder of
images an identity, as experiments/study_data.py lays them out; without them, --targets=tiny shows
in minutes that everything runs. What runs stands in experiments/study/design.py, and what counts as
a claim in claims.py beside it. For each target, recognisers' settings are chosen on validation
people in DIR/TARGET_settings, and what more real images give is measured in DIR/TARGET_headroom;
its cells then are a sweep in DIR/TARGET. With --only, which may be given several times, nothing
runs but the choosing and cells with such names, as the commands under the tables have them. The
same command resumes; at the end, and with --gather at any time, results.json has every comparison
of the complete runs of all targets in DIR, and RESULTS.md the tables. Both stand in DIR, or in the
folder that --results names, where what DIR does not have, or has by fewer seeds, stays as it is
written, unless --replace says otherwise: each target, and each table, can be run on a machine of
its own. With --written-settings recognisers train by what that folder says was chosen.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from study import leakage
from study.claims import COMPARISONS, GOAL, SEEDS_OF_A_CLAIM
from study.decisions import decisions_table
from study.design import (
    CHOOSERS,
    HEADROOM,
    MEASURES,
    SET_MEASURES,
    STARTS,
    TARGETS,
    TINY,
    Choice,
    Target,
    cells,
    choosing_cells,
    headroom_cells,
    headroom_title,
    names_of_cells,
    title,
    trained_variations,
    variation_title,
)
from study.gathering import Runs, arm_rows, best_arm, best_mean, choose, decide
from study.samples import COMPARED_SETS, compare_sets, samples_table
from study.variations import IMAGES_OF_VARIATIONS, VARIATIONS
from study.written_results import (
    COMPARISONS_FILE,
    NO_AUGMENTATION,
    TABLES_FILE,
    WrittenResults,
    choices_of,
    is_claimed,
    merged,
    merged_parts,
    parts_of,
    read_results,
)
from sweeping.cells import cell_names
from sweeping.name_patterns import add_only, is_like, unmatched
from sweeping.plan import read_plan
from sweeping.python_files import load_base
from sweeping.work_folders import is_made

from rlsyn_jax.training.atomic_files import write_json, write_text

_HERE = Path(__file__).absolute().parent
_TARGETS = {**TARGETS, "tiny": TINY}
HEADROOM_HEADING = "Headroom: the best arm without synthetic images, by real ones"
LEAKAGE_HEADING = "Gain against leakage"
# Codes of a sweep that was told to stop, before and after it had begun to listen.
_STOPPED = tuple(
    code for number in (signal.SIGTERM, signal.SIGINT) for code in (128 + number, -number)
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


def main(arguments: list[str]) -> None:
    """Runs what is not complete, and writes what was found."""
    options = parse(arguments)
    workdir = options.workdir.absolute()
    results = (options.results or workdir).absolute()
    data, cache = str(options.data.absolute()), str(workdir / "priors")
    failed, named = [], False
    written = written_in(results)  # Refused before anything runs.
    by_writing = {
        name: written_choices(name, written, results)
        for name in (options.targets if options.written_settings else ())
    }
    for name in options.targets if not options.gather else ():
        target, choosing = _TARGETS[name], workdir / f"{name}_settings"
        made = choosing_cells(target, data, cache)
        if name not in by_writing and not sweep(choosing, target, made, made, options.parallel):
            failed.append(f"{name} (settings)")
            continue
        choices = by_writing.get(name) or choose(Runs(choosing), target)
        # Planned whole, whatever is asked for: a cell's folder then has the same name each time,
        # and what other commands have made is counted.
        planned = target, data, cache, max(options.seeds, SEEDS_OF_A_CLAIM), choices
        for folder, made in (
            (f"{name}_headroom", headroom_cells(*planned)),
            (name, cells(*planned)),
        ):
            asked = [cell for cell in made if is_asked_for(cell, options)]
            named |= bool(asked)
            if asked and not sweep(workdir / folder, target, made, asked, options.parallel):
                failed.append(folder.replace("_headroom", " (headroom)"))
                break
    write_results(workdir, results, keep=not options.replace)
    if not (named or failed or options.gather):
        sys.exit(f"error: what --only names is not of the chosen settings: {options.only}")
    if failed:
        sys.exit(f"error: not all cells of {', '.join(failed)} are complete; see above")


def written_choices(name: str, written: WrittenResults, results: Path) -> dict[str, Choice]:
    """Returns how a target's recognisers train by what is written; ends with an error without."""
    try:
        return choices_of(written.sections.get(name, ()), _TARGETS[name].settings)
    except LookupError as error:
        sys.exit(
            f"error: {results / TABLES_FILE} has no {error} of {name}; leave out "
            "--written-settings, and they are chosen, or name another folder with --results"
        )


def write_results(workdir: Path, results: Path, *, keep: bool) -> None:
    """Writes comparisons, tables and charts of all targets.

    Args:
        workdir: of the study; what other commands ran in it is gathered, too.
        results: folder that they are written to, where may stand what was run elsewhere.
        keep: whether what stands there and rests on more seeds than the workdir has of it stays.
    """
    written = written_in(results)
    claims, lines, charts = [], [], []
    for name, target in _TARGETS.items():
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
        keep: whether what stands there stays. Tables by several settings would then stand on one
            page, which ends with an error.

    Returns:
        start -> choice; nothing, where neither says it.
    """
    target, before, now = _TARGETS[name], {}, {}
    with contextlib.suppress(LookupError):
        before = choices_of(written.sections.get(name, ()), target.settings)
    with contextlib.suppress(LookupError):
        now = choose(Runs(workdir / f"{name}_settings"), target)
    if keep and before and now and before != now:
        sys.exit(
            f"error: nothing is written in {results}, whose tables of {name} are by other settings "
            f"of recognisers than were chosen in {workdir}: {before}, now {now}; gather with "
            "--replace to lose them, or with another --results"
        )
    return now or before


def headings(target: Target) -> list[str]:
    """Returns the headings of all tables that a target can have, in the order of the page."""
    in_order = sorted(target.images, key=lambda images: images or math.inf)
    return [
        "",
        HEADROOM_HEADING,
        *(
            title(images, start, longer=longer)
            for images, start, longer in itertools.product(in_order, STARTS, target.trainings)
        ),
        *(
            varied_heading(variation_title(varied, longer=longer))
            for varied, longer in trained_variations(target)
        ),
        LEAKAGE_HEADING,
    ]


def varied_heading(change: str) -> str:
    """Returns the heading of a variation's table."""
    return f"{change} ({title(IMAGES_OF_VARIATIONS, 'random')})"


def written_in(results: Path) -> WrittenResults:
    """Returns what a folder has of results; ends with an error where the study does not know it."""
    try:
        return read_results(results, _TARGETS)
    except ValueError as error:
        sys.exit(f"error: {error}")


def is_asked_for(cell: dict, options: argparse.Namespace) -> bool:
    """Whether a cell is among the seeds and headings that the options name."""
    named = not options.only or is_like(cell["name"], options.only)
    return named and cell["seed"] < options.seeds


def sweep(
    folder: Path, target: Target, changes: list[dict], asked: list[dict], parallel: int
) -> bool:
    """Runs some cells of a sweep in a folder; returns whether those are complete.

    A SIGTERM or an interrupt goes on to the sweep, whose runs save what they have; the study then
    ends, too.
    """
    file = folder.with_name(f"{folder.name}_cells.py")
    write_text(file, sweep_file(target, changes))
    command = [sys.executable, str(_HERE / "sweep.py"), str(file)]
    command += [f"--workdir={folder}", f"--parallel={parallel}"]
    if len(asked) < len(changes):
        names = zip(cell_names(changes), changes)
        command += [f"--only={name}" for name, changed in names if changed in asked]
    with subprocess.Popen(command) as process:
        # A terminal sends its interrupt to the sweep itself.
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code in _STOPPED:
        sys.exit(128 + signal.SIGTERM)
    return code == 0


def sweep_file(target: Target, changes: list[dict]) -> str:
    """Returns a sweep file with a target's cells written out."""
    base, _, variant = target.base.partition(":")
    lines = [f'"""Cells of the study, written by {Path(__file__).name}."""', ""]
    lines += [f"BASE = {str(_HERE.parent / base) + (variant and ':' + variant)!r}", ""]
    lines += ["CELLS = ["] + [f"    {changed!r}," for changed in changes] + ["]", "", ""]
    lines += ["def get_hyper(hyper):", '    """Returns the cells."""', "    return CELLS", ""]
    return "\n".join(lines)


def compare(name: str, runs: Runs) -> Iterator[dict]:
    """Yields every comparison of a target whose runs are there."""
    for images in _TARGETS[name].images:
        for comparison in COMPARISONS:
            compared = comparison.cells(images)
            if not compared:
                continue
            of_arm, of_baselines = compared
            measured = {cell: runs.named(cell) for cell in (of_arm, *of_baselines)}
            seeds = sorted(set.intersection(*map(set, measured.values())))
            found = {cell: [of[seed] for seed in seeds] for cell, of in measured.items()}
            baselines = {cell: found[cell] for cell in of_baselines}
            for measure in MEASURES if seeds else ():
                yield {
                    "name": comparison.name,
                    "data": name,
                    "images": images or "all",
                    "measure": measure,
                    "arm": comparison.arm,
                    **decide(comparison, found[of_arm], baselines, measure),
                    "claimed": is_claimed(name, len(seeds)),
                    "command": command_of(name, seeds, measured),
                }


def compare_samples(name: str, runs: Runs) -> Iterator[dict]:
    """Yields every comparison of the sets of samples of a target whose runs are there."""
    variations = dict.fromkeys(sets.variation for sets in COMPARED_SETS.values())
    for images, variation in itertools.product(_TARGETS[name].images, variations):
        if variation and images != IMAGES_OF_VARIATIONS:
            continue
        heading = variation or title(images, "random")
        # Who trains longer trains on the same samples.
        by_cell = {
            cell: runs.named(cell) for cell in (heading, variation_title(heading, longer=True))
        }
        cell = max(by_cell, key=lambda cell: len(by_cell[cell]))
        for compared in compare_sets([*by_cell[cell].values()], variation):
            yield {
                "data": name,
                "images": images or "all",
                **compared,
                "claimed": False,
                "command": command_of(name, by_cell[cell], [cell]),
            }


def command_of(name: str, seeds: Iterable[int], headings: Iterable[str]) -> str:
    """Returns what makes the runs of some seeds that have some headings."""
    command = f"python experiments/ablation.py --workdir=DIR --data=FOLDER --targets={name}"
    only = [f"--only={shlex.quote(heading)}" for heading in dict.fromkeys(headings)]
    return " ".join([command, f"--seeds={max(seeds) + 1}", *only])


def stage_hours(folder: Path, headings: Iterable[str], seeds: Iterable[int]) -> float:
    """Returns the hours that the stages of some cells took, as planned; shared ones once.

    Stage pretrain is left out: priors and extractors are kept, and whoever comes first makes them.

    Args:
        folder: of the sweep.
        headings: patterns of the cells' names.
        seeds: of the cells.
    """
    plan = read_plan(folder)
    named = {
        cell
        for cell, fields in plan.cells.items()
        if fields["seed"] in seeds and is_like(fields["name"], headings)
    }
    made = {
        (folder / "cells" / cell / stage).resolve()
        for job in plan.jobs
        for cell in named.intersection(job.cells)
        for stage, fingerprint in job.fingerprints.items()
        if stage != "pretrain" and is_made(folder / "cells" / cell, stage, fingerprint)
    }
    return sum(json.loads((path / "stage.json").read_text())["seconds"] for path in made) / 3600


def tables(
    name: str,
    runs: Runs,
    workdir: Path,
    results: Path,
    choices: dict[str, Choice],
    draws: list[Callable[[], None]],
) -> Iterator[str]:
    """Yields the lines of a target's tables.

    Args:
        name: of the target.
        runs: of it.
        workdir: of the study.
        results: folder below which the target's chart lies.
        choices: how the recognisers of each start train; nothing, where that is not known.
        draws: to it is added what draws the chart, where there is one.
    """
    target, tried = _TARGETS[name], Runs(workdir / f"{name}_settings")
    yield f"## {name}"
    try:
        choose(tried, target)
    except LookupError as error:
        if not choices:
            yield from ("", f"Recogniser settings are not known: {error}.")
            return
    else:
        yield from settings_lines(name, tried, choices, workdir)
    yield from headroom_table(name, workdir, choices)
    baseline = choices["random"].baseline
    in_order = sorted(target.images, key=lambda images: images or math.inf)
    for images, start, longer in itertools.product(in_order, STARTS, target.trainings):
        cell, of_start = title(images, start, longer=longer), choices[start].baseline
        yield from _table(name, cell, cell, runs.named(cell), of_start, workdir)
    for varied, longer in trained_variations(target):
        change = variation_title(varied, longer=longer)
        found = runs.named(change)
        yield from _table(name, change, varied_heading(change), found, baseline, workdir)
    yield from leakage_chart(name, runs, baseline, results, draws)


def settings_lines(
    name: str, tried: Runs, choices: dict[str, Choice], workdir: Path
) -> Iterator[str]:
    """Yields the lines of how a target's recognisers train, and of what else was tried."""
    yield from ("", "Recognisers' settings, chosen by the best arm without synthetic images on")
    yield from ("validation people (mean of the measures):", "")
    for start, choice in choices.items():
        means = (
            f"{setting} {100 * best_mean(tried, start, setting):.1f}"
            for setting in _TARGETS[name].settings
        )
        augmentation = choice.augmentation or NO_AUGMENTATION
        yield f"- {start} start: **{choice.setting}**, {augmentation}, of {'; '.join(means)}"
    hours = stage_hours(workdir / f"{name}_settings", ["*"], [0])
    yield from ("", f"{hours:.1f} hours, by the first of the commands below.")


def leakage_chart(
    name: str, runs: Runs, baseline: str, results: Path, draws: list[Callable[[], None]]
) -> Iterator[str]:
    """Yields the lines that show what samples add over what they give away.

    Args:
        name: of the target.
        runs: of it.
        baseline: arm that gains are measured from.
        results: folder below which the chart lies.
        draws: to it is added what draws the chart.
    """
    unvaried = [*runs.named(title(IMAGES_OF_VARIATIONS, "random")).values()]
    arms = leakage.arms_of(unvaried, baseline)
    if not arms:
        return
    longer = runs.named(title(IMAGES_OF_VARIATIONS, "random", longer=True))
    config = load_base(str(_HERE.parent / _TARGETS[name].base))[1]
    varied = {config.synthesize.strength: unvaried} | {
        VARIATIONS[change][leakage.STRENGTH]: [*runs.named(change).values()]
        for change in _TARGETS[name].variations
        if leakage.varies_strength(change)
    }
    heading = f"{name}, {title(IMAGES_OF_VARIATIONS, 'random')}: {len(unvaried)} seeds"
    file = f"figures/gain_and_leakage_{name}.png"
    draw = functools.partial(
        leakage.draw,
        results / file,
        heading + (f", longer training {len(longer)}" if longer else ""),
        baseline,
        arms,
        leakage.curve_of(varied, baseline),
        longer=leakage.arms_of([*longer.values()], baseline),
        held_out=100 * config.privacy.quantile,
    )
    draws.append(draw)
    yield from ("", f"### {LEAKAGE_HEADING}: {len(unvaried)} seeds", "")
    yield f"![{LEAKAGE_HEADING}]({file})"


def headroom_table(name: str, workdir: Path, choices: dict[str, Choice]) -> Iterator[str]:
    """Yields the lines of what the best arm of real images reaches with more of them."""
    folder = workdir / f"{name}_headroom"
    runs, rows, headings, seeds = Runs(folder), [], [], set()
    for start in CHOOSERS:
        for images in _TARGETS[name].headroom:
            heading = headroom_title(images, start, choices[start].setting)
            found = runs.named(heading)
            if not found:
                continue
            headings.append(heading)
            seeds |= set(found)
            texts = []
            for measure in MEASURES:
                arm, mean = best_arm([*found.values()], measure)
                texts.append(f"{100 * mean:.1f} ({arm})")
            rows.append(f"| {images or 'all'} | {start} | {len(found)} | {' | '.join(texts)} |")
    if rows:
        yield from ("", f"### {HEADROOM_HEADING}", "")
        yield f"| images an identity | start | seeds | {' | '.join(MEASURES.values())} |"
        yield "| --- | --- | --- |" + " --- |" * len(MEASURES)
        yield from rows
        hours = stage_hours(folder, headings, seeds)
        if len(headings) == len(CHOOSERS) * len(_TARGETS[name].headroom):
            headings = [HEADROOM]
        yield from ("", f"`{command_of(name, seeds, headings)}`: {hours:.1f} hours")


def _table(
    name: str, cell: str, heading: str, found: dict[int, dict], baseline: str, workdir: Path
) -> Iterator[str]:
    if not found:
        return
    yield from ("", f"### {heading}: {len(found)} seeds", "")
    columns = [*MEASURES, *SET_MEASURES]
    heads = [*MEASURES.values(), *SET_MEASURES]
    yield f"| arm, and change to {baseline} | {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * len(columns)
    for arm, texts in arm_rows([*found.values()], baseline):
        yield f"| {arm} | {' | '.join(texts[column] for column in columns)} |"
    hours = stage_hours(workdir / name, [cell], found)
    yield from ("", f"`{command_of(name, found, [cell])}`: {hours:.1f} hours")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the study")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument(
        "--targets",
        default=",".join(TARGETS),
        help="some of them, or tiny, which shows in minutes that everything runs",
    )
    parser.add_argument("--seeds", type=int, default=5)
    add_only(parser)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--gather", action="store_true", help="run nothing")
    parser.add_argument(
        "--written-settings",
        action="store_true",
        help="recognisers train by the settings that the tables of --results have, of other runs "
        "of the same study; none are tried",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="keep nothing of what is written of the targets that --workdir has, even where it "
        "rests on more seeds",
    )
    parser.add_argument(
        "--results", type=Path, help="folder of RESULTS.md and results.json; default: --workdir"
    )
    options = parser.parse_args(arguments)
    options.targets = options.targets.split(",")
    unknown = set(options.targets) - set(_TARGETS)
    if unknown:
        parser.error(f"unknown targets {sorted(unknown)}; there are {', '.join(_TARGETS)}")
    names = {cell for target in options.targets for cell in names_of_cells(_TARGETS[target])}
    for pattern in unmatched(options.only, names):
        parser.error(f"--only={pattern} is like no cell's name; there are {sorted(names)}")
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; it must be at least 1")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
