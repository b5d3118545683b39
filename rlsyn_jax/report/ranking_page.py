"""The page on rankings: figures of every arm, CMC curves, and what queries find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlsyn_jax.report.page import render_page
from rlsyn_jax.report.points_text import points_text
from rlsyn_jax.report.recognition_charts import cmc_chart, ranking_strip


class ShownRanking(NamedTuple):
    """What one arm finds first for one query.

    Attributes:
        query: uint8 [h, w, 1 or 3].
        gallery: uint8 [n, h, w, 1 or 3], nearest first.
        right: bool [n], whether each shows the query's person.
        caption: what stands below.
    """

    query: np.ndarray
    gallery: np.ndarray
    right: Sequence[bool]
    caption: str


def ranking_page(
    metrics: Mapping,
    cmc: Mapping[str, Sequence[float]],
    rankings: Iterable[tuple[str, Sequence[ShownRanking]]] = (),
    *,
    subtitle: str = "",
) -> str:
    """Makes the page.

    Args:
        metrics: {arm: {metric: {"value", "low", "high"}}, "differences": {arm: {metric: ...}}},
            0..1; the first arm is the baseline.
        cmc: {arm: share of queries with a right answer among the first 1, 2, ...}.
        rankings: groups of pictures, (heading or "", rankings).
        subtitle: what was measured.

    Returns:
        A complete HTML document.
    """
    arms = {name: figures for name, figures in metrics.items() if name != "differences"}
    baseline = next(iter(arms))
    tables = [_table(arms, _cell)]
    text = "In percent, with 95 % intervals from resampling people."
    if metrics.get("differences"):
        titled = {
            f"{arm} less {baseline}": figures for arm, figures in metrics["differences"].items()
        }
        tables.append(_table(titled, _difference))
        text += (
            " Differences are in points and paired by query; green or orange where the interval "
            "leaves out zero."
        )
    sections = [
        {
            "title": "Figures",
            "text": text,
            "tables": tables,
            "charts": [
                {
                    "image": cmc_chart("CMC: right answer among the first k", cmc),
                    "alt": "CMC curves",
                }
            ],
            "pictures": [],
        }
    ]
    pictures = [
        {
            "title": heading,
            "layout": "rankings",
            "figures": [
                {
                    "image": ranking_strip(shown.query, shown.gallery, shown.right),
                    "caption": shown.caption,
                    "alt": f"query and ranking, {shown.caption}",
                    "near": False,
                }
                for shown in group
            ],
        }
        for heading, group in rankings
    ]
    sections.append(
        {
            "title": "What queries find",
            "text": "Queries on the left, and what they find first: a green frame is the right "
            "person, a red one somebody else. From the query with the worst ranking to the one "
            f"with the best, by {baseline}."
            if pictures
            else "Not shown: no arm's query and gallery files both hold images.",
            "tables": [],
            "charts": [],
            "pictures": pictures,
        }
    )
    return render_page(
        {"title": "Rankings", "subtitle": subtitle, "sections": sections}, "evaluation.html"
    )


def _table(arms: Mapping, cell) -> dict:
    return {
        "titles": list(next(iter(arms.values()))),
        "rows": [
            {"title": arm, "cells": [cell(figure) for figure in figures.values()]}
            for arm, figures in arms.items()
        ],
    }


def _cell(figure: Mapping, form: str = ".2f") -> dict:
    value, low, high = (points_text(figure[part], form) for part in ("value", "low", "high"))
    return {"value": value, "interval": f"{low} to {high}"}


def _difference(figure: Mapping) -> dict:
    verdict = "good" if figure["low"] > 0 else "bad" * (figure["high"] < 0)
    return _cell(figure, "+.2f") | {"verdict": verdict}
