"""Sampling: Gaussian denoising steps with their log-probabilities, rollouts, and plain samples.

One function, `transition`, gives the Gaussian of a step; the rollout draws from it and the policy
update scores with it, so the two agree. Every sampler here has a mean linear in the estimates of
image and noise, mean = sqrt(a_{t-1}) x_0 + c epsilon with a_t = alpha_bar, and a deviation sigma:

ddim (Song et al., 2010.02502, eq 12 and 16): c = sqrt(1 - a_{t-1} - sigma^2),
    sigma = eta sqrt((1 - a_{t-1}) / (1 - a_t)) sqrt(1 - a_t / a_{t-1}); eta = 0 is deterministic.
ancestral (Ho et al., 2006.11239, eq 7, with the larger of its two fixed variances):
    c = sqrt(a_t / a_{t-1}) (1 - a_{t-1}) / sqrt(1 - a_t), sigma^2 = 1 - a_t / a_{t-1}; the smaller
    variance is ddim's with eta = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.diffusion.training_loss import to_image_and_noise

TRANSITIONS = ("ddim", "ancestral")


class SamplingPlan(NamedTuple):
    """What each of S denoising steps needs, noisiest first; every field is [S].

    timesteps: int32, of the network. alpha_bar: signal power of x_t. image_weight, noise_weight:
    of the estimates of x_0 and epsilon in the mean. sigma: deviation of x_{t-1}, 0 at the last.
    """

    timesteps: jax.Array
    alpha_bar: jax.Array
    image_weight: jax.Array
    noise_weight: jax.Array
    sigma: jax.Array


class Trajectory(NamedTuple):
    """A rollout: finished images, and what K kept steps consumed, produced and how likely that was.

    states: [K, b, h, w, c] inputs x_t; next_states: [K, b, h, w, c] the x_{t-1} drawn; log_probs:
    float32 [K, b]; images: [b, h, w, c] the last step's result.
    """

    states: jax.Array
    next_states: jax.Array
    log_probs: jax.Array
    images: jax.Array


def make_sampling_plan(
    alpha_bars: np.ndarray,
    *,
    num_steps: int,
    eta: float,
    kind: str = "ddim",
    strength: float = 1.0,
) -> SamplingPlan:
    """Lays num_steps evenly spaced steps over a schedule, ending at the clean image.

    Args:
        alpha_bars: float [T], falling.
        num_steps: 1..T.
        eta: noise of ddim: 0 is deterministic, 1 has the smaller ancestral variance. Not read for
            ancestral steps.
        kind: "ddim" or "ancestral".
        strength: share of the schedule that the steps cover, from its clean end on; 1 = all.

    Raises:
        ValueError: num_steps, eta, kind or strength out of range.
    """
    timesteps = evenly_spaced(num_timesteps(len(alpha_bars), strength), num_steps)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    if kind not in TRANSITIONS:
        raise ValueError(f"kind must be one of {TRANSITIONS}, got {kind!r}")
    alpha_bar = np.asarray(alpha_bars, np.float64)[timesteps]
    previous = np.append(alpha_bar[1:], 1.0)
    if kind == "ddim":
        sigma = eta * np.sqrt((1 - previous) / (1 - alpha_bar)) * np.sqrt(1 - alpha_bar / previous)
        noise_weight = np.sqrt(np.maximum(1 - previous - sigma**2, 0))
    else:
        sigma = np.sqrt(1 - alpha_bar / previous)
        # The last step gives its mean, as in the published samplers.
        sigma[-1] = 0
        noise_weight = np.sqrt(alpha_bar / previous) * (1 - previous) / np.sqrt(1 - alpha_bar)
    return SamplingPlan(
        jnp.asarray(timesteps),
        *(
            jnp.asarray(values, jnp.float32)
            for values in (alpha_bar, np.sqrt(previous), noise_weight, sigma)
        ),
    )


def num_timesteps(total: int, strength: float) -> int:
    """Returns how many of a schedule's timesteps lie below a strength, rounded, at least 1.

    Args:
        total: timesteps of the schedule.
        strength: share of them, in (0, 1].

    Raises:
        ValueError: strength out of (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    return max(1, round(strength * total))


def evenly_spaced(total: int, num_steps: int) -> np.ndarray:
    """Returns num_steps of the timesteps total - 1 .. 0, int32, evenly spaced, noisiest first.

    Args:
        total: timesteps that the steps cover.
        num_steps: 1..total.

    Raises:
        ValueError: num_steps out of 1..total.
    """
    if not 1 <= num_steps <= total:
        raise ValueError(
            f"num_steps must be in 1..{total} (the schedule's length times the strength), got "
            f"{num_steps}"
        )
    # As many steps as timesteps are all of them; down to 0 two would round to one.
    end = 0 if num_steps < total else -1
    return np.round(np.linspace(total - 1, end, num_steps + 1)[:-1]).astype(np.int32)


def stochastic_where(
    chosen: jax.Array, stochastic: SamplingPlan, deterministic: SamplingPlan
) -> SamplingPlan:
    """Mixes two plans of the same timesteps: noise where chosen, none elsewhere (2507.21802).

    Args:
        chosen: bool [S].
        stochastic, deterministic: plans that differ in noise_weight and sigma alone.
    """
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), stochastic, deterministic)


