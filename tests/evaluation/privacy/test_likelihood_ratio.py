"""LiRA against a plain reading, on classifiers that remember and on ones that cannot."""

import numpy as np
import pytest
from scipy import special, stats

from rlsyn_jax.evaluation.privacy.likelihood_ratio import (
    likelihood_ratio_scores,
    logit_confidence,
    shadow_memberships,
)
from rlsyn_jax.evaluation.privacy.membership import membership_inference


def test_each_image_is_in_half_of_the_shadow_models():
    members = shadow_memberships(300, 6, seed=0)
    assert members.shape == (6, 300) and members.dtype == bool
    np.testing.assert_array_equal(members.sum(axis=0), 3)
    assert abs(members.mean(axis=1) - 0.5).max() < 0.1
    assert len(np.unique(members, axis=1).T) == 20  # 6 over 3: every way comes up.


def test_logit_confidence_is_the_logit_of_the_softmax():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(3, 10, 4)), random.integers(0, 4, 10)
    right = np.take_along_axis(
        special.softmax(logits, axis=-1), np.tile(labels, (3, 1))[..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(logit_confidence(logits, labels), special.logit(right))
    assert logit_confidence(np.array([[900.0, 0, 0]]), [0]) == pytest.approx(900 - np.log(2))


@pytest.mark.parametrize("shared", [False, True])
def test_scores_are_those_of_two_gaussians(shared):
    random = np.random.default_rng(1)
    members = shadow_memberships(20, 10, seed=2)
    shadows = random.normal(size=(10, 20)) + 2 * members
    confidences = random.normal(size=20)
    scores = likelihood_ratio_scores(confidences, shadows, members, shared_variance=shared)
    sides = [
        [shadows[chosen[:, image], image] for image in range(20)] for chosen in (members, ~members)
    ]
    variances = [[values.var(ddof=1) for values in side] for side in sides]
    if shared:  # Sides of equal size: the pooled variance is the mean.
        variances = [[np.mean(side)] * 20 for side in variances]
    for image in range(20):
        inside, outside = (
            stats.norm(side[image].mean(), np.sqrt(variance[image]))
            for side, variance in zip(sides, variances)
        )
        expected = inside.logpdf(confidences[image]) - outside.logpdf(confidences[image])
        assert scores[image] == pytest.approx(expected)
    offline = likelihood_ratio_scores(
        confidences, shadows, members, shared_variance=shared, offline=True
    )
    tails = [
        1 - stats.norm(side.mean(), np.sqrt(variance)).sf(confidence)
        for side, variance, confidence in zip(sides[1], variances[1], confidences)
    ]
    np.testing.assert_allclose(stats.norm.cdf(offline), tails)


def ridge_logits(images, labels, train):
    """Logits of everyone by ridge regression on the images of `train`."""
    targets = 2.0 * np.eye(4)[labels] - 1
    x, y = images[train], targets[train]
    return images @ np.linalg.solve(x.T @ x + 0.1 * np.eye(images.shape[1]), x.T @ y)


@pytest.mark.parametrize(("width", "remembers"), [(400, True), (2, False)])
def test_a_recogniser_that_remembers_is_caught(width, remembers):
    # The labels are noise, so that right answers are remembered ones; two weights hold none.
    random = np.random.default_rng(3)
    images, labels = random.normal(size=(200, width)), random.integers(0, 4, 200)
    members = shadow_memberships(200, 12, seed=4)
    attacked = random.permutation(200) < 100
    confidences = [
        logit_confidence(ridge_logits(images, labels, train), labels)
        for train in (attacked, *members)
    ]
    for offline in (False, True):
        scores = likelihood_ratio_scores(
            confidences[0],
            np.stack(confidences[1:]),
            members,
            offline=offline,
            shared_variance=True,
        )
        result = membership_inference(scores[attacked], scores[~attacked], num_resamples=50)
        if remembers:
            assert result.auc.value > 0.9 and result.true_positive_rate.value > 0.3
        else:
            assert result.auc.value < 0.75


def test_a_recogniser_of_other_images_is_at_chance():
    random = np.random.default_rng(5)
    members = shadow_memberships(300, 8, seed=6)
    shadows = random.normal(size=(8, 300)) + 2 * members
    scores = likelihood_ratio_scores(random.normal(size=300), shadows, members)
    result = membership_inference(scores[:150], scores[150:], num_resamples=50)
    assert result.auc.low < 0.5 < result.auc.high


def test_mistakes_are_told():
    members = np.array([[True, False], [False, True]])
    with pytest.raises(ValueError, match="image 0 has 1 shadow models without it; at least 2"):
        likelihood_ratio_scores(np.ones(2), np.ones((2, 2)), members)
    with pytest.raises(ValueError, match="none has more than one"):
        likelihood_ratio_scores(np.ones(2), np.ones((2, 2)), members, shared_variance=True)
    with pytest.raises(ValueError, match=r"\(2,\), \(2, 3\) and \(2, 2\)"):
        likelihood_ratio_scores(np.ones(2), np.ones((2, 3)), members)
    with pytest.raises(ValueError, match="finite"):
        likelihood_ratio_scores(np.array([1, np.inf]), np.ones((2, 2)), members)
    with pytest.raises(ValueError, match="num_shadows is 3"):
        shadow_memberships(5, 3, seed=0)
    with pytest.raises(ValueError, match=r"labels must be in 0..1, got 0..2"):
        logit_confidence(np.ones((3, 2)), np.arange(3))
    with pytest.raises(ValueError, match="2 classes or more"):
        logit_confidence(np.ones((3, 1)), np.zeros(3, int))
    with pytest.raises(ValueError, match="logits must be finite"):
        logit_confidence(np.full((1, 2), np.nan), [0])
