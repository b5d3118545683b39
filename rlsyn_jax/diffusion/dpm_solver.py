"""DPM-Solver++ 2M: second-order deterministic sampling for synthesis, in few steps.

Lu et al., 2211.01095, algorithm 2. With a = alpha_bar, l = log sqrt(a / (1 - a)) (half the log
signal-to-noise ratio) and h = l_{t-1} - l_t, one step is

    x_{t-1} = sqrt((1 - a_{t-1}) / (1 - a_t)) x_t + sqrt(a_{t-1}) (1 - exp(-h)) D,
    D = x_0 + h / (2 h') (x_0 - x_0'),

where x_0 is the estimate at x_t, and x_0' and h' are those of the step before. The first step has
none before it, and the last, which ends without noise, is x_0 itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.diffusion.samplers import begin, evenly_spaced, num_timesteps, predict


class SolverPlan(NamedTuple):
    """What each of S steps needs, noisiest first; every field is [S].

    timesteps: int32, of the network. alpha_bar: signal power of x_t. kept: share of x_t.
    image_weight: of D. extrapolation: of x_0 - x_0' in D.
    """

    timesteps: jax.Array
    alpha_bar: jax.Array
    kept: jax.Array
    image_weight: jax.Array
    extrapolation: jax.Array


def make_solver_plan(
    alpha_bars: np.ndarray, *, num_steps: int, strength: float = 1.0
) -> SolverPlan:
    """Lays num_steps evenly spaced steps over a schedule, ending at the clean image.

    Args:
        alpha_bars: float [T], falling.
        num_steps: 1..T.
        strength: share of the schedule that the steps cover, from its clean end on; 1 = all.

    Raises:
        ValueError: num_steps or strength out of range.
    """
    timesteps = evenly_spaced(num_timesteps(len(alpha_bars), strength), num_steps)
    alpha_bar = np.asarray(alpha_bars, np.float64)[timesteps]
    previous = np.append(alpha_bar[1:], 1.0)
    half_log_snr = 0.5 * np.log(alpha_bar / (1 - alpha_bar))
    step_size = np.append(np.diff(half_log_snr), np.inf)  # h
    extrapolation = np.zeros(num_steps)
    # A second-order step needs one before it, and a finite size.
    extrapolation[1:-1] = step_size[1:-1] / (2 * step_size[:-2])
    return SolverPlan(
        jnp.asarray(timesteps),
        *(
            jnp.asarray(values, jnp.float32)
            for values in (
                alpha_bar,
                np.sqrt((1 - previous) / (1 - alpha_bar)),
                np.sqrt(previous) * -np.expm1(-step_size),
                extrapolation,
            )
        ),
    )


def solve(
    denoise: Callable,
    key: jax.Array,
    sample_ids: jax.Array,
    class_labels: jax.Array,
    plan: SolverPlan,
    *,
    image_shape: tuple[int, int, int],
    prediction_type: str,
    clip_denoised: bool,
    start: Callable | None = None,
) -> jax.Array:
    """Returns samples [b, h, w, c] from the initial noise that `samplers.sample` begins with.

    Args:
        denoise: guided network.
        key: typed random key.
        sample_ids: int [b], global numbers of the samples.
        class_labels: int [b].
        plan: the S steps.
        image_shape: (h, w, c).
        prediction_type: "epsilon" or "v".
        clip_denoised: clip the estimates of x_0 to [-1, 1].
        start: as of `samplers.sample_trajectories`.
    """

    def body(carry, step):
        x, before = carry
        clean, _ = predict(
            denoise,
            x,
            class_labels,
            step,
            prediction_type=prediction_type,
            clip_denoised=clip_denoised,
        )
        target = clean + step.extrapolation * (clean - before)
        return (step.kept * x + step.image_weight * target, clean), None

    start_key, _ = jax.random.split(key)
    x = begin(start, start_key, sample_ids, class_labels, image_shape)
    return jax.lax.scan(body, (x, jnp.zeros_like(x)), plan)[0][0]
