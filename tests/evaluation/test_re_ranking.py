"""Re-ranking against the published algorithm, read line by line with whole matrices."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking


def published(query, gallery, k1, k2, lambda_value):
    """Algorithm of the paper's Python code, with a stable order of neighbours."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    number, queries = len(features), len(query)
    distance = np.maximum(2 - 2 * features @ features.T, 0)
    order = np.argsort(distance, axis=1, kind="stable")
    distance = distance / distance.max(axis=1, keepdims=True)
    half = int(np.around(k1 / 2))

    def reciprocal(image, k):
        forward = order[image, : k + 1]
        return [other for other in forward if image in order[other, : k + 1]]

    encoding = np.zeros((number, number))
    for image in range(number):
        own = reciprocal(image, k1)
        expanded = set(own)
        for other in own:
            others = reciprocal(other, half)
            if len(set(others) & set(own)) > 2 / 3 * len(others):
                expanded |= set(others)
        expanded = sorted(expanded)
        weights = np.exp(-distance[image, expanded])
        encoding[image, expanded] = weights / weights.sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[image, :k2]].mean(axis=0) for image in range(number)])
    result = np.empty((queries, number - queries))
    for i in range(queries):
        for j in range(queries, number):
            shared = np.minimum(encoding[i], encoding[j]).sum()
            jaccard = 1 - shared / (2 - shared)
            result[i, j - queries] = (1 - lambda_value) * jaccard + lambda_value * distance[i, j]
    return result


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (1, 2, 0.5)]
)
def test_equals_the_published_algorithm(k1, k2, lambda_value):
    random = np.random.default_rng(k1)
    query, gallery = random.normal(size=(12, 5)), random.normal(size=(50, 5))
    result = re_rank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    expected = published(query, gallery, k1, k2, lambda_value)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_first(seed):
    # Rows of +-1 have products that are whole numbers, so ties are exact; many rows are equal.
    random = np.random.default_rng(seed)
    features = random.choice([-1.0, 1.0], size=(60, 4))
    result = re_rank(features[:10], features[10:], k1=9, k2=4)
    np.testing.assert_allclose(
        result, published(features[:10], features[10:], 9, 4, 0.3), atol=1e-5
    )


def test_blocks_do_not_show(monkeypatch):
    random = np.random.default_rng(1)
    query, gallery = random.normal(size=(9, 6)), random.normal(size=(40, 6))
    whole = re_rank(query, gallery)
    monkeypatch.setattr("rlsyn_jax.evaluation.re_ranking._BLOCK", 7)
    np.testing.assert_allclose(re_rank(query, gallery), whole, atol=1e-6)


def test_equal_embeddings_are_no_distance_apart():
    distances = re_rank(np.ones((2, 3)), np.ones((9, 3)), k1=10, k2=1)
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_people_who_hang_together_are_found_better():
    # Each person lies on an arc: its ends are far from each other and joined by the middle.
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(1, 9), 12)
    starts, along = random.normal(size=(8, 2, 12)), random.uniform(size=(96, 1)) * 2
    features = starts[people - 1, 0] + along * starts[people - 1, 1]
    features += 0.35 * random.normal(size=features.shape)
    cameras = np.arange(96) % 6
    query = cameras == 0
    labels = people[query], cameras[query], people[~query], cameras[~query]
    plain = evaluate_ranking(
        features[query], *labels[:2], features[~query], *labels[2:]
    ).mean_average_precision
    better = evaluate_distances(re_rank(features[query], features[~query], k1=8, k2=3), *labels)
    assert better.mean_average_precision > plain + 0.02


def test_mistakes_are_told():
    query, gallery = np.ones((2, 3)), np.ones((5, 3))
    with pytest.raises(ValueError, match="k1 is 7; it must be at least 1 and below 7"):
        re_rank(query, gallery, k1=7)
    with pytest.raises(ValueError, match=r"k2 is 5; it must be in 1..4"):
        re_rank(query, gallery, k1=3, k2=5)
    with pytest.raises(ValueError, match="lambda_value is 2"):
        re_rank(query, gallery, k1=3, k2=2, lambda_value=2)
    with pytest.raises(ValueError, match=r"one dim, got \(2, 3\) and \(5, 2\)"):
        re_rank(query, np.ones((5, 2)))
    with pytest.raises(ValueError, match="finite"):
        re_rank(query * np.nan, gallery, k1=3, k2=2)
    with pytest.raises(ValueError, match="at least one query"):
        re_rank(query[:0], gallery)
