"""The tables of a target in RESULTS.md, each with the command that makes its runs."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sweeping.name_patterns import is_like
from sweeping.plan import read_plan
from sweeping.python_files import load_base
from sweeping.work_folders import is_made

from study import leakage
from study.comparing import command_of
from study.design import (
    ALL_TARGETS,
    CHOOSERS,
    HEADROOM,
    MEASURES,
    SET_MEASURES,
    STARTS,
    Choice,
    Target,
    headroom_title,
    title,
    trained_variations,
    variation_title,
)
from study.gathering import Runs, arm_rows, best_arm, best_mean, choose
from study.variations import IMAGES_OF_VARIATIONS, VARIATIONS
from study.written_results import NO_AUGMENTATION

HEADROOM_HEADING = "Headroom: the best arm without synthetic images, by real ones"
LEAKAGE_HEADING = "Gain against leakage"
_ROOT = Path(__file__).absolute().parents[2]


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
    target, tried = ALL_TARGETS[name], Runs(workdir / f"{name}_settings")
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
            for setting in ALL_TARGETS[name].settings
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
    config = load_base(str(_ROOT / ALL_TARGETS[name].base))[1]
    varied = {config.synthesize.strength: unvaried} | {
        VARIATIONS[change][leakage.STRENGTH]: [*runs.named(change).values()]
        for change in ALL_TARGETS[name].variations
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
        for images in ALL_TARGETS[name].headroom:
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
        if len(headings) == len(CHOOSERS) * len(ALL_TARGETS[name].headroom):
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
