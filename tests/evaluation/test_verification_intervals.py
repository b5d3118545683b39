"""Weighted rates against the bootstrap that sorts each resample anew."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.bootstrap import paired_bootstrap
from rlsyn_jax.evaluation.verification import (
    equal_error_rate,
    make_pairs,
    pairs_of_both_kinds,
    true_accept_rate,
)
from rlsyn_jax.evaluation.verification_intervals import accuracy_intervals, verification_intervals


def pairs(ties):
    """Pairs of 10 people with 4 images, by two recognisers of two seeds."""
    identities = np.repeat(np.arange(10), 4)
    first, second, is_same = pairs_of_both_kinds(identities, 10_000, seed=0)
    random = np.random.default_rng(1)
    arms = {
        name: random.normal(size=(2, len(is_same))) + shift * is_same
        for name, shift in (("real", 1.5), ("both", 2.5))
    }
    if ties:
        arms = {name: np.round(2 * rows) / 2 for name, rows in arms.items()}
    return arms, is_same, np.stack([identities[first], identities[second]], axis=1)


@pytest.mark.parametrize("ties", [False, True])
def test_rates_and_intervals_are_those_of_the_plain_bootstrap(ties):
    arms, is_same, people = pairs(ties)
    result = verification_intervals(
        arms, is_same, people, false_accept_rates=(0.1, 0.02), num_resamples=40, seed=3
    )

    def statistics(rate_of):
        return {
            name: lambda places, rows=rows: np.mean(
                [rate_of(row[places], is_same[places]) for row in rows]
            )
            for name, rows in arms.items()
        }

    plain = {
        "error": lambda *both: equal_error_rate(*both)[0],
        0.1: lambda *both: true_accept_rate(*both, 0.1).true_accept_rate.value,
        0.02: lambda *both: true_accept_rate(*both, 0.02).true_accept_rate.value,
    }
    found = {"error": result.equal_error_rate, **result.true_accept_rates}
    for name, rate_of in plain.items():
        expected = paired_bootstrap(statistics(rate_of), people, num_resamples=40, seed=3)
        for arm in arms:
            assert found[name].values[arm] == pytest.approx(expected.values[arm]), name
        assert list(found[name].differences) == ["both"]
        assert found[name].differences["both"] == pytest.approx(expected.differences["both"])
    assert result.equal_error_rate.differences["both"].high < 0


def test_accuracies_and_intervals_are_those_of_the_plain_bootstrap_of_both_kinds():
    arms, is_same, people = pairs(False)
    correct = {name: (rows > 1) == is_same for name, rows in arms.items()}
    result = accuracy_intervals(correct, is_same, people, num_resamples=40, seed=3)
    share = is_same.mean()

    def statistic(rows):
        def accuracy(places):
            right, same = rows[:, places].mean(axis=0), is_same[places]
            return share * right[same].mean() + (1 - share) * right[~same].mean()

        return accuracy

    plain = {name: statistic(rows) for name, rows in correct.items()}
    expected = paired_bootstrap(plain, people, num_resamples=40, seed=3)
    for arm, rows in correct.items():
        assert result.values[arm] == pytest.approx(expected.values[arm])
        assert result.values[arm].value == pytest.approx(rows.mean())
    assert result.differences == {"both": pytest.approx(expected.differences["both"])}


def test_accuracies_of_pairs_that_share_people_are_as_uncertain_as_people_make_them():
    # Of a network that confuses some people and not others the accuracy is 0.75 of all people.
    inside = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        first, second, is_same = make_pairs(np.repeat(np.arange(24), 6), 600, seed)
        people = np.stack([first, second], axis=1) // 6
        clear = random.uniform(size=24) < 0.5
        right = np.where(clear[people].all(axis=1), 1.0, random.uniform(size=600) < 0.5)
        # A genuine pair is of one person, an impostor pair of two.
        truth = (0.75 + (0.25 + 0.75 * 0.5)) / 2
        estimate = accuracy_intervals(
            {"a": right}, is_same, people, num_resamples=100, seed=seed
        ).values["a"]
        inside += estimate.low <= truth <= estimate.high
    assert inside >= 50  # Two thirds, where folds are drawn.


def test_resamples_without_impostors_are_not_counted():
    is_same, people = np.array([True, True, False]), np.array([[0, 0], [1, 1], [0, 1]])
    result = verification_intervals(
        {"a": np.array([3.0, 1.0, 2.0])}, is_same, people, false_accept_rates=(), num_resamples=50
    )
    # Drawing one person twice leaves no impostor; both people are left.
    value, low, high = result.equal_error_rate.values["a"]
    assert low == value == high


def test_all_pairs_or_so_many_of_a_kind():
    identities = np.array([4, 4, 4, 9, 9])
    first, second, is_same = pairs_of_both_kinds(identities, 100, seed=0)
    assert len(set(zip(first, second))) == 10 and is_same.sum() == 4
    np.testing.assert_array_equal(is_same, identities[first] == identities[second])
    assert (first != second).all() and is_same[:4].all()
    first, second, is_same = pairs_of_both_kinds(identities, 3, seed=0)
    assert is_same.tolist() == [True] * 3 + [False] * 3 and len(set(zip(first, second))) == 6
    with pytest.raises(ValueError, match="max_pairs is 0"):
        pairs_of_both_kinds(identities, 0, seed=0)


def test_mistakes_are_told():
    arms, is_same, people = pairs(False)
    with pytest.raises(ValueError, match=r"real: expected .*got \(2, 780\), \(780,\) and \(780,\)"):
        verification_intervals(arms, is_same, people[:, 0], false_accept_rates=())
    with pytest.raises(ValueError, match="a false accept rate is 2"):
        verification_intervals(arms, is_same, people, false_accept_rates=(2,))
    with pytest.raises(ValueError, match="0.001 is not measurable with 720 impostor pairs"):
        verification_intervals(arms, is_same, people, false_accept_rates=(1e-3,))
    with pytest.raises(ValueError, match="needed, got 780 and 0"):
        verification_intervals(arms, is_same | True, people, false_accept_rates=())
    with pytest.raises(ValueError, match="expected an arm"):
        verification_intervals({}, is_same, people, false_accept_rates=())
    with pytest.raises(ValueError, match=r"of at least one arm.*got \[\], \(780,\) and \(780, 2\)"):
        accuracy_intervals({}, is_same, people)
    with pytest.raises(ValueError, match="no resample of 10 people has both kinds"):
        accuracy_intervals({"a": is_same}, is_same | True, people)
