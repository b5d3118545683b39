"""Whole iterations: the exact policy gradient, learning, device meshes, and what each part does.

Most tests train a linear denoiser with weights of its own for every step. Then every step is a
Gaussian whose mean is linear in x, the image is Gaussian, and the expectation of a quadratic reward
and its gradient are known.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsyn_jax.diffusion.samplers import make_sampling_plan, stochastic_where
from rlsyn_jax.diffusion.schedules import make_alpha_bars
from rlsyn_jax.models.dit import DiT
from rlsyn_jax.rewards.coverage import distributional_coverage
from rlsyn_jax.rewards.host_callback import on_host
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rewards.richness import expression_richness
from rlsyn_jax.rewards.semantic_consistency import semantic_consistency
from rlsyn_jax.rl.advantages import RunningStatistics, combine_rewards, initial_statistics
from rlsyn_jax.rl.iteration import COMPARING, PolicySettings, PolicyState, make_iteration
from rlsyn_jax.rl.trained_steps import make_step_choice, steps_with_noise
from rlsyn_jax.rl.value_function import ValueNetwork, create_value_state, make_value_optimizer
from rlsyn_jax.stages.training_starts import group_by_class
from rlsyn_jax.training import meshes
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, parameter_shardings, replicated
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split

CLASSES, SHAPE, STEPS = 2, (2, 1, 1), 3
LEVELS = np.linspace(0.97, 0.03, 20)
TARGETS = np.array([0.15, -0.1])
SETTINGS = PolicySettings(
    image_shape=SHAPE,
    num_classes=CLASSES,
    num_identities=CLASSES,
    samples_per_identity=32,
    samples_per_start=1,
    prediction_type="epsilon",
    clip_denoised=False,
    algorithm="ddpo_is",
    guidance_scale=1.0,
    guidance_channels=0,
    unconditional="trained",
    deterministic_elsewhere=False,
    inner_epochs=1,
    minibatches=1,
    micro_batch=64,
    clip_range=0.2,
    log_prob_reduce="sum",
    kl_weight=0.0,
    kl_space="x",
    normalise_over="batch",
    statistics_momentum=0.9,
    baseline="mean",
    deviation_floor=0.0,
    squash="none",
    advantage_clip=100.0,
    value_steps=0,
    ema_decay=0.9,
)
CHOICE = {"choice": "all", "count": 1, "fraction": 1.0, "window_iterations": 1}
# Leaves the parameters and keeps the sum of all gradients.
COLLECT = optax.chain(optax.trace(decay=1.0), optax.scale(0.0))


# Iterations on a few numbers spend their time in compiling.
QUICKLY = {"xla_cpu_use_fusion_emitters": False}


def settings_with(**changes):
    changed = PolicySettings(**{**vars(SETTINGS), **changes})
    if "micro_batch" in changes:
        return changed
    micro_batch = changed.batch_size // changed.minibatches
    return PolicySettings(**{**vars(changed), "micro_batch": micro_batch})


def linear(params, x, timesteps, labels):
    """output = scale x + shift, with weights for each step of PLAN, and of each class."""
    step = jnp.argmax(timesteps[:, None] == PLAN.timesteps, axis=1)
    scale, shift = params["scale"][step], params["shift"][step, labels]
    return scale[:, None, None, None] * x + shift[:, None, None, None]


def joined(trained, frozen):
    return {**frozen, **trained}


def pixels(images):
    return images.reshape(len(images), -1)


def closeness(embeddings, bank):
    """Minus the mean squared distance from the identity's target."""
    targets = jnp.asarray(TARGETS, jnp.float32)[bank.identities][:, None, None]
    return -jnp.mean((embeddings - targets) ** 2, axis=-1)


def make_plan():
    """Three steps with noise in the last too, so that all of the policy is random."""
    plan = make_sampling_plan(LEVELS, num_steps=STEPS, eta=1.0)
    return plan._replace(sigma=jnp.array([0.25, 0.2, 0.15]))


PLAN = make_plan()
WITHOUT_NOISE = PLAN._replace(noise_weight=PLAN.noise_weight + 0.1, sigma=jnp.zeros(STEPS))


def coefficients(plan):
    """Returns what x and the network's output are multiplied with in each step's mean."""
    level, image, noise = (
        np.float64(values) for values in (plan.alpha_bar, plan.image_weight, plan.noise_weight)
    )
    return image / np.sqrt(level), noise - image * np.sqrt(1 - level) / np.sqrt(level)


def make_params():
    """Returns weights that halve x in each step, with some offset."""
    of_x, of_output = coefficients(PLAN)
    offset = np.array([[0.06, -0.04, 0.02], [-0.05, 0.03, 0.04], [0.04, 0.05, -0.06]])
    return {
        "scale": jnp.asarray((0.5 - of_x) / of_output, jnp.float32),
        "shift": jnp.asarray(offset / of_output[:, None], jnp.float32),
    }


