"""Ten-fold verification against a plain reading, rates against scikit-learn; drawing of pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, optimize, stats
from sklearn import metrics

from rlsyn_jax.evaluation.proportion import wilson_interval
from rlsyn_jax.evaluation.verification import (
    equal_error_rate,
    make_pairs,
    pair_distances,
    roc_points,
    ten_fold_accuracy,
    true_accept_rate,
    true_accept_rates_at,
)


def test_against_a_plain_reading():
    random = np.random.default_rng(0)
    first = random.normal(size=(200, 6))
    is_same = np.arange(200) % 2 == 0
    second = np.where(
        is_same[:, None], first + random.normal(size=(200, 6)), random.normal(size=(200, 6))
    )
    result = ten_fold_accuracy(first, second, is_same)

    unit_first = first / np.linalg.norm(first, axis=1, keepdims=True)
    unit_second = second / np.linalg.norm(second, axis=1, keepdims=True)
    distances = ((unit_first - unit_second) ** 2).sum(1)
    accuracies = []
    for fold in range(10):
        test = np.arange(20 * fold, 20 * fold + 20)
        train = np.setdiff1d(np.arange(200), test)
        best, chosen = -1, None
        for threshold in np.arange(0, 4, 0.01):
            accuracy = np.mean((distances[train] < threshold) == is_same[train])
            if accuracy > best:
                best, chosen = accuracy, threshold
        accuracies.append(np.mean((distances[test] < chosen) == is_same[test]))
        assert result.thresholds[fold] == chosen
    np.testing.assert_allclose(result.fold_accuracies, accuracies)
    assert result.accuracy_mean == pytest.approx(np.mean(accuracies))
    assert result.accuracy_std == pytest.approx(np.std(accuracies))
    assert 0.6 < result.accuracy_mean < 1


def test_a_threshold_is_never_chosen_on_its_own_fold():
    # In the first fold, near pairs are different people; elsewhere they are the same.
    near, far = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    first = np.repeat(near, 100, axis=0)
    is_same = np.arange(100) % 2 == 0
    second = np.where(is_same[:, None], near, far)
    is_same[:10] = ~is_same[:10]
    result = ten_fold_accuracy(first, second, is_same)
    assert result.fold_accuracies[0] == 0 and (result.fold_accuracies[1:] == 1).all()


def test_pairs_are_right_balanced_and_different():
    identities = np.repeat(np.arange(12), 5)
    first, second, is_same = make_pairs(identities, 200, seed=1)
    np.testing.assert_array_equal(identities[first] == identities[second], is_same)
    assert is_same.reshape(10, -1).sum(1).tolist() == [10] * 10
    assert (first != second).all()
    assert len(set(zip(first, second))) == 200
    again = make_pairs(identities, 200, seed=1)
    np.testing.assert_array_equal(first, again[0])
    assert len(make_pairs(np.array([0, 0, 1]), 20, seed=0)[0]) == 20  # one genuine pair, repeated


def scores(seed, number=400, levels=None):
    random = np.random.default_rng(seed)
    is_same = random.uniform(size=number) < 0.4
    is_same[:2] = True, False
    similarities = random.normal(size=number) + 1.5 * is_same
    if levels:  # Few different values, so that most of them are tied.
        similarities = np.round(similarities * levels) / levels
    return similarities, is_same


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(2, 60), levels=st.sampled_from([None, 1, 3]))
def test_points_are_those_of_scikit_learn(seed, number, levels):
    similarities, is_same = scores(seed, number, levels)
    points = roc_points(similarities, is_same)
    false, true, thresholds = metrics.roc_curve(is_same, similarities, drop_intermediate=False)
    np.testing.assert_allclose(points.false_accept_rates, false)
    np.testing.assert_allclose(points.true_accept_rates, true)
    np.testing.assert_array_equal(points.thresholds, thresholds)
    assert (points.num_genuine, points.num_impostors) == (is_same.sum(), (~is_same).sum())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([None, 1, 3]),
    rate=st.sampled_from([0.5, 0.2, 0.1, 0.05, 0.025]),
)
def test_accept_rates_are_those_of_every_threshold_tried(seed, levels, rate):
    similarities, is_same = scores(seed, 200, levels)
    result = true_accept_rate(similarities, is_same, rate)
    best = max(
        (
            (similarities[is_same] >= threshold).mean(),
            (similarities[~is_same] >= threshold).mean(),
        )
        for threshold in [*similarities, np.inf]
        if (similarities[~is_same] >= threshold).mean() <= rate
    )
    assert (result.true_accept_rate.value, result.false_accept_rate.value) == pytest.approx(best)
    assert (similarities[is_same] >= result.threshold).mean() == pytest.approx(best[0])
    hits = round(best[0] * is_same.sum())
    expected = stats.binomtest(hits, int(is_same.sum())).proportion_ci(method="wilson")
    assert result.true_accept_rate[1:] == pytest.approx((expected.low, expected.high))
    assert result.num_impostors == (~is_same).sum()


def test_a_curve_is_read_where_thresholds_are_tried():
    similarities, is_same = np.array([9, 8, 7, 6, 6, 5, 4, 3.0]), np.array([1, 0, 1, 1, 0, 1, 0, 0])
    # Impostors at 8, 6, 4 and 3: none, one, two of four; 6 is tied with a genuine pair.
    found = true_accept_rates_at(roc_points(similarities, is_same), [0, 0.24, 0.25, 0.49, 0.5, 1])
    np.testing.assert_array_equal(found, [0.25, 0.25, 0.5, 0.5, 1, 1])


def test_a_rate_of_whole_impostors_lets_all_of_them_through():
    similarities, is_same = np.arange(6000.0), np.arange(6000) < 3000
    assert true_accept_rate(similarities, is_same, 1e-3).false_accept_rate.value == 1e-3
    # 0.29 * 100 is 28.999999999999996.
    similarities, is_same = np.arange(200.0), np.arange(200) < 100
    assert true_accept_rate(similarities, is_same, 0.29).false_accept_rate.value == 0.29


def test_a_rate_below_one_impostor_is_refused():
    similarities, is_same = np.arange(6000.0), np.arange(6000) < 3000
    with pytest.raises(ValueError, match="not measurable with 3000 impostor pairs.*10000 pairs"):
        true_accept_rate(similarities, is_same, 1e-4)


@pytest.mark.parametrize("levels", [None, 2])
def test_equal_error_rate_is_where_the_curve_crosses_the_diagonal(levels):
    similarities, is_same = scores(7, 500, levels)
    false, true, _ = metrics.roc_curve(is_same, similarities, drop_intermediate=False)
    curve = interpolate.interp1d(false, true)
    # A vertical part of the curve has the height of one impostor pair.
    expected = optimize.brentq(lambda rate: 1 - rate - curve(rate), 0, 1)
    rate, threshold = equal_error_rate(similarities, is_same)
    assert rate == pytest.approx(expected, abs=4e-3)
    if not levels:
        assert (similarities[~is_same] > threshold).mean() <= rate + 1e-12
        assert (similarities[is_same] < threshold).mean() <= rate + 1e-12


def test_equal_error_rate_of_told_apart_and_of_equal_pairs():
    is_same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([3.0, 2, 1, 0]), is_same) == (0, 2)
    assert equal_error_rate(np.zeros(4), is_same) == (0.5, 0)
    assert equal_error_rate(np.array([0.0, 1, 2, 3]), is_same)[0] == 1


def test_distances_are_of_unit_embeddings():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 30, 5))
    distances, _ = pair_distances(first, second, np.ones(30))
    cosine = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(1 - distances / 2, cosine)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="21 pairs do not make 10 folds"):
        ten_fold_accuracy(np.ones((21, 2)), np.ones((21, 2)), np.ones(21))
    with pytest.raises(ValueError, match="genuine and impostor pairs are needed, got 3 and 0"):
        roc_points(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        equal_error_rate(np.array([np.nan, 1]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"is_same \[n\], got \(3,\) and \(2,\)"):
        roc_points(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="false_accept_rate is 0"):
        true_accept_rate(np.ones(2), np.array([True, False]), 0)
    with pytest.raises(ValueError, match="got 4 of 3"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="no genuine pair"):
        make_pairs(np.arange(5), 10, seed=0)
    with pytest.raises(ValueError, match="no impostor pair"):
        make_pairs(np.zeros(5, int), 10, seed=0)
    with pytest.raises(ValueError, match="even number"):
        make_pairs(np.array([0, 0, 1]), 3, seed=0)
    with pytest.raises(ValueError, match="do not make 10 folds"):
        ten_fold_accuracy(np.ones((4, 2)), np.ones((4, 2)), np.ones(4))
    with pytest.raises(ValueError, match="is_same"):
        ten_fold_accuracy(np.ones((20, 2)), np.ones((20, 3)), np.ones(20))
