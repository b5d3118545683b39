"""Losses whose gradient is the policy gradient over denoising steps.

Letters: s denoising steps, b samples. An advantage belongs to a whole trajectory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_importance_loss(
    log_prob: jax.Array, old_log_prob: jax.Array, advantages: jax.Array, clip_range: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the clipped surrogate of DDPO-IS (Black et al., 2305.13301) and PPO (1707.06347).

    With r = exp(log_prob - old_log_prob) and advantage A the loss is the mean over steps and
    samples of max(-A r, -A clip(r, 1 - clip_range, 1 + clip_range)). Its gradient is zero where r
    has already left the range in the direction that A asks for.

    Args:
        log_prob: float [s, b], of the actions under the current policy.
        old_log_prob: float [s, b], of the same actions under the policy that drew them; it gets
            no gradient.
        advantages: float [b]; they get no gradient.
        clip_range: largest deviation of the ratio from 1, above 0.

    Returns:
        The loss, a float32 scalar, and float32 scalars: "clip_fraction" (share of ratios outside
        the range) and "approximate_kl" (half the mean squared log ratio, as in DDPO's code; where
        log-probabilities are means over pixels it is small by the same token).

    Raises:
        ValueError: if the shapes do not match or clip_range is not above 0.
    """
    _check_shapes(log_prob, advantages)
    if old_log_prob.shape != log_prob.shape:
        raise ValueError(
            f"old log-probabilities must have the shape of the current ones, {log_prob.shape}; "
            f"got {old_log_prob.shape}"
        )
    if not clip_range > 0:
        raise ValueError(f"clip_range must be above 0, got {clip_range}")
    advantages = jax.lax.stop_gradient(advantages)[None]  # [1, b]
    log_ratio = log_prob - jax.lax.stop_gradient(old_log_prob)  # [s, b]
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    loss = jnp.maximum(-advantages * ratio, -advantages * clipped).mean()
    diagnostics = {
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > clip_range, dtype=jnp.float32),
        "approximate_kl": 0.5 * jnp.mean(log_ratio**2),
    }
    return loss, jax.lax.stop_gradient(diagnostics)


def score_function_loss(
    log_prob: jax.Array, advantages: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the score-function (REINFORCE) surrogate, -mean(A log_prob).

    Its gradient is equation (1) of Jia et al., 2604.07884, with a mean over the steps for the
    sum. It is right only on samples of the current policy.

    Args:
        log_prob: float [s, b], of the actions under the current policy.
        advantages: float [b]; they get no gradient.

    Returns:
        The loss, a float32 scalar, and no diagnostics: there is no older policy to compare with.

    Raises:
        ValueError: if the shapes do not match.
    """
    _check_shapes(log_prob, advantages)
    return -jnp.mean(jax.lax.stop_gradient(advantages)[None] * log_prob), {}


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


def _check_shapes(log_prob: jax.Array, advantages: jax.Array) -> None:
    if log_prob.ndim != 2 or advantages.shape != log_prob.shape[1:]:
        raise ValueError(
            f"log-probabilities must be [s, b] and advantages [b], got {log_prob.shape} and "
            f"{advantages.shape}"
        )
