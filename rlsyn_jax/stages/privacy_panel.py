"""The report on privacy: what the attacks found, what it means, and the nearest images."""

from __future__ import annotations

import numpy as np

from rlsyn_jax.report.figures import distance_chart, png
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
    text = (
        "A synthetic data set of the same identities reproduces those people by design: the images "
        "are personal data of the people in the training set, and anybody who could recognise them "
        "can recognise them here. What follows asks what is given away beyond that. Images nearer "
        f"than {gate['near_copy_threshold']:.4f} to a training image, by the judge, were "
        f"drawn again when the sets were made, and left out where they stayed so near ({counts})."
    )
    makers = {
        "memorisation": _memorisation,
        "identity_leakage": _leakage,
        "membership": _membership,
        "recognizer_membership": _recognizer_membership,
        "extraction": _extraction,
    }
    tables = [make(privacy[name]) for name, make in makers.items() if name in privacy]
    threshold = gate["near_copy_threshold"]
    return {
        "privacy_text": text,
        "privacy_tables": tables,
        "distance_chart": distance_chart("How near to a training image", distances, threshold),
        "pair_groups": _pair_groups(privacy.get("memorisation", {}), sets, train_images),
    }


def _memorisation(found: dict) -> dict:
    rows, expected, sentences = [], 0.0, []
    for space, title in _SPACES.items():
        for name, result in found.get(space, {}).items():
            if name == "not_measured":
                rows.append({"title": title, "cells": [_plain(f"not measured: {result}")]})
                continue
            expected = result["expected_share"]
            rows.append(
                {
                    "title": f"{title}, {SET_TITLES[name]}",
                    "cells": [
                        _share(result["share"]),
                        _plain(f"{result['num_near_copies']}"),
                        _plain(f"{result['threshold']:.3f}"),
                        _plain(f"{result['closest'][0]['distance']:.3f}"),
                    ],
                }
            )
            if name == "reinforced" and result["share"]["low"] > expected:
                sentences.append(title)
    verdict = (
        f"After RL, more images than that are nearer in {_listed(sentences)}: the generator "
        "stays closer to its training images than new photographs would."
        if sentences
        else "After RL, no space shows clearly more than that."
    )
    return {
        "title": "Were single training images copied?",
        "text": "New photographs of the same people also lie near their training images. The "
        f"threshold is the distance below which {expected:.0%} of held-out real images fall; a "
        f"generator that copies nothing has about {expected:.0%} below it, too. {verdict} The "
        "reward's network was rewarded for nearness, and the judge's nearest were drawn again, so "
        "that pixels say most about copies.",
        "titles": ["near copies, %", "number", "threshold", "closest"],
        "rows": rows,
    } | _reason(found)


def _leakage(found: dict) -> dict:
    rows = []
    rates = sorted(set(found) - {"not_measured"}, key=float, reverse=True)
    for rate, result in ((rate, found[rate]) for rate in rates):
        title = f"1 in {round(1 / float(rate)):,}"
        if "not_measured" in result:
            rows.append(
                {"title": title, "cells": [_plain(f"not measured: {result['not_measured']}")]}
            )
            continue
        rows += [
            {
                "title": f"{title}, {SET_TITLES[name]}",
                "cells": [
                    _share(result[name][whom][part])
                    for whom in ("own", "other")
                    for part in ("rate", "chance", "corrected")
                ],
            }
            for name in SET_TITLES
            if name in result
        ]
    return {
        "title": "Would a recogniser in use say that this is the person?",
        "text": "The judge accepts a pair above a threshold that so few pairs of two unseen people "
        "pass. “Own” is how often a synthetic image matches a training image of the person it was "
        "made for, which is what such a set is made for; “another” how often it matches somebody "
        "else of the training people. Chance is what images of unseen people reach. Corrected for "
        "it, 0 is no more than a stranger and 100 is always.",
        "titles": ["own, %", "chance", "corrected", "another, %", "chance", "corrected"],
        "rows": rows,
    } | _reason(found)


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
        f"It is possible with: {_listed(clear)}."
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
    } | _reason(found)


def _membership_row(title: str, result: dict) -> dict:
    rate = result["true_positive_rate"]
    return {
        "title": title,
        "cells": [
            _share(result["auc"], scale=1, digits=3),
            _share(rate) if rate else _plain("too few images"),
            _plain(f"{result['num_members']} / {result['num_non_members']}"),
        ],
    }


def _recognizer_membership(found: dict) -> dict:
    arms = {arm: found[arm] for arm in found if arm != "not_measured"}
    clear = [ARM_TITLES[arm] for arm, result in arms.items() if result["auc"]["low"] > 0.5]
    verdict = (
        f"It is possible with: {_listed(clear)}."
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
    } | _reason(found)


def _extraction(found: dict) -> dict:
    rows = []
    for name, result in found.items():
        rows.append(
            {
                "title": SET_TITLES[name],
                "cells": [
                    _share(result["share"]),
                    _share(result["chance"]) if result["chance"] else _plain(""),
                    _plain(f"{result['num_groups']}"),
                    _plain(f"{result['num_samples']}"),
                ],
            }
        )
    return {
        "title": "Do training images come out when many samples are drawn?",
        "text": "Samples of one person that come out alike several times are what a generator "
        "knows by heart. Extracted are training images that lie beside such a group; by chance, "
        "held-out images do. Alike are images nearer in pixels than nearly all pairs of real "
        "images of one person.",
        "titles": ["extracted, %", "by chance, %", "groups", "samples"],
        "rows": rows,
    }


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


def _share(figure: dict, *, scale: float = 100, digits: int = 1) -> dict:
    low, mean, high = (f"{scale * figure[part]:.{digits}f}" for part in ("low", "mean", "high"))
    return {"value": mean, "interval": f"{low} to {high}"}


def _plain(value: str) -> dict:
    return {"value": value, "interval": ""}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _reason(found: dict) -> dict:
    """Replaces the text of an attack that could not be run."""
    if "not_measured" not in found:
        return {}
    return {"text": f"Not measured: {found['not_measured']}.", "rows": [], "titles": []}