def expected_reward(params, guidance=1.0, plan=PLAN, grey=None):
    """Carries mean and variance of a pixel through the steps; every class counts alike.

    Rollouts begin with noise, or with an image of each class that is all of one grey.
    """
    (of_x, of_output), sigma = coefficients(plan), np.float64(plan.sigma)
    total = 0.0
    for label in range(CLASSES):
        mean, variance = 0.0, 1.0
        if grey is not None:
            level = float(plan.alpha_bar[0])
            mean, variance = np.sqrt(level) * grey[label], 1 - level
        for step in range(STEPS):
            null = params["shift"][step, CLASSES]
            shift = null + guidance * (params["shift"][step, label] - null)
            gain = of_x[step] + of_output[step] * params["scale"][step]
            mean = gain * mean + of_output[step] * shift
            variance = gain**2 * variance + sigma[step] ** 2
        total -= ((mean - TARGETS[label]) ** 2 + variance) / CLASSES
    return total


def exact_gradient(params, **options):
    gradient = {}
    for name in params:
        gradient[name] = np.zeros_like(params[name])
        for index in np.ndindex(params[name].shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = {key: value.copy() for key, value in params.items()}
                moved[name][index] += step
                values.append(expected_reward(moved, **options))
            gradient[name][index] = (values[0] - values[1]) / 2e-5
    return gradient


def float64(tree):
    return jax.tree.map(np.float64, tree)


def make_run(
    settings,
    *,
    whole_sets=None,
    trained=None,
    frozen=None,
    reference=None,
    apply=linear,
    merge=joined,
    embed=pixels,
    rewards=None,
    weights=None,
    optimizer=COLLECT,
    devices=1,
    fsdp=1,
    plan=PLAN,
    deterministic_plan=WITHOUT_NOISE,
    floor=0.0,
    statistics=None,
    value_rate=1e-2,
    bank=None,
    starts=None,
    thoroughly=False,
    **choice,
):
    """Returns an iteration with its state and inputs on a mesh, and `step` that runs it.

    `thoroughly` runs what a real run does; else XLA is told to compile quickly.
    """
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    whole = replicated(mesh)
    rewards = {"only": closeness} if rewards is None else rewards
    number, choose = make_step_choice(
        candidates=steps_with_noise(np.asarray(plan.sigma), floor), **{**CHOICE, **choice}
    )
    trained = make_params() if trained is None else trained
    trained = jax.device_put(trained, parameter_shardings(mesh, trained))
    frozen = jax.device_put(frozen or {}, whole)
    reference = jax.device_put(reference or {}, whole)
    if bank is None:
        features = np.random.default_rng(1).normal(size=(settings.num_classes, 2))
        bank = build_reference_bank(features, np.arange(settings.num_classes), settings.num_classes)
    bank = jax.device_put(bank.padded_to(mesh.size), batch_sharding(mesh))
    value_optimizer = make_value_optimizer(value_rate)
    value = None
    if settings.value_steps:
        network, shape = ValueNetwork(settings.num_classes), settings.image_shape
        value = jax.jit(lambda key: create_value_state(network, value_optimizer, key, shape))(
            jax.random.key(5)
        )
    key = jax.device_put(jax.random.key(3), whole)
    state = create_train_state(trained, optimizer, key, mesh)
    extra = {"statistics": statistics or initial_statistics(list(rewards)), "value": value}
    state = PolicyState(**vars(state), **jax.device_put(extra, whole))
    iteration = make_iteration(
        apply,
        merge,
        lambda _, samples: embed(jnp.clip(samples, -1, 1)),
        rewards,
        weights or {name: 1.0 for name in rewards},
        optimizer,
        mesh,
        settings,
        plan=plan,
        deterministic_plan=deterministic_plan,
        num_trained_steps=number,
        choose_steps=choose,
        whole_sets=whole_sets,
        value_optimizer=value_optimizer,
    )
    if starts is not None:
        starts = jax.device_put(starts.padded_to(mesh.size), batch_sharding(mesh))
    inputs = (frozen, reference, bank, {}, starts)
    program = iteration
    if not thoroughly:
        program = iteration.lower(state, *inputs).compile(QUICKLY)
    return types.SimpleNamespace(
        iteration=iteration,
        program=program,
        state=state,
        inputs=inputs,
        step=lambda state: program(state, *inputs),
    )


def iterate(run, number):
    """Returns the last state and the metrics of each iteration, as numbers."""
    state, records = run.state, []
    for _ in range(number):
        state, metrics = run.step(state)
        records.append({name: float(value) for name, value in metrics.items()})
    return state, records


def untouched_rewards(mean):
    """Statistics that leave rewards as they are, but for a constant baseline."""
    return RunningStatistics(
        jnp.int32(2**30), {"only": jnp.float32(mean)}, {"only": jnp.float32(1)}
    )


UNTOUCHED = {"normalise_over": "running", "statistics_momentum": 1 - 2**-20}


def sampled_gradients(run, number):
    """Returns the gradient of the loss of each iteration, {name: [number, ...]}."""
    state, sums = run.state, [jax.tree.map(np.zeros_like, make_params())]
    for _ in range(number):
        state, _ = run.step(state)
        sums.append(float64(state.opt_state[0].trace))
    return {name: np.diff([total[name] for total in sums], axis=0) for name in sums[0]}


def agree(sampled, exact, factor, steps=range(STEPS)):
    """Checks that gradients of the loss are on average minus the exact ones over `factor`.

    A step counts in the iterations that train it.
    """
    for step in steps:
        ascent = -factor * np.concatenate(
            [values[:, step].reshape(len(values), -1) for values in sampled.values()], axis=1
        )
        ascent = ascent[ascent.any(axis=1)]
        wanted = np.concatenate([values[step].ravel() for values in exact.values()])
        deviation = np.maximum(ascent.std(axis=0, ddof=1) / np.sqrt(len(ascent)), 1e-9)
        errors = (ascent.mean(axis=0) - wanted) / deviation
        assert np.abs(errors).max() < 3.5, (step, errors)
        # A factor of 1.2 would be seen in every step.
        assert np.abs(wanted / deviation).max() > 20, (step, wanted / deviation)


@pytest.mark.parametrize(
    ("changes", "choice", "factor"),
    [
        # The loss is a mean over the trained steps and, on demand, over the pixels.
        ({"algorithm": "ddpo_sf"}, {}, 3),
        ({"algorithm": "ddpo_is"}, {}, 3),
        ({"algorithm": "dpok"}, {}, 3),
        ({"log_prob_reduce": "mean", "micro_batch": 1024}, {}, 3 * 2),
        ({"guidance_scale": 1.8}, {}, 3),
        ({"samples_per_start": 4}, {}, 3),
        ({}, {"choice": "random"}, 1),
        ({"algorithm": "pathwise"}, {}, 1),
        ({"algorithm": "pathwise", "guidance_scale": 1.8}, {}, 1),
    ],
)
def test_gradient_is_that_of_the_expected_reward(changes, choice, factor):
    params = float64(make_params())
    guidance = {"guidance": changes.get("guidance_scale", 1.0)}
    exact = exact_gradient(params, **guidance)
    run = make_run(
        settings_with(samples_per_identity=2048, **UNTOUCHED, **changes),
        statistics=untouched_rewards(expected_reward(params, **guidance)),
        **choice,
    )
    agree(sampled_gradients(run, 32), exact, factor)


@pytest.mark.parametrize(("algorithm", "factor"), [("ddpo_is", 3), ("pathwise", 1)])
def test_gradient_is_exact_where_rollouts_begin_with_images(algorithm, factor):
    params, grey = float64(make_params()), np.array([0.8, -0.6], np.float32)
    # Where the first step's input is mostly image, so that it matters.
    plan = PLAN._replace(alpha_bar=PLAN.alpha_bar.at[0].set(0.7))
    images = np.broadcast_to(grey[:, None, None, None], (CLASSES, *SHAPE))
    run = make_run(
        settings_with(samples_per_identity=2048, algorithm=algorithm, **UNTOUCHED),
        statistics=untouched_rewards(expected_reward(params, plan=plan, grey=grey)),
        plan=plan,
        starts=group_by_class(images, np.arange(CLASSES), CLASSES),
        devices=8,
    )
    exact = exact_gradient(params, plan=plan, grey=grey)
    # Another start would be seen.
    other = exact_gradient(params, plan=plan)
    assert np.abs(other["shift"] - exact["shift"]).max() > 0.1 * np.abs(exact["shift"]).max()
    agree(sampled_gradients(run, 32), exact, factor)


def test_through_the_steps_the_same_samples_tell_more():
    spread, mean = {}, expected_reward(float64(make_params()))
    for algorithm, factor in (("ddpo_is", 3), ("pathwise", 1)):
        settings = settings_with(samples_per_identity=256, algorithm=algorithm, **UNTOUCHED)
        run = make_run(settings, statistics=untouched_rewards(mean))
        spread[algorithm] = factor * sampled_gradients(run, 32)["shift"][..., :CLASSES].std(axis=0)
    assert (spread["pathwise"] < 0.5 * spread["ddpo_is"]).all()


def test_gradient_is_exact_where_other_steps_are_deterministic():
    params, chosen = float64(make_params()), jnp.array([True, True, False])
    mixed = stochastic_where(chosen, PLAN, WITHOUT_NOISE)
    run = make_run(
        settings_with(samples_per_identity=2048, deterministic_elsewhere=True, **UNTOUCHED),
        statistics=untouched_rewards(expected_reward(params, plan=mixed)),
        choice="noisiest",
        count=2,
    )
    sampled = sampled_gradients(run, 32)
    agree(sampled, exact_gradient(params, plan=mixed), 2, steps=[0, 1])
    assert not sampled["scale"][:, 2].any() and not sampled["shift"][:, 2].any()


def test_a_detached_null_row_gets_no_gradient():
    settings = {"guidance_scale": 1.8, "unconditional": "detached"}
    gradients = sampled_gradients(make_run(settings_with(**settings)), 1)
    assert not gradients["shift"][0, :, CLASSES].any()
    assert np.abs(gradients["shift"][0, :, :CLASSES]).min() > 0.05


def test_advantages_are_those_of_the_settings():
    seen = []

    @on_host
    def listening(embeddings, features, mask, identities):
        values = np.exp(embeddings[..., 0]) * (1 + identities[:, None])
        seen.append(values)
        return values

    settings = {"baseline": "leave_one_out", "deviation_floor": 0.8, "squash": "none"}
    settings |= {"normalise_over": "identity", "advantage_clip": 0.9}
    run = make_run(settings_with(**settings), rewards={"only": listening})
    _, (record,) = iterate(run, 1)
    _, expected = combine_rewards(
        {"only": jnp.asarray(seen[-1])},
        {"only": 1.0},
        scope="identity",
        baseline="leave_one_out",
        deviation_floor=0.8,
        squash="none",
        clip=0.9,
    )
    for name, value in expected.items():
        assert record[name] == pytest.approx(float(value), rel=1e-4), name


# Far from the targets, with the weights of x frozen.
FAR = {"shift": make_params()["shift"] - jnp.asarray(0.25 / coefficients(PLAN)[1])[:, None]}
FROZEN = {"scale": make_params()["scale"]}
NUMBER = 40


@functools.cache
def learned(algorithm, updates, **changes):
    """Returns the parameters, averages and metrics of every iteration, and the last state."""
    settings = settings_with(
        algorithm=algorithm, inner_epochs=updates, minibatches=updates, squash="tanh", **changes
    )
    run = make_run(settings, trained=FAR, frozen=FROZEN, reference=FAR, optimizer=optax.adam(0.02))
    state, params, averages, records = run.state, [FAR], [FAR], []
    for _ in range(NUMBER):
        state, metrics = run.step(state)
        params.append(float64(state.params))
        averages.append(float64(state.ema_params))
        records.append({name: float(value) for name, value in metrics.items()})
    return types.SimpleNamespace(params=params, averages=averages, records=records, state=state)


@pytest.mark.parametrize(
    ("algorithm", "updates"),
    [
        ("ddpo_sf", 1),
        ("ddpo_is", 1),
        ("dpok", 1),
        ("ddpo_is", 2),
        ("dpok", 2),
        ("pathwise", 1),
    ],
)
def test_reaches_the_known_optimum(algorithm, updates):
    result = learned(algorithm, updates)
    frozen = float64(FROZEN)
    rewards = [expected_reward({**frozen, **float64(params)}) for params in result.params]
    # The reward's share that the mean of the image decides can be won in full.
    far = expected_reward({**frozen, **float64(FAR)})
    gain, variance = 0.5, 1.0
    for sigma in np.float64(PLAN.sigma):
        variance = gain**2 * variance + sigma**2
    assert (rewards[-1] - far) / (-variance - far) > 0.97
    observed = result.records[-1]["reward/only"]
    assert observed == pytest.approx(rewards[-2], abs=0.03)
    assert result.state.step == NUMBER
    count = optax.tree_utils.tree_get(result.state.opt_state, "count")
    assert count == NUMBER * updates**2


def test_algorithms_agree_as_long_as_a_batch_gets_one_update():
    for number in (1, NUMBER):
        first, *others = (learned(name, 1).params[number]["shift"] for name in COMPARING)
        assert np.abs(first - FAR["shift"]).max() > 0.01
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-3, atol=1e-4)
    several = [learned(algorithm, 2).params[-1]["shift"] for algorithm in ("ddpo_is", "dpok")]
    assert np.abs(several[0] - several[1]).max() > 1e-3


