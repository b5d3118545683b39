"""Losses whose gradient is the policy gradient over denoising steps.

Letter: b transitions, each one denoising step of one sample, with the advantage of its trajectory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_importance_loss(
    log_prob: jax.Array, old_log_prob: jax.Array, advantages: jax.Array, clip_range: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the clipped surrogate of DDPO-IS (Black et al., 2305.13301) and PPO (1707.06347).

    With r = exp(log_prob - old_log_prob) and advantage A the loss is the mean over transitions of
    max(-A r, -A clip(r, 1 - clip_range, 1 + clip_range)). Its gradient is zero where r has already
    left the range in the direction that A asks for.

    Args:
        log_prob: float [b], of the actions under the current policy.
        old_log_prob: float [b], of the same actions under the policy that drew them; it gets no
            gradient.
        advantages: float [b]; they get no gradient.
        clip_range: largest deviation of the ratio from 1, above 0. Log-probabilities that are means
            over D latent dimensions move D times less than their sums: a range of 1e-4 at
            D = 4,096 is one of 0.41 on the joint density, and at D = 1,024 one of 0.10.

    Returns:
        The loss, a float32 scalar, and float32 scalars: "clip_fraction" (share of ratios outside
        the range) and "approximate_kl" (half the mean squared log ratio, as in DDPO's code; where
        log-probabilities are means over pixels it is small by the same token).

    Raises:
        ValueError: if the shapes do not match or clip_range is not above 0.
    """
    ratio, clipped, diagnostics = _ratios(log_prob, old_log_prob, advantages, clip_range)
    advantages = jax.lax.stop_gradient(advantages)
    return jnp.maximum(-advantages * ratio, -advantages * clipped).mean(), diagnostics


def clamped_ratio_loss(
    log_prob: jax.Array, old_log_prob: jax.Array, advantages: jax.Array, clip_range: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the surrogate of DPOK's public code (Fan et al., 2305.16381): -mean(A clip(r)).

    It differs from DDPO-IS in one point: outside the range the gradient is zero whatever the sign
    of the advantage. Within it, on samples of the current policy, it is equation (1) of
    Jia et al., 2604.07884.

    Args, returns and raises: see clipped_importance_loss.
    """
    _, clipped, diagnostics = _ratios(log_prob, old_log_prob, advantages, clip_range)
    return -jnp.mean(jax.lax.stop_gradient(advantages) * clipped), diagnostics


def ratio_deviation(log_prob: jax.Array, old_log_prob: jax.Array, summed: int) -> jax.Array:
    """Returns how far importance ratios are from 1, a dimension.

    Log-probabilities that are sums are in the thousands, where float32 has three decimals, and two
    programs that add them up in another order differ by more: one dimension's share says whether
    they disagree.

    Args:
        log_prob, old_log_prob: float [b].
        summed: dimensions over which they are sums; 1 where they are means.

    Returns:
        float [b], 0 or more.
    """
    return jnp.abs(jnp.expm1((log_prob - old_log_prob) / summed))


def score_function_loss(
    log_prob: jax.Array, advantages: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the score-function (REINFORCE) surrogate, -mean(A log_prob).

    Its gradient is equation (1) of Jia et al., 2604.07884, with a mean over the steps for the
    sum. It is right only on samples of the current policy.

    Args:
        log_prob: float [b], of the actions under the current policy.
        advantages: float [b]; they get no gradient.

    Returns:
        The loss, a float32 scalar, and no diagnostics: there is no older policy to compare with.

    Raises:
        ValueError: if the shapes do not match.
    """
    _check_shapes(log_prob, advantages)
    return -jnp.mean(jax.lax.stop_gradient(advantages) * log_prob), {}


def kl_to_reference(mean: jax.Array, reference_mean: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns the divergence of two Gaussians with one deviation, as a mean over pixels.

    KL(N(mean, sigma^2) || N(reference_mean, sigma^2)) = (mean - reference_mean)^2 / (2 sigma^2)
    for each pixel.

    Args:
        mean: float [b, ...], of the current policy.
        reference_mean: float [b, ...], of the reference.
        sigma: float, scalar or [b]; where it is 0 the step is not part of the policy and the
            result is 0.

    Returns:
        float32 [b], at least 0.

    Raises:
        ValueError: if the shapes do not match.
    """
    if mean.shape != reference_mean.shape or jnp.shape(sigma) not in ((), mean.shape[:1]):
        raise ValueError(
            f"both means must have one shape [b, ...] and sigma must be a scalar or [b]; got "
            f"{mean.shape}, {reference_mean.shape} and {jnp.shape(sigma)}"
        )
    difference = (mean - reference_mean).astype(jnp.float32)
    squares = jnp.mean(difference**2, axis=tuple(range(1, mean.ndim)))  # [b]
    safe = jnp.where(sigma > 0, sigma, 1.0)
    return jnp.where(sigma > 0, squares / (2 * safe**2), 0.0)


def epsilon_divergence(epsilon: jax.Array, reference_epsilon: jax.Array) -> jax.Array:
    """Returns the surrogate of DPOK's public code (2305.16381): mean (eps - eps_ref)^2.

    It is kl_to_reference without the step's factor c^2 / (2 sigma^2), c being the weight of epsilon
    in the mean, so that every step counts alike.

    Args:
        epsilon, reference_epsilon: float [b, ...], estimates of the noise.

    Returns:
        float32 [b], at least 0.

    Raises:
        ValueError: if the shapes do not match.
    """
    if epsilon.shape != reference_epsilon.shape:
        raise ValueError(
            f"both estimates must have one shape, got {epsilon.shape}, {reference_epsilon.shape}"
        )
    difference = (epsilon - reference_epsilon).astype(jnp.float32)
    return jnp.mean(difference**2, axis=tuple(range(1, epsilon.ndim)))


def _ratios(log_prob, old_log_prob, advantages, clip_range):
    """Returns importance ratios [b], the same clipped, and diagnostics without gradient."""
    _check_shapes(log_prob, advantages)
    if old_log_prob.shape != log_prob.shape:
        raise ValueError(
            f"old log-probabilities must have the shape of the current ones, {log_prob.shape}; "
            f"got {old_log_prob.shape}"
        )
    if not clip_range > 0:
        raise ValueError(f"clip_range must be above 0, got {clip_range}")
    log_ratio = log_prob - jax.lax.stop_gradient(old_log_prob)  # [b]
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    diagnostics = {
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > clip_range, dtype=jnp.float32),
        "approximate_kl": 0.5 * jnp.mean(log_ratio**2),
    }
    return ratio, clipped, jax.lax.stop_gradient(diagnostics)


def _check_shapes(log_prob: jax.Array, advantages: jax.Array) -> None:
    if log_prob.ndim != 1 or advantages.shape != log_prob.shape:
        raise ValueError(
            f"log-probabilities and advantages must be [b], got {log_prob.shape} and "
            f"{advantages.shape}"
        )
