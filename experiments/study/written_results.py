"""What a study wrote before, by target, so that targets can be run and gathered apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from study.claims import CLAIMED, COMPARISONS, SEEDS_OF_A_CLAIM
from study.gathering import holds

COMPARISONS_FILE = "results.json"
TABLES_FILE = "RESULTS.md"
_HEADING = "## "
_ASKED = {comparison.name: comparison for comparison in COMPARISONS}


class WrittenResults(NamedTuple):
    """The content of a folder of results.

    Attributes:
        comparisons: of all targets, as in results.json.
        sections: target -> its lines in RESULTS.md, heading and empty lines included.
    """

    comparisons: list[dict[str, Any]]
    sections: dict[str, list[str]]


def read_results(folder: Path) -> WrittenResults:
    """Returns what a folder has of results; nothing, where it has none yet.

    Whether a comparison is claimed and holds is decided anew, by what counts now.

    Raises:
        ValueError: a comparison of it is none that the study makes.
    """
    comparisons, sections = [], {}
    if (folder / COMPARISONS_FILE).exists():
        comparisons = json.loads((folder / COMPARISONS_FILE).read_text())
    for found in comparisons:
        if found["name"] not in _ASKED:
            raise ValueError(
                f"{folder / COMPARISONS_FILE} has a comparison {found['name']!r}, which "
                f"study/claims.py has not; rename it there, or name another folder"
            )
        found["holds"] = holds(_ASKED[found["name"]], found)
        found["claimed"] = is_claimed(found["data"], found["seeds"])
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


def lost(
    written: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], targets: Collection[str]
) -> list[str]:
    """Names the written comparisons of some targets that rest on more seeds than what was found.

    Args:
        written, found: comparisons, as in results.json.
        targets: whose written comparisons are to be replaced by the found ones.
    """

    def place(each: dict[str, Any]) -> tuple:
        return each["data"], each["images"], each["name"]

    seeds = {place(each): each["seeds"] for each in found}
    gone = {
        place(each): each["seeds"]
        for each in written
        if each["data"] in targets and each["seeds"] > seeds.get(place(each), 0)
    }
    return [
        f"{data}, {images} images, {name}: {number} seeds, now {seeds.get((data, images, name), 0)}"
        for (data, images, name), number in gone.items()
    ]
