"""Membership scores of images under a diffusion generator: how well it knows them.

Both are pure functions of a network `denoise` as `diffusion.samplers` takes it, jitted by whoever
owns the loop, and higher for what looks like a member; `membership.membership_inference` measures
them. Random numbers are the same for every image, so that images alone make the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.diffusion.samplers import predict


class _Level(NamedTuple):
    """What `predict` reads of a step: the network's timestep and the signal power there."""

    timesteps: jax.Array
    alpha_bar: jax.Array


def loss_scores(
    denoise: Callable,
    images: jax.Array,
    class_labels: jax.Array,
    key: jax.Array,
    *,
    alpha_bars: np.ndarray,
    timesteps: np.ndarray,
    prediction_type: str,
) -> jax.Array:
    """Minus the error of the noise estimate, averaged over timesteps with fixed noise.

    Args:
        denoise: (x [b, h, w, c], timesteps [b], class_labels [b]) -> [b, h, w, c].
        images: clean images or latents [b, h, w, c], scaled as in training.
        class_labels: int [b], those an attacker would try: the image's own.
        key: typed random key; each of the timesteps has one noise, which all images share.
        alpha_bars: float [T].
        timesteps: int [s], in 0..T - 1; repeated ones get different noise.
        prediction_type: "epsilon" or "v".

    Returns:
        float32 [b], 0 or less.

    Raises:
        ValueError: no timestep, or one out of range.

    Source: Matsumoto et al., Membership Inference Attacks against Diffusion Models, 2023; Carlini
    et al., Extracting Training Data from Diffusion Models, 2023.
    """
    timesteps = np.asarray(timesteps)
    levels = _levels(timesteps, alpha_bars)

    def body(total, inputs):
        level, number = inputs
        noise = jax.random.normal(jax.random.fold_in(key, number), images.shape[1:])
        noisy = jnp.sqrt(level.alpha_bar) * images + jnp.sqrt(1 - level.alpha_bar) * noise
        _, epsilon = _estimates(denoise, noisy, class_labels, level, prediction_type)
        return total + jnp.mean((epsilon - noise) ** 2, axis=(1, 2, 3)), None

    start = jnp.zeros(images.shape[0], jnp.float32)
    total, _ = jax.lax.scan(body, start, (levels, jnp.arange(len(timesteps))))
    return -total / len(timesteps)


def step_error_scores(
    denoise: Callable,
    images: jax.Array,
    class_labels: jax.Array,
    *,
    alpha_bars: np.ndarray,
    timestep: int = 100,
    interval: int = 10,
    prediction_type: str,
) -> jax.Array:
    """Minus SecMI's t-error: how far an image comes back from one step to and fro.

    The image is carried to the timestep by deterministic DDIM steps in reverse, x_0 -> x_t; from
    there one such step on and one back. Where the network knows the image both undo each other.
    With phi(x, s -> t) = sqrt(a_t) f(x, s) + sqrt(1 - a_t) epsilon(x, s), f the estimate of x_0:

        score = -|phi(phi(x_t, t -> t + k), t + k -> t) - x_t|^2

    Args:
        denoise: (x [b, h, w, c], timesteps [b], class_labels [b]) -> [b, h, w, c].
        images: clean images or latents [b, h, w, c], scaled as in training.
        class_labels: int [b].
        alpha_bars: float [T].
        timestep: t, a multiple of the interval; below T - interval.
        interval: k, timesteps of each step, at least 1.
        prediction_type: "epsilon" or "v".

    Returns:
        float32 [b], 0 or less.

    Raises:
        ValueError: a timestep or interval out of range.

    Source: Duan et al., Are Diffusion Models Vulnerable to Membership Inference Attacks?, 2023.
    """
    if interval < 1 or timestep < interval or timestep % interval:
        raise ValueError(
            f"timestep is {timestep} and interval {interval}; the first must be a multiple of the "
            "second, and that at least 1"
        )
    levels = _levels(np.arange(0, timestep + interval + 1, interval), alpha_bars)
    last = len(levels.alpha_bar) - 1  # The step beyond the timestep.

    def at(place):
        return jax.tree.map(lambda values: values[place], levels)

    def step(x, level, alpha_bar):
        clean, epsilon = _estimates(denoise, x, class_labels, level, prediction_type)
        return jnp.sqrt(alpha_bar) * clean + jnp.sqrt(1 - alpha_bar) * epsilon

    def body(x, place):
        return step(x, at(place), levels.alpha_bar[place + 1]), None

    x, _ = jax.lax.scan(body, images.astype(jnp.float32), jnp.arange(last - 1))
    beyond = step(x, at(last - 1), levels.alpha_bar[last])
    back = step(beyond, at(last), levels.alpha_bar[last - 1])
    return -jnp.sum((back - x) ** 2, axis=(1, 2, 3))


def _levels(timesteps: np.ndarray, alpha_bars: np.ndarray) -> _Level:
    timesteps, total = np.asarray(timesteps), len(alpha_bars)
    if not timesteps.size or timesteps.min() < 0 or timesteps.max() >= total:
        raise ValueError(
            f"timesteps must be in 0..{total - 1} (the schedule's length is {total}), got "
            f"{timesteps.tolist()}"
        )
    return _Level(
        jnp.asarray(timesteps, jnp.int32),
        jnp.asarray(np.asarray(alpha_bars, np.float64)[timesteps], jnp.float32),
    )


def _estimates(denoise, x, class_labels, level, prediction_type):
    channels = x.shape[-1]
    return predict(
        # Variance channels behind the image's are not read.
        lambda *inputs: denoise(*inputs)[..., :channels],
        x,
        class_labels,
        level,
        prediction_type=prediction_type,
        clip_denoised=False,
    )
