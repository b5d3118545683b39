"""What a study wrote before, by target, so that targets can be run and gathered apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

COMPARISONS_FILE = "results.json"
TABLES_FILE = "RESULTS.md"
_HEADING = "## "


class WrittenResults(NamedTuple):
    """The content of a folder of results.

    Attributes:
        comparisons: of all targets, as in results.json.
        sections: target -> its lines in RESULTS.md, heading and empty lines included.
    """

    comparisons: list[dict[str, Any]]
    sections: dict[str, list[str]]


def read_results(folder: Path) -> WrittenResults:
    """Returns what a folder has of results; nothing, where it has none yet."""
    comparisons, sections = [], {}
    if (folder / COMPARISONS_FILE).exists():
        comparisons = json.loads((folder / COMPARISONS_FILE).read_text())
    if (folder / TABLES_FILE).exists():
        lines = None
        for line in (folder / TABLES_FILE).read_text().splitlines():
            if line.startswith(_HEADING):
                lines = sections.setdefault(line.removeprefix(_HEADING), [])
            if lines is not None:
                lines.append(line)
    return WrittenResults(comparisons, sections)