def guided(
    denoise: Callable,
    num_classes: int,
    guidance_scale: float,
    channels: int,
    *,
    guidance_channels: int = 0,
    unconditional: Callable | None = None,
) -> Callable:
    """Wraps a network into classifier-free guidance (Ho & Salimans, 2207.12598, as in DiT).

    Args:
        denoise: (x, timesteps, labels) -> [b, h, w, >= channels].
        num_classes: the null class's index.
        guidance_scale: 1 is the conditional model alone (one evaluation instead of two).
        channels: image channels; variance channels behind them are dropped.
        guidance_channels: the first so many channels are guided, and the others are the conditional
            model's; 0 = all. DiT's published samples are made with the first 3 of 4.
        unconditional: another network for the null class, such as the same one without gradient;
            default denoise, with both classes in one batch.

    Returns:
        (x, timesteps, labels) -> [b, h, w, channels].
    """
    if guidance_scale == 1.0:
        return lambda x, timesteps, labels: denoise(x, timesteps, labels)[..., :channels]

    def run(x, timesteps, labels):
        null = jnp.full_like(labels, num_classes)
        if unconditional is None:
            both = denoise(
                jnp.concatenate([x, x]),
                jnp.concatenate([timesteps, timesteps]),
                jnp.concatenate([labels, null]),
            )[..., :channels]
            with_class, without = jnp.split(both, 2)
        else:
            with_class = denoise(x, timesteps, labels)[..., :channels]
            without = unconditional(x, timesteps, null)[..., :channels]
        output = without + guidance_scale * (with_class - without)
        if not guidance_channels:
            return output
        is_guided = jnp.arange(channels) < guidance_channels
        return jnp.where(is_guided, output, with_class)

    return run


