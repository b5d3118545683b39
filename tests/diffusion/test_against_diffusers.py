"""Samplers against diffusers' schedulers, with the same network and the same noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.diffusion.dpm_solver import make_solver_plan, solve
from rlsyn_jax.diffusion.image_starts import noised_images
from rlsyn_jax.diffusion.samplers import initial_noise, make_sampling_plan, sample
from rlsyn_jax.diffusion.schedules import linear_alpha_bars
from rlsyn_jax.stages.training_starts import group_by_class

torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install -e '.[bench]'")
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[bench]'")

SHAPE, BATCH, KEY = (4, 4, 2), 3, jax.random.key(1)
LABELS = jnp.arange(BATCH)
SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
OPTIONS = {"image_shape": SHAPE, "prediction_type": "epsilon"}


def network(x, timesteps):
    """About right for images of deviation 0.5, not linear, and another function of each label."""
    level = jnp.asarray(linear_alpha_bars(), jnp.float32)[timesteps][:, None, None, None]
    shift = LABELS[:, None, None, None]
    return jnp.sqrt(1 - level) * x / (0.25 * level + 1 - level) + 0.1 * jnp.sin(3 * x + shift)


def start_and_noises(num_steps):
    """The noise that our samplers draw by KEY: of the start, and of every step."""
    start_key, step_key = jax.random.split(KEY)
    noises = [
        np.array(initial_noise(jax.random.fold_in(step_key, number), LABELS, SHAPE))
        for number in range(num_steps)
    ]
    return np.array(initial_noise(start_key, LABELS, SHAPE)), noises


def by_scheduler(scheduler, options, start=None):
    """Runs diffusers' loop; options(number) are the further arguments of each step."""
    steps = len(scheduler.timesteps)
    x = torch.from_numpy(start_and_noises(0)[0]) if start is None else start
    evaluate = jax.jit(network)
    for number in range(steps):
        timestep = scheduler.timesteps[number]
        output = evaluate(x.numpy(), np.full(BATCH, int(timestep)))
        output = torch.from_numpy(np.array(output))
        x = scheduler.step(output, timestep, x, **options(number)).prev_sample
    return x.numpy()


def by_ours(scheduler, clip, **settings):
    """Runs our sampler at the scheduler's timesteps, as if they were the whole schedule."""
    timesteps = np.sort(scheduler.timesteps.numpy())
    levels = linear_alpha_bars()[timesteps]
    plan = make_sampling_plan(levels, num_steps=len(levels), **settings)

    def denoise(x, index, labels):
        return network(x, jnp.asarray(timesteps)[index])

    return sample(denoise, KEY, LABELS, LABELS, plan, clip_denoised=clip, **OPTIONS)


@pytest.mark.parametrize("num_steps", [10, 50, 250])
@pytest.mark.parametrize(("eta", "clip"), [(0.0, False), (0.6, True), (1.0, False)])
def test_ddim(num_steps, eta, clip):
    scheduler = diffusers.DDIMScheduler(
        **SCHEDULE, clip_sample=clip, timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(num_steps)
    _, noises = start_and_noises(num_steps)

    def options(number):
        noise = torch.from_numpy(noises[number]) if eta else None
        return {"eta": eta, "variance_noise": noise, "use_clipped_model_output": clip}

    expected = by_scheduler(scheduler, options)
    np.testing.assert_allclose(by_ours(scheduler, clip, eta=eta), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [10, 50, 250])
@pytest.mark.parametrize("clip", [False, True])
def test_ancestral_is_ddpm_with_the_larger_variance(num_steps, clip, monkeypatch):
    scheduler = diffusers.DDPMScheduler(
        **SCHEDULE, clip_sample=clip, variance_type="fixed_large", timestep_spacing="leading"
    )
    scheduler.set_timesteps(num_steps)
    noises = iter(start_and_noises(num_steps)[1])
    monkeypatch.setattr(
        diffusers.schedulers.scheduling_ddpm,
        "randn_tensor",
        lambda *shape, **options: torch.from_numpy(next(noises)),
    )
    expected = by_scheduler(scheduler, lambda number: {})
    ours = by_ours(scheduler, clip, eta=1.0, kind="ancestral")
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [10, 50, 250])
def test_dpm_solver(num_steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SCHEDULE, solver_order=2, timestep_spacing="linspace", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(num_steps)
    plan = make_solver_plan(linear_alpha_bars(), num_steps=num_steps)
    np.testing.assert_array_equal(plan.timesteps, scheduler.timesteps.numpy())
    ours = solve(
        lambda x, t, labels: network(x, t),
        KEY,
        LABELS,
        LABELS,
        plan,
        clip_denoised=False,
        **OPTIONS,
    )
    expected = by_scheduler(scheduler, lambda number: {})
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


def test_starting_with_images():
    """The loop of diffusers' image-to-image pipelines, over the timesteps of our plan."""
    plan = make_solver_plan(linear_alpha_bars(), num_steps=12, strength=0.6)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SCHEDULE, solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=plan.timesteps.tolist())
    images = np.random.default_rng(0).normal(0, 0.5, (BATCH, *SHAPE)).astype(np.float32)
    noise, first = torch.from_numpy(start_and_noises(0)[0]), scheduler.timesteps[:1]
    noised = scheduler.add_noise(torch.from_numpy(images), noise, first.repeat(BATCH))
    ours = solve(
        lambda x, t, labels: network(x, t),
        KEY,
        LABELS,
        LABELS,
        plan,
        clip_denoised=False,
        start=noised_images(group_by_class(images, np.arange(BATCH), BATCH), plan.alpha_bar[0]),
        **OPTIONS,
    )
    expected = by_scheduler(scheduler, lambda number: {}, noised)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)
