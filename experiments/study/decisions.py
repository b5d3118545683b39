"""The comparisons of a study as one table, in which stands what it claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from study.claims import COMPARISONS
from study.design import MEASURES


def decisions_table(comparisons: Sequence[dict[str, Any]], least_seeds: int = 1) -> Iterator[str]:
    """Yields the lines of a table of comparisons, a row for all measures of one.

    Args:
        comparisons: as in results.json; those of sets of samples are passed over.
        least_seeds: number of seeds of a row that is shown.

    Yields:
        Markdown: data and number of training images an identity, in the order in which data come;
        what is compared, seeds, and in points the difference with its interval, in bold where it is
        claimed and holds.
    """
    yield f"| data, images | compared | seeds | {' | '.join(MEASURES.values())} |"
    yield "| --- | --- | --- |" + " --- |" * len(MEASURES)
    asked = [comparison.name for comparison in COMPARISONS]
    for measured in rows_in_order(comparisons, asked, least_seeds):
        found = measured[next(iter(MEASURES))]
        texts = (_text(measured[measure]) for measure in MEASURES)
        yield (
            f"| {found['data']}, {found['images']} | {found['name']} | {found['seeds']} "
            f"| {' | '.join(texts)} |"
        )


def rows_in_order(
    comparisons: Sequence[Mapping[str, Any]], asked: Collection[str], least_seeds: int
) -> list[dict[str, Mapping[str, Any]]]:
    """Returns the comparisons of a table, each as measure -> what was found.

    Args:
        comparisons: as in results.json.
        asked: names of those of the table, in their order; others are passed over.
        least_seeds: number of seeds of a row that is shown.

    Returns:
        By data, in the order in which these come, then by number of images and by name.
    """
    asked = list(asked)
    targets = list(dict.fromkeys(found["data"] for found in comparisons))
    rows: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for found in comparisons:
        if found["name"] in asked and found["seeds"] >= least_seeds:
            # All images are more than any number of them.
            images = float("inf") if found["images"] == "all" else found["images"]
            place = targets.index(found["data"]), images, asked.index(found["name"])
            rows.setdefault(place, {})[found["measure"]] = found
    return [measured for _, measured in sorted(rows.items(), key=lambda row: row[0])]


def _text(found: dict[str, Any]) -> str:
    text = "{difference:+.1f} ({low:.1f} to {high:.1f})".format(**found)
    return f"**{text}**" if found["claimed"] and found["holds"] else text