def test_average_and_statistics_follow_every_iteration():
    result = learned("ddpo_is", 2)
    average = float64(FAR["shift"])
    mean = square = weight = 0.0
    for params, kept, record in zip(result.params[1:], result.averages[1:], result.records):
        average = 0.9 * average + 0.1 * params["shift"]
        np.testing.assert_allclose(kept["shift"], average, rtol=1e-4, atol=1e-5)
        reward, deviation = record["reward/only"], record["reward_std/only"]
        mean = 0.9 * mean + reward
        square = 0.9 * square + reward**2 + deviation**2
        weight = 0.9 * weight + 1
    statistics = result.state.statistics
    assert statistics.count == NUMBER
    np.testing.assert_allclose(statistics.mean["only"], mean / weight, rtol=1e-4)
    variance = square / weight - (mean / weight) ** 2
    np.testing.assert_allclose(statistics.variance["only"], variance, rtol=1e-3)


def test_every_pass_trains_on_every_sample_once():
    """Gradients of minibatches at fixed parameters add up to passes times the whole batch's."""
    whole = sampled_gradients(make_run(settings_with()), 2)
    parts = sampled_gradients(
        make_run(settings_with(inner_epochs=2, minibatches=4, micro_batch=8)), 2
    )
    for name in whole:
        np.testing.assert_allclose(parts[name], 2 * 4 * whole[name], rtol=1e-3, atol=1e-4)
        assert np.abs(whole[name]).max() > 0.05


