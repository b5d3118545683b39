"""Fairness between groups: against the ten-fold protocol, published tables and closed forms."""

import math

import numpy as np
import pytest

from rlsyn_jax.evaluation.fairness import (
    RFW_GROUPS,
    gini_coefficient,
    group_fairness,
    spread,
    spread_intervals,
    spreads_by_chance,
)
from rlsyn_jax.evaluation.verification import ten_fold_accuracy


def pairs(noise, number=60, seed=0):
    """Pairs of one group; genuine ones differ by noise."""
    random = np.random.default_rng(seed)
    first = random.normal(size=(number, 8))
    is_same = np.arange(number) % 2 == 0
    second = np.where(
        is_same[:, None],
        first + noise * random.normal(size=(number, 8)),
        random.normal(size=(number, 8)),
    )
    return first, second, is_same


def test_each_group_has_its_own_ten_folds_in_any_order():
    by_group = {name: pairs(0.5 + place, seed=place) for place, name in enumerate(RFW_GROUPS)}
    parts = [np.concatenate(part) for part in zip(*by_group.values())]
    groups = np.repeat(RFW_GROUPS, 60)
    # Groups come mixed, and each in its own order.
    mixed = np.arange(240).reshape(4, 60).T.ravel()
    result = group_fairness(*(part[mixed] for part in parts), groups[mixed])
    for name, own in by_group.items():
        expected = ten_fold_accuracy(*own).accuracy_mean
        assert result.own_threshold.accuracies[name] == pytest.approx(expected)
    assert list(result.own_threshold.accuracies) == list(RFW_GROUPS)
    assert result.own_threshold.accuracies["African"] > result.own_threshold.accuracies["Indian"]


def test_the_shared_threshold_is_that_of_all_pairs_together():
    # Groups of one size: mean accuracy over groups is accuracy over all pairs, whose folds are
    # made of the groups' folds.
    by_group = {name: pairs(0.4 + 0.5 * place, seed=place) for place, name in enumerate("ab")}
    parts = [np.concatenate(part) for part in zip(*by_group.values())]
    groups = np.repeat(["a", "b"], 60)
    by_fold = np.arange(120).reshape(2, 10, 6).transpose(1, 0, 2).ravel()
    pooled = ten_fold_accuracy(*(part[by_fold] for part in parts))
    result = group_fairness(*parts, groups, group_names=("a", "b"))
    np.testing.assert_allclose(result.shared_thresholds, pooled.thresholds)
    assert result.shared_threshold.mean == pytest.approx(pooled.accuracy_mean)
    for name in "ab":
        error = (result.false_accept_rates[name] + result.false_reject_rates[name]) / 2
        assert 1 - error == pytest.approx(result.shared_threshold.accuracies[name])


def test_a_group_that_needs_another_threshold_suffers_from_the_shared_one():
    # Near pairs are genuine in both groups, but everything is nearer in the second.
    def at(cosine):
        return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)

    is_same = np.arange(40) % 2 == 0
    far = at(np.where(is_same, 0.6, 0.0))
    near = at(np.where(is_same, 0.95, 0.6))
    first = np.tile([[1.0, 0.0]], (80, 1))
    groups = np.repeat(["one", "two"], 40)
    result = group_fairness(
        first, np.concatenate([far, near]), np.tile(is_same, 2), groups, group_names=("one", "two")
    )
    assert result.own_threshold.mean == 1 and result.own_threshold.gini == 0
    assert result.own_threshold.skewed_error_ratio == 1
    assert result.shared_threshold.mean == pytest.approx(0.75)
    assert result.shared_threshold.gap == pytest.approx(0.5)
    assert result.shared_threshold.skewed_error_ratio == math.inf
    assert result.shared_threshold.gini == pytest.approx(0.5)
    wrong = [*result.false_accept_rates.values(), *result.false_reject_rates.values()]
    assert sorted(wrong) == [0, 0, 0, 1]


def test_spread_of_a_published_table():
    # Accuracies of the method's Table 3, row "Ours".
    result = spread({"Caucasian": 0.7587, "Indian": 0.7185, "Asian": 0.6872, "African": 0.6267})
    assert result.mean == pytest.approx(0.6978, abs=5e-5)
    assert result.std == pytest.approx(0.0557, abs=5e-5)
    assert result.gap == pytest.approx(0.1320)
    assert result.skewed_error_ratio == pytest.approx((1 - 0.6267) / (1 - 0.7587))


