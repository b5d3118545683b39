"""What the runs of a study say: comparisons decided, and tables of all arms."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sweeping.name_patterns import is_like
from sweeping.plan import read_plan
from sweeping.work_folders import is_made

from rlsyn_jax.stages.arms import ARM_SETTINGS
from study.claims import Comparison
from study.design import (
    AUGMENTATIONS,
    AUGMENTED,
    CHOOSERS,
    MEASURES,
    SET_MEASURES,
    Choice,
    Target,
    augmenter,
    chooser,
)
from study.paired import Difference, paired_difference, person_means


class Runs:
    """The runs of one target, found by what their cells set."""

    def __init__(self, sweep_dir: Path):
        """Reads what those measured that are complete as the sweep plans them.

        Args:
            sweep_dir: folder of the sweep; without one, there are no runs.
        """
        self._found = []
        if not (sweep_dir / "sweep.json").exists():
            return
        plan = read_plan(sweep_dir)
        for name, fields in plan.cells.items():
            workdir = sweep_dir / "cells" / name
            if is_made(workdir, "evaluate", plan.fingerprint(name, "evaluate")):
                folder = workdir / "evaluate"
                run = json.loads((folder / "per_person.json").read_text())
                run["metrics"] = json.loads((folder / "metrics.json").read_text())
                self._found.append((fields, run))

    def named(self, name: str) -> dict[int, dict]:
        """Returns the runs of the cells with a name, by seed."""
        chosen = [(fields["seed"], run) for fields, run in self._found if fields["name"] == name]
        return dict(sorted(chosen, key=lambda pair: pair[0]))


def stage_hours(folder: Path, headings: Iterable[str], seeds: Iterable[int]) -> float:
    """Returns the hours that the stages of some cells took, as planned; shared ones once.

    Stage pretrain is left out: priors and extractors are kept, and whoever comes first makes them.

    Args:
        folder: of the sweep; without one, there are none.
        headings: patterns of the cells' names.
        seeds: of the cells.
    """
    if not (folder / "sweep.json").exists():
        return 0.0
    plan = read_plan(folder)
    named = {
        cell
        for cell, fields in plan.cells.items()
        if fields["seed"] in seeds and is_like(fields["name"], headings)
    }
    made = {
        (folder / "cells" / cell / stage).resolve()
        for job in plan.jobs
        for cell in named.intersection(job.cells)
        for stage, fingerprint in job.fingerprints.items()
        if stage != "pretrain" and is_made(folder / "cells" / cell, stage, fingerprint)
    }
    return sum(json.loads((path / "stage.json").read_text())["seconds"] for path in made) / 3600


def choose(runs: Runs, target: Target) -> dict[str, Choice]:
    """Returns for each start how its recognisers train.

    Args:
        runs: of the cells by which a target's settings are chosen.
        target: the target.

    Returns:
        start -> the setting by which the best arm without synthetic images does best, and the
        augmentation by which the arm of design.AUGMENTED does best by the first setting, or else
        an arm of real images alone by that setting; the first of equally good ones.

    Raises:
        LookupError: not all of the runs are complete.
    """
    choices = {}
    for start in CHOOSERS:
        setting = max(target.settings, key=lambda name: best_mean(runs, start, name))
        means = arm_means(runs, chooser(start, setting))
        by_augmentation = {name: means[arm] for arm, name in AUGMENTATIONS.items()}
        if start in AUGMENTED:
            arm, tried = AUGMENTED[start], {"": chooser(start, target.settings[0])}
            tried |= {name: augmenter(start, name) for name in AUGMENTATIONS.values() if name}
            by_augmentation = {name: arm_means(runs, run)[arm] for name, run in tried.items()}
        choices[start] = Choice(setting, max(by_augmentation, key=by_augmentation.get))
    return choices


def best_mean(runs: Runs, start: str, setting: str) -> float:
    """Returns the mean of the measures, of the arm for which it is highest."""
    return max(arm_means(runs, chooser(start, setting)).values())


def arm_means(runs: Runs, name: str) -> dict[str, float]:
    """Returns the mean of the measures of each arm of the one run of a cell's name.

    Raises:
        LookupError: it is not complete.
    """
    found = [*runs.named(name).values()]
    if not found:
        raise LookupError(f"the run {name!r} is not complete")
    return {
        arm: float(np.mean([mean_of(found[0], arm, measure) for measure in MEASURES]))
        for arm in found[0]["arms"]
    }


def decide(
    comparison: Comparison,
    runs: Sequence[dict],
    baseline_runs: Mapping[str, Sequence[dict]],
    measure: str,
) -> dict[str, Any]:
    """Compares an arm with the best of its baselines.

    Args:
        comparison: what is asked.
        runs: of the arm, by seed.
        baseline_runs: name of each cell that has baselines -> its runs, of the same seeds.
        measure: of both.

    Returns:
        {"baseline", its "baseline_cell", "difference", "low", "high" in points, "seeds", "holds"}.

    Raises:
        LookupError: the comparison is within a variation, none of whose arms is a baseline.
    """
    measured = [
        (arm, cell)
        for arm, cell in itertools.product(comparison.baselines, baseline_runs)
        if not comparison.within or all(arm in run["arms"] for run in baseline_runs[cell])
    ]
    if not measured:
        raise LookupError(f"no run of {[*baseline_runs]} has a baseline of {comparison.name!r}")
    best, cell = max(
        measured,
        key=lambda pair: np.mean([mean_of(r, pair[0], measure) for r in baseline_runs[pair[1]]]),
    )
    found = paired_difference(
        runs, comparison.arm, best, measure, baseline_runs=baseline_runs[cell]
    )
    stated = {"baseline": best, "baseline_cell": cell, **in_points(found)}
    return stated | {"holds": holds(comparison, stated)}


def holds(comparison: Comparison, found: Mapping[str, Any]) -> bool:
    """Returns whether a difference, as it is published, is what a comparison asks for.

    Args:
        comparison: what is asked.
        found: as `in_points` gives it, to a hundredth of a point.
    """
    return found["low"] > 0 and found["difference"] >= comparison.at_least


def best_arm(runs: Sequence[dict], measure: str) -> tuple[str, float]:
    """Returns the arm with the best mean over some runs, and that mean."""
    means = {
        arm: float(np.mean([mean_of(run, arm, measure) for run in runs])) for arm in runs[0]["arms"]
    }
    best = max(means, key=means.get)
    return best, means[best]


def in_points(difference: Difference) -> dict[str, Any]:
    """Returns a difference of shares in points, rounded to hundredths."""
    mean, low, high = (round(100 * part, 2) for part in difference[:3])
    return {"difference": mean, "low": low, "high": high, "seeds": difference.runs}


def mean_of(run: dict, arm: str, measure: str) -> float:
    """Returns an arm's figure in one run."""
    values, weights = person_means(run, arm, measure)
    return float(np.average(list(values.values()), weights=[weights[person] for person in values]))


