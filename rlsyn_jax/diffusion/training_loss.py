"""The denoising objective: noise the image, predict the target, weight by signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

PREDICTIONS = ("epsilon", "v")
WEIGHTINGS = ("uniform", "min_snr")


def to_image_and_noise(
    prediction: jax.Array, x: jax.Array, alpha_bar: jax.Array, prediction_type: str
) -> tuple[jax.Array, jax.Array]:
    """Turns the network's output into its estimates of the clean image and of the noise.

    Args:
        prediction: network output [b, h, w, c].
        x: noisy image [b, h, w, c].
        alpha_bar: signal power, broadcastable to x, in (0, 1).
        prediction_type: "epsilon" (noise) or "v" (Salimans & Ho, 2202.00512:
            v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0).

    Returns:
        (x_0 estimate, noise estimate), both [b, h, w, c].
    """
    signal, noise_level = jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
    if prediction_type == "v":
        return signal * x - noise_level * prediction, signal * prediction + noise_level * x
    return (x - noise_level * prediction) / signal, prediction


def snr_weights(
    alpha_bar: jax.Array, weighting: str, gamma: float, prediction_type: str
) -> jax.Array:
    """Returns the loss weight of each timestep, float [b], above 0.

    Args:
        alpha_bar: signal power at the timesteps, float [b] in (0, 1).
        weighting: "uniform" or "min_snr".
        gamma: of min_snr, above 0.
        prediction_type: "epsilon" or "v", whose error is weighted.

    Source of min_snr: Hang et al., 2303.09556: min(SNR, gamma) on the x_0 error, which
    is min(SNR, gamma) / SNR on the noise's error and min(SNR, gamma) / (SNR + 1) on v's.
    """
    if weighting == "uniform":
        return jnp.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return jnp.minimum(snr, gamma) / (snr + 1 if prediction_type == "v" else snr)


def denoising_loss(
    denoise: Callable,
    images: jax.Array,
    class_labels: jax.Array,
    key: jax.Array,
    *,
    alpha_bars: jax.Array,
    num_classes: int,
    class_dropout: float,
    prediction_type: str,
    weighting: str,
    min_snr_gamma: float = 5.0,
    learn_sigma: bool = False,
) -> jax.Array:
    """Returns the weighted denoising error of each image (Ho et al., 2006.11239, eq 14).

    Noise, timestep and dropped label of sample i come from fold_in(key, i), so they do not depend
    on how the batch lies on devices. Timesteps are stratified over the batch: sample i draws
    from the i-th of b equal parts, shifted by one common offset, which lowers the variance.

    Args:
        denoise: (x [b, h, w, c], timesteps [b], labels [b]) -> [b, h, w, c or 2 c].
        images: clean images [b, h, w, c] in [-1, 1].
        class_labels: int [b] in 0..num_classes - 1.
        key: typed random key.
        alpha_bars: float [T].
        num_classes: index of the null class.
        class_dropout: probability of replacing a label by the null class.
        prediction_type: "epsilon" or "v".
        weighting: "uniform" or "min_snr".
        min_snr_gamma: cap of the signal-to-noise ratio in "min_snr".
        learn_sigma: the output holds variance channels too; the variational bound's term trains
            them, with weight 1e-3 and the mean's gradient stopped (Nichol & Dhariwal).

    Returns:
        float32 [b].
    """
    batch, num_timesteps = images.shape[0], alpha_bars.shape[0]
    offset = jax.random.uniform(jax.random.fold_in(key, batch))

    def draw(index):
        noise_key, label_key = jax.random.split(jax.random.fold_in(key, index))
        noise = jax.random.normal(noise_key, images.shape[1:])
        return noise, jax.random.uniform(label_key) < class_dropout

    noise, dropped = jax.vmap(draw)(jnp.arange(batch))
    place = jnp.mod(jnp.arange(batch) / batch + offset, 1.0)
    timesteps = jnp.clip((place * num_timesteps).astype(jnp.int32), 0, num_timesteps - 1)
    labels = jnp.where(dropped, num_classes, class_labels)
    alpha_bar = alpha_bars[timesteps].astype(jnp.float32)[:, None, None, None]  # [b, 1, 1, 1]
    noisy = jnp.sqrt(alpha_bar) * images + jnp.sqrt(1 - alpha_bar) * noise
    output = denoise(noisy, timesteps, labels)
    channels = images.shape[-1]
    if prediction_type == "v":
        target = jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * images
    else:
        target = noise
    error = jnp.mean((output[..., :channels] - target) ** 2, axis=(1, 2, 3))
    weight = snr_weights(alpha_bar[:, 0, 0, 0], weighting, min_snr_gamma, prediction_type)
    loss = weight * error
    if learn_sigma:
        bound = variational_bound(
            output, noisy, images, timesteps, alpha_bars=alpha_bars, prediction_type=prediction_type
        )
        loss = loss + 1e-3 * num_timesteps * bound
    return loss


def learned_log_variance(
    interpolation: jax.Array, timesteps: jax.Array, alpha_bars: jax.Array
) -> jax.Array:
    """Returns the log-variance between the posterior's and beta (Nichol & Dhariwal, eq 15).

    Args:
        interpolation: network channels [b, h, w, c]; -1 is the posterior's variance, 1 is beta.
        timesteps: int [b].
        alpha_bars: float [T].
    """
    previous = jnp.concatenate([jnp.ones(1), alpha_bars[:-1]])
    betas = 1 - alpha_bars / previous
    posterior = betas * (1 - previous) / (1 - alpha_bars)
    # The posterior's variance is 0 at t = 0; the published code clips it to that of t = 1.
    posterior = posterior.at[0].set(posterior[1])
    low = jnp.log(posterior)[timesteps][:, None, None, None]
    high = jnp.log(betas)[timesteps][:, None, None, None]
    fraction = (interpolation + 1) / 2
    return fraction * high + (1 - fraction) * low


def variational_bound(
    output: jax.Array,
    noisy: jax.Array,
    images: jax.Array,
    timesteps: jax.Array,
    *,
    alpha_bars: jax.Array,
    prediction_type: str,
) -> jax.Array:
    """Returns KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in bits per dimension, [b].

    The mean's gradient is stopped, so that only the variance channels learn from it. At t = 0 the
    Gaussian's negative log-density of the clean image is used.

    Args:
        output: of the network, [b, h, w, 2 c]: what prediction_type says, and the interpolation
            between the log-variances that `learned_log_variance` takes.
        noisy: x_t, [b, h, w, c].
        images: x_0, [b, h, w, c] in [-1, 1].
        timesteps: int [b] in 0..T - 1.
        alpha_bars: float [T], falling.
        prediction_type: "epsilon" or "v".

    Source: Nichol & Dhariwal, 2102.09672, eq 4 to 6 and 15.
    """
    channels = images.shape[-1]
    previous = jnp.concatenate([jnp.ones(1), alpha_bars[:-1]])
    betas = 1 - alpha_bars / previous

    def at(values):
        return values[timesteps].astype(jnp.float32)[:, None, None, None]

    alpha_bar, alpha_bar_previous, beta = at(alpha_bars), at(previous), at(betas)
    estimate, _ = to_image_and_noise(
        jax.lax.stop_gradient(output[..., :channels]), noisy, alpha_bar, prediction_type
    )

    def posterior_mean(clean):
        return (
            jnp.sqrt(alpha_bar_previous) * beta * clean
            + jnp.sqrt(1 - beta) * (1 - alpha_bar_previous) * noisy
        ) / (1 - alpha_bar)

    true_log_variance = learned_log_variance(-jnp.ones_like(images), timesteps, alpha_bars)
    log_variance = learned_log_variance(output[..., channels:], timesteps, alpha_bars)
    squared = (posterior_mean(images) - posterior_mean(estimate)) ** 2
    kl = 0.5 * (
        log_variance
        - true_log_variance
        + jnp.exp(true_log_variance - log_variance)
        + squared * jnp.exp(-log_variance)
        - 1
    )
    density = 0.5 * (
        jnp.log(2 * jnp.pi)
        + log_variance
        + (images - posterior_mean(estimate)) ** 2 * jnp.exp(-log_variance)
    )
    first = (timesteps == 0)[:, None, None, None]
    return jnp.mean(jnp.where(first, density, kl), axis=(1, 2, 3)) / jnp.log(2.0)
