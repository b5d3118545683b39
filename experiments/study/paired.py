"""Differences between two arms over several runs, with intervals over seeds and people.

A run is what evaluate/per_person.json holds: each person's values, of every arm and recogniser
seed. Runs of a study differ by their seed, which decides who is enrolled, how networks begin and
what is generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """How far an arm is above another one.

    Attributes:
        mean: over runs, of each run's mean over its queries.
        low, high: of the interval.
        runs: how many.
    """

    mean: float
    low: float
    high: float
    runs: int


def paired_difference(
    runs: Sequence[Mapping[str, Any]],
    arm: str,
    baseline: str,
    measure: str,
    *,
    baseline_runs: Sequence[Mapping[str, Any]] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Returns the mean difference of two arms, paired by run and person, and its interval.

    Runs are drawn with replacement, and so are people, once for all runs: many of them are measured
    in several, and would count as new ones there. So the interval holds what another split and
    another start change, and what other people would.

    Args:
        runs: contents of per_person.json.
        arm, baseline: names of arms.
        measure: of both.
        baseline_runs: the baseline's runs, of the same seeds and in the same order, where it was
            measured in others.
        num_resamples: draws, at least 1.
        confidence: in (0, 1).
        seed: of the drawing.

    Raises:
        ValueError: there is no run, or one has other people or lacks the arm or the measure.

    Source: Owen, The Pigeonhole Bootstrap, 2007.
    """
    baseline_runs = runs if baseline_runs is None else baseline_runs
    if not runs or len(runs) != len(baseline_runs):
        raise ValueError(f"{len(runs)} and {len(baseline_runs)} runs cannot be paired")
    pairs = []
    for number, (run, other) in enumerate(zip(runs, baseline_runs)):
        values, weights = person_means(run, arm, measure)
        others, _ = person_means(other, baseline, measure)
        if set(values) != set(others):
            raise ValueError(f"run {number}: {arm} and {baseline} were measured on other people")
        pairs.append(({person: values[person] - others[person] for person in values}, weights))
    people = sorted({person for values, _ in pairs for person in values})
    places = {person: place for place, person in enumerate(people)}
    differences, weighing = np.zeros((2, len(pairs), len(people)))  # [runs, people]
    for number, (values, weights) in enumerate(pairs):
        for person, value in values.items():
            differences[number, places[person]] = value
            weighing[number, places[person]] = weights[person]
    means = (weighing * differences).sum(axis=1) / weighing.sum(axis=1)
    generator = np.random.default_rng(seed)
    share = np.full(len(people), 1 / len(people))
    times = generator.multinomial(len(people), share, num_resamples)  # [resamples, people]
    drawn = generator.integers(len(pairs), size=(num_resamples, len(pairs)))
    total_weights = times @ weighing.T
    # A run none of whose people are drawn says nothing in that resample.
    resampled = np.full(total_weights.shape, np.nan)
    np.divide(
        times @ (weighing * differences).T, total_weights, out=resampled, where=total_weights > 0
    )
    chosen = np.take_along_axis(resampled, drawn, axis=1)
    chosen = chosen[~np.isnan(chosen).all(axis=1)]
    totals = np.nanmean(chosen, axis=1)
    low, high = np.quantile(totals, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(means.mean()), float(low), float(high), len(pairs))


def difference_of_runs(
    values: Sequence[float], baselines: Sequence[float], *, confidence: float = 0.95
) -> Difference:
    """Returns the mean difference of two figures, paired by run, and its interval by Student's t.

    For what a run has one figure of. Of five such figures a percentile bootstrap's intervals of
    95 % hold the truth in 84 %, where they are normal.

    Args:
        values, baselines: of each run, in the same order; two at least.
        confidence: in (0, 1).

    Raises:
        ValueError: there are fewer than two runs, or not as many baselines.
    """
    if len(values) < 2 or len(values) != len(baselines):
        raise ValueError(
            f"{len(values)} and {len(baselines)} figures: an interval takes two runs or more, and "
            f"both figures of each"
        )
    differences = np.asarray(values, np.float64) - np.asarray(baselines, np.float64)
    mean, runs = float(differences.mean()), len(differences)
    half = stats.t.ppf((1 + confidence) / 2, runs - 1) * differences.std(ddof=1) / runs**0.5
    return Difference(mean, mean - float(half), mean + float(half), runs)


def person_means(
    run: Mapping[str, Any], arm: str, measure: str
) -> tuple[dict[str, float], dict[str, int]]:
    """Returns each person's value, the mean over recogniser seeds, and each person's weight.

    Raises:
        ValueError: the run lacks the arm or the measure.
    """
    measures = run["arms"].get(arm)
    if measures is None:
        raise ValueError(f"there is no arm {arm!r}; the run has {', '.join(run['arms'])}")
    if measure not in measures:
        raise ValueError(f"{arm} has no {measure!r}; it has {', '.join(measures)}")
    values = {person: float(np.mean(seeds)) for person, seeds in measures[measure].items()}
    return values, run["weights"][measure]
