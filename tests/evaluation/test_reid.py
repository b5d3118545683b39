"""Market-1501's ranking protocol against a hand-made case and a plain reading of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from rlsyn_jax.evaluation.reid import evaluate_ranking


def at(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_hand_made_ranking():
    result = evaluate_ranking(
        at(0),
        np.array([5]),
        np.array([1]),
        at(1, 2, 3, 4, 5, 6),
        # same camera, junk, distractor, match, another person, match
        np.array([5, -1, 0, 5, 7, 5]),
        np.array([1, 2, 2, 2, 2, 3]),
        max_rank=6,
    )
    assert result.mean_average_precision == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.first_hits.tolist() == [1]
    assert result.cmc.tolist() == [0, 1, 1, 1, 1, 1]
    assert result.num_valid_queries == 1 and result.valid_queries.tolist() == [0]


def test_queries_without_a_match_are_skipped():
    result = evaluate_ranking(
        at(0, 10, 20, 30),
        np.array([1, 2, 0, -1]),
        np.array([1, 1, 1, 1]),
        at(1, 2, 3),
        np.array([1, 0, 2]),
        np.array([2, 2, 1]),
    )
    assert result.valid_queries.tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_against_a_plain_reading(seed):
    random = np.random.default_rng(seed)
    query, gallery = random.normal(size=(6, 4)), random.normal(size=(25, 4))
    query_ids, gallery_ids = random.integers(-1, 4, 6), random.integers(-1, 4, 25)
    query_cameras, gallery_cameras = random.integers(0, 3, 6), random.integers(0, 3, 25)
    precisions, firsts = [], []
    for vector, person, camera in zip(query, query_ids, query_cameras):
        if person <= 0:
            continue
        scores, truth = [], []
        for other, other_person, other_camera in zip(gallery, gallery_ids, gallery_cameras):
            if other_person == -1 or (other_person == person and other_camera == camera):
                continue
            scores.append(other @ vector / np.linalg.norm(other) / np.linalg.norm(vector))
            truth.append(other_person == person)
        if any(truth):
            precisions.append(average_precision_score(truth, scores))
            firsts.append(np.flatnonzero(np.array(truth)[np.argsort(-np.array(scores))])[0])
    arguments = (query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras)
    if not precisions:
        with pytest.raises(ValueError, match="no query has a match"):
            evaluate_ranking(*arguments)
        return
    result = evaluate_ranking(*arguments, max_rank=10)
    np.testing.assert_allclose(result.average_precisions, precisions)
    np.testing.assert_array_equal(result.first_hits, firsts)
    np.testing.assert_allclose(
        result.cmc, [np.mean(np.array(firsts) <= rank) for rank in range(10)]
    )


def test_mistakes_are_told():
    ids = cameras = np.array([1])
    with pytest.raises(ValueError, match="one network"):
        evaluate_ranking(np.ones((1, 2)), ids, cameras, np.ones((1, 3)), ids, cameras)
    with pytest.raises(ValueError, match="finite"):
        evaluate_ranking(np.full((1, 2), np.nan), ids, cameras, np.ones((1, 2)), ids, cameras)
    with pytest.raises(ValueError, match="gallery is empty"):
        evaluate_ranking(np.ones((1, 2)), ids, cameras, np.ones((0, 2)), ids[:0], cameras[:0])
    with pytest.raises(ValueError, match=r"identities \[n\]"):
        evaluate_ranking(np.ones((2, 2)), ids, cameras, np.ones((1, 2)), ids, cameras)