@pytest.mark.parametrize("space", ["x", "epsilon"])
def test_kl_pulls_towards_the_reference_as_its_formula_says(space):
    """Where only the offsets differ, the divergence does not depend on x."""
    trained, reference = make_params(), make_params()
    # Everything lies outside of [-1, 1], which rewards never see.
    trained["shift"] = trained["shift"] + jnp.asarray(3 / coefficients(PLAN)[1])[:, None]
    moved = 0.1 * np.arange(1, 10).reshape(3, 3) * [1, -1, 1]
    reference["shift"] = trained["shift"] - jnp.asarray(moved, jnp.float32)
    run = make_run(
        settings_with(kl_weight=0.7, kl_space=space, micro_batch=16),
        trained=trained,
        reference=reference,
        rewards={"only": lambda images, bank: jnp.abs(images).max(axis=-1)},
    )
    state, (record,) = iterate(run, 1)
    gradient = np.asarray(state.opt_state[0].trace["shift"])
    assert record["reward/only"] == 1 and record["zero_spread/only"] == 1
    factor = np.full(3, 1.0)
    if space == "x":
        factor = coefficients(PLAN)[1] ** 2 / (2 * np.float64(PLAN.sigma) ** 2)
    of_class = factor[:, None] * moved[:, :CLASSES]
    np.testing.assert_allclose(gradient[:, :CLASSES], 0.7 * 2 * of_class / (3 * 2), rtol=1e-4)
    np.testing.assert_array_equal(gradient[:, CLASSES], 0)
    divergence = np.mean(of_class * moved[:, :CLASSES])
    assert record["kl_to_reference"] == pytest.approx(divergence, rel=1e-4)
    assert record["loss"] == pytest.approx(0.7 * divergence, rel=1e-4)


