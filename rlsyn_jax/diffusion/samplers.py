"""Sampling: DDIM transitions with their log-probabilities, trajectories, and plain samples.

One function, `transition`, gives the Gaussian of a step; the rollout draws from it and the policy
update scores with it, so the two agree. Notation of DDIM (Song et al., 2010.02502):
a_t = alpha_bar, mean = sqrt(a_{t-1}) x_0 + sqrt(1 - a_{t-1} - sigma^2) epsilon  (eq 12),
sigma = eta sqrt((1 - a_{t-1}) / (1 - a_t)) sqrt(1 - a_t / a_{t-1})  (eq 16).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.diffusion.training_loss import to_image_and_noise


class SamplingPlan(NamedTuple):
    """What each of S denoising steps needs, noisiest first; every field is [S]."""

    timesteps: jax.Array
    alpha_bar: jax.Array
    alpha_bar_previous: jax.Array
    sigma: jax.Array


class Trajectory(NamedTuple):
    """A rollout: the states each step consumed, what it produced, and how likely that was.

    states: [S, b, h, w, c] inputs x_t; next_states: [S, b, h, w, c] the x_{t-1} drawn;
    log_probs: float32 [S, b]; images: [b, h, w, c] the last step's result.
    """

    states: jax.Array
    next_states: jax.Array
    log_probs: jax.Array
    images: jax.Array


def make_sampling_plan(alpha_bars: np.ndarray, *, num_steps: int, eta: float) -> SamplingPlan:
    """Lays num_steps evenly spaced DDIM steps over a schedule, ending at the clean image.

    Args:
        alpha_bars: float [T], falling.
        num_steps: 1..T.
        eta: 0 is deterministic, 1 has the variance of ancestral sampling.

    Raises:
        ValueError: num_steps or eta out of range.
    """
    total = len(alpha_bars)
    if not 1 <= num_steps <= total:
        raise ValueError(
            f"num_steps must be in 1..{total} (the schedule's length), got {num_steps}"
        )
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    timesteps = np.round(np.linspace(total - 1, 0, num_steps + 1)[:-1]).astype(np.int32)
    alpha_bar = np.asarray(alpha_bars, np.float64)[timesteps]
    previous = np.append(alpha_bar[1:], 1.0)
    sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar)) * np.sqrt(1 - alpha_bar / previous)
    return SamplingPlan(
        jnp.asarray(timesteps),
        *(jnp.asarray(values, jnp.float32) for values in (alpha_bar, previous, sigma)),
    )


def guided(denoise: Callable, num_classes: int, guidance_scale: float, channels: int) -> Callable:
    """Wraps a network into classifier-free guidance (Ho & Salimans, 2207.12598, as in DiT).

    Args:
        denoise: (x, timesteps, labels) -> [b, h, w, >= channels].
        num_classes: the null class's index.
        guidance_scale: 1 is the conditional model alone (one evaluation instead of two).
        channels: image channels; variance channels behind them are dropped.

    Returns:
        (x, timesteps, labels) -> [b, h, w, channels].
    """
    if guidance_scale == 1.0:
        return lambda x, timesteps, labels: denoise(x, timesteps, labels)[..., :channels]

    def run(x, timesteps, labels):
        both = denoise(
            jnp.concatenate([x, x]),
            jnp.concatenate([timesteps, timesteps]),
            jnp.concatenate([labels, jnp.full_like(labels, num_classes)]),
        )[..., :channels]
        conditional, unconditional = jnp.split(both, 2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return run


def transition(
    denoise: Callable,
    x: jax.Array,
    class_labels: jax.Array,
    step: SamplingPlan,
    *,
    prediction_type: str,
    clip_denoised: bool,
) -> jax.Array:
    """Returns the mean [b, h, w, c] of p(x_{t-1} | x_t, class); its deviation is step.sigma.

    Args:
        denoise: guided network.
        x: x_t [b, h, w, c].
        class_labels: int [b].
        step: one row of a plan (scalars), or rows of one step a sample ([b] each).
        prediction_type: "epsilon" or "v".
        clip_denoised: clip the estimate of x_0 to [-1, 1] and recompute epsilon from it.
    """

    def column(value):
        return jnp.broadcast_to(value, x.shape[:1])[:, None, None, None]

    alpha_bar, previous = column(step.alpha_bar), column(step.alpha_bar_previous)
    sigma = column(step.sigma)
    timesteps = jnp.broadcast_to(step.timesteps, x.shape[:1])
    output = denoise(x, timesteps, class_labels).astype(jnp.float32)
    clean, epsilon = to_image_and_noise(output, x, alpha_bar, prediction_type)
    if clip_denoised:
        clean = jnp.clip(clean, -1.0, 1.0)
        epsilon = (x - jnp.sqrt(alpha_bar) * clean) / jnp.sqrt(1 - alpha_bar)
    direction = jnp.sqrt(jnp.maximum(1 - previous - sigma**2, 0.0))
    return jnp.sqrt(previous) * clean + direction * epsilon


def gaussian_log_prob(
    value: jax.Array, mean: jax.Array, sigma: jax.Array, reduce: str = "mean"
) -> jax.Array:
    """Returns log N(value; mean, sigma^2 I) of each sample, float32 [b].

    Args:
        value, mean: [b, h, w, c].
        sigma: scalar or [b]; where it is 0 the step is not part of the policy and 0 is returned.
        reduce: "mean" over the dimensions (DDPO, DPOK), or "sum" (the joint density).
    """
    sigma = jnp.broadcast_to(sigma, value.shape[:1])[:, None, None, None]
    safe = jnp.where(sigma > 0, sigma, 1.0)
    density = -0.5 * ((value - mean) / safe) ** 2 - jnp.log(safe) - 0.5 * jnp.log(2 * jnp.pi)
    density = jnp.where(sigma > 0, density, 0.0).astype(jnp.float32)
    return (jnp.mean if reduce == "mean" else jnp.sum)(density, axis=(1, 2, 3))


def initial_noise(key: jax.Array, sample_ids: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns unit Gaussian noise [b, *shape]; sample i's depends on its id alone."""
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(sample_ids)


