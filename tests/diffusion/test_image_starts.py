"""Starts with real images: where sampling begins, with which image, and what becomes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.diffusion.dpm_solver import make_solver_plan, solve
from rlsyn_jax.diffusion.image_starts import noised_images
from rlsyn_jax.diffusion.samplers import (
    initial_noise,
    make_sampling_plan,
    num_timesteps,
    sample,
    sample_trajectories,
)
from rlsyn_jax.diffusion.schedules import make_alpha_bars
from rlsyn_jax.stages.training_starts import group_by_class

SHAPE, KEY = (2, 2, 1), jax.random.key(4)
LEVELS = make_alpha_bars("cosine", 100)
LABELS = np.array([2, 0, 1, 0, 2, 0])
IMAGES = np.random.default_rng(0).uniform(-1, 1, (len(LABELS), *SHAPE)).astype(np.float32)
OPTIONS = {"image_shape": SHAPE, "prediction_type": "epsilon", "clip_denoised": False}


def starts():
    return group_by_class(IMAGES, LABELS, 3)


def test_images_are_grouped_in_their_order():
    grouped = starts()
    assert grouped.counts.tolist() == [3, 1, 2]
    for label in range(3):
        own = IMAGES[LABELS == label]
        np.testing.assert_array_equal(grouped.images[label, : len(own)], own)
        assert not grouped.images[label, len(own) :].any()
    padded = grouped.padded_to(4)
    assert padded.images.shape == (4, 3, *SHAPE) and padded.counts.tolist() == [3, 1, 2, 1]
    np.testing.assert_array_equal(padded.images[:3], grouped.images)
    with pytest.raises(ValueError, match=r"classes \[3\] have no image"):
        group_by_class(IMAGES, LABELS, 4)


def test_samples_take_the_images_of_their_class_in_turn():
    ids, classes = jnp.arange(24), jnp.repeat(jnp.arange(3), 8)
    level = 0.64
    found = noised_images(starts(), jnp.float32(level))(KEY, ids, classes)
    noise = np.asarray(initial_noise(KEY, ids, SHAPE))
    for row, (number, label) in enumerate(zip(ids.tolist(), classes.tolist(), strict=True)):
        own = IMAGES[LABELS == label]
        expected = 0.8 * own[number % len(own)] + 0.6 * noise[row]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


@pytest.mark.parametrize("strength", [0.03, 0.5, 0.97])
def test_a_plan_covers_its_share_of_the_schedule(strength):
    below = LEVELS[: num_timesteps(100, strength)]
    assert len(below) == round(100 * strength)
    for make, options in ((make_sampling_plan, {"eta": 0.7}), (make_solver_plan, {})):
        cut = make(LEVELS, num_steps=3, strength=strength, **options)
        whole = make(below, num_steps=3, **options)
        jax.tree.map(np.testing.assert_array_equal, cut, whole)
        with pytest.raises(ValueError, match="num_steps must be in 1.."):
            make(LEVELS, num_steps=len(below) + 1, strength=strength, **options)
    for wrong in (0.0, 1.01):
        with pytest.raises(ValueError, match="strength must be in"):
            make_sampling_plan(LEVELS, num_steps=2, eta=0.0, strength=wrong)


@pytest.mark.parametrize("draw", [sample, solve])
def test_who_knows_the_noise_gets_the_image_back(draw):
    """Without the network's errors a deterministic sampler undoes what the start has added."""
    ids, classes = jnp.arange(6), jnp.repeat(jnp.arange(3), 2)
    make, options = {
        sample: (make_sampling_plan, {"eta": 0.0}),
        solve: (make_solver_plan, {}),
    }[draw]
    plan = make(LEVELS, num_steps=5, strength=0.7, **options)
    noise = initial_noise(jax.random.split(KEY)[0], ids, SHAPE)
    start = noised_images(starts(), plan.alpha_bar[0])
    found = draw(lambda x, t, y: noise, KEY, ids, classes, plan, start=start, **OPTIONS)
    expected = noised_images(starts(), jnp.float32(1))(KEY, ids, classes)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_rollout_begins_where_plain_sampling_does():
    ids, classes = jnp.arange(6), jnp.repeat(jnp.arange(3), 2)
    plan = make_sampling_plan(LEVELS, num_steps=4, eta=1.0, strength=0.6)
    start = noised_images(starts(), plan.alpha_bar[0])

    def denoise(x, timesteps, labels):
        return 0.3 * x + 0.1 * labels[:, None, None, None]

    arguments = (denoise, KEY, ids, classes, plan)
    rollout = sample_trajectories(*arguments, jnp.arange(4), start=start, **OPTIONS)
    plain = sample(*arguments, start=start, **OPTIONS)
    np.testing.assert_allclose(rollout.images, plain, atol=1e-6)
    begun = start(jax.random.split(KEY)[0], ids, classes)
    np.testing.assert_allclose(rollout.states[0], begun, atol=1e-6)


def test_samples_may_begin_alike_and_part_by_the_steps_noise():
    ids, classes = jnp.arange(6), jnp.repeat(jnp.arange(2), 3)
    plan = make_sampling_plan(LEVELS, num_steps=4, eta=1.0, strength=0.6)
    start = noised_images(starts(), plan.alpha_bar[0])

    def rollout(begin, **options):
        return sample_trajectories(
            lambda x, timesteps, labels: 0.3 * x,
            KEY,
            ids,
            classes,
            plan,
            jnp.arange(4),
            start=begin,
            **options,
            **OPTIONS,
        )

    for begin in (start, None):
        alike = rollout(begin, start_ids=ids // 3)
        for group in (alike.states[0, :3], alike.states[0, 3:]):
            np.testing.assert_array_equal(group, jnp.broadcast_to(group[0], group.shape))
        assert np.abs(alike.states[0, 0] - alike.states[0, 3]).min() > 0
        for step in (1, 3):
            assert np.abs(np.diff(alike.states[step, :3], axis=0)).min() > 0
        # The steps' own noise is what it is without.
        other = rollout(begin)
        noise = [
            (one.next_states[0] - first_mean(one, plan)) / plan.sigma[0] for one in (alike, other)
        ]
        np.testing.assert_allclose(*noise, atol=1e-4)


def first_mean(trajectory, plan):
    """The first step's mean by the network of 0.3 x, which estimates the noise."""
    x, level = trajectory.states[0], plan.alpha_bar[0]
    clean = (x - jnp.sqrt(1 - level) * 0.3 * x) / jnp.sqrt(level)
    return plan.image_weight[0] * clean + plan.noise_weight[0] * 0.3 * x
