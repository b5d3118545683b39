"""Denoising steps against DDIM's and DDPM's own equations; rollouts and what they keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rlsyn_jax.diffusion.samplers import (
    SamplingPlan,
    gaussian_log_prob,
    guided,
    initial_noise,
    make_sampling_plan,
    sample,
    sample_trajectories,
    stochastic_where,
    transition,
)
from rlsyn_jax.diffusion.schedules import make_alpha_bars

ALPHA_BARS = make_alpha_bars("cosine", 40)
SHAPE = (2, 3, 2)
OPTIONS = {"image_shape": SHAPE, "prediction_type": "v", "clip_denoised": False}
ESTIMATION = {"prediction_type": "v", "clip_denoised": False}
LABELS = jnp.array([0, 2, 1, 2, 0])
IDS = jnp.array([7, 3, 11, 0, 4])


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Rollouts of a few numbers spend their time in compiling."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def denoise(x, timesteps, labels):
    condition = 0.02 * timesteps + 0.1 * labels
    return 0.4 * x + jnp.sin(condition)[:, None, None, None]


def signal_levels(plan):
    """Returns alpha_bar of x_t and of x_{t-1} for every step."""
    levels = ALPHA_BARS[np.asarray(plan.timesteps)]
    return levels, np.append(levels[1:], 1.0)


@functools.partial(jax.jit, static_argnames="clip_denoised")
def mean_of_noise(noise, x, step, clip_denoised):
    """Returns a step's mean for a network whose output is `noise`."""
    options = {"prediction_type": "epsilon", "clip_denoised": clip_denoised}
    return transition(lambda *_: noise, x, LABELS, step, **options)


def mean_from(plan, index, x, clean, clip_denoised=False):
    """Returns the package's mean of one step for a network that estimates `clean` at x."""
    level = np.float64(plan.alpha_bar[index])
    noise = (x - np.sqrt(level) * clean) / np.sqrt(1 - level)
    step = jax.tree.map(lambda values: values[index], plan)
    return mean_of_noise(np.float32(noise), np.float32(x), step, clip_denoised)


def images(seed=0, number=2):
    return np.random.default_rng(seed).normal(size=(number, len(LABELS), *SHAPE))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_steps", [1, 6, 39, 40])
def test_ddim_steps_are_equations_12_and_16(eta, num_steps):
    plan = make_sampling_plan(ALPHA_BARS, num_steps=num_steps, eta=eta)
    x, clean = images()
    for index, (now, before) in enumerate(zip(*signal_levels(plan))):
        sigma = eta * np.sqrt((1 - before) / (1 - now)) * np.sqrt(1 - now / before)
        noise = (x - np.sqrt(now) * clean) / np.sqrt(1 - now)
        expected = np.sqrt(before) * clean + np.sqrt(1 - before - sigma**2) * noise
        np.testing.assert_allclose(plan.sigma[index], sigma, atol=1e-6)
        np.testing.assert_allclose(mean_from(plan, index, x, clean), expected, atol=2e-4)
    assert plan.sigma[-1] == 0
    assert (np.asarray(plan.sigma[:-1]) > 0).all() == (eta > 0) or num_steps == 1


def posterior(now, before, x, clean):
    """Equation 7 of Ho et al.: mean and variance of q(x_{t-1} | x_t, x_0)."""
    alpha = now / before
    beta = 1 - alpha
    mean = (
        np.sqrt(before) * beta / (1 - now) * clean + np.sqrt(alpha) * (1 - before) / (1 - now) * x
    )
    return mean, (1 - before) / (1 - now) * beta


@pytest.mark.parametrize("num_steps", [6, 40])
def test_ancestral_steps_are_the_posterior_with_the_larger_variance(num_steps):
    plan = make_sampling_plan(ALPHA_BARS, num_steps=num_steps, eta=0.3, kind="ancestral")
    x, clean = images()
    for index, (now, before) in enumerate(zip(*signal_levels(plan))):
        mean, _ = posterior(now, before, x, clean)
        beta = 1 - now / before if index < num_steps - 1 else 0
        np.testing.assert_allclose(plan.sigma[index], np.sqrt(beta), atol=1e-6)
        np.testing.assert_allclose(mean_from(plan, index, x, clean), mean, atol=2e-4)
    assert plan.sigma[-1] == 0


def test_ddim_with_eta_1_is_the_posterior_with_the_smaller_variance():
    plan = make_sampling_plan(ALPHA_BARS, num_steps=6, eta=1.0)
    x, clean = images()
    for index, (now, before) in enumerate(zip(*signal_levels(plan))):
        mean, variance = posterior(now, before, x, clean)
        np.testing.assert_allclose(plan.sigma[index] ** 2, variance, atol=1e-6)
        np.testing.assert_allclose(mean_from(plan, index, x, clean), mean, atol=2e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 20, 39, 40])
