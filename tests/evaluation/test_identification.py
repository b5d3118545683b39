"""Identification and nearest real images against scikit-learn and brute force."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from rlsyn_jax.evaluation import identification
from rlsyn_jax.evaluation.identification import (
    named_by_others,
    nearest_centroid_accuracy,
    rank1_identification,
)
from rlsyn_jax.evaluation.nearest_real import nearest_real_distances


def problem():
    random = np.random.default_rng(0)
    labels, query_labels = np.repeat(np.arange(6), 4), np.repeat(np.arange(6), 9)
    centres = random.normal(size=(6, 5))
    enrolled = centres[labels] + random.normal(size=(24, 5))
    queries = centres[query_labels] + random.normal(size=(54, 5))
    return enrolled, labels, queries, query_labels


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_rank1_is_the_nearest_neighbour():
    enrolled, labels, queries, query_labels = problem()
    accuracy, hits = rank1_identification(enrolled, labels, queries, query_labels)
    expected = KNeighborsClassifier(1, metric="cosine").fit(enrolled, labels).predict(queries)
    np.testing.assert_array_equal(hits, expected == query_labels)
    assert accuracy == hits.mean() and 0.3 < accuracy < 1


def test_rank1_in_blocks_is_that_of_all_at_once(monkeypatch):
    expected = rank1_identification(*problem())
    monkeypatch.setattr(identification, "_BLOCK", 7)
    found = rank1_identification(*problem())
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0] == expected[0]


def test_nearest_centroid_of_unit_embeddings():
    enrolled, labels, queries, query_labels = problem()
    accuracy, _ = nearest_centroid_accuracy(enrolled, labels + 7, queries, query_labels + 7)
    centroids = NearestCentroid().fit(unit(enrolled), labels).centroids_
    expected = (unit(queries) @ unit(centroids).T).argmax(1)
    assert accuracy == pytest.approx((expected == query_labels).mean())


def test_nearest_real_is_found_in_any_block():
    random = np.random.default_rng(2)
    synthetic, real = random.normal(size=(50, 4)), random.normal(size=(20, 4))
    synthetic[7] = 3 * real[11]
    distance, index = nearest_real_distances(synthetic, real, block_size=8)
    every = 1 - unit(synthetic) @ unit(real).T
    np.testing.assert_array_equal(index, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1), atol=1e-6)
    assert index[7] == 11 and distance[7] == pytest.approx(0, abs=1e-7)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="enrolled: at least one"):
        rank1_identification(np.ones((0, 2)), np.ones(0), np.ones((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match=r"labels \[n\]"):
        nearest_centroid_accuracy(np.ones((3, 2)), np.ones(2), np.ones((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match="m at least 1"):
        nearest_real_distances(np.ones((3, 2)), np.ones((0, 2)))


def test_no_image_is_named_by_itself():
    """Of noise, as many are named rightly as chance has it."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(10), 40))
    hits, named = named_by_others(random.normal(size=(400, 64)), labels)
    assert np.bincount(named).tolist() == [20] * 10
    assert hits.mean() == pytest.approx(0.1, abs=0.06)
    hits, named = named_by_others(np.eye(10)[labels], labels)
    assert hits.all() and len(named) == 200


def test_of_three_images_the_second_is_named_and_of_one_none():
    embeddings = np.array([[1.0, 0], [0, 1], [1, 0.1], [1, 0.2], [0, 1]])
    hits, named = named_by_others(embeddings, np.array([7, 3, 7, 7, 5]))
    assert (hits.tolist(), named.tolist()) == ([True], [7])
    hits, named = named_by_others(embeddings, np.arange(5))
    assert len(hits) == len(named) == 0
