"""Curves and ranking pictures read back."""

import base64
import html
import io
import re

import numpy as np
from PIL import Image

from rlsyn_jax.report.figures import COLORS
from rlsyn_jax.report.recognition_charts import (
    RIGHT,
    WRONG,
    cmc_chart,
    group_chart,
    ranking_picture,
    ranking_strip,
    roc_chart,
)


def content(uri):
    return base64.b64decode(uri.split(",")[1]).decode()


def test_charts_name_every_arm_and_fetch_nothing():
    curves = {"real & only": [0.5, 0.7, 0.9], "both": [0.6, 0.9, 1.0]}
    for chart in (cmc_chart("CMC", curves), roc_chart("ROC", [0.01, 0.1, 1], curves)):
        svg = content(chart)
        notes = [html.unescape(note).strip() for note in re.findall(r"<!--(.*?)-->", svg)]
        assert {"real & only", "both"} <= set(notes)
        assert "<image" not in svg
    assert roc_chart("ROC", [0.01, 0.1, 1], curves) == roc_chart("ROC", [0.01, 0.1, 1], curves)


def test_bars_of_groups_are_as_long_as_their_shares():
    series = {
        "own": {"<a>": 0.9, "b": 0.45, "c": 0.15},
        "shared": {"c": 0.2, "b": 0.3, "<a>": 0.6},
    }
    svg = content(group_chart("Accuracy", series))
    assert group_chart("Accuracy", series) == group_chart("Accuracy", series)
    notes = [html.unescape(note).strip() for note in re.findall(r"<!--(.*?)-->", svg)]
    assert {"<a>", "b", "c", "own", "shared", "90.00", "15.00", "60.00"} <= set(notes)
    drawn = []
    for name, color in zip(series, COLORS):
        bars = [
            np.array(re.findall(r"[ML] (\S+) (\S+)", path), float)
            for path in re.findall(
                rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: {color}"', svg
            )
        ]
        lengths = np.array([np.ptp(corners[:, 0]) for corners in bars])
        expected = np.array([series[name][group] for group in ("<a>", "b", "c")])
        drawn.append((lengths / expected, [corners[:, 0].min() for corners in bars]))
        # From the top down, in the order given.
        assert np.all(np.diff([corners[:, 1].mean() for corners in bars]) > 0)
    scale, starts = np.concatenate(drawn, axis=1)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-3)
    np.testing.assert_allclose(starts, starts[0], atol=1e-3)


def test_frames_tell_right_from_wrong():
    query, gallery = np.full((4, 2, 1), 9, np.uint8), np.full((2, 4, 2, 1), 99, np.uint8)
    picture = ranking_picture(query, gallery, [True, False], side=8)
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert colors == {RIGHT, WRONG, (255, 255, 255), (9,) * 3, (99,) * 3}
    right, wrong = (np.flatnonzero((picture == color).all(-1).any(0)) for color in (RIGHT, WRONG))
    answers = np.flatnonzero((picture == 99).all(-1).any(0))
    asked = np.flatnonzero((picture == 9).all(-1).any(0))
    assert asked.max() < right.min() < right.max() < wrong.min()
    # Every second of the enlarged answers lies inside its frame.
    assert ((answers > right.min()) & (answers < right.max())).sum() == 4 == len(answers) / 2
    strip = base64.b64decode(ranking_strip(query, gallery, [True, False]).split(",")[1])
    assert Image.open(io.BytesIO(strip)).mode == "RGB"
