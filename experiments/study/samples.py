"""What reinforcement does to samples, by measures in which no reward has a part.

Recognisers of real images and samples are compared in claims.py. Here sets of samples are, before
anybody trains on them. It was asked when the runs of faces of 400 updates were known, so that
nothing of it is a claim; by a prior that is told nobody, when none of its runs on test people was,
of its 120 samples, when two seeds of 40 were, and of further seeds, when the first five were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from study.decisions import rows_in_order
from study.design import SET_MEASURES
from study.gathering import figure_of_set
from study.paired import Difference, difference_of_runs
from study.variations import TOLD_NOBODY, TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER


class ComparedSets(NamedTuple):
    """Two sets of samples of one run.

    Attributes:
        arm, baseline: that add them to real images.
        variation: name of that in which they are; "" = as a target's config has it.
    """

    arm: str
    baseline: str
    variation: str = ""


# What is asked -> the sets that are compared.
COMPARED_SETS = {
    f"samples, reinforced against {name}{by and f', by {by}'}": ComparedSets(
        "real_reinforced", baseline, by
    )
    for by in ("", TOLD_NOBODY, TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER)
    for name, baseline in (("cold start", "real_cold_start"), ("best of N", "real_best_of"))
}
# Nearer to real images, fewer copies; of the others, more is better.
_LESS_IS_BETTER = (
    "Frechet distance",
    "near copies by pixels, %",
    "near copies by the judge, %",
)


def compare_sets(runs: Sequence[dict], variation: str = "") -> Iterator[dict[str, Any]]:
    """Yields every comparison of the sets of some runs.

    Args:
        runs: of one cell's name, by seed, with content of metrics.json as "metrics".
        variation: name of that in which they are, as in COMPARED_SETS.

    Yields:
        {"name", "measure", "arm", "baseline", "difference", "low", "high", "seeds", "holds"}, of
        shares in points. It holds where the interval lies on the better side of 0. Measures that a
        run lacks are left out, and all where there is one run, which has no interval.
    """
    for name, (arm, baseline, of_variation) in COMPARED_SETS.items():
        if of_variation != variation:
            continue
        for measure, path in SET_MEASURES.items():
            values, others = (
                [figure_of_set(run["metrics"], each, path) for run in runs]
                for each in (arm, baseline)
            )
            if len(runs) < 2 or None in values + others:
                continue
            found = _stated(difference_of_runs(values, others), measure)
            stated = {"name": name, "measure": measure, "arm": arm, "baseline": baseline, **found}
            yield stated | {"holds": is_better(stated)}


def is_better(found: Mapping[str, Any]) -> bool:
    """Returns whether the interval of a comparison, as it is published, lies on the better side."""
    return found["high"] < 0 if found["measure"] in _LESS_IS_BETTER else found["low"] > 0


def samples_table(comparisons: Sequence[Mapping[str, Any]], least_seeds: int = 2) -> Iterator[str]:
    """Yields the lines of a table of compared sets, a row for all measures of one.

    Args:
        comparisons: as in results.json; those of recognisers are passed over.
        least_seeds: number of seeds of a row that is shown.

    Yields:
        Markdown: data and number of training images an identity, what is compared, seeds, and the
        differences with their intervals. Nothing, where there is no row.
    """
    rows = rows_in_order(comparisons, COMPARED_SETS, least_seeds)
    if rows:
        yield f"| data, images | compared | seeds | {' | '.join(SET_MEASURES)} |"
        yield "| --- | --- | --- |" + " --- |" * len(SET_MEASURES)
    for measured in rows:
        found = next(iter(measured.values()))
        texts = (_text(measured.get(measure)) for measure in SET_MEASURES)
        yield (
            f"| {found['data']}, {found['images']} | {found['name'].removeprefix('samples, ')} "
            f"| {found['seeds']} | {' | '.join(texts)} |"
        )


def _stated(found: Difference, measure: str) -> dict[str, Any]:
    # Shares in hundredths of a point, distances in ten thousandths.
    scale, digits = (100, 2) if "%" in measure else (1, 4)
    mean, low, high = (round(scale * part, digits) for part in found[:3])
    return {"difference": mean, "low": low, "high": high, "seeds": found.runs}


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    digits = 0 if "%" in found["measure"] else 2
    low, high = (f"{found[part]:.{digits}f}" for part in ("low", "high"))
    return f"{found['difference']:+.{digits}f} ({low} to {high})"