@pytest.mark.parametrize("space", ["x", "epsilon"])
def test_kl_begins_at_zero_and_holds_the_parameters_back(space):
    free, held = learned("ddpo_is", 1), learned("ddpo_is", 1, kl_weight=10.0, kl_space=space)
    assert "kl_to_reference" not in free.records[0]
    divergences = [record["kl_to_reference"] for record in held.records]
    assert divergences[0] < 1e-12 and min(divergences[1:]) > 1e-6
    far = [np.abs(result.params[-1]["shift"] - FAR["shift"]).max() for result in (free, held)]
    assert 0 < far[1] < 0.5 * far[0]


def of_class(embeddings, bank):
    """A reward that the identity alone decides."""
    return jnp.broadcast_to(2.0 * bank.identities[:, None], embeddings.shape[:2])


def test_value_function_learns_the_reward_and_takes_it_off_the_advantages():
    options = {"rewards": {"only": of_class}, "value_rate": 1e-2}
    settings = {"algorithm": "dpok", "samples_per_identity": 64}
    _, plain = iterate(make_run(settings_with(**settings), **options), 1)
    run = make_run(settings_with(value_steps=40, **settings), **options)
    _, records = iterate(run, 8)
    assert "value_error" not in plain[0]
    # It begins as zero, and the first update uses it as it was: nothing changes.
    assert records[0]["value_error"] == pytest.approx(1, rel=1e-3)
    assert records[0]["gradient_norm"] == pytest.approx(plain[0]["gradient_norm"], rel=1e-4)
    assert records[-1]["value_error"] < 0.05
    assert records[-1]["gradient_norm"] < 0.4 * plain[0]["gradient_norm"]


def test_values_that_are_not_finite_are_told_where_they_begin():
    def apply(params, x, timesteps, labels):
        # Its value is linear's; where safe is 0, its gradient is not a number.
        zero = jnp.sqrt(params["safe"] + params["nothing"] * params["scale"].sum())
        output = linear(params, x, timesteps, labels) + zero - jnp.sqrt(params["safe"])
        return output + params["offset"]

    def reward(embeddings, bank):
        return closeness(embeddings, bank) + 0 * bank.features[:, :1, 0]

    sound = {"safe": jnp.float32(1), "nothing": jnp.float32(0), "offset": jnp.float32(0)}
    run = make_run(settings_with(), frozen=sound, apply=apply, rewards={"only": reward})
    frozen, reference, bank, embedding_params, starts = run.inputs
    lost = jnp.full_like(bank.features, jnp.nan)

    def flags(frozen, bank):
        state = jax.tree.map(jnp.copy, run.state)
        _, metrics = run.program(state, frozen, reference, bank, embedding_params, starts)
        return [float(metrics[f"finite/{name}"]) for name in ("reward", "log_prob", "gradient")]

    assert flags(frozen, bank) == [1, 1, 1]
    assert flags(frozen, bank.replace(features=lost)) == [0, 1, 0]
    assert flags({**frozen, "safe": jnp.float32(0)}, bank) == [1, 1, 0]
    assert flags({**frozen, "offset": jnp.float32(jnp.nan)}, bank) == [0, 0, 0]


