"""Nearest real embeddings by explicit loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.evaluation.nearest_real import (
    averaged_pixels,
    nearest_real_distances,
    pixel_features,
)


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


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 6), block=st.integers(1, 10), seed=st.integers(0, 9))
def test_euclidean_distance_equals_a_search_pair_by_pair(n, m, block, seed):
    random = np.random.default_rng(seed)
    synthetic, real = random.normal(size=(n, 3)), random.normal(size=(m, 3))
    synthetic[0] = real[-1]
    distances, nearest = nearest_real_distances(
        synthetic, real, metric="euclidean", block_size=block
    )
    every = np.linalg.norm(synthetic[:, None] - real[None], axis=2)
    np.testing.assert_allclose(distances, every.min(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(nearest, every.argmin(axis=1))
    assert distances[0] == 0


def test_pixel_distance_is_the_root_mean_squared_difference():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 256, (2, 1, 4, 6, 3), np.uint8)
    distance, _ = nearest_real_distances(
        pixel_features(one), pixel_features(other), metric="euclidean"
    )
    expected = np.sqrt(np.mean((one / 255 - other / 255) ** 2))
    np.testing.assert_allclose(distance, expected, rtol=1e-5)
    ends = [pixel_features(np.full((1, 4, 4, 3), value, np.uint8), factor=2) for value in (0, 255)]
    np.testing.assert_allclose(np.linalg.norm(ends[1] - ends[0]), 1, rtol=1e-6)
    halves = np.zeros((1, 2, 4, 1), np.uint8)
    halves[0, :, :2] = [[[10], [20]], [[30], [40]]]
    np.testing.assert_allclose(
        pixel_features(halves, factor=2), [[25 / 255 / np.sqrt(2), 0]], rtol=1e-6
    )


def test_what_is_no_image_or_metric_is_told():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) as uint8"):
        pixel_features(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="as float64"):
        pixel_features(np.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match="factor is 3; it must divide the sides of 4 x 6"):
        pixel_features(np.zeros((2, 4, 6, 3), np.uint8), factor=3)
    with pytest.raises(ValueError, match="metric is 'manhattan'"):
        nearest_real_distances(np.ones((1, 2)), np.ones((1, 2)), metric="manhattan")
    with pytest.raises(ValueError, match="finite"):
        nearest_real_distances(np.full((1, 2), np.nan), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("synthetic", "real", "message"),
    [
        (np.ones((2, 3)), np.ones((0, 3)), r"m at least 1, got \(0, 3\)"),
        (np.ones((2, 3)), np.ones((4, 2)), r"of one dim, got \(2, 3\) and \(4, 2\)"),
        (np.ones(3), np.ones((4, 3)), r"got shape \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(synthetic, real, message):
    with pytest.raises(ValueError, match=message):
        nearest_real_distances(synthetic, real)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((16, 8), 1), ((64, 64), 2), ((256, 128), 4), ((112, 112), 2), ((97, 194), 1)],
)
def test_pixels_are_averaged_to_about_32_a_side_by_what_divides_both(size, factor):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    expected = pixel_features(images, factor=factor)
    np.testing.assert_array_equal(averaged_pixels(images), expected)
    with pytest.raises(ValueError, match="expected images"):
        averaged_pixels(images / 255)
