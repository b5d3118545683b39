"""Every arm's recognisers on published verification sets, by the sets' own folds.

Embeddings are of an image and its mirror image together, as published figures are. Intervals are
Student's over folds, whose people are apart, since most sets do not say who is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.verification_set import VerificationSet
from rlsyn_jax.data.verification_sources import (
    check_verification_source,
    read_verification_source,
)
from rlsyn_jax.evaluation.bootstrap import mean_interval
from rlsyn_jax.evaluation.fairness import (
    FairnessResult,
    group_fairness,
    spread_intervals,
    spreads_by_chance,
)
from rlsyn_jax.evaluation.verification import check_folds, ten_fold_accuracy
from rlsyn_jax.stages.extractors import Extractor, embed_images
from rlsyn_jax.stages.recognition_measures import figure
from rlsyn_jax.stages.recognize import load_recognizer

_THRESHOLDS = ("own_threshold", "shared_threshold")


def check_verification_sets(config: ConfigDict) -> None:
    """Looks whether the sets are there and divide into folds, so that no run finds out at its end.

    Raises:
        ConfigError: names the set.
    """
    for source in config.evaluate.verification_sets:
        try:
            counts = check_verification_source(source)
            for file, (num_pairs, num_folds) in counts.items():
                try:
                    check_folds(num_pairs, num_folds)
                except ValueError as error:
                    raise ValueError(f"{file}: {error}") from error
            if len({num_folds for _, num_folds in counts.values()}) > 1:
                raise ValueError(f"the groups of {source!r} have different numbers of folds")
        except ValueError as error:
            raise ConfigError(f"config.evaluate.verification_sets: {error}") from error


def measure_verification_sets(
    config: ConfigDict,
    workdir: Path,
    *,
    sources: Sequence[str],
    arms: Sequence[str],
    seeds: int,
) -> dict:
    """Measures arms on published sets; the first arm is what the others are compared with.

    Args:
        config: complete configuration of the run.
        workdir: of the run, whose stage recognize is complete.
        sources: sets, as `data/verification_sources.py` names them.
        arms: of the run. seeds: number of them, all of which count.

    Returns:
        {"sets": {set: {"pairs", "folds", "arms": {arm: figure with "seeds"}, "differences": {arm:
        figure}}}, "groups": {source: {"arms": {arm: {"own_threshold" and "shared_threshold":
        {"accuracies": {group: mean}, "mean", "std", "gap", "skewed_error_ratio", "gini": figure,
        "by_chance": {each of the four: what groups that are alike reach at most}},
        "false_accept_rates" and "false_reject_rates" at the shared threshold: {group: mean}}}}}}.
        Skewed error ratios that are infinite, since a group has no error, are null.

    Raises:
        ValueError: a set that cannot be read, or whose pairs do not divide into its folds.
    """
    image = config.image
    size = image.size, image.width or image.size
    recognizers = {
        arm: [load_recognizer(config, workdir, seed, arm) for seed in range(seeds)] for arm in arms
    }
    content: dict = {"sets": {}, "groups": {}}
    for source in sources:
        grouped: dict = {arm: [[] for _ in range(seeds)] for arm in arms}
        names: list[str] = []
        num_folds = 0
        sets = read_verification_source(
            source, image_size=size, channels=image.channels, resize=image.resize
        )
        for verification_set, group in sets:
            folds = {}
            for arm, of_seeds in recognizers.items():
                folds[arm] = []
                for seed, recognizer in enumerate(of_seeds):
                    pairs = embed_pairs(recognizer, verification_set)
                    found = ten_fold_accuracy(*pairs, num_folds=verification_set.num_folds)
                    folds[arm].append(found.fold_accuracies)
                    if group:
                        grouped[arm][seed].append(pairs)
            name = _unused(verification_set.name, content["sets"])
            content["sets"][name] = {
                "pairs": len(verification_set.is_same),
                "folds": verification_set.num_folds,
                **_accuracies({arm: np.stack(each) for arm, each in folds.items()}),
            }
            if group:
                names += [group] * len(verification_set.is_same)
                num_folds = verification_set.num_folds
        if names:
            content["groups"][source] = {
                "arms": {
                    arm: _fairness(config, of_seeds, names, num_folds)
                    for arm, of_seeds in grouped.items()
                }
            }
    return content


def embed_pairs(
    recognizer: Extractor, verification_set: VerificationSet
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (first, second, is_same): unit embeddings float32 [n, d] of each pair, bool [n]."""
    embeddings = embed_images(recognizer, verification_set.images, with_mirror=True)
    return (
        embeddings[verification_set.first],
        embeddings[verification_set.second],
        verification_set.is_same,
    )


def _unused(name: str, taken: Mapping) -> str:
    """The name, with a number where another source has a set of that name."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _accuracies(folds: dict[str, np.ndarray]) -> dict:
    """Figures and paired differences of fold accuracies [seeds, folds]."""
    baseline, *_ = folds
    result: dict = {"arms": {}, "differences": {}}
    for arm, each in folds.items():
        result["arms"][arm] = {
            # Of few folds that are nearly all right, t's interval reaches beyond what can be.
            **figure(*np.clip(mean_interval(each.mean(axis=0)), 0, 1)),
            "seeds": each.mean(axis=1).tolist(),
        }
        if arm != baseline:
            change = each.mean(axis=0) - folds[baseline].mean(axis=0)
            result["differences"][arm] = figure(*mean_interval(change))
    return result


def _fairness(config: ConfigDict, of_seeds: list, names: list[str], num_folds: int) -> dict:
    """One arm's figures in the groups, means over seeds."""
    found: list[FairnessResult] = []
    for sets in of_seeds:
        first, second, is_same = (np.concatenate(part) for part in zip(*sets))
        groups = tuple(dict.fromkeys(names))
        found.append(
            group_fairness(first, second, is_same, names, group_names=groups, num_folds=num_folds)
        )

    def mean_of_seeds(name: str) -> dict:
        tables = [getattr(result, name) for result in found]
        return {group: np.mean([table[group] for table in tables], axis=0) for group in tables[0]}

    result: dict = {}
    for threshold, name in zip(_THRESHOLDS, ("own_fold_accuracies", "shared_fold_accuracies")):
        folds = mean_of_seeds(name)
        drawing = {
            "num_resamples": config.evaluate.bootstrap_resamples,
            "seed": config.seed,
        }
        spreads = spread_intervals(folds, **drawing)
        result[threshold] = {
            "accuracies": {group: float(each.mean()) for group, each in folds.items()},
            **{each: _finite(figure(*values)) for each, values in spreads.items()},
            "by_chance": _finite(spreads_by_chance(folds, **drawing)),
        }
    for rate in ("false_accept_rates", "false_reject_rates"):
        result[rate] = {group: float(value) for group, value in mean_of_seeds(rate).items()}
    return result


def _finite(of_groups: dict) -> dict:
    """JSON knows no infinite numbers."""
    return {name: value if np.isfinite(value) else None for name, value in of_groups.items()}
