"""DPOK's value function: shapes, start, and least squares on rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsyn_jax.rl.value_function import (
    ValueNetwork,
    create_value_state,
    fit_value,
    make_value_optimizer,
)

SHAPE = (2, 3, 1)
NETWORK = ValueNetwork(num_classes=3, width=16)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


create = jax.jit(create_value_state, static_argnums=(0, 1, 3))
run_fit = jax.jit(fit_value, static_argnums=(0, 1, 5))
ADAM = make_value_optimizer(1e-2)


def make_state(optimizer=ADAM):
    return create(NETWORK, optimizer, jax.random.key(0), SHAPE)


def fit(state, inputs, rewards, num_steps, optimizer=ADAM):
    return run_fit(NETWORK, optimizer, state, inputs, jnp.asarray(rewards, jnp.float32), num_steps)


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(0)
    states = jnp.asarray(random.normal(size=(48, *SHAPE)), jnp.float32)
    return states, jnp.asarray(random.integers(0, 50, 48)), jnp.arange(48) % 3


def values(state, inputs):
    return NETWORK.apply({"params": state.params}, *inputs)


def test_begins_as_zero(inputs):
    result = values(make_state(), inputs)
    assert result.shape == (48,) and result.dtype == jnp.float32
    np.testing.assert_array_equal(result, 0)


def test_a_step_is_gradient_descent_on_the_mean_squared_error(inputs):
    rewards = jnp.linspace(-1.0, 2.0, 48)
    optimizer = optax.sgd(0.1)
    state = make_state(optimizer)
    weights = jax.tree.map(
        lambda value: value + 0.1 * jax.random.normal(jax.random.key(1), value.shape), state.params
    )
    state = state.replace(params=weights)
    gradients = jax.jit(
        jax.grad(
            lambda params: jnp.sum((NETWORK.apply({"params": params}, *inputs) - rewards) ** 2) / 48
        )
    )(weights)
    fitted, error = fit(state, inputs, rewards, 1, optimizer)
    np.testing.assert_allclose(error, np.mean((values(state, inputs) - rewards) ** 2), rtol=1e-5)
    for got, old, gradient in zip(*map(jax.tree.leaves, (fitted.params, weights, gradients))):
        np.testing.assert_allclose(got, old - 0.1 * gradient, atol=1e-6)


def test_several_steps_are_so_many_single_steps(inputs):
    rewards = jnp.cos(jnp.arange(48.0))
    once = make_state()
    for _ in range(3):
        once, _ = fit(once, inputs, rewards, 1)
    together, error = fit(make_state(), inputs, rewards, 3)
    # The error is that before the first step.
    np.testing.assert_allclose(error, np.mean(np.square(rewards)), rtol=1e-5)
    for got, expected in zip(*map(jax.tree.leaves, (together, once))):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["state", "time", "identity"])
def test_learns_what_each_input_tells(inputs, source):
    states, timesteps, labels = inputs
    rewards = {
        "state": states[:, 0, 1, 0],
        "time": jnp.where(timesteps > 25, 1.0, -1.0),
        "identity": labels - 1.0,
    }[source]
    state, before = fit(make_state(), inputs, rewards, 150)
    _, after = fit(state, inputs, rewards, 1)
    assert before > 0.5 and after < 0.02 * before


def test_the_published_optimiser_is_adam(inputs):
    optimizer = make_value_optimizer(1e-4)
    old = make_state(optimizer)
    new, _ = fit(old, inputs, jnp.ones(48), 1, optimizer)
    moved = np.asarray(new.params["Dense_3"]["bias"] - old.params["Dense_3"]["bias"])
    np.testing.assert_allclose(moved, 1e-4, rtol=1e-3)
