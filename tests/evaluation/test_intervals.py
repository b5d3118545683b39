"""Intervals: against closed forms, scipy's bootstrap, and their coverage of a known truth."""

import numpy as np
import pytest
from scipy import stats

from rlsyn_jax.evaluation.bootstrap import cluster_bootstrap, mean_interval
from rlsyn_jax.evaluation.jackknife import jackknife_interval


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


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="n at least 1"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="one cluster a value"):
        cluster_bootstrap(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="confidence"):
        mean_interval(np.ones(3), confidence=95)
