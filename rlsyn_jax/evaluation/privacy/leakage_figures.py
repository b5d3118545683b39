"""Identity leakage of several sets at several rates, as metrics.json has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlsyn_jax.evaluation.privacy.identity_leakage import Leakage, identity_leakage

FALSE_ACCEPT_RATES = (1e-3, 1e-4)


def leakage_figures(
    compared: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train: np.ndarray,
    train_ids: np.ndarray,
    unseen: np.ndarray,
    unseen_ids: np.ndarray,
    *,
    false_accept_rates: Sequence[float] = FALSE_ACCEPT_RATES,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Measures each set; what so few impostors cannot measure is said.

    Args:
        compared: {set: (float [n, dim], int [n])}, images and the training people they are of.
        train, train_ids, unseen, unseen_ids: as in identity_leakage.
        false_accept_rates: in (0, 1).
        num_resamples, seed: of the bootstrap intervals.

    Returns:
        {false accept rate as text: {"threshold", "num_impostors", set: {"own" and "other": {"rate",
        "chance", "corrected"}}}}, with {"not_measured": why} in place of sets or of all.

    Raises:
        ValueError: as identity_leakage does.
    """
    people, counts = np.unique(unseen_ids, return_counts=True)
    if len(people) < 2:
        return {"not_measured": f"{len(people)} unseen people give no impostor pairs"}
    impostors = (len(unseen_ids) ** 2 - np.square(counts).sum()) // 2
    rates = [rate for rate in false_accept_rates if not 0 < rate * impostors < 1]
    result: dict = {
        f"{rate:g}": {
            "not_measured": f"{rate:g} is less than one of {impostors} pairs of unseen people"
        }
        for rate in false_accept_rates
        if rate not in rates
    }
    for name, (embeddings, people) in compared.items() if rates else ():
        found = identity_leakage(
            embeddings,
            people,
            train,
            train_ids,
            unseen,
            unseen_ids,
            false_accept_rates=rates,
            num_resamples=num_resamples,
            seed=seed,
        )
        for rate, leakage in found.items():
            at_rate = result.setdefault(
                f"{rate:g}",
                {"threshold": leakage.threshold, "num_impostors": leakage.num_impostors},
            )
            at_rate[name] = {"own": _described(leakage.own), "other": _described(leakage.other)}
    return result


def _described(leakage: Leakage) -> dict:
    return {
        name: dict(zip(("mean", "low", "high"), getattr(leakage, name)))
        for name in ("rate", "chance", "corrected")
    }
