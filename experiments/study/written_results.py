"""What a study wrote before, by target, so that targets can be run and gathered apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from study.claims import CLAIMED, COMPARISONS, SEEDS_OF_A_CLAIM
from study.design import MEASURES, SET_MEASURES
from study.gathering import holds
from study.samples import COMPARED_SETS, is_better

COMPARISONS_FILE = "results.json"
TABLES_FILE = "RESULTS.md"
TITLE = "# Results"
# What every comparison has in results.json.
_FIELDS = {"name", "data", "images", "measure", "difference", "low", "high", "seeds"}
_HEADING = "## "
# As tables.py writes them: a table's heading, and what real images alone reach by their number.
_TABLE_HEADING = "### "
_TABLE = re.compile(rf"{_TABLE_HEADING}(.+): (\d+) seeds")
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
        ResultsError: a comparison, a measure or a target there is none that the study has, or a
            file of such a name is not the study's.
    """
    comparisons, sections = [], {}
    if (folder / COMPARISONS_FILE).exists():
        comparisons = _comparisons(folder / COMPARISONS_FILE)
    known = {
        "name": (*_ASKED, *COMPARED_SETS),
        "data": tuple(targets),
        "measure": (*MEASURES, *SET_MEASURES),
    }
    for found in comparisons:
        for field, values in known.items():
            if found[field] not in values:
                raise ResultsError(
                    f"{folder / COMPARISONS_FILE} has a comparison whose {field!r} is "
                    f"{found[field]!r}, which the study has not; rename it there to one of "
                    f"{', '.join(values)}, or name another folder"
                )
        of_recognisers = _ASKED.get(found["name"])
        found["holds"] = holds(of_recognisers, found) if of_recognisers else is_better(found)
        found["claimed"] = bool(of_recognisers) and is_claimed(found["data"], found["seeds"])
    if (folder / TABLES_FILE).exists():
        lines, text = None, (folder / TABLES_FILE).read_text(errors="replace")
        if not text.startswith(f"{TITLE}\n"):
            raise ResultsError(
                f"{folder / TABLES_FILE} does not begin with {TITLE!r}, so that the study has not "
                "written it, and would replace it; name another folder"
            )
        for line in text.splitlines():
            if line.startswith(_HEADING):
                name = line.removeprefix(_HEADING)
                if name not in targets:
                    raise ResultsError(
                        f"{folder / TABLES_FILE} has a section {name!r}; the study's are "
                        f"{', '.join(targets)}; rename it there, or name another folder"
                    )
                lines = sections.setdefault(name, [])
            if lines is not None:
                lines.append(line)
    return WrittenResults(comparisons, sections)


def _comparisons(path: Path) -> list[dict[str, Any]]:
    """Returns what results.json has, if it looks like the study's."""
    try:
        found = json.loads(path.read_text())
        whole = isinstance(found, list) and all(
            _FIELDS <= comparison.keys() for comparison in found
        )
        said = "there is no list of comparisons in it"
    except (ValueError, AttributeError) as error:
        whole, said = False, str(error)
    if not whole:
        raise ResultsError(
            f"{path} is not as the study writes it ({said}); mend it, delete it, or name another "
            "folder"
        )
    return found


def is_claimed(target: str, seeds: int) -> bool:
    """Returns whether what so many seeds of a target show is a claim, where it holds."""
    return target in CLAIMED and seeds >= SEEDS_OF_A_CLAIM


def merged(
    written: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Puts a target's comparisons together: of each, all measures by the most seeds.

    Args:
        written, found: as in results.json. Of as many seeds, what was found counts, unless it lacks
            a measure.

    Returns:
        Those of recognisers, then those of sets of samples, by number of images and as they are
        asked; names of those that were found, and stay as they are written.
    """
    chosen, kept = _by_place(written), []
    for place, of_runs in _by_place(found).items():
        before = chosen.get(place, {})
        if _seeds(of_runs) >= _seeds(before) and of_runs.keys() >= before.keys():
            chosen[place] = of_runs
        else:
            images, name = next(iter(before.values()))["images"], place[-1]
            kept.append(f"{images} images, {[*_ASKED, *COMPARED_SETS][name]}")
    return [each for place in sorted(chosen) for each in chosen[place].values()], kept


def _by_place(
    comparisons: Iterable[Mapping[str, Any]],
) -> dict[tuple[bool, float, int], dict[str, Mapping[str, Any]]]:
    names, places = [*_ASKED, *COMPARED_SETS], {}
    for each in comparisons:
        images = math.inf if each["images"] == "all" else each["images"]
        place = each["name"] in COMPARED_SETS, images, names.index(each["name"])
        places.setdefault(place, {})[each["measure"]] = each
    return places


def _seeds(measured: Mapping[str, Mapping[str, Any]]) -> int:
    return max((each["seeds"] for each in measured.values()), default=0)


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


def merged_parts(
    written: Mapping[str, Part], found: Mapping[str, Part]
) -> tuple[dict[str, Part], list[str]]:
    """Puts the parts of a target together: of each, the one that rests on the most seeds.

    Args:
        written, found: heading -> part. Of as many seeds, what was found counts.

    Returns:
        heading -> part; headings of those that were found, and stay as they are written.
    """
    chosen, kept = dict(written), []
    for heading, part in found.items():
        before = written[heading].seeds if heading in written else {}
        if all(part.seeds.get(row, 0) >= seeds for row, seeds in before.items()):
            chosen[heading] = part
        else:
            kept.append(heading)
    return chosen, kept


def has_tables(section: Iterable[str]) -> bool:
    """Whether a target's lines in RESULTS.md have a table."""
    return any(line.startswith(_TABLE_HEADING) for line in section)
