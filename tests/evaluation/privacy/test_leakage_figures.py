"""Figures of leakage: those of identity_leakage, and what so few impostors cannot measure."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.privacy.identity_leakage import identity_leakage
from rlsyn_jax.evaluation.privacy.leakage_figures import leakage_figures


def faces(people, images, seed, first=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(people * images, 5)), np.repeat(first + np.arange(people), images)


def test_each_set_is_measured_at_each_rate_that_impostors_allow():
    train, unseen = faces(4, 3, 0), faces(5, 2, 1, first=9)
    compared = {"one": faces(4, 2, 2), "two": faces(2, 3, 3)}
    figures = leakage_figures(
        compared, *train, *unseen, false_accept_rates=(0.1, 0.025, 0.02), num_resamples=10, seed=4
    )
    assert figures["0.02"] == {"not_measured": "0.02 is less than one of 40 pairs of unseen people"}
    for name, images in compared.items():
        expected = identity_leakage(
            *images, *train, *unseen, false_accept_rates=(0.1, 0.025), num_resamples=10, seed=4
        )
        for rate, leakage in expected.items():
            found = figures[f"{rate:g}"]
            assert found["threshold"] == leakage.threshold and found["num_impostors"] == 40
            for whom in ("own", "other"):
                for part, figure in found[name][whom].items():
                    values = getattr(getattr(leakage, whom), part)
                    assert (figure["mean"], figure["low"], figure["high"]) == values


def test_fewer_than_two_unseen_people_give_no_impostors():
    train = faces(4, 3, 0)
    for people in (0, 1):
        found = leakage_figures({"one": train}, *train, *faces(people, 3, 1, first=9))
        assert found == {"not_measured": f"{people} unseen people give no impostor pairs"}


@pytest.mark.parametrize("rate", [0, -1, 1, 2, np.nan])
def test_rates_out_of_range_are_refused(rate):
    train = faces(4, 3, 0)
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        leakage_figures({"one": train}, *train, *faces(5, 2, 1, 9), false_accept_rates=(rate,))