EVERYTHING = {
    "samples_per_identity": 16,
    "algorithm": "dpok",
    "guidance_scale": 1.5,
    "unconditional": "detached",
    "deterministic_elsewhere": True,
    "inner_epochs": 2,
    "minibatches": 2,
    "kl_weight": 0.1,
    "normalise_over": "running",
    "value_steps": 2,
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [(EVERYTHING, "iteration"), ({"algorithm": "pathwise"}, "iteration_through_steps")],
)
def test_an_iteration_is_one_program_without_transfers(caplog, changes, name):
    run = make_run(
        settings_with(**changes),
        reference=make_params(),
        optimizer=optax.adam(0.01),
        starts=group_by_class(np.zeros((CLASSES, *SHAPE)), np.arange(CLASSES), CLASSES),
        devices=8,
        fsdp=2,
        choice="random",
        count=2,
        thoroughly=True,
    )
    text = run.iteration.lower(run.state, *run.inputs).as_text()
    assert not any(word in text for word in ("callback", "infeed", "outfeed", "send", "recv"))
    with jax.log_compiles(), jax.transfer_guard("disallow"):
        state, metrics = run.step(run.state)
        # The old state is donated.
        assert all(value.is_deleted() for value in jax.tree.leaves(run.state.params))
        for _ in range(3):
            state, metrics = run.step(state)
    assert caplog.text.count(f"XLA compilation of jit({name})") == 1
    assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())
    assert state.step == 4 and len(state.step.sharding.device_set) == 8
    assert not any(value.is_deleted() for value in jax.tree.leaves((state, run.inputs)))


PEOPLE = 4
BANK = build_reference_bank(
    np.random.default_rng(2).normal(size=(PEOPLE * 3, 6)), np.repeat(np.arange(PEOPLE), 3), PEOPLE
)


def embedding(images):
    """Returns a fixed projection of the pixels, of unit norm."""
    flat = images.reshape(len(images), -1)
    weights = jax.random.normal(jax.random.key(9), (flat.shape[1], 6))
    projected = jnp.tanh(flat @ weights) + 0.1
    return projected / jnp.linalg.norm(projected, axis=-1, keepdims=True)


def set_reward(name, embeddings, references):
    """Equations (5) and (9) of one identity's samples, in NumPy."""
    if name == "richness":
        spreads = [np.var(v, axis=0, ddof=1).sum() for v in (embeddings, references)]
        return -((spreads[0] - 1.1 * spreads[1]) ** 2)

    def kernel(left, right):
        squares = ((left[:, None] - right[None]) ** 2).sum(axis=-1)
        return np.exp(-squares / (2 * 0.7**2)).mean()

    return kernel(embeddings, references) - 0.5 * kernel(embeddings, embeddings)


def by_removal(name):
    """Returns the leave-one-out credit by scoring the set without each sample in turn."""

    def credit(embeddings, features, mask, identities):
        credits = np.zeros(embeddings.shape[:2])
        for i, samples in enumerate(np.float64(embeddings)):
            references = np.float64(features[i][mask[i]])
            whole = set_reward(name, samples, references)
            for j in range(len(samples)):
                without = set_reward(name, np.delete(samples, j, axis=0), references)
                credits[i, j] = len(samples) * (whole - without)
        return credits

    return on_host(credit)


def test_credits_equal_removal_where_a_person_s_samples_lie_on_several_devices():
    """The two cancel sample by sample, so nothing is left to learn from."""
    fast = {
        "coverage": functools.partial(
            distributional_coverage, sigma=0.7, alpha=0.5, credit="leave_one_out"
        ),
        "richness": functools.partial(
            expression_richness, expansion=0.1, tau=1.0, credit="leave_one_out"
        ),
    }
    rewards = {**fast, **{f"{name}_by_hand": by_removal(name) for name in fast}}
    run = make_run(
        settings_with(samples_per_identity=8),
        rewards=rewards,
        weights={"coverage": 1.0, "coverage_by_hand": -1.0, "richness": 0.5}
        | {"richness_by_hand": -0.5},
        embed=embedding,
        bank=BANK,
        devices=8,
    )
    _, (record,) = iterate(run, 1)
    for name in fast:
        for measure in ("reward", "reward_std"):
            got, by_hand = (record[f"{measure}/{n}"] for n in (name, f"{name}_by_hand"))
            assert got == pytest.approx(by_hand, rel=1e-3)
        assert record[f"reward_std/{name}"] > 1e-3 and record[f"zero_spread/{name}"] == 0
    assert record["advantage/spread"] < 2e-3


