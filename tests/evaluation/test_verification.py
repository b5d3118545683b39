"""Ten-fold verification against a plain reading of the protocol; drawing of pairs."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.verification import make_pairs, ten_fold_accuracy


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


def test_mistakes_are_told():
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
