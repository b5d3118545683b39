"""The report on privacy: what the attacks found, what it means, and the nearest images."""

from __future__ import annotations

import functools

import numpy as np

from rlsyn_jax.report.figures import distance_chart, png
from rlsyn_jax.report.privacy_tables import (
    extraction_table,
    leakage_table,
    listed,
    memorisation_table,
    plain_cell,
    reason_only,
    share_cell,
)
from rlsyn_jax.stages.recognition_panel import ARM_TITLES

SET_TITLES = {
    "real_train": "real training images",
    "held_out": "other real images of them",
    "cold_start": "cold start",
    "best_of": "cold start, best of many",
    "reinforced": "after RL",
}
_SPACES = {"judge": "the judge", "reward": "the reward's network", "pixels": "pixels"}
_ATTACKS = {"loss": "error of the noise", "step_error": "SecMI's step error"}
_MEMBERSHIP_TITLES = ["area under ROC", "found at 1 %", "members / others"]
_PAIRS = 10


def privacy_panel(
    privacy: dict, gate: dict, sets: dict, distances: dict, train_images: np.ndarray
) -> dict:
    """Returns what the page shows of privacy.

    Args:
        privacy: "privacy" of evaluate/metrics.json. gate: synthesize/gate.json.
        sets: {set: (synthetic data set, columns of its manifest)}.
        distances: {title: float [n]}, cosine distances to the nearest training image by the judge.
        train_images: uint8 [n, h, w, c], the training images.

    Returns:
        {"privacy_text", "privacy_tables", "distance_chart", "pair_groups"}.
    """
    counts = ", ".join(
        f"{gate[name]['near_copies_left_out']} of the set “{SET_TITLES[name]}”" for name in sets
    )
    # Of runs from before there was one, too.
    pixels = gate.get("pixel_copy_threshold", 0.0)
    by_pixels = f" or than {pixels:.4f} by pixels," if pixels else ""
    closing = "the judge's nearest were not kept, so that pixels say most about copies."
    if pixels:
        closing = (
            "the nearest by the judge and by pixels were not kept: this table says that the sieve "
            "worked, and the attacks below what is given away beyond copies."
        )
    text = (
        "A synthetic data set of the same identities reproduces those people by design: the images "
        "are personal data of the people in the training set, and anybody who could recognise them "
        "can recognise them here. What follows asks what is given away beyond that. Images nearer "
        f"than {gate['near_copy_threshold']:.4f} to a training image, by the judge,{by_pixels} "
        "were passed over or drawn again when the sets were made, and left out where nothing else "
        f"was left ({counts}). How near is too near was told by how near the same people's other "
        "images lie, which also test identification: their distances alone, but no fair test of it "
        "to the last."
    )
    makers = {
        "memorisation": functools.partial(
            memorisation_table,
            spaces=_SPACES,
            sets=SET_TITLES,
            judged="reinforced",
            opening="After RL, ",
            closing=f"The reward's network was rewarded for nearness, and {closing}",
        ),
        "identity_leakage": functools.partial(
            leakage_table, sets=SET_TITLES, recognizer="The judge"
        ),
        "membership": _membership,
        "recognizer_membership": _recognizer_membership,
        "extraction": functools.partial(extraction_table, sets=SET_TITLES),
    }
    tables = [make(privacy[name]) for name, make in makers.items() if name in privacy]
    threshold = gate["near_copy_threshold"]
    return {
        "privacy_text": text,
        "privacy_tables": tables,
        "distance_chart": distance_chart("How near to a training image", distances, threshold),
        "pair_groups": _pair_groups(privacy.get("memorisation", {}), sets, train_images),
    }


def _membership(found: dict) -> dict:
    rows, clear = [], []
    for name, attacks in found.items():
        if name == "not_measured":
            continue
        for attack, result in attacks.items():
            title = f"{SET_TITLES[name]}, {_ATTACKS[attack]}"
            rows.append(_membership_row(title, result))
            if result["auc"]["low"] > 0.5:
                clear.append(title)
    verdict = (
        f"It is possible with: {listed(clear)}."
        if clear
        else "No attack is clearly better than guessing."
    )
    return {
        "title": "Can one tell which images trained the generator?",
        "text": "Somebody who holds the generator looks at its error on an image. Members are the "
        "training images, non-members other images of the same people. The area under the curve "
        "is 0.5 for guessing and 1 for certainty; the second figure is the share of training "
        f"images found while 1 % of the others are taken for such, 1 % by guessing. {verdict}",
        "titles": _MEMBERSHIP_TITLES,
        "rows": rows,
    } | reason_only(found)


def _membership_row(title: str, result: dict) -> dict:
    rate = result["true_positive_rate"]
    return {
        "title": title,
        "cells": [
            share_cell(result["auc"], scale=1, digits=3),
            share_cell(rate) if rate else plain_cell("too few images"),
            plain_cell(f"{result['num_members']} / {result['num_non_members']}"),
        ],
    }


def _recognizer_membership(found: dict) -> dict:
    arms = {arm: found[arm] for arm in found if arm != "not_measured"}
    clear = [ARM_TITLES[arm] for arm, result in arms.items() if result["auc"]["low"] > 0.5]
    verdict = (
        f"It is possible with: {listed(clear)}."
        if clear
        else "No recogniser gives that away clearly."
    )
    return {
        "title": "Can one tell which images trained a recogniser?",
        "text": "Somebody who holds a recogniser with its classifier looks at how sure it is of an "
        "image's person. Members and others are the same images as above. The first row is what "
        "training on real images gives away; “synthetic only” never saw a real image itself. The "
        "attack compares the loss with a threshold; one that trains many recognisers of its own "
        f"may find more. The figures are of the first seed. {verdict}",
        "titles": _MEMBERSHIP_TITLES,
        "rows": [_membership_row(ARM_TITLES[arm], result) for arm, result in arms.items()],
    } | reason_only(found)


def _pair_groups(memorisation: dict, sets: dict, train_images: np.ndarray) -> list[dict]:
    """The images after reinforcement nearest to training images, near copies marked."""
    groups = []
    for space, title in _SPACES.items():
        result = memorisation.get(space, {}).get("reinforced")
        if not result:
            continue
        synthetic, columns = sets["reinforced"]
        place_of = {file: place for place, file in enumerate(columns["file"])}
        pairs = []
        for pair in result["closest"][:_PAIRS]:
            images = synthetic.images[place_of[pair["file"]]], train_images[pair["train_image"]]
            pairs.append(
                {
                    "image": png(np.concatenate(images)),
                    "caption": f"{pair['distance']:.3f}",
                    "near": pair["distance"] < result["threshold"],
                }
            )
        groups.append(
            {"title": f"The closest {'in' if space == 'pixels' else 'to'} {title}", "pairs": pairs}
        )
    return groups
