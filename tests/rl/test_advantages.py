"""Equations (10) and (11) read directly, other baselines, and rewards that carry no signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rl.advantages import (
    RunningStatistics,
    combine_rewards,
    initial_statistics,
    update_statistics,
)

WEIGHTS = {"semantic": 1.0, "coverage": 0.75}


def make_raw(seed=6, shift=0.0):
    generator = np.random.default_rng(seed)
    return {
        "semantic": jnp.asarray(generator.uniform(size=(3, 4)) + shift, jnp.float32),
        "coverage": jnp.asarray(5 + 0.01 * generator.normal(size=(3, 4)), jnp.float32),
    }


@pytest.fixture
def raw():
    return make_raw()


def group_of(values, scope, i):
    return values.ravel() if scope == "batch" else values[i]


def expected(raw, scope, squash, clip, *, baseline="mean", floor=0.0, epsilon=1e-6):
    result = np.zeros((3, 4))
    for name, weight in WEIGHTS.items():
        values = np.float64(raw[name])
        for i in range(3):
            for j in range(4):
                group = group_of(values, scope, i)
                mean = sum(group) / len(group)
                deviation = np.sqrt(sum((group - mean) ** 2) / len(group))
                deviation = max(deviation, floor * values.std())
                if baseline == "leave_one_out":
                    mean = (sum(group) - values[i, j]) / (len(group) - 1)
                result[i, j] += weight * (values[i, j] - mean) / (deviation + epsilon)
    if squash == "tanh":
        result = np.tanh(result)
    return np.minimum(np.maximum(result, -clip), clip)


@pytest.mark.parametrize("scope", ["batch", "identity"])
@pytest.mark.parametrize(("squash", "clip"), [("tanh", 5.0), ("none", 5.0), ("none", 0.8)])
def test_equals_the_formulas(raw, scope, squash, clip):
    advantages, diagnostics = jax.jit(
        lambda raw: combine_rewards(raw, WEIGHTS, scope=scope, squash=squash, clip=clip)
    )(raw)
    assert advantages.dtype == jnp.float32
    np.testing.assert_allclose(advantages, expected(raw, scope, squash, clip), atol=1e-4)
    for name in WEIGHTS:
        values = np.float64(raw[name])
        np.testing.assert_allclose(diagnostics[f"reward/{name}"], values.mean(), rtol=1e-5)
        np.testing.assert_allclose(diagnostics[f"reward_std/{name}"], values.std(), rtol=1e-3)
        assert diagnostics[f"zero_spread/{name}"] == 0
    np.testing.assert_allclose(diagnostics["advantage/mean"], np.mean(advantages), atol=1e-6)
    np.testing.assert_allclose(diagnostics["advantage/spread"], np.std(advantages), rtol=1e-5)
    assert len(diagnostics) == 10


def test_epsilon_is_added_to_the_deviation(raw):
    advantages, _ = combine_rewards(raw, WEIGHTS, squash="none", clip=9.0, epsilon=0.5)
    np.testing.assert_allclose(
        advantages, expected(raw, "batch", "none", 9, epsilon=0.5), atol=1e-4
    )


@pytest.mark.parametrize("scope", ["batch", "identity"])
def test_leave_one_out_compares_with_the_others_alone(raw, scope):
    options = {"scope": scope, "squash": "none", "clip": 9.0, "baseline": "leave_one_out"}
    advantages, _ = combine_rewards(raw, WEIGHTS, **options)
    np.testing.assert_allclose(
        advantages, expected(raw, scope, "none", 9, baseline="leave_one_out"), atol=2e-4
    )
    # A sample's own reward moves its advantage and not its baseline.
    plain, _ = combine_rewards(raw, WEIGHTS, **{**options, "baseline": "mean"})
    group = 12 if scope == "batch" else 4
    np.testing.assert_allclose(advantages, plain * group / (group - 1), rtol=1e-5)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_a_floor_tames_identities_that_hardly_vary(raw, baseline):
    values = np.array(raw["semantic"])
    values[1] = 0.5 + 1e-4 * values[1]
    raw["semantic"] = jnp.asarray(values)
    options = {"scope": "identity", "squash": "none", "clip": 9.0, "baseline": baseline}
    for floor in (0.0, 0.3, 2.0):
        advantages, _ = combine_rewards(raw, WEIGHTS, deviation_floor=floor, **options)
        np.testing.assert_allclose(
            advantages,
            expected(raw, "identity", "none", 9, floor=floor, baseline=baseline),
            atol=1e-2 if floor == 0 else 2e-4,
        )
    weights = {"semantic": 1.0}
    alone = {"semantic": raw["semantic"]}
    floored, _ = combine_rewards(alone, weights, deviation_floor=0.3, **options)
    free, _ = combine_rewards(alone, weights, **options)
    assert np.abs(floored[1]).max() < 0.01 < 0.5 < np.abs(free[1]).max()
    np.testing.assert_array_equal(floored[0], free[0])


def test_the_floor_is_of_the_identity_scope_alone(raw):
    plain = combine_rewards(raw, WEIGHTS, clip=5.0)[0]
    floored = combine_rewards(raw, WEIGHTS, clip=5.0, deviation_floor=9.0)[0]
    np.testing.assert_array_equal(plain, floored)


@pytest.mark.parametrize("scope", ["batch", "identity"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_constant_reward_gives_exactly_zero(scope, baseline, value):
    raw = {"only": jnp.full((3, 7), value)}
    advantages, diagnostics = combine_rewards(
        raw, {"only": 1.0}, scope=scope, baseline=baseline, clip=5.0
    )
    np.testing.assert_array_equal(advantages, np.zeros((3, 7)))
    assert diagnostics["zero_spread/only"] == 1 and diagnostics["share/only"] == 0


def test_rounding_of_a_large_constant_is_no_signal():
    values = np.full((2, 8), 1e4, np.float32)
    values[0, ::3] = np.nextafter(values[0, 0], np.float32(np.inf))
    advantages, _ = combine_rewards({"only": jnp.asarray(values)}, {"only": 1.0}, clip=5.0)
    np.testing.assert_array_equal(advantages, np.zeros((2, 8)))


def test_groups_without_spread_are_counted_and_add_nothing(raw):
    values = np.array(raw["semantic"])
    values[1] = 0.25
    raw["semantic"] = jnp.asarray(values)
    options = {"squash": "none", "clip": 9.0}
    advantages, diagnostics = combine_rewards(raw, WEIGHTS, scope="identity", **options)
    assert diagnostics["zero_spread/semantic"] == pytest.approx(1 / 3)
    assert diagnostics["zero_spread/coverage"] == 0
    coverage, _ = combine_rewards(
        {"coverage": raw["coverage"]}, {"coverage": 0.75}, scope="identity", **options
    )
    np.testing.assert_array_equal(advantages[1], coverage[1])
    _, diagnostics = combine_rewards(raw, WEIGHTS, scope="batch", **options)
    assert diagnostics["zero_spread/semantic"] == 0


@pytest.mark.parametrize("scope", ["batch", "identity"])
def test_shares_are_of_the_weighted_magnitudes_and_add_up_to_one(raw, scope):
    _, diagnostics = combine_rewards(raw, WEIGHTS, scope=scope, clip=0.1)
    magnitudes = {}
    for name, weight in WEIGHTS.items():
        values = np.float64(raw[name])
        scaled = []
        for i in range(3):
            group = group_of(values, scope, i)
            scaled.append(weight * (values[i] - group.mean()) / group.std())
        magnitudes[name] = np.abs(scaled).mean()
    for name, magnitude in magnitudes.items():
        share = magnitude / sum(magnitudes.values())
        assert diagnostics[f"share/{name}"] == pytest.approx(share, rel=1e-3)
    total = sum(float(diagnostics[f"share/{name}"]) for name in WEIGHTS)
    assert total == pytest.approx(1, abs=1e-6)


def test_a_negative_weight_turns_a_reward_round(raw):
    weights = {"semantic": -1.0, "coverage": 0.0}
    advantages, diagnostics = combine_rewards(raw, weights, squash="none", clip=9.0)
    plain, _ = combine_rewards(
        {"semantic": raw["semantic"]}, {"semantic": 1.0}, squash="none", clip=9.0
    )
    np.testing.assert_allclose(advantages, -plain, rtol=1e-6)
    assert diagnostics["share/semantic"] == 1 and diagnostics["share/coverage"] == 0


def test_identity_scope_is_zero_for_what_an_identity_shares_and_batch_scope_is_not():
    raw = {"only": jnp.broadcast_to(jnp.array([[0.1], [0.3]]), (2, 5))}
    inside, _ = combine_rewards(raw, {"only": 1.0}, scope="identity", clip=5.0)
    across, _ = combine_rewards(raw, {"only": 1.0}, scope="batch", squash="none", clip=5.0)
    np.testing.assert_array_equal(inside, np.zeros((2, 5)))
    np.testing.assert_allclose(across, [[-1] * 5, [1] * 5], atol=1e-4)


def weighted_moments(batches, momentum):
    """Mean and variance of all samples, iteration t of n having weight momentum^(n - t)."""
    weights = np.array([momentum**age for age in range(len(batches))])[::-1]
    weights /= weights.sum()
    mean = sum(weight * batch.mean() for weight, batch in zip(weights, batches))
    variance = sum(w * np.mean((batch - mean) ** 2) for w, batch in zip(weights, batches))
    return mean, variance


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_running_statistics_are_exponentially_weighted_moments(momentum):
    statistics = initial_statistics(list(WEIGHTS))
    assert statistics.count == 0 and sorted(statistics.mean) == sorted(WEIGHTS)
    step = jax.jit(lambda statistics, raw: update_statistics(statistics, raw, momentum))
    batches = []
    for iteration in range(6):
        batches.append(make_raw(iteration, shift=0.5 * iteration))
        statistics = step(statistics, batches[-1])
        assert statistics.count == iteration + 1
        for name in WEIGHTS:
            values = [np.float64(batch[name]) for batch in batches]
            mean, variance = weighted_moments(values, momentum)
            np.testing.assert_allclose(statistics.mean[name], mean, rtol=1e-5)
            np.testing.assert_allclose(statistics.variance[name], variance, rtol=1e-3)


def test_running_scope_normalises_by_the_statistics(raw):
    statistics = RunningStatistics(
        count=jnp.int32(4),
        mean={"semantic": jnp.float32(0.2), "coverage": jnp.float32(5.01)},
        variance={"semantic": jnp.float32(0.09), "coverage": jnp.float32(4e-4)},
    )
    advantages, _ = combine_rewards(
        raw, WEIGHTS, scope="running", squash="none", clip=50.0, statistics=statistics
    )
    semantic, coverage = (np.float64(raw[name]) for name in WEIGHTS)
    by_hand = (semantic - 0.2) / 0.3 + 0.75 * (coverage - 5.01) / 0.02
    np.testing.assert_allclose(advantages, by_hand, atol=1e-3)


def test_a_reward_that_a_batch_shares_is_told_apart_from_earlier_ones():
    # Of one identity a set's reward is one number: equation (10) alone would make it 0 for ever.
    statistics, rewards = initial_statistics(["coverage"]), [0.2, 0.5, 0.1, 0.4]
    for iteration, reward in enumerate(rewards):
        raw = {"coverage": jnp.full((1, 6), reward)}
        statistics = update_statistics(statistics, raw, 0.9)
        advantages, told = combine_rewards(
            raw, {"coverage": 1.0}, scope="running", squash="none", clip=9.0, statistics=statistics
        )
        mean, variance = weighted_moments(
            [np.full(6, one) for one in rewards[: iteration + 1]], 0.9
        )
        expected = (reward - mean) / np.sqrt(variance) if iteration else 0.0
        np.testing.assert_allclose(advantages, np.full((1, 6), expected), rtol=1e-3)
        assert told["zero_spread/coverage"] == 1


def test_a_reward_that_never_changes_adds_nothing():
    statistics, raw = initial_statistics(["coverage"]), {"coverage": jnp.full((2, 3), 0.3)}
    for _ in range(5):
        statistics = update_statistics(statistics, raw, 0.9)
        advantages, _ = combine_rewards(
            raw, {"coverage": 1.0}, scope="running", clip=9.0, statistics=statistics
        )
        assert not advantages.any()


def test_first_running_iteration_is_the_batch_scope(raw):
    statistics = update_statistics(initial_statistics(list(WEIGHTS)), raw, 0.9)
    running, _ = combine_rewards(raw, WEIGHTS, scope="running", clip=5.0, statistics=statistics)
    batch, _ = combine_rewards(raw, WEIGHTS, clip=5.0)
    np.testing.assert_allclose(running, batch, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"semantic": 1.0}, {}, "same names"),
        (WEIGHTS, {"scope": "group"}, "scope must be one of"),
        (WEIGHTS, {"squash": "sigmoid"}, "squash must be one of"),
        (WEIGHTS, {"baseline": "median"}, "baseline must be one of"),
        (WEIGHTS, {"clip": 0.0}, "above 0"),
        (WEIGHTS, {"epsilon": 0.0}, "above 0"),
        (WEIGHTS, {"deviation_floor": -0.1}, "at least 0"),
        (WEIGHTS, {"scope": "running"}, "needs the running statistics"),
        (WEIGHTS, {"scope": "running", "baseline": "leave_one_out"}, "leave-one-out baseline"),
    ],
)
def test_refuses_options(raw, weights, options, message):
    with pytest.raises(ValueError, match=message):
        combine_rewards(raw, weights, **{"clip": 5.0, **options})


def test_refuses_no_rewards_and_shapes_that_differ(raw):
    with pytest.raises(ValueError, match="at least one"):
        combine_rewards({}, {}, clip=5.0)
    with pytest.raises(ValueError, match="share one shape"):
        combine_rewards({name: values[0] for name, values in raw.items()}, WEIGHTS, clip=5.0)
    raw["coverage"] = raw["coverage"][:, :1]
    with pytest.raises(ValueError, match="share one shape"):
        combine_rewards(raw, WEIGHTS, clip=5.0)


def test_refuses_groups_of_one():
    raw, weights = {"only": jnp.ones((4, 1))}, {"only": 1.0}
    with pytest.raises(ValueError, match="at least 2 samples"):
        combine_rewards(raw, weights, scope="identity", clip=5.0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        combine_rewards({"only": jnp.ones((1, 1))}, weights, baseline="leave_one_out", clip=5.0)
    combine_rewards(raw, weights, scope="batch", baseline="leave_one_out", clip=5.0)
