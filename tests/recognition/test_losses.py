import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlsyn_jax.recognition.losses import (
    arcface_logits,
    batch_hard_triplet,
    circle_logits,
    cosface_logits,
    cross_entropy,
    unit,
)


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


def test_batch_hard_triplet_is_that_of_those_who_count():
    """Copies of the first two, which do not count, would be their nearest positives."""
    random = np.random.default_rng(2)
    features, labels = random.normal(size=(6, 3)), np.array([0, 1, 2, 2, 3, 3])
    alone = brute_force_triplet(features, labels, 5.0)
    assert (alone[:2] == 0).all() and alone[2:].max() > 0
    with_copies = np.concatenate([features, features[:2]])
    labels_of_all = np.concatenate([labels, labels[:2]])
    counted = jnp.arange(8) < 6
    found = batch_hard_triplet(jnp.asarray(with_copies), jnp.asarray(labels_of_all), 5.0, counted)
    np.testing.assert_allclose(found[:6], alone, atol=1e-4)
    assert (batch_hard_triplet(jnp.asarray(with_copies), jnp.asarray(labels_of_all), 5.0) > 0)[0]


def test_who_does_not_count_is_no_negative_either():
    features = jnp.array([[0.0], [1.0], [0.1], [5.0], [6.0]])
    labels, counted = jnp.array([0, 0, 1, 1, 1]), jnp.array([True, True, False, True, True])
    found = batch_hard_triplet(features, labels, 0.5, counted)
    # Of the first, the positive is 1 away and the nearest that counts of others 5.
    assert found[:2].tolist() == [0.0, 0.0]
    only = jnp.array([True, True, False, False, False])
    assert batch_hard_triplet(features, labels, 9.0, only)[:2].tolist() == [0.0, 0.0]


def test_batch_hard_triplet_has_finite_gradients_for_equal_features():
    features = jnp.ones((4, 3))
    labels = jnp.array([0, 0, 1, 1])
    gradient = jax.grad(lambda x: batch_hard_triplet(x, labels, 0.3).mean())(features)
    assert np.isfinite(gradient).all()


# Margins, written out for one sample in float64, in other words than the package's.


def angles(embeddings, weights):
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.arccos(np.clip(embeddings @ (weights / np.linalg.norm(weights, axis=0)), -1, 1))


def softmax_loss(logits, label):
    return np.log(np.exp(logits - logits[label]).sum())


def cosface_loss(theta, label, constant):
    logits = 8.0 * np.cos(theta)
    logits[label] -= 8.0 * 0.2
    return softmax_loss(logits, label)


def arcface_loss(theta, label, constant):
    """Past pi - m as InsightFace has it."""
    logits = 8.0 * np.cos(theta)
    own = theta[label]
    moved = np.cos(own + 0.5) if own + 0.5 < np.pi else np.cos(own) - 0.5 * np.sin(0.5)
    logits[label] = 8.0 * moved
    return softmax_loss(logits, label)


def easy_arcface_loss(theta, label, constant):
    logits = 8.0 * np.cos(theta)
    if theta[label] < np.pi / 2:
        logits[label] = 8.0 * np.cos(theta[label] + 0.5)
    return softmax_loss(logits, label)


def circle_loss(theta, label, constant):
    """Equation 4 for one positive, with equation 5's weights taken from other angles."""
    similarity, fixed = np.cos(theta), np.cos(constant)
    positive = max(0.0, 1.25 - fixed[label]) * (similarity[label] - 0.75)
    negatives = [
        max(0.0, fixed[j] + 0.25) * (similarity[j] - 0.25) for j in range(len(theta)) if j != label
    ]
    return np.log1p(sum(np.exp(8.0 * n) for n in negatives) * np.exp(-8.0 * positive))


MARGINS = {
    "cosface": (cosface_loss, lambda cosine, own: cosface_logits(cosine, own, 8.0, 0.2)),
    "arcface": (arcface_loss, lambda cosine, own: arcface_logits(cosine, own, 8.0, 0.5)),
    "easy_arcface": (
        easy_arcface_loss,
        lambda cosine, own: arcface_logits(cosine, own, 8.0, 0.5, easy_margin=True),
    ),
    "circle": (circle_loss, lambda cosine, own: circle_logits(cosine, own, 8.0, 0.25)),
}


def finite_differences(function, values, size=1e-6):
    gradient = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = size
        gradient[place] = (function(values + step) - function(values - step)) / (2 * size)
    return gradient


@pytest.mark.parametrize("name", MARGINS)
def test_margins_and_their_gradients_are_the_formulas(name):
    formula, logits_of = MARGINS[name]
    random = np.random.default_rng(2)
    embeddings, weights = random.normal(size=(4, 3)), random.normal(size=(3, 5))
    labels = np.array([1, 0, 3, 2])
    # All ways that ArcFace goes: near the own class, off it, and next to its opposite.
    embeddings[0] = weights[:, 1] + 0.1 * random.normal(size=3)
    embeddings[1] = -weights[:, 0] + 0.1 * random.normal(size=3)
    constant = angles(embeddings, weights)

    def reference(embeddings, weights):
        theta = angles(embeddings, weights)
        return np.array([formula(*one) for one in zip(theta, labels, constant)])

    @jax.jit
    def found(embeddings, weights):
        own = labels[:, None] == jnp.arange(5)
        logits = logits_of(unit(embeddings) @ unit(weights, axis=0), own)
        return cross_entropy(logits, jnp.asarray(labels))

    np.testing.assert_allclose(
        found(embeddings, weights), reference(embeddings, weights), rtol=1e-4, atol=1e-4
    )
    gradients = jax.grad(lambda *inputs: found(*inputs).sum(), argnums=(0, 1))(
        jnp.asarray(embeddings, jnp.float32), jnp.asarray(weights, jnp.float32)
    )
    expected = (
        finite_differences(lambda e: reference(e, weights).sum(), embeddings),
        finite_differences(lambda w: reference(embeddings, w).sum(), weights),
    )
    for one, other in zip(gradients, expected):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_batch_hard_triplet_has_the_gradient_of_brute_force():
    features, labels = np.random.default_rng(1).normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    found = jax.grad(lambda x: batch_hard_triplet(x, jnp.asarray(labels), 0.3).sum())(
        jnp.asarray(features, jnp.float32)
    )
    expected = finite_differences(lambda x: brute_force_triplet(x, labels, 0.3).sum(), features)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_margins_of_equal_directions_have_finite_gradients():
    weights = jnp.eye(3)
    own = jnp.eye(3, dtype=bool)

    def loss(embeddings):
        return arcface_logits(unit(embeddings) @ weights, own, 64.0, 0.5).sum()

    assert np.isfinite(jax.grad(loss)(jnp.eye(3))).all()
    assert np.isfinite(jax.grad(loss)(-jnp.eye(3))).all()


def test_unit_has_length_one_and_stands_zeros():
    np.testing.assert_allclose(jnp.linalg.norm(unit(jnp.array([[3.0, 4.0]])), axis=1), 1, rtol=1e-6)
    assert np.isfinite(unit(jnp.zeros((2, 3)))).all()