def test_timesteps_fall_evenly_from_the_noisiest_and_never_repeat(num_steps):
    plan = make_sampling_plan(ALPHA_BARS, num_steps=num_steps, eta=1.0)
    timesteps = np.asarray(plan.timesteps)
    assert timesteps.dtype == np.int32 and timesteps.shape == (num_steps,)
    assert timesteps[0] == 39 and timesteps[-1] >= 0
    gaps = -np.diff(timesteps)
    assert num_steps == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    # The way from the last timestep to the clean image is a step like the others.
    assert abs(timesteps[-1] - 40 / num_steps) <= 1
    np.testing.assert_allclose(plan.alpha_bar, ALPHA_BARS[timesteps], rtol=1e-6)
    assert all(values.shape == (num_steps,) for values in plan)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_perfect_denoiser_gives_the_image_back_exactly(kind, num_steps):
    clean = jnp.asarray(images(number=1)[0], jnp.float32)
    levels = jnp.asarray(ALPHA_BARS, jnp.float32)

    def perfect(x, timesteps, labels):
        level = levels[timesteps][:, None, None, None]
        noise = (x - jnp.sqrt(level) * clean) / jnp.sqrt(1 - level)
        return jnp.sqrt(level) * noise - jnp.sqrt(1 - level) * clean if kind == "v" else noise

    plan = make_sampling_plan(ALPHA_BARS, num_steps=num_steps, eta=0.0)
    options = {**OPTIONS, "prediction_type": kind}
    result = jax.jit(lambda: sample(perfect, jax.random.key(1), IDS, LABELS, plan, **options))()
    np.testing.assert_allclose(result, clean, atol=2e-3)


def test_clipping_bounds_the_image_and_keeps_x_between_image_and_noise():
    plan = make_sampling_plan(ALPHA_BARS, num_steps=6, eta=1.0)
    x, clean = images()
    clean = 3 * clean
    now, before = (levels[2] for levels in signal_levels(plan))
    mean = mean_from(plan, 2, x, clean, clip_denoised=True)
    assert (np.abs(clean) > 1).any()
    np.testing.assert_allclose(mean, posterior(now, before, x, np.clip(clean, -1, 1))[0], atol=1e-4)


def test_steps_may_differ_between_the_samples_of_a_batch():
    plan = make_sampling_plan(ALPHA_BARS, num_steps=6, eta=1.0)
    x = jnp.asarray(images()[0], jnp.float32)
    chosen = jnp.array([4, 0, 2, 2, 5])

    def mean(index):
        return transition(
            denoise, x, LABELS, jax.tree.map(lambda values: values[index], plan), **ESTIMATION
        )

    mixed = mean(chosen)
    for row, index in enumerate(chosen):
        np.testing.assert_allclose(mixed[row], mean(index)[row], rtol=1e-6)


def network(params, x, timesteps, labels):
    output = params["scale"] * x + params["rows"][labels][:, None, None, None]
    return jnp.concatenate([output, 100 * output], axis=-1)  # Variance channels behind.


PARAMS = {"scale": jnp.float32(0.7), "rows": jnp.array([0.3, -0.5, 0.9, 2.0])}


def guided_output(params, scale, detached):
    x = jnp.asarray(images()[0], jnp.float32)
    fixed = jax.lax.stop_gradient(params)
    run = guided(
        lambda *inputs: network(params, *inputs),
        3,
        scale,
        SHAPE[-1],
        unconditional=(lambda *inputs: network(fixed, *inputs)) if detached else None,
    )
    return run(x, jnp.full(len(LABELS), 5), LABELS), x


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("detached", [False, True])
def test_guidance_is_the_formula_and_drops_variance_channels(scale, detached):
    output, x = guided_output(PARAMS, scale, detached)
    with_class = 0.7 * x + PARAMS["rows"][LABELS][:, None, None, None]
    without = 0.7 * x + 2.0
    assert output.shape == x.shape
    np.testing.assert_allclose(output, (1 - scale) * without + scale * with_class, atol=1e-5)


