"""The report on people who do not exist: what they look like, and that they are nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.report.figures import image_strip
from rlsyn_jax.stages.novel_identities import FOLDER

_PEOPLE, _IMAGES = 8, 6


def novel_panel(workdir: Path, results: dict, gate: dict) -> dict:
    """Returns what the page shows of them.

    Args:
        workdir: of the run.
        results: content of evaluate/metrics.json. gate: of synthesize/gate.json.

    Returns:
        {"novel_text", "novel_table", "novel_people"}, all empty where there are none.
    """
    found = results["novel"]
    if not found:
        return {"novel_text": "", "novel_table": {}, "novel_people": []}
    novel, _ = load_synthetic(Path(workdir) / "synthesize" / FOLDER)
    size = novel.images.shape[2]
    people = []
    for label in np.unique(novel.identities)[:_PEOPLE]:
        images = novel.images[novel.identities == label][:_IMAGES]
        people.append(
            {
                "name": novel.identity_names[label],
                "image": image_strip(images),
                "width": len(images) * (max(2, 72 // size) * size + 2),
            }
        )
    titles = {
        "judge": "the judge, which left out what it recognised",
        "reward": "the rewards' network, which had no say",
    }
    rows = [
        {
            "title": titles[name],
            "cells": [_percent(part["rate"]), _percent(part["chance"])],
        }
        for name, part in found["matches"].items()
    ]
    text = gate[FOLDER]["verdict"]
    if found["identity_error"]:
        text += (
            " As the judge sees them, images of one of them are told from images of another with "
            f"an equal error rate of {found['identity_error']['mean']:.1%}; real people's is in "
            "the table under Samples."
        )
    return {
        "novel_text": text,
        "novel_table": {
            "titles": ["taken for a training person, %", "unseen people"],
            "rows": rows,
        },
        "novel_people": people,
    }


def _percent(figure: dict) -> dict:
    low, mean, high = (f"{100 * figure[part]:.1f}" for part in ("low", "mean", "high"))
    return {"value": mean, "interval": f"{low} to {high}"}
