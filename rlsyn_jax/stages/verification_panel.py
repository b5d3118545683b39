"""The report on published verification sets: accuracies of every arm, and of groups of people."""

from __future__ import annotations

from rlsyn_jax.stages.recognition_panel import ARM_TITLES

_THRESHOLDS = {
    "own_threshold": "a threshold for each group",
    "shared_threshold": "one threshold for all",
}


def verification_panel(measured: dict) -> dict:
    """Returns what the page shows of the sets.

    Args:
        measured: what `measure_verification_sets` returns.

    Returns:
        {"verification_tables": with cells as those of arms, "group_tables": with a value and an
        interval as text each}; both empty where there is no set.
    """
    sets = measured["sets"]
    arms = list(next(iter(sets.values()))["arms"]) if sets else []
    rows = []
    for arm in arms:
        cells = []
        for each in sets.values():
            difference = each["differences"].get(arm)
            verdict = ""
            if difference:
                verdict = "good" if difference["low"] > 0 else "bad" * (difference["high"] < 0)
            cells.append({**each["arms"][arm], "difference": difference, "verdict": verdict})
        rows.append({"title": ARM_TITLES[arm], "cells": cells})
    tables = [{"titles": list(sets), "rows": rows}] if rows else []
    return {
        "verification_tables": tables,
        "group_tables": [
            _group_table(source, threshold, of_source["arms"])
            for source, of_source in measured["groups"].items()
            for threshold in _THRESHOLDS
        ],
    }


def _group_table(source: str, threshold: str, arms: dict) -> dict:
    groups = list(next(iter(arms.values()))[threshold]["accuracies"])
    spreads = {
        "mean": ("mean", 100, 1),
        "std": ("std", 100, 2),
        "gap": ("largest − smallest", 100, 1),
        "skewed_error_ratio": ("skewed error ratio", 1, 2),
        "gini": ("Gini of errors", 1, 3),
    }
    rows = []
    for arm, figures in arms.items():
        of_arm = figures[threshold]
        cells = []
        for group in groups:
            interval = ""
            if threshold == "shared_threshold":
                accepted, rejected = (
                    figures[f"false_{kind}_rates"][group] for kind in ("accept", "reject")
                )
                interval = f"FAR {100 * accepted:.1f}, FRR {100 * rejected:.1f}"
            cells.append(
                {"value": f"{100 * of_arm['accuracies'][group]:.1f}", "interval": interval}
            )
        for name, (_, scale, digits) in spreads.items():
            values = [of_arm[name][part] for part in ("mean", "low", "high")]
            chance = name != "mean"  # That of a mean is no spread.
            if chance:
                values.append(of_arm["by_chance"][name])
            mean, low, high, *highest = (
                "∞" if value is None else f"{scale * value:.{digits}f}" for value in values
            )
            interval = f"{low} to {high}"
            if chance:
                interval += f"; by chance up to {highest[0]}"
            cells.append({"value": mean, "interval": interval})
        rows.append({"title": ARM_TITLES[arm], "cells": cells})
    return {
        "caption": f"{source}, {_THRESHOLDS[threshold]}",
        "titles": [*groups, *(title for title, _, _ in spreads.values())],
        "rows": rows,
    }
