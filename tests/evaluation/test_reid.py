"""Market-1501's ranking protocol against a hand-made case and a plain reading of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking


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
    assert result.mean_inverse_negative_penalty == pytest.approx(2 / 4)
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


def plain_reading(distances, query_ids, query_cameras, gallery_ids, gallery_cameras):
    """AP, mINP and first hit of every valid query by walking down a stable order."""
    figures = []
    for row, person, camera in zip(distances, query_ids, query_cameras):
        kept = [
            place
            for place in range(len(row))
            if gallery_ids[place] != -1
            and not (gallery_ids[place] == person and gallery_cameras[place] == camera)
        ]
        order = sorted(kept, key=lambda place: row[place])  # Python's sort is stable.
        ranks = [rank for rank, place in enumerate(order, 1) if gallery_ids[place] == person]
        if person > 0 and ranks:
            precisions = [number / rank for number, rank in enumerate(ranks, 1)]
            figures.append((np.mean(precisions), len(ranks) / ranks[-1], ranks[0] - 1))
    return np.array(figures).reshape(-1, 3).T


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    levels=st.integers(1, 6),
    people=st.integers(1, 5),
    cameras=st.integers(2, 3),
)
def test_ties_junk_and_distractors_keep_the_given_order(seed, levels, people, cameras):
    random = np.random.default_rng(seed)
    query_ids, gallery_ids = random.integers(-1, people, 5), random.integers(-1, people, 30)
    query_cameras, gallery_cameras = random.integers(0, cameras, 5), random.integers(0, cameras, 30)
    # Few different distances, so that most of them are tied.
    distances = random.integers(0, levels, (5, 30)).astype(np.float32)
    labels = (query_ids, query_cameras, gallery_ids, gallery_cameras)
    precisions, penalties, firsts = plain_reading(distances, *labels)
    if not len(precisions):
        with pytest.raises(ValueError, match="no query has a match"):
            evaluate_distances(distances, *labels)
        return
    result = evaluate_distances(distances, *labels)
    np.testing.assert_allclose(result.average_precisions, precisions)
    np.testing.assert_allclose(result.inverse_negative_penalties, penalties)
    np.testing.assert_array_equal(result.first_hits, firsts)
    assert result.mean_inverse_negative_penalty == pytest.approx(penalties.mean())


def test_copies_in_the_gallery_are_ranked_in_the_given_order():
    gallery = np.tile(at(30), (6, 1))
    cameras = np.full(6, 2)
    for place in range(6):
        people = np.full(6, 8)
        people[place] = 5
        result = evaluate_ranking(
            at(0), np.array([5]), np.array([1]), gallery, people, cameras, max_rank=6
        )
        assert result.first_hits.tolist() == [place]


def test_distances_give_what_embeddings_give_over_several_blocks():
    random = np.random.default_rng(4)
    query, gallery = random.normal(size=(1100, 3)), random.normal(size=(40, 3))
    ids, cameras = random.integers(1, 9, 1100), random.integers(0, 4, 1100)
    gallery_ids, gallery_cameras = random.integers(-1, 9, 40), random.integers(0, 4, 40)
    by_embeddings = evaluate_ranking(query, ids, cameras, gallery, gallery_ids, gallery_cameras)
    cosine = (query / np.linalg.norm(query, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T
    by_distances = evaluate_distances(1 - cosine, ids, cameras, gallery_ids, gallery_cameras)
    np.testing.assert_allclose(by_embeddings.average_precisions, by_distances.average_precisions)
    np.testing.assert_array_equal(by_embeddings.valid_queries, by_distances.valid_queries)


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
    people = np.array([5, 5])
    with pytest.raises(ValueError, match="every image is of camera 1"):
        evaluate_ranking(at(0, 1), people, np.ones(2), at(2, 3), people, np.ones(2))
    with pytest.raises(ValueError, match="row 1 is not"):
        evaluate_distances(np.array([[1.0], [np.inf]]), people, people, ids, cameras)
    with pytest.raises(ValueError, match=r"distances \[q, g\]"):
        evaluate_distances(np.ones(2), people, people, ids, cameras)
    with pytest.raises(ValueError, match=r"gallery: expected distances \[n, q\]"):
        evaluate_distances(np.ones((2, 3)), people, people, ids, cameras)
