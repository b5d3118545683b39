"""The denoising objective against the papers' formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlsyn_jax.diffusion.training_loss import (
    PREDICTIONS,
    denoising_loss,
    learned_log_variance,
    snr_weights,
    to_image_and_noise,
    variational_bound,
)

STEPS, CLASSES, SHAPE = 10, 7, (6, 4, 2, 3)
ALPHA_BARS = np.linspace(0.95, 0.05, STEPS)
MANY = np.zeros((4000, 2, 2, 1), np.float32)
OPTIONS = {
    "alpha_bars": jnp.asarray(ALPHA_BARS, jnp.float32),
    "num_classes": CLASSES,
    "class_dropout": 0.4,
    "prediction_type": "epsilon",
    "weighting": "uniform",
}


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, SHAPE), jnp.float32)


def v_target(image, noise, alpha_bar):
    return np.sqrt(alpha_bar) * noise - np.sqrt(1 - alpha_bar) * image


def run(denoise, images, seed=0, **options):
    """Returns the loss and what the denoiser was given."""
    seen = []

    def listen(*inputs):
        seen.extend(inputs)
        return denoise(*inputs)

    class_labels = jnp.arange(len(images)) % CLASSES
    loss = denoising_loss(
        listen, images, class_labels, jax.random.key(seed), **{**OPTIONS, **options}
    )
    assert loss.shape == (len(images),) and loss.dtype == jnp.float32
    return loss, *map(np.asarray, seen)


def noise_in(x, images, timesteps):
    alpha_bar = ALPHA_BARS[timesteps][:, None, None, None]
    return (np.float64(x) - np.sqrt(alpha_bar) * images) / np.sqrt(1 - alpha_bar)


def some_denoiser(x, timesteps, labels):
    condition = jnp.cos(timesteps) + 0.1 * labels
    return 0.3 * x + condition[:, None, None, None]


@pytest.mark.parametrize("alpha_bar", [0.999, 0.5, 0.01])
def test_v_and_noise_give_back_image_and_noise(alpha_bar):
    image, noise = np.random.default_rng(1).normal(size=(2, *SHAPE))
    noisy = np.sqrt(alpha_bar) * image + np.sqrt(1 - alpha_bar) * noise
    for kind, prediction in (("epsilon", noise), ("v", v_target(image, noise, alpha_bar))):
        got = to_image_and_noise(prediction, noisy, alpha_bar, kind)
        np.testing.assert_allclose(got[0], image, atol=2e-5)
        np.testing.assert_allclose(got[1], noise, atol=2e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_min_snr_weighs_the_image_s_error_by_the_capped_ratio(kind):
    random = np.random.default_rng(2)
    alpha_bars = np.array([0.999, 0.9, 5 / 6, 0.5, 0.01])
    for alpha_bar in alpha_bars:
        image, noise, error = random.normal(size=(3, 50))
        noisy = np.sqrt(alpha_bar) * image + np.sqrt(1 - alpha_bar) * noise
        target = noise if kind == "epsilon" else v_target(image, noise, alpha_bar)
        if kind == "epsilon":
            estimate = (noisy - np.sqrt(1 - alpha_bar) * (target + error)) / np.sqrt(alpha_bar)
        else:
            estimate = np.sqrt(alpha_bar) * noisy - np.sqrt(1 - alpha_bar) * (target + error)
        ratio = alpha_bar / (1 - alpha_bar)
        expected = min(ratio, 5.0) * np.mean((estimate - image) ** 2)
        weight = snr_weights(jnp.float32(alpha_bar), "min_snr", 5.0, kind)
        np.testing.assert_allclose(weight * np.mean(error**2), expected, rtol=1e-4)
    np.testing.assert_array_equal(snr_weights(jnp.asarray(alpha_bars), "uniform", 5.0, kind), 1)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_loss_equals_the_formula(images, kind, weighting):
    loss, x, timesteps, labels = run(
        some_denoiser, images, prediction_type=kind, weighting=weighting, min_snr_gamma=1.5
    )
    noise = noise_in(x, images, timesteps)
    for i, t in enumerate(timesteps):
        target = v_target(images[i], noise[i], ALPHA_BARS[t]) if kind == "v" else noise[i]
        output = 0.3 * x[i] + np.cos(t) + 0.1 * labels[i]
        ratio = ALPHA_BARS[t] / (1 - ALPHA_BARS[t])
        weight = min(ratio, 1.5) / (ratio + (kind == "v")) if weighting == "min_snr" else 1
        np.testing.assert_allclose(
            loss[i], weight * np.mean((output - target) ** 2), rtol=2e-5, err_msg=f"t = {t}"
        )


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_denoiser_has_no_loss(images, kind):
    def perfect(x, timesteps, labels):
        alpha_bar = OPTIONS["alpha_bars"][timesteps][:, None, None, None]
        noise = (x - jnp.sqrt(alpha_bar) * images) / jnp.sqrt(1 - alpha_bar)
        return (
            jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * images if kind == "v" else noise
        )

    loss, *_ = run(perfect, images, prediction_type=kind, weighting="min_snr")
    np.testing.assert_allclose(loss, 0, atol=1e-10)


def test_noise_is_standard_normal_and_new_for_every_sample_and_key():
    rows = []
    for seed in range(2):
        _, x, timesteps, _ = run(some_denoiser, MANY, seed)
        rows.append(noise_in(x, MANY, timesteps).reshape(len(MANY), -1))
        assert rows[-1].mean() == pytest.approx(0, abs=0.02)
        assert rows[-1].std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(np.concatenate(rows).round(4), axis=0)) == 2 * len(MANY)


def test_noise_and_label_of_a_sample_do_not_depend_on_the_rest_of_the_batch(images):
    _, x, timesteps, labels = run(some_denoiser, images)
    _, first_x, first_timesteps, first_labels = run(some_denoiser, images[:3])
    np.testing.assert_allclose(
        noise_in(first_x, images[:3], first_timesteps),
        noise_in(x, images, timesteps)[:3],
        atol=1e-5,
    )
    np.testing.assert_array_equal(first_labels, labels[:3])


def test_loss_does_not_depend_on_the_number_of_devices():
    images = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (8, 4, 2, 1)), jnp.float32)

    @jax.jit
    def loss(images, labels, key):
        return denoising_loss(some_denoiser, images, labels, key, **OPTIONS)

    results = []
    for devices in (1, 4, 8):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        placed = jax.device_put((images, jnp.arange(8)), NamedSharding(mesh, PartitionSpec("data")))
        key = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
        results.append(loss(*placed, key))
        assert len(results[-1].sharding.device_set) == devices
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5)


def test_timesteps_are_spread_evenly_over_the_batch_and_each_sample_sees_all():
    batch, images = 5, jnp.zeros((5, 1, 1, 1))

    @jax.jit
    @jax.vmap
    def draw(key):
        drawn = []

        def listen(x, timesteps, labels):
            drawn.append(timesteps)
            return x

        denoising_loss(listen, images, jnp.zeros(batch, int), key, **OPTIONS)
        return drawn[0]

    timesteps = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
    assert timesteps.min() == 0 and timesteps.max() == STEPS - 1
    # Ten steps in five equal parts: the next sample is two steps on, but for rounding.
    gaps = np.mod(np.diff(timesteps, axis=1), STEPS)
    assert (gaps == 2).mean() > 0.99
    for sample in range(batch):
        shares = np.bincount(timesteps[:, sample], minlength=STEPS) / len(timesteps)
        np.testing.assert_allclose(shares, 1 / STEPS, atol=0.03)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_labels_are_dropped_to_the_null_class_at_the_asked_share(dropout):
    _, _, _, labels = run(some_denoiser, MANY, class_dropout=dropout)
    dropped = labels == CLASSES
    np.testing.assert_array_equal(labels[~dropped], (np.arange(len(MANY)) % CLASSES)[~dropped])
    assert dropped.mean() == pytest.approx(dropout, abs=0.03 if 0 < dropout < 1 else 0)


def posterior(t):
    """Returns beta_t and the posterior's variance, clipped at t = 0 as published."""
    betas = 1 - ALPHA_BARS / np.array([1, *ALPHA_BARS[:-1]])
    source = max(t, 1)
    variance = betas[source] * (1 - ALPHA_BARS[source - 1]) / (1 - ALPHA_BARS[source])
    return betas[t], variance


