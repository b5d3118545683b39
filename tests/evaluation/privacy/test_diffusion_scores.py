"""Attacks on generators whose memory is known exactly, and scores against a plain reading."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.diffusion.schedules import linear_alpha_bars
from rlsyn_jax.evaluation.privacy.diffusion_scores import loss_scores, step_error_scores
from rlsyn_jax.evaluation.privacy.membership import membership_inference

ALPHA_BARS = linear_alpha_bars(1000)
SHAPE = (4, 4, 1)
TIMESTEPS = np.arange(50, 600, 50)


def population(seed, number=150):
    """Images of one distribution: correlated Gaussian pixels."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(16, 16)) / 4
    return (random.normal(size=(number, 16)) @ mixing).reshape(number, *SHAPE).astype(np.float32)


def memory_of(train):
    """The denoiser that is best on the training images alone: their posterior mean."""
    train = jnp.asarray(train).reshape(len(train), -1)

    def denoise(x, timesteps, labels):
        alpha_bar = jnp.asarray(ALPHA_BARS, jnp.float32)[timesteps][:, None]
        flat = x.reshape(len(x), -1)
        gaps = jnp.sum((flat[:, None] - jnp.sqrt(alpha_bar)[:, None] * train[None]) ** 2, axis=-1)
        weights = jax.nn.softmax(-gaps / (2 * (1 - alpha_bar)), axis=1)
        clean = weights @ train
        epsilon = (flat - jnp.sqrt(alpha_bar) * clean) / jnp.sqrt(1 - alpha_bar)
        return epsilon.reshape(x.shape)

    return denoise


def smooth(x, timesteps, labels, module=jnp):
    """A network that means nothing, for NumPy or JAX."""
    shift = (timesteps / 100 + labels)[:, None, None, None]
    return module.sin(3 * x + shift)


def scores_of(attack, denoise, images, prediction_type="epsilon"):
    labels = jnp.zeros(len(images), jnp.int32)
    common = {"alpha_bars": ALPHA_BARS, "prediction_type": prediction_type}
    if attack == "loss":
        score = functools.partial(loss_scores, denoise, timesteps=TIMESTEPS, **common)
        return np.asarray(jax.jit(score)(images, labels, jax.random.key(0)))
    score = functools.partial(step_error_scores, denoise, **common)
    return np.asarray(jax.jit(score)(images, labels))


@pytest.mark.parametrize("attack", ["loss", "step_error"])
def test_a_generator_that_memorises_is_caught(attack):
    members, others = population(0), population(1)
    scores = scores_of(attack, memory_of(members), np.concatenate([members, others]))
    result = membership_inference(scores[:150], scores[150:], num_resamples=50)
    assert result.auc.value > 0.95 and result.auc.low > 0.5
    assert result.true_positive_rate.value > 0.5


@pytest.mark.parametrize("attack", ["loss", "step_error"])
def test_a_generator_of_other_images_is_at_chance(attack):
    images = np.concatenate([population(2), population(3)])
    scores = scores_of(attack, memory_of(population(4)), images)
    result = membership_inference(scores[:150], scores[150:], num_resamples=50)
    assert result.auc.low < 0.5 < result.auc.high
    assert result.auc.high - result.auc.low < 0.2
    assert result.true_positive_rate.low <= 0.01


def test_loss_is_the_mean_error_with_one_noise_a_timestep():
    images, labels, key = population(5, 3), np.arange(3), jax.random.key(3)
    timesteps = np.array([30, 400, 400])
    result = loss_scores(
        smooth,
        images,
        labels,
        key,
        alpha_bars=ALPHA_BARS,
        timesteps=timesteps,
        prediction_type="epsilon",
    )
    errors = []
    for number, timestep in enumerate(timesteps):
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, number), SHAPE))
        alpha_bar = ALPHA_BARS[timestep]
        noisy = np.sqrt(alpha_bar) * images + np.sqrt(1 - alpha_bar) * noise
        estimate = smooth(noisy, np.full(3, timestep), labels, np)
        errors.append(np.mean((estimate - noise) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(result, -np.mean(errors, axis=0), rtol=1e-4)


def test_step_error_is_that_of_the_published_steps():
    images, labels = population(7, 4), np.arange(4)

    def step(x, timestep, target):
        epsilon = smooth(x, np.full(4, timestep), labels, np)
        clean = (x - np.sqrt(1 - ALPHA_BARS[timestep]) * epsilon) / np.sqrt(ALPHA_BARS[timestep])
        return np.sqrt(ALPHA_BARS[target]) * clean + np.sqrt(1 - ALPHA_BARS[target]) * epsilon

    x = images.astype(np.float64)
    for timestep in (0, 50, 100):
        x = step(x, timestep, timestep + 50)
    error = step(step(x, 150, 200), 200, 150) - x
    result = step_error_scores(
        smooth,
        images,
        labels,
        alpha_bars=ALPHA_BARS,
        timestep=150,
        interval=50,
        prediction_type="epsilon",
    )
    np.testing.assert_allclose(result, -np.square(error).sum(axis=(1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("attack", ["loss", "step_error"])
def test_what_the_network_predicts_does_not_matter(attack):
    def as_v(x, timesteps, labels):
        # v = sqrt(a) epsilon - sqrt(1 - a) x_0, and x_0 follows from x and epsilon.
        alpha_bar = jnp.asarray(ALPHA_BARS, jnp.float32)[timesteps][:, None, None, None]
        noise = smooth(x, timesteps, labels)
        return (noise - jnp.sqrt(1 - alpha_bar) * x) / jnp.sqrt(alpha_bar)

    images = population(9, 6)
    one, other = scores_of(attack, smooth, images), scores_of(attack, as_v, images, "v")
    np.testing.assert_allclose(one, other, rtol=1e-2)
    assert np.ptp(one) > 0.05 * abs(one).max()


def test_variance_channels_are_not_read():
    images = population(9, 6)

    def with_variance(x, timesteps, labels):
        return jnp.concatenate([smooth(x, timesteps, labels), jnp.ones_like(x)], axis=-1)

    for attack in ("loss", "step_error"):
        np.testing.assert_allclose(
            scores_of(attack, with_variance, images), scores_of(attack, smooth, images), rtol=1e-5
        )


def test_mistakes_are_told():
    arguments = {"alpha_bars": ALPHA_BARS, "prediction_type": "epsilon"}
    images, labels = population(0, 2), jnp.zeros(2, int)
    denoise = memory_of(images)
    with pytest.raises(ValueError, match=r"in 0..999 .*got \[1000\]"):
        loss_scores(denoise, images, labels, jax.random.key(0), timesteps=[1000], **arguments)
    with pytest.raises(ValueError, match=r"got \[\]"):
        loss_scores(denoise, images, labels, jax.random.key(0), timesteps=[], **arguments)
    with pytest.raises(ValueError, match="timestep is 105 and interval 10"):
        step_error_scores(denoise, images, labels, timestep=105, **arguments)
    with pytest.raises(ValueError, match="in 0..999"):
        step_error_scores(denoise, images, labels, timestep=990, **arguments)
