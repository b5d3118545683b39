"""Warnings of collapse and reward hacking, and the choice of the best measurement."""

import pytest

from rlsyn_jax.rl.monitoring import best_step, collapse_warning, hacking_warning, total_reward


def history(*pairs):
    """Returns records of (total reward, held-out measure), five iterations apart."""
    return [
        {"step": 5 * index, "reward/total": reward, "held_out/coverage": measure}
        for index, (reward, measure) in enumerate(pairs)
    ]


def test_collapse_is_told_below_the_share_of_real_spread_alone():
    assert collapse_warning(0.3, 1.0, 0.3) is None
    assert collapse_warning(0.0, 0.0, 0.3) is None
    text = collapse_warning(0.0299, 0.1, 0.3)
    assert "collapsed" in text and "0.030" in text and "30%" in text and "0.100" in text


def test_total_reward_is_the_weighted_change():
    first = {"fixed/a": 0.5, "fixed_std/a": 0.1, "fixed/b": -2.0, "fixed_std/b": 4.0}
    now = {"fixed/a": 0.8, "fixed_std/a": 9.0, "fixed/b": -4.0, "fixed_std/b": 9.0}
    weights = {"a": 1.0, "b": 0.5}
    for in_deviations, change in ((True, 0.3 / 0.1 - 0.5 * 2.0 / 4.0), (False, 0.3 - 0.5 * 2.0)):
        assert total_reward(first, first, weights, in_deviations=in_deviations) == 0
        found = total_reward(now, first, weights, in_deviations=in_deviations)
        assert found == pytest.approx(change)
    # A reward that was constant at the start does not divide by zero.
    constant = {"fixed/a": 0.0, "fixed_std/a": 0.0}
    assert total_reward({"fixed/a": 1e-6}, constant, {"a": 1.0}, in_deviations=True) == 1


def test_hacking_is_a_falling_measure_with_a_rising_reward():
    text = hacking_warning(history((0.0, 0.5), (1.0, 0.8), (3.5, 0.6)), "coverage", 0.05)
    assert "since iteration 5" in text and "0.800 to 0.600" in text and "rose by 2.5." in text


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.0, 0.5)],
        [(0.0, 0.5), (1.0, 0.6), (2.0, 0.9)],  # Both rise.
        [(0.0, 0.5), (1.0, 0.8), (2.0, 0.76)],  # Within the tolerance.
        [(0.0, 0.5), (1.0, 0.8), (0.9, 0.3)],  # The reward falls too.
        [(0.0, 0.5), (1.0, 0.8), (1.0, 0.3)],
    ],
)
def test_no_hacking_without_both_signs(pairs):
    assert hacking_warning(history(*pairs), "coverage", 0.05) is None


def test_the_first_of_the_best_records_is_kept():
    records = history((0.0, 0.5), (2.0, 0.8), (3.0, 0.8), (9.0, 0.1))
    assert best_step(records, "coverage") == 5
    records = [{**record, "held_out/recall": record["reward/total"]} for record in records]
    assert best_step(records, "recall") == 15