IMAGE = (8, 8, 1)
DIT = DiT(num_classes=PEOPLE, patch_size=4, width=16, depth=1, num_heads=2)
DIT_PLAN = make_sampling_plan(make_alpha_bars("cosine", 50), num_steps=6, eta=1.0)
DIT_QUIET_PLAN = make_sampling_plan(make_alpha_bars("cosine", 50), num_steps=6, eta=0.0)
REWARDS = {
    "semantic": semantic_consistency,
    "coverage": functools.partial(
        distributional_coverage, sigma=0.7, alpha=0.5, credit="leave_one_out"
    ),
    "richness": functools.partial(
        expression_richness, expansion=0.1, tau=1.0, credit="leave_one_out"
    ),
}


WHOLE_SETS = {
    name: reward if name == "semantic" else functools.partial(reward, credit="broadcast")
    for name, reward in REWARDS.items()
}


@functools.cache
def dit_params(model=DIT, image_shape=IMAGE):
    """Returns weights that are nowhere zero, as a trained network's."""
    x, label = jnp.zeros((1, *image_shape)), jnp.zeros(1, jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), x, label, label)["params"]
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(3)
    moved = [leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


def make_dit_run(trainable="all", settings=None, model=DIT, image_shape=IMAGE, **options):
    params = dit_params(model, image_shape)
    trained, frozen = split(params, trainable, lora_rank=2, key=jax.random.key(1))
    changes = {
        "image_shape": image_shape,
        "num_classes": PEOPLE,
        "num_identities": PEOPLE,
        "samples_per_identity": 4,
        "prediction_type": "v",
        "log_prob_reduce": "mean",
        "clip_range": 1e-3,
        "squash": "tanh",
        **(settings or {}),
    }
    return make_run(
        settings_with(**changes),
        trained=trained,
        frozen=frozen,
        apply=lambda params, *inputs: model.apply({"params": params}, *inputs),
        merge=merge,
        bank=BANK,
        **{
            "embed": embedding,
            "rewards": REWARDS,
            "plan": DIT_PLAN,
            "deterministic_plan": DIT_QUIET_PLAN,
            "floor": 0.01,
            **options,
        },
    )


GUIDED = {"guidance_scale": 2.0}
DETACHED = {"guidance_scale": 2.0, "unconditional": "detached"}
QUIET = {"deterministic_elsewhere": True}
SUM = {"log_prob_reduce": "sum"}
RATIOS = {
    "noisiest": (
        DETACHED | QUIET | {"micro_batch": 8},
        {"choice": "noisiest", "count": 2, "devices": 8},
    ),
    "fraction": (GUIDED, {"choice": "fraction", "fraction": 0.5}),
    "all": ({}, {}),
    "random": (QUIET | {"micro_batch": 48}, {"choice": "random", "count": 3, "devices": 8}),
    "window": (DETACHED | SUM, {"choice": "window", "count": 2, "devices": 8, "fsdp": 2}),
    # Of smaller networks XLA fuses both passes alike.
    "bfloat16": (
        {},
        {
            "model": DIT.clone(width=64, num_heads=4, dtype=jnp.bfloat16),
            "image_shape": (32, 32, 1),
        },
    ),
    "single": (GUIDED | SUM | {"micro_batch": 1}, {"choice": "window", "count": 1}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "noisiest" else []) for name in RATIOS],
)
def test_the_first_importance_ratio_is_one(case):
    settings, options = RATIOS[case]
    _, records = iterate(make_dit_run(settings=settings, thoroughly=True, **options), 2)
    for record in records:
        assert record["first_ratio_deviation"] <= 1e-6
        assert record["gradient_norm"] > 1e-3