def figure_of_set(metrics: dict, arm: str, path: Sequence[str]) -> float | None:
    """Returns a figure of the images that an arm adds to the real ones; None where there is none.

    Args:
        metrics: content of evaluate/metrics.json.
        arm: name of it.
        path: as in design.SET_MEASURES.
    """
    # While training, any of a set may be selected. The nearest are some of one, not measured apart.
    name = ARM_SETTINGS[arm].synthetic
    if name in ("", "nearest"):
        return None
    for part in path:
        metrics = metrics.get(part.format(set=name), {})
    return metrics.get("mean")


def arm_rows(runs: Sequence[dict], baseline: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each arm with the text of each measure, of it and of its synthetic images.

    That is its mean over the runs and, of recognisers, the difference to a baseline.

    Args:
        runs: of one target, number of images and start.
        baseline: an arm of them.
    """
    for arm in runs[0]["arms"]:
        texts = {}
        for measure in MEASURES:
            mean = 100 * np.mean([mean_of(run, arm, measure) for run in runs])
            texts[measure] = f"{mean:.1f}"
            if arm != baseline:
                found = in_points(paired_difference(runs, arm, baseline, measure))
                texts[measure] += "  {difference:+.1f} ({low:.1f} to {high:.1f})".format(**found)
        for column, path in SET_MEASURES.items():
            figures = [figure_of_set(run["metrics"], arm, path) for run in runs]
            texts[column] = ""
            if None not in figures:
                scale, digits = (100, 0) if "%" in column else (1, 3)
                texts[column] = f"{scale * np.mean(figures):.{digits}f}"
        yield arm, texts
