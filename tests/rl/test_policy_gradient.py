"""Policy losses against their formulas, their gradients, and the divergence of two Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rl.policy_gradient import (
    clipped_importance_loss,
    kl_to_reference,
    score_function_loss,
)

CLIP = 0.2


@pytest.fixture
def problem():
    generator = np.random.default_rng(7)
    old = generator.normal(size=(3, 6))
    new = old + 0.3 * generator.normal(size=(3, 6))
    advantages = generator.normal(size=6)
    return tuple(jnp.asarray(values, jnp.float32) for values in (new, old, advantages))


def test_clipped_loss_equals_the_formula(problem):
    new, old, advantages = (np.float64(values) for values in problem)
    loss, diagnostics = jax.jit(lambda *a: clipped_importance_loss(*a, CLIP))(*problem)
    terms, outside = [], []
    for step in range(3):
        for sample in range(6):
            ratio = np.exp(new[step, sample] - old[step, sample])
            clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
            terms.append(max(-advantages[sample] * ratio, -advantages[sample] * clipped))
            outside.append(abs(ratio - 1) > CLIP)
    assert loss.shape == () and 0 < sum(outside) < len(outside)
    np.testing.assert_allclose(loss, np.mean(terms), atol=1e-6)
    np.testing.assert_allclose(diagnostics["clip_fraction"], np.mean(outside), atol=1e-6)
    np.testing.assert_allclose(
        diagnostics["approximate_kl"], np.mean((new - old) ** 2) / 2, rtol=1e-5
    )


def test_gradient_is_zero_only_past_the_clip_in_the_wanted_direction():
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1, 0.9])
    advantages = jnp.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    gradient = jax.grad(
        lambda log_prob: clipped_importance_loss(
            log_prob[None], jnp.zeros((1, 6)), advantages, CLIP
        )[0]
    )(jnp.log(ratio))
    expected = np.array([0, 3.0, -1.0, 0, -2.2, 1.8]) / 6  # -A r where it is not clipped.
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_gradient_equals_finite_differences(problem):
    new, old, advantages = problem
    gradient = jax.grad(lambda v: clipped_importance_loss(v, old, advantages, CLIP)[0])(new)
    old64, advantages64 = np.float64(old), np.float64(advantages)

    def loss(values):
        ratio = np.exp(values - old64)
        clipped = np.clip(ratio, 1 - CLIP, 1 + CLIP)
        return np.maximum(-advantages64 * ratio, -advantages64 * clipped).mean()

    for index in np.ndindex(new.shape):
        step = np.zeros(new.shape)
        step[index] = 1e-6
        difference = (loss(np.float64(new) + step) - loss(np.float64(new) - step)) / 2e-6
        np.testing.assert_allclose(gradient[index], difference, atol=1e-6)


def test_first_gradient_equals_the_score_function_gradient(problem):
    new, _, advantages = problem
    clipped = jax.grad(lambda v: clipped_importance_loss(v, new, advantages, 1e-4)[0])(new)
    score = jax.grad(lambda v: score_function_loss(v, advantages)[0])(new)
    np.testing.assert_allclose(clipped, score, atol=1e-7)
    np.testing.assert_allclose(score, np.broadcast_to(-advantages / 18, (3, 6)), atol=1e-7)


def test_score_function_loss_equals_the_formula(problem):
    new, _, advantages = problem
    loss, diagnostics = score_function_loss(new, advantages)
    terms = [-advantages[b] * new[s, b] for s in range(3) for b in range(6)]
    np.testing.assert_allclose(loss, np.mean(terms), atol=1e-6)
    assert diagnostics == {}


def test_old_log_prob_and_advantages_get_no_gradient(problem):
    new, old, advantages = problem
    gradients = jax.grad(
        lambda o, a: clipped_importance_loss(new, o, a, CLIP)[0] + score_function_loss(new, a)[0],
        argnums=(0, 1),
    )(old, advantages)
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("sigma", [0.3, [0.3, 0.7, 1.5, 0.2]])
def test_divergence_equals_the_formula(sigma):
    generator = np.random.default_rng(8)
    mean, reference = generator.normal(size=(2, 4, 2, 3, 3))
    result = kl_to_reference(
        jnp.asarray(mean, jnp.float32), jnp.asarray(reference, jnp.float32), jnp.asarray(sigma)
    )
    assert result.shape == (4,) and result.dtype == jnp.float32
    for sample in range(4):
        deviation = np.broadcast_to(sigma, 4)[sample]
        pixels = (mean[sample] - reference[sample]).ravel()
        expected = sum(pixel**2 / (2 * deviation**2) for pixel in pixels) / 18
        np.testing.assert_allclose(result[sample], expected, rtol=1e-5)


def test_divergence_of_a_step_without_noise_is_zero_with_a_finite_gradient():
    mean, reference = jnp.ones((2, 1, 1, 1)), jnp.zeros((2, 1, 1, 1))
    sigma = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(kl_to_reference(mean, reference, sigma), [0, 0.5])
    gradient = jax.grad(lambda m: kl_to_reference(m, reference, sigma).sum())(mean)
    np.testing.assert_allclose(gradient.ravel(), [0, 1])


def test_refuses_shapes_and_ranges(problem):
    new, old, advantages = problem
    with pytest.raises(ValueError, match=r"advantages \[b\]"):
        clipped_importance_loss(new, old, advantages[:, None], CLIP)
    with pytest.raises(ValueError, match=r"advantages \[b\]"):
        score_function_loss(new[0], advantages)
    with pytest.raises(ValueError, match="shape of the current"):
        clipped_importance_loss(new, old[:1], advantages, CLIP)
    with pytest.raises(ValueError, match="clip_range"):
        clipped_importance_loss(new, old, advantages, 0.0)
    with pytest.raises(ValueError, match="scalar or"):
        kl_to_reference(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(3))
