"""Tables of attacks on privacy, with what they mean in words, for a page.

A table is {"title", "text", "titles" of the columns, "rows": [{"title", "cells": [{"value",
"interval"}]}]}; a row that was not measured has one cell, which says why.
"""

from __future__ import annotations

from collections.abc import Mapping


def memorisation_table(
    found: Mapping,
    *,
    spaces: Mapping[str, str],
    sets: Mapping[str, str],
    judged: str,
    opening: str = "",
    closing: str = "",
) -> dict:
    """Tells whether images lie nearer to training images than held-out ones do.

    Args:
        found: {space: {set: {"share", "expected_share", "threshold", "num_near_copies",
            "nearer_to_training" or None, "closest": [{"distance"}]}}}, with {"not_measured": why}
            in place of sets or of all.
        spaces, sets: titles.
        judged: the set that the verdict is about.
        opening, closing: put before the verdict, and behind the text.

    Returns:
        A table.
    """
    rows, expected, nearer, drawn_to = [], None, [], []
    for space, title in spaces.items():
        for name, result in found.get(space, {}).items():
            if name == "not_measured":
                rows.append({"title": title, "cells": [plain_cell(f"not measured: {result}")]})
                continue
            expected = result["expected_share"]
            rows.append(
                {
                    "title": f"{title}, {sets[name]}",
                    "cells": [
                        share_cell(result["share"]),
                        plain_cell(f"{result['num_near_copies']}"),
                        share_cell(result["nearer_to_training"])
                        if result.get("nearer_to_training")
                        else plain_cell(""),
                        plain_cell(f"{result['threshold']:.3f}"),
                        plain_cell(f"{result['closest'][0]['distance']:.3f}"),
                    ],
                }
            )
            if name != judged:
                continue
            if result["share"]["low"] > expected:
                nearer.append(title)
            compared = result.get("nearer_to_training")
            if compared and compared["low"] > 0.5:
                drawn_to.append(title)
    verdict = opening + (
        f"more images than that are nearer in {listed(nearer)}: the generator stays closer to its "
        "training images than new photographs would."
        if nearer
        else "no space shows clearly more than that."
    )
    sentences = ["New photographs of the same people also lie near their training images."]
    if expected is not None:
        sentences += [
            f"The threshold is the distance below which {expected:.0%} of held-out real images "
            f"fall; a generator that copies nothing has about {expected:.0%} below it, too.",
            verdict[0].upper() + verdict[1:],
            "Blurred and flat images lie near everything, though: “nearer” is how often the "
            "nearest of a person's training images is nearer than the nearest of as many held-out "
            "ones, 50 where nothing is copied.",
            f"It is clearly above 50 in {listed(drawn_to)}: images keep to those of training more "
            "than to the person."
            if drawn_to
            else "",
            closing,
        ]
    return {
        "title": "Were single training images copied?",
        "text": " ".join(filter(None, sentences)),
        "titles": ["near copies, %", "number", "nearer, %", "threshold", "closest"],
        "rows": rows,
    } | reason_only(found)


def leakage_table(found: Mapping, *, sets: Mapping[str, str], recognizer: str) -> dict:
    """Tells how often images show training people at thresholds of a recogniser in use.

    Args:
        found: {false accept rate as text: {set: {"own" and "other": {"rate", "chance",
            "corrected"}}}}, with {"not_measured": why} in place of sets or of all.
        sets: titles, in the order of the rows.
        recognizer: begins the sentence on who accepts pairs.

    Returns:
        A table.
    """
    rows = []
    rates = sorted(set(found) - {"not_measured"}, key=float, reverse=True)
    for rate, result in ((rate, found[rate]) for rate in rates):
        title = f"1 in {round(1 / float(rate)):,}"
        if "not_measured" in result:
            rows.append(
                {"title": title, "cells": [plain_cell(f"not measured: {result['not_measured']}")]}
            )
            continue
        rows += [
            {
                "title": f"{title}, {sets[name]}",
                "cells": [
                    share_cell(result[name][whom][part])
                    for whom in ("own", "other")
                    for part in ("rate", "chance", "corrected")
                ],
            }
            for name in sets
            if name in result
        ]
    return {
        "title": "Would a recogniser in use say that this is the person?",
        "text": f"{recognizer} accepts a pair above a threshold that so few pairs of two unseen "
        "people pass. “Own” is how often a synthetic image matches a training image of the person "
        "it was made for, which is what such a set is made for; “another” how often it matches "
        "somebody else of the training people. Chance is what images of unseen people reach. "
        "Corrected for it, 0 is no more than a stranger and 100 is always.",
        "titles": ["own, %", "chance", "corrected", "another, %", "chance", "corrected"],
        "rows": rows,
    } | reason_only(found)


def extraction_table(found: Mapping, *, sets: Mapping[str, str]) -> dict:
    """Tells which training images come out again and again.

    Args:
        found: {set: {"share", "chance" or None, "num_groups", "num_samples"}}, or
            {"not_measured": why}.
        sets: titles.

    Returns:
        A table.
    """
    rows = [
        {
            "title": sets[name],
            "cells": [
                share_cell(result["share"]),
                share_cell(result["chance"]) if result["chance"] else plain_cell(""),
                plain_cell(f"{result['num_groups']}"),
                plain_cell(f"{result['num_samples']}"),
            ],
        }
        for name, result in found.items()
        if name != "not_measured"
    ]
    return {
        "title": "Do training images come out when many samples are drawn?",
        "text": "Samples of one person that come out alike several times are what a generator "
        "knows by heart. Extracted are training images that lie beside such a group; by chance, "
        "held-out images do. Alike are images nearer in pixels than nearly all pairs of real "
        "images of one person.",
        "titles": ["extracted, %", "by chance, %", "groups", "samples"],
        "rows": rows,
    } | reason_only(found)


def share_cell(figure: Mapping, *, scale: float = 100, digits: int = 1) -> dict:
    """Returns the cell of {"mean", "low", "high"}, in percent unless scaled otherwise."""
    low, mean, high = (f"{scale * figure[part]:.{digits}f}" for part in ("low", "mean", "high"))
    return {"value": mean, "interval": f"{low} to {high}"}


def plain_cell(value: str) -> dict:
    """Returns the cell of a figure without an interval, or of words."""
    return {"value": value, "interval": ""}


def listed(names: list[str]) -> str:
    """Returns names with commas and an "and"; at least one."""
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def reason_only(found: Mapping) -> dict:
    """Returns what replaces the text of an attack that could not be run, {} where it was."""
    if "not_measured" not in found:
        return {}
    return {"text": f"Not measured: {found['not_measured']}.", "rows": [], "titles": []}
