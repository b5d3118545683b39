"""Equations (10) and (11) read directly, and rewards that carry no signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rl.advantages import combine_rewards

WEIGHTS = {"semantic": 1.0, "coverage": 0.75}


@pytest.fixture
def raw():
    generator = np.random.default_rng(6)
    return {
        "semantic": jnp.asarray(generator.uniform(size=(3, 4)), jnp.float32),
        "coverage": jnp.asarray(5 + 0.01 * generator.normal(size=(3, 4)), jnp.float32),
    }


def expected(raw, scope, squash, clip, epsilon=1e-6):
    result = np.zeros((3, 4))
    for name, weight in WEIGHTS.items():
        values = np.float64(raw[name])
        for i in range(3):
            for j in range(4):
                group = values.ravel() if scope == "batch" else values[i]
                mean = sum(group) / len(group)
                deviation = np.sqrt(sum((group - mean) ** 2) / len(group))
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
    np.testing.assert_allclose(diagnostics["advantage/mean"], np.mean(advantages), atol=1e-6)
    np.testing.assert_allclose(diagnostics["advantage/spread"], np.std(advantages), rtol=1e-5)
    assert len(diagnostics) == 6


def test_epsilon_is_added_to_the_deviation(raw):
    advantages, _ = combine_rewards(raw, WEIGHTS, squash="none", clip=9.0, epsilon=0.5)
    np.testing.assert_allclose(advantages, expected(raw, "batch", "none", 9, 0.5), atol=1e-4)


@pytest.mark.parametrize("scope", ["batch", "identity"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_constant_reward_gives_exactly_zero(scope, value):
    raw = {"only": jnp.full((3, 7), value)}
    advantages, _ = combine_rewards(raw, {"only": 1.0}, scope=scope, clip=5.0)
    np.testing.assert_array_equal(advantages, np.zeros((3, 7)))


def test_rounding_of_a_large_constant_is_no_signal():
    values = np.full((2, 8), 1e4, np.float32)
    values[0, ::3] = np.nextafter(values[0, 0], np.float32(np.inf))
    advantages, _ = combine_rewards({"only": jnp.asarray(values)}, {"only": 1.0}, clip=5.0)
    np.testing.assert_array_equal(advantages, np.zeros((2, 8)))


def test_identity_scope_is_zero_for_what_an_identity_shares_and_batch_scope_is_not():
    raw = {"only": jnp.broadcast_to(jnp.array([[0.1], [0.3]]), (2, 5))}
    inside, _ = combine_rewards(raw, {"only": 1.0}, scope="identity", clip=5.0)
    across, _ = combine_rewards(raw, {"only": 1.0}, scope="batch", squash="none", clip=5.0)
    np.testing.assert_array_equal(inside, np.zeros((2, 5)))
    np.testing.assert_allclose(across, [[-1] * 5, [1] * 5], atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"semantic": 1.0}, {}, "same names"),
        (WEIGHTS, {"scope": "group"}, "scope must be one of"),
        (WEIGHTS, {"squash": "sigmoid"}, "squash must be one of"),
        (WEIGHTS, {"clip": 0.0}, "above 0"),
        (WEIGHTS, {"epsilon": 0.0}, "above 0"),
    ],
)
def test_refuses_options(raw, weights, options, message):
    with pytest.raises(ValueError, match=message):
        combine_rewards(raw, weights, **{"clip": 5.0, **options})


def test_refuses_no_rewards_and_shapes_that_differ(raw):
    with pytest.raises(ValueError, match="at least one"):
        combine_rewards({}, {}, clip=5.0)
    raw["coverage"] = raw["coverage"][:, :1]
    with pytest.raises(ValueError, match="share one shape"):
        combine_rewards(raw, WEIGHTS, clip=5.0)
