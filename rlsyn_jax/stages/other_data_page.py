"""The page on a run's recognisers on data that the run never saw."""

from __future__ import annotations

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.report.page import render_page
from rlsyn_jax.report.points_text import points_text
from rlsyn_jax.report.recognition_charts import group_chart
from rlsyn_jax.stages.recognition_panel import ARM_TITLES, recognition_figures
from rlsyn_jax.stages.verification_panel import verification_panel


def other_data_page(content: dict, pictures: list[tuple[str, dict, IdentityDataset]]) -> str:
    """Makes the page.

    Args:
        content, pictures: as `measure_on_other_data` returns them.

    Returns:
        A complete HTML document.
    """
    sections = [
        _of_data(name, content["data"][name], curves, dataset) for name, curves, dataset in pictures
    ]
    sections += _of_pairs(content["verification_sets"])
    return render_page(
        {
            "title": content["run"],
            "subtitle": "Its recognisers on data that the run never saw. In percent, with 95 % "
            "intervals from resampling people (folds, of published pairs); third line: the "
            "paired difference to the first row, green or orange where its interval leaves out 0.",
            "sections": sections,
        },
        "evaluation.html",
    )


def _of_data(name: str, measured: dict, curves: dict, dataset: IdentityDataset) -> dict:
    panel = recognition_figures(measured, curves, dataset)
    text = (
        f"{measured['people']} people, {measured['queries']} queries, {measured['gallery']} images "
        "to search in. "
    )
    figures = [
        {**found, "alt": f"query and ranking, {found['caption']}", "near": False}
        for found in panel["rankings"]
    ]
    return {
        "title": name,
        "text": text + " ".join(panel["arm_notes"]),
        "tables": [_flat(table) for table in panel["arm_tables"]],
        "charts": panel["arm_charts"],
        "pictures": [{"title": "What queries find", "layout": "rankings", "figures": figures}],
    }


def _of_pairs(measured: dict) -> list[dict]:
    panel = verification_panel(measured)
    if not panel["verification_tables"]:
        return []
    charts = []
    for source, groups in measured["groups"].items():
        for arm, figures in groups["arms"].items():
            accuracies = {
                "own threshold": figures["own_threshold"]["accuracies"],
                "shared threshold": figures["shared_threshold"]["accuracies"],
            }
            chart = group_chart(f"{ARM_TITLES[arm]} (%)", accuracies)
            charts.append({"image": chart, "alt": f"{source}, {ARM_TITLES[arm]}"})
    sections = [
        {
            "title": "Published verification sets",
            "text": "Accuracy at the threshold that is best on the other folds; embeddings are of "
            "an image and its mirror image together.",
            "tables": [_flat(table) for table in panel["verification_tables"]],
            "charts": [],
            "pictures": [],
        }
    ]
    for place, table in enumerate(panel["group_tables"]):
        sections.append(
            {
                "title": table["caption"],
                "text": "",
                "tables": [table],
                "charts": charts if place == len(panel["group_tables"]) - 1 else [],
                "pictures": [],
            }
        )
    return sections


def _flat(table: dict) -> dict:
    """A table of figures and differences as one of texts."""
    rows = []
    for row in table["rows"]:
        cells = []
        for cell in row["cells"]:
            value, low, high = (f"{100 * cell[part]:.1f}" for part in ("mean", "low", "high"))
            flat = {"value": value, "interval": f"{low} to {high}"}
            if cell["difference"]:
                mean, low, high = (
                    points_text(cell["difference"][part]) for part in ("mean", "low", "high")
                )
                flat |= {"change": f"{mean} ({low} to {high})", "change_verdict": cell["verdict"]}
            cells.append(flat)
        rows.append({"title": row["title"], "cells": cells})
    return {"titles": table["titles"], "rows": rows}
