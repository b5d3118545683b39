"""The report on recognisers: tables, intervals, curves, and what queries find."""

from __future__ import annotations

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.report.figures import interval_chart
from rlsyn_jax.report.recognition_charts import cmc_chart, ranking_strip, roc_chart

ARM_TITLES = {
    "real": "real only",
    "real_erasing": "real, Random Erasing",
    "real_rand_augment": "real, RandAugment",
    "real_affine": "real, rotated and moved",
    "real_scratch": "real, from scratch",
    "real_general": "start as it is, untrained",
    "real_joint": "real + general people",
    "real_joint_reinforced": "real + general people + synthetic",
    "real_joint_reinforced_selected": "real + general people + synthetic, dynamic selection",
    "real_novel": "real + people who do not exist",
    "real_prior": "real + people of the prior",
    "real_prior_reinforced": "real + people of the prior + reinforced",
    "real_prior_reinforced_selected": "real + people of the prior + reinforced, selected",
    "real_cold_start": "real + synthetic, cold start",
    "real_best_of": "real + synthetic, best of many",
    "real_reinforced": "real + synthetic, after RL",
    "real_reinforced_selected": "real + synthetic, dynamic selection",
    "real_reinforced_nearest": "real + synthetic, nearest embeddings",
    "synthetic_only": "synthetic only, after RL",
}
# One table each.
METRIC_TITLES = {
    "open_map": "mAP, unseen people",
    "open_map_re_ranked": "mAP, re-ranked",
    "open_minp": "mINP",
    "open_rank1": "rank-1, unseen people",
    "open_rank5": "rank-5",
    "open_rank10": "rank-10",
}
OTHER_TITLES = {
    "closed_rank1": "rank-1, enrolled people",
    "verification": "verification, ten folds",
    "tar_at_far_1e-2": "TAR at FAR 1 %",
    "tar_at_far_1e-3": "TAR at FAR 0.1 %",
    "equal_error_rate": "equal error rate",
}
_SMALLER_IS_BETTER = ("equal_error_rate",)
_CHARTS = ("open_map", "open_rank1", "closed_rank1", "tar_at_far_1e-2")


def recognition_panel(results: dict, curves: dict, dataset: IdentityDataset) -> dict:
    """Returns what the page shows of the recognisers.

    Args:
        results: content of evaluate/metrics.json. curves: of evaluate/curves.json.
        dataset: the target.

    Returns:
        What `recognition_figures` returns, and "arms_text".
    """
    protocol = results["protocol"]
    others = [
        f"“{ARM_TITLES[arm]}” from random ones" for arm in protocol.get("random_start", [])
    ] + [f"“{ARM_TITLES['real_general']}” makes none"] * ("real_general" in results["arms"])
    text = (
        "Every arm starts from the same weights and makes the same number of updates"
        + "".join(f"; {other}" for other in others)
        + f". {protocol['held_out_queries']} queries of {protocol['held_out_identities']} unseen "
        f"people, and {protocol['closed_queries']} other images of the "
        f"{protocol['train_identities']} enrolled ones, where guessing is right in "
        f"{protocol['chance_closed_rank1']:.1%}."
    )
    if protocol.get("closed_set_chose_iteration"):
        text += (
            " Those other images also chose the iteration of the reinforcement, which favours it: "
            "the figures of enrolled people are no fair test of it."
        )
    return {"arms_text": text, **recognition_figures(results, curves, dataset)}


def recognition_figures(results: dict, curves: dict, dataset: IdentityDataset) -> dict:
    """Returns what was measured of arms on a data set, the run's own or another.

    Args:
        results: {"arms", "differences", "not_measured"} as evaluate/metrics.json has them.
        curves: content of evaluate/curves.json.
        dataset: the images that the curves' rankings are places in.

    Returns:
        {"arm_tables", "arm_charts", "arm_notes", "rankings_text", "rankings"}.
    """
    measured = next(iter(results["arms"].values()))
    titles = METRIC_TITLES | OTHER_TITLES
    charts = [
        {
            "image": interval_chart(
                f"{titles[metric]} (%)",
                [
                    (
                        ARM_TITLES[arm],
                        *(100 * figures[metric][part] for part in ("mean", "low", "high")),
                    )
                    for arm, figures in results["arms"].items()
                ],
            ),
            "alt": titles[metric],
        }
        for metric in _CHARTS
        if metric in measured
    ]
    if curves["cmc"]:
        named = {ARM_TITLES[arm]: shares for arm, shares in curves["cmc"].items()}
        charts.append(
            {"image": cmc_chart("CMC: right answer among the first k", named), "alt": "CMC curves"}
        )
    if curves["roc"]:
        named = {ARM_TITLES[arm]: shares for arm, shares in curves["roc"]["arms"].items()}
        rates = curves["roc"]["false_accept_rates"]
        charts.append(
            {
                "image": roc_chart("ROC: pairs of one person accepted", rates, named),
                "alt": "ROC curves",
            }
        )
    tables = [
        _table(results, {name: title for name, title in part.items() if name in measured})
        for part in (METRIC_TITLES, OTHER_TITLES)
    ]
    return {
        "arm_tables": [table for table in tables if table["titles"]],
        "arm_charts": charts,
        "arm_notes": [
            f"{titles[metric]} is not measured: {reason}."
            for metric, reason in results["not_measured"].items()
        ],
        **_rankings(curves["rankings"], dataset),
    }


def _table(results: dict, titles: dict) -> dict:
    rows = []
    for arm, figures in results["arms"].items():
        cells = []
        for metric in titles:
            difference = results["differences"].get(arm, {}).get(metric)
            verdict = ""
            if difference:
                rises, falls = difference["low"] > 0, difference["high"] < 0
                if metric in _SMALLER_IS_BETTER:
                    rises, falls = falls, rises
                verdict = "good" if rises else "bad" * falls
            cells.append({**figures[metric], "difference": difference, "verdict": verdict})
        rows.append({"title": ARM_TITLES[arm], "cells": cells})
    return {"titles": list(titles.values()), "rows": rows}


def _rankings(rankings: dict, dataset: IdentityDataset) -> dict:
    if not rankings:
        return {"rankings_text": "", "rankings": []}
    shown = []
    for found in rankings["lists"]:
        name = dataset.identity_names[dataset.identities[found["query"]]]
        shown.append(
            {
                "image": ranking_strip(
                    dataset.images[found["query"]],
                    dataset.images[found["gallery"]],
                    found["right"],
                ),
                "caption": f"{name}: {sum(found['right'])} of {len(found['right'])} right",
            }
        )
    text = (
        f"Queries on the left, and what they find first, by the arm “{ARM_TITLES[rankings['arm']]}”"
        ", which has the highest mAP: a green frame is the right person, a red one somebody else. "
        "From the query with the worst ranking to the one with the best."
    )
    return {"rankings_text": text, "rankings": shown}
