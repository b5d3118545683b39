"""Policy losses against their formulas, their gradients, and divergences from a reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rl.policy_gradient import (
    clamped_ratio_loss,
    clipped_importance_loss,
    epsilon_divergence,
    kl_to_reference,
    ratio_deviation,
    score_function_loss,
)

CLIP = 0.2
SURROGATES = {"clipped": clipped_importance_loss, "clamped": clamped_ratio_loss}


@pytest.fixture
def problem():
    generator = np.random.default_rng(7)
    old = generator.normal(size=18)
    new = old + 0.3 * generator.normal(size=18)
    advantages = generator.normal(size=18)
    return tuple(jnp.asarray(values, jnp.float32) for values in (new, old, advantages))


def term(name, ratio, advantage):
    """One transition's loss."""
    clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
    if name == "clamped":
        return -advantage * clipped
    return max(-advantage * ratio, -advantage * clipped)


@pytest.mark.parametrize("name", SURROGATES)
def test_loss_equals_the_formula(problem, name):
    new, old, advantages = (np.float64(values) for values in problem)
    loss, diagnostics = jax.jit(lambda *a: SURROGATES[name](*a, CLIP))(*problem)
    ratios = np.exp(new - old)
    outside = np.abs(ratios - 1) > CLIP
    expected = np.mean([term(name, *pair) for pair in zip(ratios, advantages)])
    assert loss.shape == () and 0 < sum(outside) < len(outside)
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    np.testing.assert_allclose(diagnostics["clip_fraction"], np.mean(outside), atol=1e-6)
    np.testing.assert_allclose(
        diagnostics["approximate_kl"], np.mean((new - old) ** 2) / 2, rtol=1e-5
    )
    assert len(diagnostics) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # -A r where it is not clipped: clamped is flat outside whatever the sign.
        ("clipped", [0, 3.0, -1.0, 0, -2.2, 1.8]),
        ("clamped", [0, 0, 0, 0, -2.2, 1.8]),
    ],
)
def test_gradient_past_the_clip(name, expected):
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1, 0.9])
    advantages = jnp.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    gradient = jax.grad(lambda v: SURROGATES[name](v, jnp.zeros(6), advantages, CLIP)[0])(
        jnp.log(ratio)
    )
    np.testing.assert_allclose(gradient, np.array(expected) / 6, atol=1e-6)


@pytest.mark.parametrize("name", [*SURROGATES, "score"])
def test_gradient_equals_finite_differences(problem, name):
    new, old, advantages = (np.float64(values) for values in problem)

    def loss(values):
        if name == "score":
            return score_function_loss(values, advantages)[0]
        return SURROGATES[name](values, old, advantages, CLIP)[0]

    def formula(values):
        if name == "score":
            return -np.mean(advantages * values)
        return np.mean([term(name, *pair) for pair in zip(np.exp(values - old), advantages)])

    with jax.enable_x64(True):
        gradient = jax.grad(loss)(jnp.asarray(new))
        assert gradient.dtype == jnp.float64
    for index, step in enumerate(1e-6 * np.eye(len(new))):
        difference = (formula(new + step) - formula(new - step)) / 2e-6
        np.testing.assert_allclose(gradient[index], difference, atol=1e-8)
    assert np.count_nonzero(gradient) > 6


@pytest.mark.parametrize("name", SURROGATES)
def test_first_gradient_equals_the_score_function_gradient(problem, name):
    new, _, advantages = problem
    surrogate = jax.grad(lambda v: SURROGATES[name](v, new, advantages, 1e-4)[0])(new)
    score = jax.grad(lambda v: score_function_loss(v, advantages)[0])(new)
    np.testing.assert_allclose(surrogate, score, atol=1e-7)
    np.testing.assert_allclose(score, -advantages / 18, atol=1e-7)


def test_score_function_loss_equals_the_formula(problem):
    new, _, advantages = problem
    loss, diagnostics = score_function_loss(new, advantages)
    np.testing.assert_allclose(loss, -np.mean(np.float64(advantages) * new), atol=1e-6)
    assert diagnostics == {}


@pytest.mark.parametrize("name", SURROGATES)
def test_old_log_prob_and_advantages_get_no_gradient(problem, name):
    new, old, advantages = problem
    gradients = jax.grad(
        lambda o, a: SURROGATES[name](new, o, a, CLIP)[0] + score_function_loss(new, a)[0],
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


def test_epsilon_divergence_is_the_mean_square():
    epsilon, reference = np.random.default_rng(9).normal(size=(2, 4, 2, 3, 3))
    result = epsilon_divergence(*(jnp.asarray(v, jnp.float32) for v in (epsilon, reference)))
    assert result.shape == (4,) and result.dtype == jnp.float32
    for sample in range(4):
        expected = np.mean((epsilon[sample] - reference[sample]) ** 2)
        np.testing.assert_allclose(result[sample], expected, rtol=1e-5)


def test_epsilon_divergence_is_the_kl_without_the_step_s_factor():
    epsilon, reference, clean = jnp.asarray(
        np.random.default_rng(9).normal(size=(3, 4, 2, 3, 3)), jnp.float32
    )
    weight, sigma = 0.4, 0.3
    divergence = kl_to_reference(clean + weight * epsilon, clean + weight * reference, sigma)
    np.testing.assert_allclose(
        divergence, weight**2 / (2 * sigma**2) * epsilon_divergence(epsilon, reference), rtol=1e-4
    )


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_refuse_shapes_and_ranges(problem, name):
    new, old, advantages = problem
    with pytest.raises(ValueError, match=r"advantages must be \[b\]"):
        SURROGATES[name](new, old, advantages[:, None], CLIP)
    with pytest.raises(ValueError, match=r"advantages must be \[b\]"):
        SURROGATES[name](new[None], old[None], advantages[None], CLIP)
    with pytest.raises(ValueError, match="shape of the current"):
        SURROGATES[name](new, old[:1], advantages, CLIP)
    for clip in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="clip_range must be above 0"):
            SURROGATES[name](new, old, advantages, clip)


def test_other_functions_refuse_shapes(problem):
    new, _, advantages = problem
    with pytest.raises(ValueError, match=r"advantages must be \[b\]"):
        score_function_loss(new[:-1], advantages)
    with pytest.raises(ValueError, match="scalar or"):
        kl_to_reference(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(ValueError, match="one shape"):
        kl_to_reference(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones(2))
    with pytest.raises(ValueError, match="one shape"):
        epsilon_divergence(jnp.ones((2, 3)), jnp.ones((2, 1)))


def test_ratios_deviate_by_their_dimensions():
    """3,000 dimensions, each off by 1e-3, or a sum that is rounded where float32 ends."""
    old = jnp.array([-3000.0, 3600.0, -1.0])
    off = ratio_deviation(old + jnp.array([3.0, -3.0, 0.0]), old, 3000)
    np.testing.assert_allclose(off, [1e-3, 1e-3, 0], rtol=1e-2)
    rounded = jnp.nextafter(old, jnp.inf)
    assert ratio_deviation(rounded, old, 3000).max() < 1e-6
    np.testing.assert_allclose(ratio_deviation(old[2:] + 0.02, old[2:], 1), [0.0202], rtol=1e-3)