def test_gini_of_closed_forms():
    assert gini_coefficient(np.array([0.0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini_coefficient(np.array([2.0, 2, 2])) == 0
    assert gini_coefficient(np.zeros(3)) == 0
    # The mean rank formula: sum (2 i - n - 1) x_i / (n sum x) of rising values.
    values = np.random.default_rng(0).uniform(size=9)
    rising = np.sort(values)
    expected = ((2 * np.arange(1, 10) - 10) * rising).sum() / (9 * rising.sum())
    assert gini_coefficient(values) == pytest.approx(expected)


def test_mistakes_are_told():
    first, second, is_same = pairs(1.0, number=40)
    both = np.repeat(["African", "Asian"], 20)
    with pytest.raises(ValueError, match=r"unknown groups \['Asiann'\]"):
        group_fairness(first, second, is_same, np.repeat(["African", "Asiann"], 20))
    with pytest.raises(ValueError, match=r"groups \['Caucasian', 'Indian'\] have no pair"):
        group_fairness(first, second, is_same, both)
    with pytest.raises(ValueError, match="group 'Asian': 20 pairs do not make 8 folds"):
        group_fairness(first, second, is_same, both, group_names=("Asian", "African"), num_folds=8)
    with pytest.raises(ValueError, match="group 'Asian' needs genuine and impostor pairs"):
        group_fairness(
            first, second, is_same & (both == "African"), both, group_names=("African", "Asian")
        )
    with pytest.raises(ValueError, match="for each of 40 pairs"):
        group_fairness(first, second, is_same, both[:3])
    with pytest.raises(ValueError, match="2 different group names"):
        group_fairness(first, second, is_same, both, group_names=("Asian",))
    with pytest.raises(ValueError, match="0..1 of 2 groups"):
        spread({"a": 91.0, "b": 92.0})
    with pytest.raises(ValueError, match="0 or more"):
        gini_coefficient(np.array([-1.0, 2]))


def test_accuracies_are_means_of_the_folds():
    by_group = {name: pairs(1 + place, seed=place) for place, name in enumerate(RFW_GROUPS)}
    parts = [np.concatenate(part) for part in zip(*by_group.values())]
    result = group_fairness(*parts, np.repeat(RFW_GROUPS, 60))
    for name in RFW_GROUPS:
        own, shared = result.own_fold_accuracies[name], result.shared_fold_accuracies[name]
        assert own.shape == shared.shape == (10,)
        assert own.mean() == pytest.approx(result.own_threshold.accuracies[name])
        assert shared.mean() == pytest.approx(result.shared_threshold.accuracies[name])


def test_spreads_with_intervals_from_two_folds_are_those_of_their_three_draws():
    folds = {"a": np.array([0.9, 0.7]), "b": np.array([0.6, 0.8])}
    found = spread_intervals(folds, num_resamples=400)
    # Both folds, the first twice, the second twice.
    draws = [spread({"a": a, "b": b}) for a, b in ((0.8, 0.7), (0.9, 0.6), (0.7, 0.8))]
    for name, (value, low, high) in found.items():
        each = [getattr(draw, name) for draw in draws]
        assert value == pytest.approx(each[0])
        assert (low, high) == pytest.approx((min(each), max(each)))


def test_groups_that_are_alike_stay_below_chance_and_others_do_not():
    above = {"alike": 0, "apart": 0}
    for seed in range(40):
        random = np.random.default_rng(seed)
        for name, accuracies in (("alike", [0.9] * 4), ("apart", [0.9, 0.88, 0.86, 0.84])):
            folds = {
                str(group): random.binomial(600, accuracy, 10) / 600
                for group, accuracy in enumerate(accuracies)
            }
            chance = spreads_by_chance(folds, num_resamples=100)
            assert set(chance) == {"std", "gap", "skewed_error_ratio", "gini"}
            found = spread({group: each.mean() for group, each in folds.items()})
            above[name] += found.gap > chance["gap"]
    assert above["alike"] <= 6 and above["apart"] == 40


def test_all_permutations_of_two_folds_are_what_chance_is():
    folds = {"a": np.array([0.9, 0.7]), "b": np.array([0.6, 0.8])}
    # (0.9, 0.7) and (0.6, 0.8), or (0.9, 0.8) and (0.6, 0.7), and either the other way round.
    chance = spreads_by_chance(folds, num_resamples=400, confidence=0.99)
    assert chance["gap"] == pytest.approx(0.2)
    assert spreads_by_chance(folds, num_resamples=400, confidence=0.01)["gap"] == pytest.approx(0.1)


def test_equal_folds_leave_no_interval_and_no_error_in_one_group_an_infinite_ratio():
    found = spread_intervals({"a": np.ones(10), "b": np.full(10, 0.5)})
    assert found["skewed_error_ratio"] == (math.inf,) * 3
    assert found["gap"] == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="as many folds of every group"):
        spread_intervals({"a": np.ones(10), "b": np.ones(5)})
