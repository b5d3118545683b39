"""What a study wrote before, by target, so that targets can be run and gathered apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from study.claims import CLAIMED, COMPARISONS, SEEDS_OF_A_CLAIM
from study.design import AUGMENTATIONS, CHOOSERS, MEASURES, SET_MEASURES, Choice
from study.gathering import holds
from study.samples import COMPARED_SETS, is_better

COMPARISONS_FILE = "results.json"
TABLES_FILE = "RESULTS.md"
NO_AUGMENTATION = "no augmentation"
_HEADING = "## "
# As tables.py writes them: how the recognisers of a start train, a table's heading, and what real
# images alone reach by their number.
_CHOICE = re.compile(r"- (\w+) start: \*\*(.+)\*\*, ([^,]+), of .+")
_TABLE_HEADING = "### "
_TABLE = re.compile(rf"{_TABLE_HEADING}(.+): (\d+) seeds")
# The target's name and an empty line are none.
_LINES_OF_A_PART = 3
_HEADROOM_ROW = re.compile(r"\| (\d+|all) \| (\w+) \| (\d+) \|.*")
_ASKED = {comparison.name: comparison for comparison in COMPARISONS}


class ResultsError(ValueError):
    """Results cannot be read or written; the message says why, and what to do."""


class WrittenResults(NamedTuple):
    """The content of a folder of results.

    Attributes:
        comparisons: of all targets, as in results.json.
        sections: target -> its lines in RESULTS.md, heading and empty lines included.
    """

    comparisons: list[dict[str, Any]]
    sections: dict[str, list[str]]


def read_results(folder: Path, targets: Collection[str]) -> WrittenResults:
    """Returns what a folder has of results; nothing, where it has none yet.

    Whether a comparison is claimed and holds is decided anew, by what counts now.

    Args:
        folder: of the results.
        targets: names of all that there are.

    Raises:
        ResultsError: a comparison or a target of it is none that the study has.
    """
    comparisons, sections = [], {}
    if (folder / COMPARISONS_FILE).exists():
        comparisons = json.loads((folder / COMPARISONS_FILE).read_text())
    for found in comparisons:
        if found["name"] not in _ASKED and found["name"] not in COMPARED_SETS:
            raise ResultsError(
                f"{folder / COMPARISONS_FILE} has a comparison {found['name']!r}, which "
                f"study/claims.py and samples.py have not; rename it there, or name another folder"
            )
        if found["data"] not in targets:
            raise ResultsError(
                f"{folder / COMPARISONS_FILE} has data {found['data']!r}; the study's are "
                f"{', '.join(targets)}; rename it there, or name another folder"
            )
        of_recognisers = _ASKED.get(found["name"])
        found["holds"] = holds(of_recognisers, found) if of_recognisers else is_better(found)
        found["claimed"] = bool(of_recognisers) and is_claimed(found["data"], found["seeds"])
    if (folder / TABLES_FILE).exists():
        lines = None
        for line in (folder / TABLES_FILE).read_text().splitlines():
            if line.startswith(_HEADING):
                lines = sections.setdefault(line.removeprefix(_HEADING), [])
            if lines is not None:
                lines.append(line)
    return WrittenResults(comparisons, sections)


def is_claimed(target: str, seeds: int) -> bool:
    """Returns whether what so many seeds of a target show is a claim, where it holds."""
    return target in CLAIMED and seeds >= SEEDS_OF_A_CLAIM


def merged(
    written: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Returns a target's comparisons: of each, what was found, or what is written by more seeds.

    Args:
        written, found: as in results.json.

    Returns:
        Those of recognisers, then those of sets, by number of images and as they are asked.
    """
    chosen = {}
    for each in (*written, *found):
        place = _place(each)
        if place not in chosen or each["seeds"] >= chosen[place]["seeds"]:
            chosen[place] = each
    return [chosen[place] for place in sorted(chosen)]


def _place(comparison: Mapping[str, Any]) -> tuple[float, ...]:
    names, measures = [*_ASKED, *COMPARED_SETS], [*MEASURES, *SET_MEASURES]
    return (
        comparison["name"] in COMPARED_SETS,
        math.inf if comparison["images"] == "all" else comparison["images"],
        names.index(comparison["name"]),
        measures.index(comparison["measure"]),
    )


class Part(NamedTuple):
    """A part of what RESULTS.md says of a target: a table, or what stands before all of them.

    Attributes:
        heading: without the number of seeds; "" of what stands first.
        lines: of the page, heading included.
        seeds: on which it rests; of the table of more real images, of each of its rows.
    """

    heading: str
    lines: list[str]
    seeds: dict[str, int]

    def text(self) -> list[str]:
        """Returns the lines with one empty one at the end."""
        return [*"\n".join(self.lines).strip().split("\n"), ""]


def parts_of(lines: Iterable[str]) -> dict[str, Part]:
    """Returns the parts of a target's lines in RESULTS.md by heading."""
    parts, heading = {}, ""
    for line in lines:
        table = _TABLE.fullmatch(line)
        if line.startswith(_TABLE_HEADING):
            heading = table[1] if table else line.removeprefix(_TABLE_HEADING)
        part = parts.setdefault(heading, Part(heading, [], {}))
        part.lines.append(line)
        if table:
            part.seeds[heading] = int(table[2])
        elif row := _HEADROOM_ROW.fullmatch(line):
            part.seeds[f"{row[1]}, {row[2]}"] = int(row[3])
    return parts


def merged_parts(written: Mapping[str, Part], found: Mapping[str, Part]) -> dict[str, Part]:
    """Returns the parts of a target: of each, what was found, or what is written by more seeds.

    Args:
        written, found: heading -> part. A found first part that has nothing but the target's name
            does not replace a written one.
    """
    chosen = dict(written)
    for heading, part in found.items():
        before = chosen.get(heading)
        seeds = before.seeds if before else {}
        has_as_many = all(part.seeds.get(row, 0) >= number for row, number in seeds.items())
        if not (before and len(part.text()) < _LINES_OF_A_PART) and has_as_many:
            chosen[heading] = part
    return chosen


def choices_of(section: Iterable[str], settings: Collection[str]) -> dict[str, Choice]:
    """Returns how recognisers train by a target's lines in RESULTS.md, for each start.

    Args:
        section: the lines.
        settings: names of those that the target has.

    Raises:
        LookupError: the lines do not have a choice of settings that there are, for each start.
    """
    choices = {}
    for line in section:
        if row := _CHOICE.fullmatch(line):
            augmentation = "" if row[3] == NO_AUGMENTATION else row[3]
            if row[2] in settings and augmentation in AUGMENTATIONS.values():
                choices[row[1]] = Choice(row[2], augmentation)
    if missing := [start for start in CHOOSERS if start not in choices]:
        raise LookupError(f"settings of {' and '.join(missing)} start")
    return choices
