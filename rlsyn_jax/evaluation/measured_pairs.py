"""All figures of verification on one set of pairs, and of groups of people where they are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rlsyn_jax.evaluation.bootstrap import mean_interval
from rlsyn_jax.evaluation.fairness import GroupAccuracies, group_fairness
from rlsyn_jax.evaluation.verification import (
    equal_error_rate,
    pair_distances,
    roc_points,
    ten_fold_accuracy,
    true_accept_rate,
    true_accept_rates_at,
)

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
_CURVE_POINTS = 200


def measure_pairs(
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
) -> dict:
    """Measures accuracy, accept rates and errors, and fairness.

    Args:
        first, second: float [n, dim], the two images of each pair; n a multiple of 10.
        is_same: bool [n], whether the pair shows one person.
        groups: text [n], the group of people of each pair.
        false_accept_rates: in (0, 1).

    Returns:
        {"num_genuine", "num_impostors", "accuracy", "equal_error_rate", "true_accept_rates"} and,
        with groups, "fairness"; a rate below one impostor pair is None, and so is an infinite
        ratio.

    Raises:
        ValueError: bad pairs or groups, or a rate out of range.
    """
    distances, is_same = pair_distances(first, second, is_same)
    similarities = 1 - distances / 2
    folds = ten_fold_accuracy(first, second, is_same)
    rate, threshold = equal_error_rate(similarities, is_same)
    num_impostors = int((~is_same).sum())
    metrics: dict = {
        "num_genuine": int(is_same.sum()),
        "num_impostors": num_impostors,
        "accuracy": dict(zip(("value", "low", "high"), mean_interval(folds.fold_accuracies)))
        | {"std": folds.accuracy_std},
        "equal_error_rate": {"value": rate, "threshold": threshold},
        "true_accept_rates": {},
    }
    for wanted in false_accept_rates:
        if 0 < wanted < 1 / num_impostors:
            metrics["true_accept_rates"][f"{wanted:g}"] = None
            continue
        accepted = true_accept_rate(similarities, is_same, wanted)
        metrics["true_accept_rates"][f"{wanted:g}"] = {
            **accepted.true_accept_rate._asdict(),
            "false_accept_rate": accepted.false_accept_rate._asdict(),
            "threshold": accepted.threshold if math.isfinite(accepted.threshold) else None,
        }
    if groups is not None:
        groups = np.asarray(groups).astype(str)
        result = group_fairness(
            first, second, is_same, groups, group_names=sorted(set(groups.tolist()))
        )
        metrics["fairness"] = {
            "own_threshold": _spread(result.own_threshold),
            "shared_threshold": _spread(result.shared_threshold)
            | {
                "false_accept_rates": result.false_accept_rates,
                "false_reject_rates": result.false_reject_rates,
            },
        }
    return metrics


def roc_curve(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC curve of pairs for a chart, from one impostor pair accepted to all.

    Args:
        first, second, is_same: as in measure_pairs.

    Returns:
        (false accept rates, true accept rates), float64 [200], the first evenly on a logarithmic
        scale.
    """
    distances, is_same = pair_distances(first, second, is_same)
    points = roc_points(1 - distances / 2, is_same)
    rates = np.geomspace(1 / points.num_impostors, 1, _CURVE_POINTS)
    return rates, true_accept_rates_at(points, rates)


def _spread(spread: GroupAccuracies) -> dict:
    values = dataclasses.asdict(spread)
    if not math.isfinite(spread.skewed_error_ratio):
        values["skewed_error_ratio"] = None
    return values