def sample_trajectories(
    denoise: Callable,
    key: jax.Array,
    sample_ids: jax.Array,
    class_labels: jax.Array,
    plan: SamplingPlan,
    *,
    image_shape: tuple[int, int, int],
    prediction_type: str,
    clip_denoised: bool,
    log_prob_reduce: str = "mean",
) -> Trajectory:
    """Rolls the whole denoising out in one scan and keeps every state.

    Args:
        denoise: guided network.
        key: typed random key; noise of step s and sample i comes from (s, sample_ids[i]).
        sample_ids: int [b], global numbers of the samples.
        class_labels: int [b].
        plan: the S steps.
        image_shape: (h, w, c).
    """
    start_key, step_key = jax.random.split(key)
    x = initial_noise(start_key, sample_ids, image_shape)

    def body(x, inputs):
        step, index = inputs
        mean = transition(
            denoise,
            x,
            class_labels,
            step,
            prediction_type=prediction_type,
            clip_denoised=clip_denoised,
        )
        noise = initial_noise(jax.random.fold_in(step_key, index), sample_ids, image_shape)
        following = mean + step.sigma * noise
        return following, (
            x,
            following,
            gaussian_log_prob(following, mean, step.sigma, log_prob_reduce),
        )

    images, (states, next_states, log_probs) = jax.lax.scan(
        body, x, (plan, jnp.arange(plan.timesteps.shape[0]))
    )
    return Trajectory(states, next_states, log_probs, images)


def sample(
    denoise: Callable,
    key: jax.Array,
    sample_ids: jax.Array,
    class_labels: jax.Array,
    plan: SamplingPlan,
    *,
    image_shape: tuple[int, int, int],
    prediction_type: str,
    clip_denoised: bool,
) -> jax.Array:
    """Returns samples [b, h, w, c]; the same numbers as `sample_trajectories`, no states kept."""
    start_key, step_key = jax.random.split(key)

    def body(x, inputs):
        step, index = inputs
        mean = transition(
            denoise,
            x,
            class_labels,
            step,
            prediction_type=prediction_type,
            clip_denoised=clip_denoised,
        )
        noise = initial_noise(jax.random.fold_in(step_key, index), sample_ids, image_shape)
        return mean + step.sigma * noise, None

    x = initial_noise(start_key, sample_ids, image_shape)
    return jax.lax.scan(body, x, (plan, jnp.arange(plan.timesteps.shape[0])))[0]