def posterior_mean(clean, noisy, t):
    """Equation 7 of Ho et al."""
    beta, before = posterior(t)[0], ALPHA_BARS[t - 1] if t else 1.0
    return (
        np.sqrt(before) * beta / (1 - ALPHA_BARS[t]) * clean
        + np.sqrt(1 - beta) * (1 - before) / (1 - ALPHA_BARS[t]) * noisy
    )


def test_log_variance_interpolates_between_the_posterior_and_beta():
    timesteps = jnp.arange(STEPS)
    for value in (-1.0, 1.0, 0.2):
        result = learned_log_variance(
            jnp.full((STEPS, 1, 1, 1), value), timesteps, OPTIONS["alpha_bars"]
        )
        for t in range(STEPS):
            beta, variance = posterior(t)
            fraction = (value + 1) / 2
            expected = fraction * np.log(beta) + (1 - fraction) * np.log(variance)
            np.testing.assert_allclose(result[t, 0, 0, 0], expected, atol=1e-5)


def bound_problem(kind):
    random = np.random.default_rng(5)
    timesteps = np.array([0, 1, 5, STEPS - 1])
    images, noise, error = random.normal(size=(3, 4, 3, 2, 2))
    alpha_bar = ALPHA_BARS[timesteps][:, None, None, None]
    noisy = np.sqrt(alpha_bar) * images + np.sqrt(1 - alpha_bar) * noise
    target = noise if kind == "epsilon" else v_target(images, noise, alpha_bar)
    interpolation = random.uniform(-1, 1, images.shape)
    return timesteps, images, noisy, target, error, interpolation


