"""Consistency and diversity of people's images against brute force and closed forms."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from sklearn import metrics

from rlsyn_jax.evaluation.diversity import identity_set


def people(number=6, images=5, noise=0.5, seed=0, dim=7):
    random = np.random.default_rng(seed)
    identities = np.repeat(np.arange(number), images)
    centres = random.normal(size=(number, dim))
    return centres[identities] + noise * random.normal(size=(len(identities), dim)), identities


def test_figures_equal_a_walk_over_all_pairs():
    embeddings, identities = people()
    shuffled = np.random.default_rng(1).permutation(len(identities))
    embeddings, identities = embeddings[shuffled], 3 * identities[shuffled] + 4
    result = identity_set(embeddings, identities)
    np.testing.assert_array_equal(result.identities, [4, 7, 10, 13, 16, 19])
    genuine, impostor = [], []
    for i in range(len(identities)):
        for j in range(i):
            kind = genuine if identities[i] == identities[j] else impostor
            kind.append(1 - cosine(embeddings[i], embeddings[j]))
    assert result.similarity_genuine == pytest.approx(np.mean(genuine))
    assert result.similarity_impostor == pytest.approx(np.mean(impostor))
    deviation = np.sqrt((np.var(genuine) + np.var(impostor)) / 2)
    expected = (np.mean(genuine) - np.mean(impostor)) / deviation
    assert result.decidability == pytest.approx(expected)
    truth = np.arange(len(genuine) + len(impostor)) < len(genuine)
    false, true, _ = metrics.roc_curve(truth, genuine + impostor, drop_intermediate=False)
    assert abs(result.equal_error_rate - false[np.argmin(abs(1 - true - false))]) < 0.02
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for place, person in enumerate(result.identities):
        own = unit[identities == person]
        distances = [cosine(a, b) for n, a in enumerate(own) for b in own[:n]]
        assert result.diversity[place] == pytest.approx(np.mean(distances))
        similarities = [
            1 - cosine(own[n], np.delete(own, n, axis=0).mean(axis=0)) for n in range(len(own))
        ]
        assert result.consistency[place] == pytest.approx(np.mean(similarities))
        # The score of the features' covariance, whose eigenvalues are those of the similarities.
        shares = np.linalg.eigvalsh(own.T @ own / len(own))
        entropy = -sum(share * np.log(share) for share in shares if share > 1e-12)
        assert result.vendi[place] == pytest.approx(np.exp(entropy))


def test_repeated_and_perpendicular_images():
    embeddings = np.concatenate([np.tile([[1.0, 0, 0, 0]], (3, 1)), np.eye(4)[1:]])
    result = identity_set(embeddings, np.repeat([0, 1], 3))
    np.testing.assert_allclose(result.diversity, [0, 1], atol=1e-12)
    np.testing.assert_allclose(result.vendi, [1, 3])
    np.testing.assert_allclose(result.consistency, [1, 0], atol=1e-12)


def test_a_second_person_of_one_face_is_not_unique():
    embeddings, identities = people(5, 3, noise=0.01)
    embeddings[identities == 4] = embeddings[identities == 1] + 0.001
    assert identity_set(embeddings, identities).uniqueness == pytest.approx(4 / 5)
    assert identity_set(embeddings, identities, unique_distance=0).uniqueness == 1
    alone = np.concatenate([embeddings, embeddings[:1]])  # One image is a person all the same.
    assert identity_set(alone, np.append(identities, 9)).uniqueness == pytest.approx(4 / 6)


def test_drawn_pairs_say_what_all_pairs_say():
    embeddings, identities = people(20, 10)
    whole = identity_set(embeddings, identities)
    drawn = identity_set(embeddings, identities, max_impostor_pairs=15_000)
    assert drawn.similarity_impostor == pytest.approx(whole.similarity_impostor, abs=0.01)
    assert drawn.similarity_impostor != whole.similarity_impostor
    assert drawn.equal_error_rate == pytest.approx(whole.equal_error_rate, abs=0.01)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="1 of 3 people have two images"):
        identity_set(np.ones((4, 2)), np.array([0, 0, 1, 2]))
    with pytest.raises(ValueError, match=r"identities \[n\], got \(4, 2\) and \(3,\)"):
        identity_set(np.ones((4, 2)), np.ones(3))
    with pytest.raises(ValueError, match="finite numbers"):
        identity_set(np.full((4, 2), np.nan), np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="max_impostor_pairs"):
        identity_set(np.ones((4, 2)), np.array([0, 0, 1, 1]), max_impostor_pairs=0)
