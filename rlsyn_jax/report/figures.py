"""The report's figures: each function returns an SVG or PNG as a data URI for an <img>."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LABEL_WIDTH = 34  # Characters.
# Of every chart.
STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.hashsalt": "rlsyn",
}


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Draws one dot with its interval a row; the first row is the baseline, drawn as a line too.

    Args:
        title: what is measured, with its unit.
        rows: (label, mean, low, high) in percent, top to bottom.

    Returns:
        data URI of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        # Long labels in several lines, or they leave no room for the axes.
        labels = [textwrap.fill(label, _LABEL_WIDTH) for label, *_ in rows]
        lines = 1 + max(label.count("\n") for label in labels)
        height = 0.6 + (0.36 + 0.16 * (lines - 1)) * len(rows)
        figure = Figure(figsize=(5.2, height), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(rows))[::-1]
        axes.axvline(rows[0][1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for number, (place, (_, mean, low, high)) in enumerate(zip(places, rows)):
            color = MUTED if number == 0 else COLORS[0]
            axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.6)
            axes.plot(mean, place, "o", color=color, markersize=6)
        axes.set_yticks(places, labels)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        # Of the figure, since long labels leave the axes too narrow for it.
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return svg(figure)


def curve_chart(
    title: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str
) -> str:
    """Draws named curves over iterations.

    Args:
        title: what is shown.
        curves: {name: (iterations, values)}.
        label: of the horizontal axis.

    Returns:
        data URI of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.subplots()
        for color, (name, (steps, values)) in zip(COLORS * 3, curves.items()):
            axes.plot(steps, values, color=color, label=name, linewidth=1.8)
            if len(steps) < 25:
                axes.plot(steps, values, "o", color=color, markersize=3)
        axes.grid(axis="y")
        axes.set_xlabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title)
        if curves:  # Below, where none can run through the legend.
            figure.legend(fontsize=9, loc="outside lower center", ncols=min(3, len(curves)))
        return svg(figure)


def distance_chart(title: str, sets: Mapping[str, np.ndarray], threshold: float) -> str:
    """Draws the share of images at most so far from a training image, one curve a set.

    Args:
        title: what is shown.
        sets: {name: float [n] distances}.
        threshold: below it an image is a near copy.

    Returns:
        data URI of an SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.subplots()
        for color, (name, distances) in zip(COLORS, sets.items()):
            ordered = np.sort(distances)
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(ordered, 100 * share, where="post", color=color, label=name, linewidth=1.8)
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            " near copies", (threshold, 100), va="top", ha="left", fontsize=9, color=MUTED
        )
        axes.set_ylim(0, 103)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        axes.set_xlabel("cosine distance to the nearest real training image")
        axes.set_ylabel("% of images")
        axes.set_title(title)
        axes.legend(fontsize=9, loc="lower right")
        return svg(figure)


def sphere_map(
    front: np.ndarray, places: np.ndarray, labels: np.ndarray, kinds: np.ndarray, names: Sequence
) -> str:
    """Draws both hemispheres of a map on the sphere as two discs.

    Args:
        front: bool [n], whether a point lies on the front hemisphere.
        places: float [n, 2] in the unit disc.
        labels: int [n], the person, which gives the colour.
        kinds: int [n], place in names, which gives the marker.
        names: at most four kinds of image.

    Returns:
        data URI of an SVG.
    """
    palette = matplotlib.colormaps["tab10"].colors + matplotlib.colormaps["Set3"].colors
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.7), layout="constrained")
        for axes, side, name in zip(figure.subplots(1, 2), (front, ~front), ("front", "back")):
            angle = np.linspace(0, 2 * np.pi, 200)
            axes.fill(np.cos(angle), np.sin(angle), color="#f5f7fa")
            axes.plot(np.cos(angle), np.sin(angle), color=GRID)
            for kind, marker in enumerate("os^x"[: len(names)]):
                shown = side & (kinds == kind)
                axes.scatter(
                    *places[shown].T,
                    marker=marker,
                    s=22 if marker != "^" else 16,
                    c=[palette[label % len(palette)] for label in labels[shown]],
                    linewidths=0.6,
                    edgecolors="white" if marker != "x" else None,
                )
            axes.set_aspect("equal")
            axes.axis("off")
            axes.set_title(name, fontweight="normal", color=MUTED, loc="center", fontsize=10)
        handles = [
            matplotlib.lines.Line2D([], [], marker=marker, linestyle="", color=MUTED, label=name)
            for marker, name in zip("os^x", names)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
        return svg(figure)


def image_strip(images: np.ndarray) -> str:
    """Puts images side by side with a white line between them.

    Args:
        images: uint8 [n, height, width, 1 or 3], n at least 1.

    Returns:
        data URI of a PNG at the images' own size.
    """
    count, height, width, channels = images.shape
    strip = np.full((height, count * (width + 1) - 1, channels), 255, np.uint8)
    for place, image in enumerate(images):
        start = place * (width + 1)
        strip[:, start : start + width] = image
    return png(strip)


def png(image: np.ndarray) -> str:
    """Returns uint8 [height, width, 1 or 3] as a data URI."""
    sink = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def svg(figure: Figure) -> str:
    """Returns a figure as a data URI of an SVG, the same bytes for the same figure."""
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(sink.getvalue()).decode()
