"""The command `ranking`: embeddings of queries and galleries in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlsyn_jax.evaluation.array_checks import checked_embeddings, checked_images, checked_labels
from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.evaluation.compared_rankings import ComparedRankings, compare_rankings
from rlsyn_jax.evaluation.measured import Measured, share_text
from rlsyn_jax.report.ranking_page import ShownRanking, ranking_page

_SHOWN_QUERIES = 8


def add_command(commands) -> None:
    """Adds the command to subparsers of argparse."""
    parser = commands.add_parser("ranking", help="mAP, mINP and CMC by Market-1501's protocol")
    parser.add_argument("--query", nargs="+", required=True, type=Path)
    parser.add_argument("--gallery", nargs="+", required=True, type=Path)
    parser.add_argument("--re_ranking", action="store_true", help="k-reciprocal re-ranking")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.set_defaults(measure=measure)


def measure(options) -> Measured:
    """Reads the files and measures the rankings.

    Args:
        options: query and gallery (paths), re_ranking, resamples, and report, None or the path of a
            page, for which pictures are read.

    Returns:
        What is printed and written.

    Raises:
        ValueError: bad files or arrays. OSError: a file that cannot be read.
    """
    if len(options.query) != len(options.gallery):
        raise ValueError(
            f"{len(options.query)} query files and {len(options.gallery)} galleries were given; "
            "each query needs its gallery"
        )
    arms = [path.stem for path in options.query]
    if len(set(arms)) < len(arms) or "differences" in arms:
        raise ValueError(f"query files are named by arm and must have different names, got {arms}")
    pictures: dict[str, np.ndarray] = {}
    compared = compare_rankings(
        _arms(options, pictures),
        re_ranking=options.re_ranking,
        num_resamples=options.resamples,
        num_lists=_SHOWN_QUERIES if options.report else 0,
    )
    subtitle = (
        f"{compared.num_queries:,} queries with a match, by Market-1501's protocol"
        + ", after k-reciprocal re-ranking" * options.re_ranking
    )

    def page() -> str:
        rankings = _shown(compared, **pictures) if pictures else []
        return ranking_page(compared.metrics, compared.cmc, rankings, subtitle=subtitle)

    return Measured(compared.metrics, _rows(compared), page)


def _arms(options, pictures: dict[str, np.ndarray]) -> Iterator[tuple[str, dict, dict]]:
    """Reads one arm at a time; pictures get those of the first that has them."""
    for query_path, gallery_path in zip(options.query, options.gallery):
        parts = {}
        for side, path in (("query", query_path), ("gallery", gallery_path)):
            part = load_arrays(
                path,
                ("embeddings", "ids", "cameras"),
                optional=("images",) if options.report else (),
            )
            number = len(checked_embeddings(f"{path}: embeddings", part["embeddings"]))
            for name in ("ids", "cameras"):
                part[name] = checked_labels(f"{path}: {name}", part[name], number)
            if "images" in part:
                checked_images(f"{path}: images", part["images"], number)
            parts[side] = part
        images = {side: part.pop("images", None) for side, part in parts.items()}
        if not pictures and all(own is not None for own in images.values()):
            if images["query"].shape[1:] != images["gallery"].shape[1:]:
                raise ValueError(
                    f"{query_path} and {gallery_path}: images of {images['query'].shape[1:]} and "
                    f"{images['gallery'].shape[1:]} cannot be shown side by side; they must be of "
                    "one size"
                )
            pictures.update(images)
        yield query_path.stem, parts["query"], parts["gallery"]


def _shown(
    compared: ComparedRankings, query: np.ndarray, gallery: np.ndarray
) -> list[tuple[str, list[ShownRanking]]]:
    """Returns one group for all queries of a single arm, or one for each query."""
    arms = list(compared.lists)
    rankings = [
        [
            ShownRanking(
                query[found.query],
                gallery[list(found.gallery)],
                found.right,
                f"{name}: {sum(found.right)} of {len(found.right)} right",
            )
            for name, found in zip(arms if len(arms) > 1 else [f"query {lists[0].query}"], lists)
        ]
        for lists in zip(*compared.lists.values())
    ]
    if len(arms) == 1:
        return [("", [shown for group in rankings for shown in group])]
    places = [found.query for found in compared.lists[arms[0]]]
    return [(f"Query {place}", group) for place, group in zip(places, rankings)]


def _rows(compared: ComparedRankings) -> list[tuple[str, str]]:
    metrics = dict(compared.metrics)
    differences = metrics.pop("differences")
    rows = [("queries with a match", str(compared.num_queries))]
    for arm, figures in metrics.items():
        rows.append((f"{arm} (%)", ""))
        rows += [(f"  {name}", share_text(figure)) for name, figure in figures.items()]
    for arm, figures in differences.items():
        rows.append((f"{arm} less {next(iter(metrics))} (points)", ""))
        rows += [(f"  {name}", share_text(figure, "+.2f")) for name, figure in figures.items()]
    return rows
