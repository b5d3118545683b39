"""Nearest real embeddings by explicit loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.evaluation.nearest_real import nearest_real_distances


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 9),
    m=st.integers(1, 6),
    block=st.integers(1, 10),
    seed=st.integers(0, 9),
)
def test_distance_and_place_equal_a_search_pair_by_pair(n, m, block, seed):
    random = np.random.default_rng(seed)
    synthetic, real = 5 * random.normal(size=(n, 3)), random.normal(size=(m, 3))
    distances, nearest = nearest_real_distances(synthetic, real, block_size=block)
    assert distances.shape == nearest.shape == (n,)
    assert distances.dtype == np.float32 and nearest.dtype == np.int64
    for i, row in enumerate(synthetic):
        expected = [1 - row @ r / np.linalg.norm(row) / np.linalg.norm(r) for r in real]
        np.testing.assert_allclose(distances[i], min(expected), atol=1e-6)
        assert nearest[i] == np.argmin(expected)


def test_a_copy_lies_at_zero_whatever_its_length_and_the_opposite_at_two():
    real = np.array([[3.0, 4.0], [-1.0, 0.5]])
    distances, nearest = nearest_real_distances(np.array([7 * real[1], real[0]]), real)
    np.testing.assert_array_equal(nearest, [1, 0])
    np.testing.assert_allclose(distances, 0, atol=1e-7)
    assert (distances >= 0).all()
    np.testing.assert_allclose(nearest_real_distances(-real[:1], real[:1])[0], 2, atol=1e-6)


def test_an_embedding_without_direction_is_near_nothing():
    distances, _ = nearest_real_distances(np.zeros((1, 2)), np.eye(2))
    np.testing.assert_array_equal(distances, 1)


@pytest.mark.parametrize(
    ("synthetic", "real", "message"),
    [
        (np.ones((2, 3)), np.ones((0, 3)), r"m at least 1, got \(2, 3\) and \(0, 3\)"),
        (np.ones((2, 3)), np.ones((4, 2)), r"of one dim .* got \(2, 3\) and \(4, 2\)"),
        (np.ones(3), np.ones((4, 3)), r"got shape \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(synthetic, real, message):
    with pytest.raises(ValueError, match=message):
        nearest_real_distances(synthetic, real)
