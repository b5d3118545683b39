"""The page of a sweep: its cells, and how what they measured depends on the fields."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rlsyn_jax.report.figures import COLORS, MUTED, STYLE, svg
from sweeping.plan import Plan

# What is drawn, where it was measured: (split, measure) -> title.
CHARTS = {
    ("open", "map"): "mAP, unseen people (%)",
    ("open", "rank1"): "rank-1, unseen people (%)",
    ("closed", "rank1"): "rank-1, enrolled people (%)",
    ("open", "verification"): "verification, unseen people (%)",
    ("synthetic", "frechet_distance"): "Frechet distance to unseen real images",
    ("synthetic", "identity_accuracy"): "right person in the samples (%)",
}
_SHARES_BUT = ("frechet_distance",)
_LABEL_WIDTH = 36  # Characters of a line of a cell's name beside its dots.
# Values of a field that can be told apart below an axis: so many, of so many characters.
_MOST_VALUES, _LONGEST_VALUE = 12, 20


def render_results(plan: Plan, rows: Sequence[Mapping], states: Mapping[str, Mapping]) -> str:
    """Returns a complete HTML document that fetches nothing.

    Args:
        plan: of the sweep.
        rows: of results.parquet.
        states: name of each cell -> {"state", "said"}.
    """
    fields = list(next(iter(plan.cells.values())))
    varied = [f for f in fields if len({str(cell[f]) for cell in plan.cells.values()}) > 1]
    charts = [chart for chart in CHARTS if any(_is(row, *chart) for row in rows)]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((Path(__file__).parent / "results.html").read_text())
    counts = [state["state"] for state in states.values()]
    return template.render(
        title=plan.title,
        base=plan.base,
        complete=counts.count("complete"),
        failed=counts.count("failed"),
        total=len(counts),
        fields=varied,
        measures=[CHARTS[chart] for chart in charts],
        cells=[_table_row(plan, rows, charts, name, varied, states[name]) for name in plan.cells],
        charts=[_cells_chart(plan, rows, chart) for chart in charts],
        effects=[
            {
                "field": field,
                "charts": [_field_chart(rows, chart, field) for chart in charts],
            }
            for field in varied
            if rows and field != "seed" and _can_be_read([row[field] for row in rows])
        ],
    )


def _can_be_read(values: Sequence) -> bool:
    """Whether a field's values have room below an axis; the table has all of them."""
    texts = set(map(str, values))
    return len(texts) <= _MOST_VALUES and max(map(len, texts)) <= _LONGEST_VALUE


def _is(row: Mapping, split: str, measure: str) -> bool:
    return row["split"] == split and row["measure"] == measure


def _scale(chart: tuple[str, str]) -> float:
    return 1.0 if chart[1] in _SHARES_BUT else 100.0


def _arms(rows: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _table_row(plan, rows, charts, name: str, fields: list[str], state: Mapping) -> dict:
    """Returns a cell's line: its fields, and each measure's arms."""
    measured = []
    for chart in charts:
        own = [row for row in rows if row["cell"] == name and _is(row, *chart)]
        digits = 1 if _scale(chart) == 100 else 3
        measured.append([(row["arm"], f"{_scale(chart) * row['mean']:.{digits}f}") for row in own])
    values = [_shown(plan.cells[name][field]) for field in fields]
    return {"name": name, "values": values, "measured": measured, **state}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cells_chart(plan: Plan, rows: Sequence[Mapping], chart: tuple[str, str]) -> str:
    """Draws every cell's arms, each a dot with its interval; returns a data URI."""
    own, scale = [row for row in rows if _is(row, *chart)], _scale(chart)
    arms = _arms(own)
    names = [name for name in plan.cells if any(row["cell"] == name for row in own)]
    labels = [textwrap.fill(name, _LABEL_WIDTH) for name in names]
    lines = 1 + max(label.count("\n") for label in labels)
    with matplotlib.rc_context(STYLE):
        height = 0.9 + len(names) * max(0.16 + 0.11 * len(arms), 0.2 * lines)
        figure = Figure(figsize=(8.6, height), layout="constrained")
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            color = COLORS[number % len(COLORS)]
            shift = 0.34 - 0.68 * (number + 0.5) / len(arms)
            label = arm.replace("_", " ")
            for row in (row for row in own if row["arm"] == arm):
                place = len(names) - 1 - names.index(row["cell"]) + shift
                ends = [scale * row["low"], scale * row["high"]]
                axes.plot(ends, [place, place], color=color, linewidth=1.6, alpha=0.5)
                axes.plot(scale * row["mean"], place, "o", color=color, markersize=4.5, label=label)
                label = None
        axes.set_yticks(range(len(names)), labels[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(CHARTS[chart])
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
        return svg(figure)


def _field_chart(rows: Sequence[Mapping], chart: tuple[str, str], field: str) -> str:
    """Draws a measure over a field: each cell a dot, a line through the means; a data URI."""
    own, scale = [row for row in rows if _is(row, *chart)], _scale(chart)
    values = list(dict.fromkeys(row[field] for row in own))
    numeric = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    values = sorted(values) if numeric else values
    # Evenly spaced, so that values of several magnitudes can be read.
    places = {value: place for place, value in enumerate(values)}
    arms = _arms(own)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            color = COLORS[number % len(COLORS)]
            shift = 0.3 * ((number + 0.5) / len(arms) - 0.5)
            points = [(row[field], scale * row["mean"]) for row in own if row["arm"] == arm]
            axes.plot(
                [places[value] + shift for value, _ in points],
                [mean for _, mean in points],
                "o",
                color=color,
                markersize=3.5,
                alpha=0.4,
            )
            # Not every arm is in cells of every value.
            known = [value for value in values if any(v == value for v, _ in points)]
            means = [np.mean([mean for v, mean in points if v == value]) for value in known]
            line = [places[value] + shift for value in known]
            axes.plot(line, means, color=color, linewidth=1.8, label=arm.replace("_", " "))
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlabel(field, color=MUTED)
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_title(CHARTS[chart])
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        return svg(figure)
