"""Gain against leakage: what samples add to a recogniser, over how many copy training images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from rlsyn_jax.report.figures import COLORS, INK, MUTED, STYLE
from rlsyn_jax.training.atomic_files import write_bytes
from study.design import MEASURES, SET_MEASURES
from study.gathering import figure_of_set, in_points
from study.paired import paired_difference
from study.variations import VARIATIONS

LEAKAGE = "near copies by pixels, %"
# Each with a set of its own, of which it may draw all.
ARMS = ("real_cold_start", "real_best_of", "real_reinforced")
# The arm whose samples begin nearer to training images, or further from them.
VARIED_ARM = "real_reinforced"
STRENGTH = "synthesize.strength"


class Point(NamedTuple):
    """An arm of some runs.

    Attributes:
        label: what it is.
        leaked: percent of its synthetic images that are near copies of training images.
        gains: measure -> {"difference", "low", "high"} to the baseline in points.
    """

    label: str
    leaked: float
    gains: dict[str, dict]


def point(label: str, runs: Sequence[dict], arm: str, baseline: str) -> Point | None:
    """Returns where an arm stands, or None where its near copies were not counted in all runs.

    Args:
        label: what it is called.
        runs: of one cell's name, with content of metrics.json as "metrics".
        arm, baseline: names of arms.
    """
    shares = [figure_of_set(run["metrics"], arm, SET_MEASURES[LEAKAGE]) for run in runs]
    if not shares or None in shares:
        return None
    gains = {
        measure: in_points(paired_difference(runs, arm, baseline, measure)) for measure in MEASURES
    }
    return Point(label, 100 * float(np.mean(shares)), gains)


def arms_of(runs: Sequence[dict], baseline: str) -> list[Point]:
    """Returns the arms that add samples to real images, of the runs of one cell's name."""
    arms = [arm for arm in ARMS if runs and arm in runs[0]["arms"]]
    return [found for arm in arms if (found := point(arm, runs, arm, baseline))]


def curve_of(varied: Mapping[float, Sequence[dict]], baseline: str) -> list[Point]:
    """Returns the varied arm by the strength at which its samples begin, in rising order.

    Args:
        varied: strength -> runs that differ in nothing else.
        baseline: arm of all of them.
    """
    found = [
        point(f"{strength:g} ({len(varied[strength])})", varied[strength], VARIED_ARM, baseline)
        for strength in sorted(varied)
    ]
    return [each for each in found if each]


def varies_strength(variation: str) -> bool:
    """Says whether a variation of the study changes nothing but where samples begin."""
    return set(VARIATIONS[variation]) == {STRENGTH}


def draw(
    path: Path,
    title: str,
    baseline: str,
    arms: Sequence[Point],
    curve: Sequence[Point],
    *,
    longer: Sequence[Point] = (),
    held_out: float,
) -> None:
    """Draws gain against leakage, a panel a measure, as a PNG.

    Args:
        path: of it.
        title: of it.
        baseline: arm that gains are measured from.
        arms: as of `arms_of`.
        curve: as of `curve_of`; drawn where it has two points.
        longer: as `arms`, of recognisers that train for longer on the same samples; drawn beside
            them, hollow.
        held_out: percent of held-out images that are as near to training images.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 4.0), layout="constrained", dpi=120)
        panels = figure.subplots(1, len(MEASURES), sharex=True)
        for axes, (measure, name) in zip(panels, MEASURES.items()):
            axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.axvline(held_out, color=MUTED, linewidth=1, linestyle=":", label="held-out images")
            if len(curve) > 1:
                values = [each.gains[measure]["difference"] for each in curve]
                label = f"{VARIED_ARM} by strength (seeds)"
                leaked = [each.leaked for each in curve]
                axes.plot(leaked, values, "-", color=MUTED, linewidth=1.5, label=label)
                for each in curve:
                    _mark(axes, each, measure, MUTED)
                    place = each.leaked, each.gains[measure]["low"]
                    away = {"xytext": (0, -10), "textcoords": "offset points", "ha": "center"}
                    axes.annotate(each.label, place, **away, fontsize=7, color=INK)
            colors = dict(zip(ARMS, COLORS))
            for each in arms:
                _mark(axes, each, measure, colors[each.label], label=each.label)
            for each in longer:
                label = f"{each.label}, longer training"
                _mark(axes, each, measure, colors[each.label], label=label, hollow=True)
            axes.margins(x=0.08, y=0.12)
            axes.set_title(name)
            axes.set_xlabel(f"{LEAKAGE.removesuffix(', %')} of training images, % of samples")
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        panels[0].set_ylabel(f"points above {baseline}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle(title)
        sink = io.BytesIO()
        figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def _mark(
    axes, each: Point, measure: str, color: str, label: str | None = None, hollow: bool = False
) -> None:
    gain, place = each.gains[measure], axes.transData
    if hollow:
        # Where the same samples stand already.
        place = place + ScaledTranslation(8 / 72, 0, axes.figure.dpi_scale_trans)
    ends = [gain["low"], gain["high"]]
    axes.plot([each.leaked] * 2, ends, color=color, alpha=0.6, linewidth=1.5, transform=place)
    style = {"markersize": 6, "markerfacecolor": "white" if hollow else color, "label": label}
    axes.plot(each.leaked, gain["difference"], "o", color=color, transform=place, **style)
    # What is drawn off its place does not move the limits of the axes.
    axes.update_datalim([(each.leaked, end) for end in ends])