def test_guidance_of_the_first_channels_is_that_of_the_published_sampler():
    random = np.random.default_rng(3)
    x = jnp.asarray(random.normal(size=(2, 4, 4, 4)), jnp.float32)
    with_class, without = random.normal(size=(2, 2, 4, 4, 8)).astype(np.float32)

    def published(scale):
        """forward_with_cfg of the published DiT, which keeps the first half of its batch."""
        output = np.concatenate([with_class, without])
        epsilon, rest = output[..., :3], output[..., 3:]
        one, other = np.split(epsilon, 2)
        half = other + scale * (one - other)
        return np.concatenate([np.concatenate([half, half]), rest], axis=-1)[:2, ..., :4]

    def network(x, timesteps, labels):
        one, other = (np.tile(values, (len(x) // 2, 1, 1, 1)) for values in (with_class, without))
        return jnp.where((labels == 9)[:, None, None, None], other, one)

    run = guided(network, 9, 4.0, 4, guidance_channels=3)
    output = run(x, jnp.zeros(2), jnp.array([1, 2]))
    np.testing.assert_allclose(output, published(4.0), atol=1e-5)
    every = guided(network, 9, 4.0, 4)(x, jnp.zeros(2), jnp.array([1, 2]))
    assert not np.allclose(every[..., 3], output[..., 3])
    np.testing.assert_array_equal(every[..., :3], output[..., :3])


@pytest.mark.parametrize(("detached", "of_null", "of_scale"), [(False, -1.5, 1.0), (True, 0, 2.5)])
def test_a_detached_null_branch_gets_no_gradient(detached, of_null, of_scale):
    gradient = jax.grad(lambda params: guided_output(params, 2.5, detached)[0].sum())(PARAMS)
    x, pixels = images()[0], np.prod(SHAPE)
    np.testing.assert_allclose(gradient["rows"][3], of_null * len(LABELS) * pixels, rtol=1e-5)
    np.testing.assert_allclose(gradient["rows"][2], 2.5 * 2 * pixels, rtol=1e-5)
    np.testing.assert_allclose(gradient["scale"], of_scale * x.sum(), rtol=1e-4)


def test_guidance_of_1_evaluates_the_network_once():
    calls = []

    def listen(x, timesteps, labels):
        calls.append(labels.shape)
        return x

    guided(listen, 3, 1.0, 2)(jnp.zeros((5, *SHAPE)), jnp.zeros(5), LABELS)
    guided(listen, 3, 2.0, 2)(jnp.zeros((5, *SHAPE)), jnp.zeros(5), LABELS)
    assert calls == [(5,), (10,)]


@pytest.mark.parametrize("sigma", [0.3, [0.02, 0.3, 1.5, 0.7, 4.0]])
def test_log_density_is_scipy_s(sigma):
    value, mean = images()
    sigma = np.asarray(sigma)
    wide = np.broadcast_to(sigma, len(LABELS))[:, None, None, None]
    density = scipy.stats.norm.logpdf(value, mean, wide).reshape(len(LABELS), -1)
    inputs = [jnp.asarray(values, jnp.float32) for values in (value, mean, sigma)]
    for reduce, expected in (("mean", density.mean(1)), ("sum", density.sum(1))):
        result = gaussian_log_prob(*inputs, reduce)
        assert result.shape == LABELS.shape and result.dtype == jnp.float32
        np.testing.assert_allclose(result, expected, rtol=2e-5)
    np.testing.assert_array_equal(gaussian_log_prob(*inputs), gaussian_log_prob(*inputs, "mean"))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_step_without_noise_has_log_density_zero_and_a_finite_gradient(reduce):
    value, mean = (jnp.asarray(values, jnp.float32) for values in images())
    sigma = jnp.array([0.0, 1.0, 0.0, 2.0, 0.5])
    result = gaussian_log_prob(value, mean, sigma, reduce)
    assert not result[jnp.array([0, 2])].any() and result[jnp.array([1, 3, 4])].all()
    gradient = jax.grad(lambda m: gaussian_log_prob(value, m, sigma, reduce).sum())(mean)
    divisor = np.prod(SHAPE) if reduce == "mean" else 1
    np.testing.assert_array_equal(gradient[0], 0)
    np.testing.assert_allclose(gradient[3], (value[3] - mean[3]) / 4 / divisor, rtol=1e-5)


PLAN = make_sampling_plan(ALPHA_BARS, num_steps=6, eta=1.0)
DETERMINISTIC = make_sampling_plan(ALPHA_BARS, num_steps=6, eta=0.0)


@functools.cache
def rollout_program(log_prob_reduce):
    return jax.jit(
        lambda key, ids, labels, plan, kept: sample_trajectories(
            denoise, key, ids, labels, plan, kept, **OPTIONS, log_prob_reduce=log_prob_reduce
        )
    )


def roll_out(kept, ids=IDS, labels=LABELS, plan=PLAN, seed=3, reduce="mean"):
    return rollout_program(reduce)(jax.random.key(seed), ids, labels, plan, jnp.array([*kept]))


def test_plain_samples_are_a_rollout_s_images():
    plain = jax.jit(lambda *inputs: sample(denoise, *inputs, **OPTIONS))(
        jax.random.key(3), IDS, LABELS, PLAN
    )
    assert plain.shape == (5, *SHAPE)
    np.testing.assert_allclose(plain, roll_out([1, 2, 4]).images, atol=1e-6)


def test_a_rollout_walks_from_noise_to_image():
    whole = roll_out(range(6))
    start, _ = jax.random.split(jax.random.key(3))
    np.testing.assert_array_equal(whole.states[0], initial_noise(start, IDS, SHAPE))
    np.testing.assert_array_equal(whole.states[1:], whole.next_states[:-1])
    np.testing.assert_array_equal(whole.images, whole.next_states[-1])
    noise = []
    for index in range(6):
        step = jax.tree.map(lambda values, index=index: values[index], PLAN)
        mean = transition(denoise, whole.states[index], LABELS, step, **ESTIMATION)
        if index == 5:
            np.testing.assert_allclose(whole.images, mean, atol=1e-6)
            continue
        noise.append((whole.next_states[index] - mean) / step.sigma)
        density = scipy.stats.norm.logpdf(whole.next_states[index], mean, step.sigma)
        np.testing.assert_allclose(whole.log_probs[index], density.mean((1, 2, 3)), atol=1e-3)
    noise = np.stack(noise)
    assert len(np.unique(noise.round(3))) > 0.9 * noise.size
    assert abs(noise.mean()) < 0.2 and noise.std() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(whole.log_probs[5], 0)


@pytest.mark.parametrize("kept", [[0, 1, 2], [1, 2, 4], [2, 4, 5], [3, 4, 5], [5]])
def test_kept_steps_are_those_of_the_whole_rollout(kept):
    whole, part = roll_out(range(6)), roll_out(kept)
    rows = np.array(kept)
    assert part.log_probs.dtype == jnp.float32
    for name in ("states", "next_states", "log_probs"):
        expected = np.asarray(getattr(whole, name))[rows]
        np.testing.assert_allclose(getattr(part, name), expected, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(part.images, whole.images, atol=1e-6)


def test_log_densities_of_a_rollout_are_summed_on_demand():
    mean, total = roll_out([1, 2, 4]), roll_out([1, 2, 4], reduce="sum")
    np.testing.assert_allclose(total.log_probs, np.prod(SHAPE) * mean.log_probs, rtol=1e-5)


def test_noise_of_a_sample_depends_on_its_id_alone():
    whole = roll_out([1, 2, 4])
    rows = np.array([4, 1])
    part = roll_out([1, 2, 4], IDS[rows], LABELS[rows])
    np.testing.assert_allclose(part.images, whole.images[rows], atol=1e-6)
    np.testing.assert_allclose(part.states, whole.states[:, rows], atol=1e-6)
    same = roll_out([1, 2, 4], jnp.array([5, 5, 6, 7, 8]), jnp.zeros(5, int)).images
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    assert np.abs(same[0] - same[2]).min() > 1e-5
    assert np.abs(roll_out([1, 2, 4], seed=4).images - whole.images).max() > 0.1


def test_two_plans_mix_by_step():
    chosen = jnp.array([True, False, False, True, True, False])
    mixed = stochastic_where(chosen, PLAN, DETERMINISTIC)
    assert isinstance(mixed, SamplingPlan)
    for name in SamplingPlan._fields:
        for index in range(6):
            source = PLAN if chosen[index] else DETERMINISTIC
            assert getattr(mixed, name)[index] == getattr(source, name)[index]
    # Noise of the other steps is not drawn: states there follow from those before.
    trajectory = roll_out(range(6), plan=mixed)
    step = jax.tree.map(lambda values: values[1], DETERMINISTIC)
    mean = transition(denoise, trajectory.states[1], LABELS, step, **ESTIMATION)
    np.testing.assert_allclose(trajectory.next_states[1], mean, atol=1e-6)
    np.testing.assert_array_equal(trajectory.log_probs[jnp.array([1, 2, 5])], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, r"num_steps must be in 1\.\.40 .*got 0"),
        ({"num_steps": 41}, "got 41"),
        ({"eta": -0.1}, r"eta must be in \[0, 1\], got -0.1"),
        ({"eta": 1.1}, "got 1.1"),
        ({"kind": "euler"}, "kind must be one of .*'euler'"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampling_plan(ALPHA_BARS, **{"num_steps": 4, "eta": 1.0, **options})
