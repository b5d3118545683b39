import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlsyn_jax.recognition.losses import batch_hard_triplet, cosface_logits, cross_entropy, unit


def test_cross_entropy_is_the_formula():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    for smoothing in (0.0, 0.1):
        target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
        expected = -(target * log_softmax(logits, axis=1)).sum(1)
        found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def brute_force_triplet(features, labels, margin):
    losses = []
    for i in range(len(labels)):
        distances = [np.linalg.norm(features[i] - other) for other in features]
        positives = [d for j, d in enumerate(distances) if labels[j] == labels[i] and j != i]
        negatives = [d for j, d in enumerate(distances) if labels[j] != labels[i]]
        if not positives or not negatives:
            losses.append(0.0)
            continue
        losses.append(max(0.0, margin + max(positives) - min(negatives)))
    return np.array(losses)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0]])
def test_batch_hard_triplet_is_brute_force(labels):
    features = np.random.default_rng(1).normal(size=(6, 3))
    found = batch_hard_triplet(jnp.asarray(features), jnp.asarray(labels), 0.3)
    np.testing.assert_allclose(found, brute_force_triplet(features, labels, 0.3), atol=1e-4)


def test_batch_hard_triplet_has_finite_gradients_for_equal_features():
    features = jnp.ones((4, 3))
    labels = jnp.array([0, 0, 1, 1])
    gradient = jax.grad(lambda x: batch_hard_triplet(x, labels, 0.3).mean())(features)
    assert np.isfinite(gradient).all()


def test_cosface_takes_the_margin_from_the_own_class_only():
    random = np.random.default_rng(2)
    embeddings, weights = random.normal(size=(3, 5)), random.normal(size=(5, 4))
    cosine = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) @ (
        weights / np.linalg.norm(weights, axis=0)
    )
    expected = cosine.copy()
    expected[[0, 1, 2], [1, 0, 3]] -= 0.2
    found = cosface_logits(
        jnp.asarray(embeddings), jnp.asarray(weights), jnp.array([1, 0, 3]), 16.0, 0.2
    )
    np.testing.assert_allclose(found, 16 * expected, rtol=1e-4, atol=1e-4)


def test_unit_has_length_one_and_stands_zeros():
    np.testing.assert_allclose(jnp.linalg.norm(unit(jnp.array([[3.0, 4.0]])), axis=1), 1, rtol=1e-6)
    assert np.isfinite(unit(jnp.zeros((2, 3)))).all()