def bound(mean_channels, interpolation, noisy, images, timesteps, kind):
    output = jnp.concatenate([mean_channels, interpolation], axis=-1).astype(jnp.float32)
    return variational_bound(
        output,
        jnp.asarray(noisy, jnp.float32),
        jnp.asarray(images, jnp.float32),
        jnp.asarray(timesteps),
        alpha_bars=OPTIONS["alpha_bars"],
        prediction_type=kind,
    )


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_bound_is_the_divergence_of_two_gaussians_in_bits(kind):
    timesteps, images, noisy, target, error, interpolation = bound_problem(kind)
    result = bound(target + error, interpolation, noisy, images, timesteps, kind)
    for i, t in enumerate(timesteps):
        signal, level = np.sqrt(ALPHA_BARS[t]), np.sqrt(1 - ALPHA_BARS[t])
        prediction = target[i] + error[i]
        clean = (
            signal * noisy[i] - level * prediction
            if kind == "v"
            else (noisy[i] - level * prediction) / signal
        )
        beta, variance = posterior(t)
        fraction = (interpolation[i] + 1) / 2
        model_variance = np.exp(fraction * np.log(beta) + (1 - fraction) * np.log(variance))
        model_mean = posterior_mean(clean, noisy[i], t)
        if t == 0:
            nats = 0.5 * np.log(2 * np.pi * model_variance)
            nats = nats + (images[i] - model_mean) ** 2 / (2 * model_variance)
        else:
            gap = (posterior_mean(images[i], noisy[i], t) - model_mean) ** 2
            nats = 0.5 * np.log(model_variance / variance) - 0.5
            nats = nats + (variance + gap) / (2 * model_variance)
        np.testing.assert_allclose(result[i], nats.mean() / np.log(2), rtol=1e-4, err_msg=f"t={t}")


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_bound_is_zero_when_the_prediction_is_the_true_posterior(kind):
    timesteps, images, noisy, target, _, interpolation = bound_problem(kind)
    exact = bound(target, np.full(images.shape, -1.0), noisy, images, timesteps, kind)
    np.testing.assert_allclose(exact[1:], 0, atol=1e-5)
    assert (bound(target, interpolation, noisy, images, timesteps, kind)[1:] > 5e-4).all()


def test_bound_trains_the_variance_and_not_the_mean():
    timesteps, images, noisy, target, error, interpolation = bound_problem("v")
    by_mean, by_variance = jax.grad(
        lambda m, s: bound(m, s, noisy, images, timesteps, "v").sum(), argnums=(0, 1)
    )(jnp.asarray(target + error), jnp.asarray(interpolation))
    assert not np.any(by_mean)
    assert np.abs(by_variance).min() > 0


def test_learned_sigma_adds_the_bound_with_a_weight_of_a_thousandth_per_step(images):
    def denoise(x, timesteps, labels):
        mean = some_denoiser(x, timesteps, labels)
        return jnp.concatenate([mean, 0.1 * x], axis=-1)

    plain, *_ = run(some_denoiser, images, prediction_type="v")
    loss, x, timesteps, labels = run(denoise, images, prediction_type="v", learn_sigma=True)
    output = denoise(x, timesteps, labels)
    term = bound(output[..., :3], output[..., 3:], x, images, timesteps, "v")
    assert np.abs(term).min() > 0
    np.testing.assert_allclose(loss - plain, 1e-3 * STEPS * term, rtol=1e-2, atol=1e-6)
