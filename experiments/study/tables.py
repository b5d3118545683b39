"""The tables of a target in RESULTS.md, each with the command that makes its runs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sweeping.python_files import load_base

from study import leakage
from study.chosen_settings import settings_lines
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
from study.gathering import Runs, arm_rows, best_arm, stage_hours
from study.variations import IMAGES_OF_VARIATIONS, VARIATIONS

HEADROOM_HEADING = "Headroom: the best arm without synthetic images, by real ones"
LEAKAGE_HEADING = "Gain against leakage"
_ROOT = Path(__file__).absolute().parents[2]


class TableOfCells(NamedTuple):
    """A table whose rows are the arms of the cells of one name.

    Attributes:
        heading: of the table.
        cell: name of the cells.
        start: of their recognisers.
    """

    heading: str
    cell: str
    start: str


def tables_of_cells(target: Target) -> list[TableOfCells]:
    """Returns all such tables that a target can have, in the order of the page."""
    in_order = sorted(target.images, key=lambda images: images or math.inf)
    unvaried = [
        TableOfCells(cell, cell, start)
        for images, start, longer in itertools.product(in_order, STARTS, target.trainings)
        for cell in (title(images, start, longer=longer),)
    ]
    varied = (variation_title(name, longer=longer) for name, longer in trained_variations(target))
    return unvaried + [
        TableOfCells(f"{cell} ({title(IMAGES_OF_VARIATIONS, 'random')})", cell, "random")
        for cell in varied
    ]


def headings(target: Target) -> list[str]:
    """Returns the headings of all parts that a target can have, in the order of the page."""
    of_cells = (table.heading for table in tables_of_cells(target))
    return ["", HEADROOM_HEADING, *of_cells, LEAKAGE_HEADING]


def charted(target: Target) -> list[str]:
    """Returns the headings of the tables whose runs a target's chart shows."""
    unvaried = [title(IMAGES_OF_VARIATIONS, "random", longer=each) for each in (False, True)]
    return [
        table.heading
        for table in tables_of_cells(target)
        if table.cell in unvaried
        or (table.cell in VARIATIONS and leakage.varies_strength(table.cell))
    ]


def tables(
    name: str,
    runs: Runs,
    workdir: Path,
    results: Path,
    choices: Mapping[str, Choice],
    written: Sequence[str],
    draws: list[Callable[[], None]],
) -> Iterator[str]:
    """Yields the lines of a target's tables.

    Args:
        name: of the target.
        runs: of it.
        workdir: of the study.
        results: folder below which the target's chart lies.
        choices: how the recognisers of each start train.
        written: lines that say so by runs elsewhere; empty, where there are none.
        draws: to it is added what draws the chart, where there is one.
    """
    yield f"## {name}"
    yield from settings_lines(name, workdir, choices, written)
    yield from headroom_table(name, workdir, choices)
    for table in tables_of_cells(ALL_TARGETS[name]):
        found, baseline = runs.named(table.cell), choices[table.start].baseline
        yield from _table(name, table.cell, table.heading, found, baseline, workdir)
    yield from leakage_chart(name, runs, choices["random"].baseline, results, draws)


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
    yield from ("", f"### {LEAKAGE_HEADING}", "", f"![{LEAKAGE_HEADING}]({file})")


def headroom_table(name: str, workdir: Path, choices: Mapping[str, Choice]) -> Iterator[str]:
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
