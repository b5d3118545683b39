"""What a study wrote before, by target, so that targets can be run and gathered apart."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from study.claims import CLAIMED, COMPARISONS, SEEDS_OF_A_CLAIM
from study.gathering import holds
from study.samples import COMPARED_SETS, is_better

COMPARISONS_FILE = "results.json"
TABLES_FILE = "RESULTS.md"
_HEADING = "## "
# As ablation.py writes them: a table's heading, and what real images alone reach by their number.
_TABLE = re.compile(r"### (.+): (\d+) seeds")
_HEADROOM_ROW = re.compile(r"\| (\d+|all) \| (\w+) \| (\d+) \|.*")
_ASKED = {comparison.name: comparison for comparison in COMPARISONS}


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
        ValueError: a comparison or a target of it is none that the study has.
    """
    comparisons, sections = [], {}
    if (folder / COMPARISONS_FILE).exists():
        comparisons = json.loads((folder / COMPARISONS_FILE).read_text())
    for found in comparisons:
        if found["name"] not in _ASKED and found["name"] not in COMPARED_SETS:
            raise ValueError(
                f"{folder / COMPARISONS_FILE} has a comparison {found['name']!r}, which "
                f"study/claims.py and samples.py have not; rename it there, or name another folder"
            )
        if found["data"] not in targets:
            raise ValueError(
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


def lost(written: WrittenResults, found: WrittenResults, targets: Collection[str]) -> list[str]:
    """Names what is written of some targets and rests on more seeds than what was found.

    Args:
        written, found: comparisons and tables.
        targets: of whom the found ones are to replace the written.
    """
    before, now = _seeds(written, targets), _seeds(found, targets)
    return [
        f"{', '.join(place)}: {seeds} seeds, now {now.get(place, 0)}"
        for place, seeds in before.items()
        if seeds > now.get(place, 0)
    ]


def _seeds(results: WrittenResults, targets: Collection[str]) -> dict[tuple[str, ...], int]:
    """Returns how many seeds each comparison and each table rests on, by its place."""
    seeds = {
        (each["data"], f"{each['images']} images", each["name"]): each["seeds"]
        for each in results.comparisons
        if each["data"] in targets
    }
    for target in targets:
        for line in results.sections.get(target, []):
            if table := _TABLE.fullmatch(line):
                seeds[target, f"table of {table[1]}"] = int(table[2])
            elif row := _HEADROOM_ROW.fullmatch(line):
                seeds[target, f"headroom of {row[1]} real images, {row[2]} start"] = int(row[3])
    return seeds