def predict(
    denoise: Callable,
    x: jax.Array,
    class_labels: jax.Array,
    step: NamedTuple,
    *,
    prediction_type: str,
    clip_denoised: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns the estimates of the clean image and of the noise, both float32 [b, h, w, c].

    Args: see `transition`; of the step only timesteps and alpha_bar are read.
    """
    alpha_bar = _column(step.alpha_bar, x)
    timesteps = jnp.broadcast_to(step.timesteps, x.shape[:1])
    output = denoise(x, timesteps, class_labels).astype(jnp.float32)
    clean, epsilon = to_image_and_noise(output, x, alpha_bar, prediction_type)
    if clip_denoised:
        clean = jnp.clip(clean, -1.0, 1.0)
        epsilon = (x - jnp.sqrt(alpha_bar) * clean) / jnp.sqrt(1 - alpha_bar)
    return clean, epsilon


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
        step: one row of a plan (scalars), or one row a sample ([b] each).
        prediction_type: "epsilon" or "v".
        clip_denoised: clip the estimate of x_0 to [-1, 1] and recompute epsilon from it.
    """
    estimates = predict(
        denoise,
        x,
        class_labels,
        step,
        prediction_type=prediction_type,
        clip_denoised=clip_denoised,
    )
    return mean_of(estimates, x, step)


def mean_of(estimates: tuple[jax.Array, jax.Array], x: jax.Array, step: SamplingPlan) -> jax.Array:
    """Returns a step's mean [b, h, w, c] from the estimates of image and noise at x.

    Args:
        estimates: of x_0 and epsilon, [b, h, w, c] each.
        x: x_t [b, h, w, c].
        step: one row of a plan (scalars), or one row a sample ([b] each).
    """
    clean, epsilon = estimates
    return _column(step.image_weight, x) * clean + _column(step.noise_weight, x) * epsilon


def _column(values: jax.Array, x: jax.Array) -> jax.Array:
    """Spreads a scalar or [b] over the axes of x [b, h, w, c]."""
    return jnp.broadcast_to(values, x.shape[:1])[:, None, None, None]


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
    """Returns unit Gaussian noise [b, *shape]; sample i's depends on its id alone.

    Args:
        key: typed random key.
        sample_ids: int [b].
        shape: of one sample.
    """
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(sample_ids)


def begin(
    start: Callable | None,
    key: jax.Array,
    sample_ids: jax.Array,
    class_labels: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Returns the first step's x_t [b, *shape]: what start makes, or noise where it is None.

    Args:
        start: (key, sample_ids, class_labels) -> [b, *shape], or None.
        key: typed random key.
        sample_ids, class_labels: int [b].
        shape: of one sample.
    """
    if start is None:
        return initial_noise(key, sample_ids, shape)
    return start(key, sample_ids, class_labels)


def sample_trajectories(
    denoise: Callable,
    key: jax.Array,
    sample_ids: jax.Array,
    class_labels: jax.Array,
    plan: SamplingPlan,
    kept: jax.Array,
    *,
    image_shape: tuple[int, int, int],
    prediction_type: str,
    clip_denoised: bool,
    log_prob_reduce: str = "mean",
    start: Callable | None = None,
    start_ids: jax.Array | None = None,
) -> Trajectory:
    """Rolls the whole denoising out in one scan and keeps what happened at some steps.

    Args:
        denoise: guided network.
        key: typed random key; noise of step s and sample i comes from (s, sample_ids[i]).
        sample_ids: int [b], global numbers of the samples.
        class_labels: int [b].
        plan: the S steps.
        kept: int [K], the steps to keep, ascending and all different.
        image_shape: (h, w, c).
        prediction_type, clip_denoised: see `transition`.
        log_prob_reduce: see `gaussian_log_prob`.
        start: (key, sample_ids, class_labels) -> the first step's x_t; default noise.
        start_ids: int [b], numbers that starts are told apart by; default sample_ids. Samples of
            one class with one start_id begin alike, and the steps' noise alone sets them apart.

    Returns:
        The kept steps, in their order, and the finished images.
    """
    start_key, step_key = jax.random.split(key)
    start_ids = sample_ids if start_ids is None else start_ids
    x = begin(start, start_key, start_ids, class_labels, image_shape)
    number_kept, batch = kept.shape[0], len(sample_ids)
    # One row more than is kept takes what the other steps write.
    states = jnp.zeros((number_kept + 1, *x.shape), x.dtype)
    log_probs = jnp.zeros((number_kept + 1, batch), jnp.float32)

    def body(carry, inputs):
        x, states, next_states, log_probs = carry
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
        log_prob = gaussian_log_prob(following, mean, step.sigma, log_prob_reduce)
        place = jnp.searchsorted(kept, index)
        is_kept = kept[jnp.minimum(place, number_kept - 1)] == index
        row = jnp.where(is_kept, place, number_kept)

        def put(rows, value):
            return jax.lax.dynamic_update_index_in_dim(rows, value, row, 0)

        carry = (following, put(states, x), put(next_states, following), put(log_probs, log_prob))
        return carry, None

    (images, states, next_states, log_probs), _ = jax.lax.scan(
        body,
        (x, states, states, log_probs),
        (plan, jnp.arange(plan.timesteps.shape[0])),
    )
    return Trajectory(
        states[:number_kept], next_states[:number_kept], log_probs[:number_kept], images
    )


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
    start: Callable | None = None,
    start_ids: jax.Array | None = None,
    remat: bool = False,
) -> jax.Array:
    """Returns samples [b, h, w, c]; the same numbers as `sample_trajectories`, no states kept.

    Args:
        denoise, key, sample_ids, class_labels, plan: see `sample_trajectories`.
        image_shape, prediction_type, clip_denoised, start, start_ids: see there.
        remat: where samples are differentiated, keep each step's x_t alone and compute the rest of
            it again; memory grows then by one image a step and sample.
    """
    start_key, step_key = jax.random.split(key)
    start_ids = sample_ids if start_ids is None else start_ids

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

    x = begin(start, start_key, start_ids, class_labels, image_shape)
    if remat:
        # A scan keeps the compiler from sharing the two passes, as a guard does outside of one.
        body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, x, (plan, jnp.arange(plan.timesteps.shape[0])))[0]
