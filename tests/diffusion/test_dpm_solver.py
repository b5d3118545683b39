"""The second-order solver against the exact solution of a Gaussian's probability flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.diffusion.dpm_solver import make_solver_plan, solve
from rlsyn_jax.diffusion.samplers import initial_noise, make_sampling_plan, sample
from rlsyn_jax.diffusion.schedules import make_alpha_bars

LEVELS = make_alpha_bars("cosine", 4000)
SHAPE, IDS, KEY = (2, 2, 1), jnp.arange(4), jax.random.key(0)
MEAN, DEVIATION = 0.3, 0.2
OPTIONS = {"image_shape": SHAPE, "prediction_type": "epsilon", "clip_denoised": False}


def denoise(x, timesteps, labels):
    """The exact estimate of the noise where images are N(MEAN, DEVIATION^2)."""
    del labels
    level = jnp.asarray(LEVELS, jnp.float32)[timesteps][:, None, None, None]
    variance = level * DEVIATION**2 + 1 - level
    return jnp.sqrt(1 - level) * (x - jnp.sqrt(level) * MEAN) / variance


def exact():
    """Along the flow x stays the same number of deviations away from the mean."""
    start = initial_noise(jax.random.split(KEY)[0], IDS, SHAPE)
    level = LEVELS[-1]
    deviations = (start - np.sqrt(level) * MEAN) / np.sqrt(level * DEVIATION**2 + 1 - level)
    return MEAN + DEVIATION * deviations


def error(num_steps, solver):
    if solver:
        plan = make_solver_plan(LEVELS, num_steps=num_steps)
        result = solve(denoise, KEY, IDS, IDS, plan, **OPTIONS)
    else:
        plan = make_sampling_plan(LEVELS, num_steps=num_steps, eta=0.0)
        result = sample(denoise, KEY, IDS, IDS, plan, **OPTIONS)
    return float(jnp.abs(result - exact()).max())


def test_it_comes_to_the_exact_solution_sooner_than_ddim():
    assert error(200, True) < 2e-3
    assert error(50, True) < 0.3 * error(50, False)


def test_a_single_step_is_the_estimate_of_the_image():
    plan = make_solver_plan(LEVELS, num_steps=1)
    assert plan.kept[0] == 0 and plan.image_weight[0] == 1 and plan.extrapolation[0] == 0


def test_too_many_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps must be in 1..4000"):
        make_solver_plan(LEVELS, num_steps=4001)
