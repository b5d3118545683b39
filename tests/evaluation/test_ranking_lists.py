"""Tops of rankings against the ranking that is measured."""

import numpy as np

from rlsyn_jax.evaluation.ranking_lists import lists_by_similarity, ranking_lists, spread_queries
from rlsyn_jax.evaluation.reid import evaluate_ranking


def test_lists_are_the_top_of_the_measured_ranking():
    random = np.random.default_rng(0)
    query, gallery = random.normal(size=(12, 4)), random.normal(size=(60, 4))
    query_ids, gallery_ids = random.integers(1, 5, 12), random.integers(-1, 5, 60)
    query_cameras, gallery_cameras = random.integers(0, 2, 12), random.integers(0, 2, 60)
    labels = query_ids, query_cameras, gallery, gallery_ids, gallery_cameras
    result = evaluate_ranking(query, *labels)
    lists = ranking_lists(query, *labels, result.valid_queries, length=60)
    for found, first_hit, precision in zip(lists, result.first_hits, result.average_precisions):
        assert found.right.index(True) == first_hit
        hits = np.flatnonzero(found.right)
        assert np.isclose(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)), precision)
        places = list(found.gallery)
        assert -1 not in gallery_ids[places]
        same = gallery_ids[places] == query_ids[found.query]
        assert not (same & (gallery_cameras[places] == query_cameras[found.query])).any()
        assert same.tolist() == list(found.right)
    short = ranking_lists(query, *labels, [3], length=2)[0]
    assert short.gallery == ranking_lists(query, *labels, [3], length=60)[0].gallery[:2]


def test_long_vectors_of_half_precision_are_ranked_as_measured():
    random = np.random.default_rng(1)
    ids = np.repeat(np.arange(1, 5), 3)
    gallery = np.float16(300 * (np.eye(6)[ids] + 0.1 * random.normal(size=(12, 6))))
    query, query_ids = np.float16(300 * np.eye(6)[1:5]), np.arange(1, 5)
    cameras = np.ones(12, int)
    lists = ranking_lists(query, query_ids, np.zeros(4, int), gallery, ids, cameras, range(4))
    assert all(found.right[:3] == (True,) * 3 for found in lists)


def test_lists_follow_any_similarity_and_leave_out_what_the_protocol_does():
    query_ids, query_cameras = np.array([1, 2]), np.array([0, 1])
    gallery_ids, gallery_cameras = np.array([1, 1, -1, 2, 0]), np.array([0, 1, 1, 0, 0])
    similarities = np.array([[0.1, 0.2, 0.9, 0.5, 0.5], [0.4, 0.4, 0.9, 0.1, 0.3]])
    two, one = lists_by_similarity(
        similarities[::-1], query_ids, query_cameras, gallery_ids, gallery_cameras, [1, 0], length=3
    )
    assert two == (1, (0, 1, 4), (False, False, False))
    assert one == (0, (3, 4, 1), (False, False, True))


def test_queries_go_from_the_worst_to_the_best():
    precisions, valid = np.array([0.9, 0.1, 0.5, 0.7]), np.array([2, 3, 5, 8])
    assert spread_queries(precisions, valid, 3).tolist() == [3, 5, 2]
    assert spread_queries(precisions, valid, 9).tolist() == [3, 5, 8, 2]
