"""The page on what a set of synthetic images gives away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlsyn_jax.report.figures import distance_chart, png
from rlsyn_jax.report.page import render_page
from rlsyn_jax.report.privacy_tables import extraction_table, leakage_table, memorisation_table

_SPACES = {"embeddings": "embeddings", "pixels": "pixels"}
_SETS = {"synthetic": "synthetic images", "held_out": "other real images of them"}


class ShownPair(NamedTuple):
    """A synthetic image and a training image.

    Attributes:
        synthetic, train: uint8 [h, w, 1 or 3], of one shape.
        caption: what stands below.
        near: whether the pair is framed as a near copy.
    """

    synthetic: np.ndarray
    train: np.ndarray
    caption: str
    near: bool


def privacy_page(
    metrics: Mapping,
    distances: Mapping[str, np.ndarray],
    pairs: Iterable[tuple[str, Sequence[ShownPair]]] = (),
    *,
    subtitle: str = "",
) -> str:
    """Makes the page.

    Args:
        metrics: {"memorisation", "identity_leakage", "extraction"}, as the tables of
            report/privacy_tables.py take them, with the sets "synthetic" and "held_out" and the
            spaces "embeddings" and "pixels".
        distances: {title: float [n]}, cosine distances to the nearest training image; empty where
            near copies of embeddings were not measured.
        pairs: groups of pictures, (heading, pairs).
        subtitle: what was measured.

    Returns:
        A complete HTML document.
    """
    tables = [
        memorisation_table(
            metrics["memorisation"],
            spaces=_SPACES,
            sets=_SETS,
            judged="synthetic",
            closing="In embeddings of a network for identity, images of the right person are near "
            "by design; pixels say most about copies.",
        ),
        leakage_table(metrics["identity_leakage"], sets=_SETS, recognizer="The network"),
        extraction_table(metrics["extraction"], sets=_SETS),
    ]
    sections = [
        {
            "title": table["title"],
            "text": table["text"],
            "tables": [table] if table["rows"] else [],
            "charts": [],
            "pictures": [],
        }
        for table in tables
    ]
    if distances:
        threshold = metrics["memorisation"]["embeddings"]["synthetic"]["threshold"]
        chart = distance_chart("How near to a training image", distances, threshold)
        sections[0]["charts"] = [
            {"image": chart, "alt": "Distances to the nearest real training image"}
        ]
    pictures = [
        {
            "title": heading,
            "layout": "pairs",
            "figures": [
                {
                    "image": png(np.concatenate([pair.synthetic, pair.train])),
                    "caption": pair.caption,
                    "alt": "synthetic and real image",
                    "near": pair.near,
                }
                for pair in group
            ],
        }
        for heading, group in pairs
    ]
    if pictures:
        sections.append(
            {
                "title": "The nearest training images",
                "text": "Synthetic images above, training images below. A red frame is a near copy "
                "by the measure above.",
                "tables": [],
                "charts": [],
                "pictures": pictures,
            }
        )
    sections.append(
        {
            "title": "What this does not tell",
            "text": "A set of the same people shows those people by design: its images are their "
            "personal data. Whether one can tell from a generator or a recogniser which images "
            "trained it takes the models, and is not measured here.",
            "tables": [],
            "charts": [],
            "pictures": [],
        }
    )
    return render_page(
        {"title": "Privacy", "subtitle": subtitle, "sections": sections}, "evaluation.html"
    )
