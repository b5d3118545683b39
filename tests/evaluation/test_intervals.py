"""Intervals: against closed forms, scipy's bootstrap, and their coverage of a known truth."""

import numpy as np
import pytest
from scipy import stats

from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap, mean_interval, paired_bootstrap
from rlsyn_jax.evaluation.jackknife import jackknife_interval, jackknife_parts


def test_mean_interval_is_students():
    values = np.array([0.5, 0.7, 0.9])
    mean, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (mean, low, high) == pytest.approx((0.7, *expected))
    assert mean_interval(np.array([0.4])) == (0.4, 0.4, 0.4)


def test_bootstrap_of_single_values_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=80)
    _, low, high = cluster_bootstrap(values, np.arange(80), num_resamples=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_whole_clusters_are_drawn():
    # Ten copies of each value say no more than one.
    values = np.random.default_rng(0).normal(size=30)
    one = cluster_bootstrap(values, np.arange(30))
    copies = cluster_bootstrap(np.repeat(values, 10), np.repeat(np.arange(30), 10))
    assert copies == pytest.approx(one)


def test_any_statistic_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(0).gamma(2, size=60)
    result = paired_bootstrap(
        {"real": lambda places: np.median(values[places])}, np.arange(60), num_resamples=4000
    )
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    figure = result.values["real"]
    assert figure.value == np.median(values)
    assert figure[1:] == pytest.approx((expected.low, expected.high), abs=0.05)
    assert result.differences == {}


def test_differences_are_paired_and_whole_people_are_drawn():
    random = np.random.default_rng(2)
    people = np.repeat(np.arange(40), 5)
    easy = random.normal(size=40)[people]  # What a person adds to every arm.
    arms = {"real": easy, "better": easy + 0.1, "noisy": easy + 0.3 * random.normal(size=200)}
    statistics = {
        arm: lambda places, values=values: values[places].mean() for arm, values in arms.items()
    }
    result = paired_bootstrap(statistics, people)
    assert result.differences["better"] == pytest.approx((0.1, 0.1, 0.1))
    low, high = result.values["real"][1:]
    assert (high - low) / 2 == pytest.approx(1.96 * easy[::5].std() / np.sqrt(40), rel=0.1)
    other = paired_bootstrap(statistics, people, baseline="noisy")
    assert other.differences["real"].value == -result.differences["noisy"].value
    for arm, values in arms.items():
        expected = cluster_bootstrap(values, people, num_resamples=4000)
        assert result.values[arm] == pytest.approx(expected, abs=0.03)


def test_pairs_are_drawn_as_often_as_their_people():
    # Person 0 with itself, 0 with 1, 1 with 2: a draw of 0, 0, 1 gives 2, 2 and none.
    clusters = np.array([[0, 0], [0, 1], [1, 2]])
    seen = set()
    paired_bootstrap(
        {"a": lambda places: seen.add(tuple(np.bincount(places, minlength=3))) or 0.0},
        clusters,
        num_resamples=200,
    )
    draws = [(a, b, 3 - a - b) for a in range(4) for b in range(4 - a)]
    assert seen == {(a, a * b, b * c) for a, b, c in draws} | {(1, 1, 1)}


def test_jackknife_leaves_each_group_out_once():
    parts = jackknife_parts(np.arange(3))
    assert [part.tolist() for part in parts] == [[1, 2], [0, 2], [0, 1]]
    parts = jackknife_parts(np.arange(20), num_groups=5)
    assert [len(part) for part in parts] == [16] * 5
    left_out = [np.setdiff1d(np.arange(20), part) for part in parts]
    assert sorted(np.concatenate(left_out)) == list(range(20))
    seen = []
    jackknife_interval(lambda kept: seen.append(len(kept)) or 0.0, np.arange(20), num_groups=5)
    assert seen == [20] + [16] * 5


def test_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(3).normal(size=25)
    mean, low, high = jackknife_interval(lambda kept: values[kept].mean(), np.arange(25))
    assert mean == pytest.approx(values.mean())
    assert high - mean == pytest.approx(mean - low)
    half = (high - low) / 2
    error = stats.sem(values)
    assert half == pytest.approx(1.96 * error, rel=0.06) or half == pytest.approx(
        stats.t.ppf(0.975, 24) * error
    )


def test_the_interval_of_a_share_ends_where_shares_end():
    values = np.array([1.0, 1.0, 1.0, 0.4])
    free = jackknife_interval(lambda kept: values[kept].mean(), np.arange(4))
    cut = jackknife_interval(lambda kept: values[kept].mean(), np.arange(4), bounds=(0, 1))
    assert free[2] > 1 and cut == (free[0], free[1], 1.0)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="n at least 1"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="one cluster a value"):
        cluster_bootstrap(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="confidence"):
        mean_interval(np.ones(3), confidence=95)
    with pytest.raises(ValueError, match=r"clusters \[n\] or \[n, 2\], got shape \(3, 3\)"):
        paired_bootstrap({"a": np.mean}, np.ones((3, 3)))
    with pytest.raises(ValueError, match="baseline 'b' is none of"):
        paired_bootstrap({"a": np.mean}, np.ones(3), baseline="b")
    with pytest.raises(ValueError, match="baseline None is none of"):
        paired_bootstrap({}, np.ones(3))
    with pytest.raises(ValueError, match="at least 1 resample"):
        paired_bootstrap({"a": np.mean}, np.ones(3), num_resamples=0)
