"""The page on verification: figures, the ROC curve, and groups of people side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlsyn_jax.report.page import render_page
from rlsyn_jax.report.privacy_tables import plain_cell
from rlsyn_jax.report.recognition_charts import group_chart, roc_chart


def verification_page(
    metrics: Mapping,
    false_accept_rates: Sequence[float],
    true_accept_rates: Sequence[float],
    *,
    subtitle: str = "",
) -> str:
    """Makes the page.

    Args:
        metrics: {"num_genuine", "num_impostors", "accuracy": {"value", "low", "high", "std"},
            "equal_error_rate": {"value"}, "true_accept_rates": {false accept rate as text:
            {"value", "low", "high"}, or None where it cannot be measured}}, and, where groups were
            compared, "fairness": {"own_threshold" and "shared_threshold": {"accuracies":
            {group: share}, "mean", "std", "gap", "skewed_error_ratio", "gini"}}, the shared one
            with "false_accept_rates" and "false_reject_rates" of the groups. Shares are 0..1.
        false_accept_rates: of the ROC curve, rising, in (0, 1].
        true_accept_rates: of the ROC curve, 0..1.
        subtitle: what was measured.

    Returns:
        A complete HTML document.
    """
    rows = [
        ("ten-fold accuracy", _interval(metrics["accuracy"])),
        ("equal error rate", plain_cell(f"{100 * metrics['equal_error_rate']['value']:.2f}")),
    ]
    for rate, figure in metrics["true_accept_rates"].items():
        cell = _interval(figure) if figure else plain_cell("not measured")
        rows.append((f"TAR at FAR {rate}", cell))
    text = (
        f"{metrics['num_genuine']:,} pairs of one person and {metrics['num_impostors']:,} of two. "
        "TAR is the share of pairs of one person that is accepted where so few pairs of two (FAR) "
        "are. Intervals are of 95 %: accuracy's over folds, TAR's over pairs."
    )
    if None in metrics["true_accept_rates"].values():
        text += " What is not measured would be less than one of the pairs of two people."
    sections = [
        {
            "title": "Figures",
            "text": text,
            "tables": [
                {
                    "titles": ["%"],
                    "rows": [{"title": name, "cells": [cell]} for name, cell in rows],
                }
            ],
            "charts": [
                {
                    "image": roc_chart(
                        "ROC: pairs of one person accepted",
                        false_accept_rates,
                        {"all pairs": true_accept_rates},
                    ),
                    "alt": "ROC curve",
                }
            ],
            "pictures": [],
        }
    ]
    if "fairness" in metrics:
        sections.append(_groups(metrics["fairness"]))
    return render_page(
        {"title": "Verification", "subtitle": subtitle, "sections": sections}, "evaluation.html"
    )


def _groups(fairness: Mapping) -> dict:
    own, shared = fairness["own_threshold"], fairness["shared_threshold"]
    thresholds = {"own threshold": own, "shared threshold": shared}
    accuracies = {name: spread["accuracies"] for name, spread in thresholds.items()}
    by_group = {
        "titles": [*(f"{name}, %" for name in thresholds), "falsely accepted", "falsely rejected"],
        "rows": [
            {
                "title": group,
                "cells": [
                    plain_cell(f"{100 * shares[group]:.2f}")
                    for shares in (
                        *accuracies.values(),
                        shared["false_accept_rates"],
                        shared["false_reject_rates"],
                    )
                ],
            }
            for group in own["accuracies"]
        ],
    }
    spreads = {
        "titles": ["mean, %", "std", "largest less smallest", "skewed error ratio", "Gini"],
        "rows": [
            {
                "title": name,
                "cells": [
                    *(plain_cell(f"{100 * spread[part]:.2f}") for part in ("mean", "std", "gap")),
                    plain_cell(ratio_text(spread["skewed_error_ratio"])),
                    plain_cell(f"{spread['gini']:.3f}"),
                ],
            }
            for name, spread in thresholds.items()
        ],
    }
    return {
        "title": "Groups of people",
        "text": "Accuracy of each group at the threshold that is best for it, and at the one that "
        "is best for all groups together, as a system in use has it. False accepts and rejects are "
        "at the shared threshold. Skewed error ratio is the largest error over the smallest, Gini "
        "0 where all errors are equal.",
        "tables": [by_group, spreads],
        "charts": [
            {
                "image": group_chart("Accuracy of groups (%)", accuracies),
                "alt": "Accuracy of groups at own and shared threshold",
            }
        ],
        "pictures": [],
    }


def ratio_text(ratio: float | None) -> str:
    """Returns a skewed error ratio in words; None is infinite, a group without any error."""
    return "infinite" if ratio is None else f"{ratio:.2f}"


def _interval(figure: Mapping) -> dict:
    value, low, high = (f"{100 * figure[part]:.2f}" for part in ("value", "low", "high"))
    return {"value": value, "interval": f"{low} to {high}"}