@pytest.mark.parametrize("algorithm", ["ddpo_is", "dpok"])
def test_a_batch_of_one_update_is_not_clipped_by_rounding(algorithm):
    settings = {"algorithm": algorithm, "clip_range": 1e-5, "micro_batch": 6}

    def rounded(params, x, timesteps, labels):
        """An update that rounds otherwise than the rollout, as its batches are smaller."""
        return linear(params, x, timesteps, labels) * (1 + 1e-3 * (len(x) == 6))

    found = {}
    for epochs in (1, 2):
        run = make_run(settings_with(**settings, inner_epochs=epochs), apply=rounded)
        _, (found[epochs],) = iterate(run, 1)
        assert found[epochs]["first_ratio_deviation"] > 1e-4
    assert found[1]["clip_fraction"] == 0 and found[2]["clip_fraction"] > 0.5
    _, (exact,) = iterate(make_run(settings_with(**settings)), 1)
    assert found[1]["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=0.05)


def test_what_is_told_of_a_reward_is_that_of_whole_sets():
    # All samples of a person are one sample: how far they lie from the references shows then.
    alike = {"embed": lambda samples: embedding(0 * samples), "whole_sets": WHOLE_SETS}
    _, (record,) = iterate(make_dit_run(**alike), 1)
    one = jnp.broadcast_to(embedding(jnp.zeros((1, *IMAGE))), (PEOPLE, 4, BANK.features.shape[-1]))
    for name, reward in WHOLE_SETS.items():
        wanted = float(reward(one, BANK).mean())
        assert record[f"reward/{name}"] == pytest.approx(wanted, rel=1e-4), name
        assert abs(wanted) > 1e-3
    # Advantages are of what each sample adds, whatever is told.
    settings = {"optimizer": optax.sgd(1e-2)}
    told, plain = (iterate(make_dit_run(whole_sets=w, **settings), 1) for w in (WHOLE_SETS, None))
    leaves = [jax.tree.leaves(state.params) for state, _ in (told, plain)]
    for got, wanted in zip(*leaves):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
    before = jax.tree.leaves(make_dit_run(**settings).state.params)
    assert max(np.abs(got - was).max() for got, was in zip(leaves[0], before)) > 1e-5
    (after,), (before,) = told[1], plain[1]
    # Each sample has its own semantic consistency, so that the whole is their mean.
    assert after["reward/semantic"] == pytest.approx(before["reward/semantic"], rel=1e-5)
    for name in ("coverage", "richness"):
        assert after[f"reward_std/{name}"] == pytest.approx(before[f"reward_std/{name}"], rel=1e-3)
        assert after[f"reward/{name}"] != pytest.approx(before[f"reward/{name}"], abs=1e-3)


def test_a_single_sample_has_no_spread_that_could_collapse():
    settings = settings_with(samples_per_identity=1, micro_batch=CLASSES)
    assert "spread_within_identity" not in iterate(make_run(settings), 1)[1][0]


def test_rounding_of_sums_of_log_probabilities_is_no_disagreement():
    """Of thousands of dimensions the order of a sum moves the ratio by more than 1e-4."""
    image_shape = (32, 32, 3)
    model = DIT.clone(width=32)
    settings = {**SUM, "micro_batch": 1}
    run = make_dit_run(settings=settings, model=model, image_shape=image_shape, thoroughly=True)
    _, (record,) = iterate(run, 1)
    assert record["first_ratio_deviation"] <= 1e-5


@functools.cache
def reinforced(devices, fsdp=1, micro_batch=16, algorithm="ddpo_is"):
    run = make_dit_run(
        settings={"micro_batch": micro_batch, "minibatches": 1, "algorithm": algorithm},
        optimizer=optax.adam(1e-3),
        devices=devices,
        fsdp=fsdp,
        choice="noisiest",
        count=3,
    )
    state, records = iterate(run, 3)
    return state, records


@pytest.mark.parametrize(
    ("devices", "fsdp", "micro_batch", "algorithm"),
    [
        (4, 2, 16, "ddpo_is"),
        (8, 1, 48, "ddpo_is"),
        (4, 2, 16, "pathwise"),
        pytest.param(2, 1, 16, "ddpo_is", marks=pytest.mark.slow),
        pytest.param(8, 1, 16, "ddpo_is", marks=pytest.mark.slow),
        pytest.param(8, 2, 16, "ddpo_is", marks=pytest.mark.slow),
        pytest.param(1, 1, 4, "ddpo_is", marks=pytest.mark.slow),
    ],
)
def test_devices_and_micro_batches_change_no_number(
    monkeypatch, devices, fsdp, micro_batch, algorithm
):
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 64)
    state, records = reinforced(devices, fsdp, micro_batch, algorithm)
    expected, expected_records = reinforced(1, algorithm=algorithm)
    kernel = state.params["params"]["blocks_0"]["mlp_fc1"]["kernel"]
    assert len(kernel.sharding.device_set) == devices
    assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
    for record, wanted in zip(records, expected_records):
        assert record.keys() == wanted.keys()
        for name in record.keys() - {"ratio_deviation", "first_ratio_deviation"}:
            np.testing.assert_allclose(
                record[name], wanted[name], rtol=1e-4, atol=1e-6, err_msg=name
            )
    for got, wanted in zip(*map(jax.tree.leaves, (state.params, expected.params))):
        # Adam's steps are as long for a small gradient, whose rounding is a larger part of it, and
        # more where it has come through all denoising steps.
        atol = 2e-5 if algorithm == "ddpo_is" else 2e-4
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=atol)


def test_a_reference_without_low_rank_pairs_is_the_cold_start():
    rows = split(dit_params(), "lora", lora_rank=2, key=jax.random.key(1))[0]["params"]
    run = make_dit_run(
        "lora",
        settings={"kl_weight": 0.1},
        reference={"params": rows, "lora": {}},
        optimizer=optax.adam(1e-2),
        choice="noisiest",
        count=2,
    )
    state, records = iterate(run, 3)
    assert max(np.abs(pair["b"]).max() for pair in state.params["lora"].values()) > 1e-3
    assert records[0]["kl_to_reference"] < 1e-10
    assert 1e-7 < records[1]["kl_to_reference"] < records[2]["kl_to_reference"]
