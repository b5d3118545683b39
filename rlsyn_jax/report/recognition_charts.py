"""Curves of recognisers, and what queries find, as data URIs for an <img>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rlsyn_jax.report.figures import COLORS, STYLE, png, svg

# The frames of right and wrong answers: green and red that people with any colour vision tell
# apart by their lightness.
RIGHT, WRONG = (0, 158, 115), (200, 50, 30)


def cmc_chart(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Draws the share of queries with a right answer among the first k.

    Args:
        title: what is shown.
        curves: {name: share at rank 1, 2, ...}, 0..1.

    Returns:
        data URI of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for color, dash, (name, shares) in _styles(curves):
            ranks = np.arange(1, len(shares) + 1)
            axes.plot(ranks, shares, color=color, linestyle=dash, label=name, linewidth=1.6)
        axes.set_xlabel("answers looked at")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(left=1)
        _finish(figure, axes, title)
        return svg(figure)


def roc_chart(
    title: str, false_accept_rates: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> str:
    """Draws the share of genuine pairs accepted over the share of impostor pairs accepted.

    Args:
        title: what is shown.
        false_accept_rates: rising, in (0, 1], drawn on a logarithmic axis.
        curves: {name: share of genuine pairs accepted at each}, 0..1.

    Returns:
        data URI of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for color, dash, (name, shares) in _styles(curves):
            axes.plot(
                false_accept_rates, shares, color=color, linestyle=dash, label=name, linewidth=1.6
            )
        axes.set_xscale("log")
        axes.set_xlim(min(false_accept_rates), 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("false accept rate")
        _finish(figure, axes, title)
        return svg(figure)


def group_chart(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    """Draws shares of groups as bars from zero, with one bar a series in each group.

    Args:
        title: what is shown.
        series: {name: {group: share, 0..1}}, at least one, all of the same groups.

    Returns:
        data URI of an SVG.
    """
    groups = list(next(iter(series.values())))
    thickness = 0.8 / len(series)
    with matplotlib.rc_context(STYLE):
        rows = len(groups) * len(series)
        figure = Figure(figsize=(5.2, 1.3 + 0.24 * rows), layout="constrained")
        axes = figure.subplots()
        for number, (color, (name, shares)) in enumerate(zip(COLORS, series.items())):
            places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * thickness
            values = [shares[group] for group in groups]
            bars = axes.barh(places, values, thickness, color=color, label=name)
            axes.bar_label(bars, [f"{100 * value:.2f}" for value in values], fontsize=8, padding=3)
        axes.set_yticks(np.arange(len(groups)), groups)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15)  # Room for the numbers behind the bars.
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_title(title)
        figure.legend(fontsize=8, loc="outside lower center", ncols=len(series))
        return svg(figure)


def ranking_picture(
    query: np.ndarray, gallery: np.ndarray, right: Sequence[bool], *, side: int = 96
) -> np.ndarray:
    """Puts a query and its answers side by side, right ones framed green and wrong ones red.

    Args:
        query: uint8 [h, w, 1 or 3]. gallery: uint8 [n, h, w, 1 or 3], nearest first.
        right: bool [n].
        side: pixels to which small images are enlarged, by a whole factor.

    Returns:
        uint8 [height, width, 3].
    """
    factor = max(1, round(side / max(query.shape[:2])))
    frame, gap = max(3, factor), 4
    parts = []
    for image, color in [
        (query, (255, 255, 255)),
        *((image, RIGHT if is_right else WRONG) for image, is_right in zip(gallery, right)),
    ]:
        large = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
        height, width = (length + 2 * frame for length in large.shape[:2])
        framed = np.full((height, width + gap, 3), 255, np.uint8)
        framed[:, :width] = color
        framed[frame:-frame, frame : width - frame] = large
        parts.append(framed)
    # The query stands apart from what it found.
    parts.insert(1, np.full((len(parts[0]), 3 * gap, 3), 255, np.uint8))
    return np.concatenate(parts, axis=1)


def ranking_strip(query: np.ndarray, gallery: np.ndarray, right: Sequence[bool]) -> str:
    """Returns `ranking_picture` as a data URI of a PNG."""
    return png(ranking_picture(query, gallery, right))


def _styles(curves):
    """Gives colour, dashes and curve; arms whose curves coincide stay visible."""
    dashes = ("-", (0, (6, 2)), (0, (3, 1.5)), "-.", (0, (1, 1)), (0, (8, 2, 1, 2)))
    for number, item in enumerate(curves.items()):
        yield COLORS[number % len(COLORS)], dashes[number % len(dashes)], item


def _finish(figure, axes, title: str) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_title(title)
    # Below, where none of many curves can run through it; the curves keep their height.
    rows = -(-len(axes.lines) // 2)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
