"""Where a new state lies, that it owns its buffers, and the running average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.training.meshes import make_mesh, parameter_shardings, replicated
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.train_state import create_train_state, ema_update

MESH = make_mesh(2)
OPTIMIZER = make_optimizer(learning_rate=0.1, warmup_steps=2, total_steps=4, gradient_clip=1.0)


def make_state():
    params = {
        "params": {"kernel": jnp.ones((128, 256)), "bias": jnp.arange(256.0)},
        "lora": {"a": jnp.full((512, 64), 2.0)},
    }
    shardings = parameter_shardings(MESH, params)
    params = jax.device_put(params, shardings)
    key = jax.device_put(jax.random.key(3), replicated(MESH))
    return params, shardings, create_train_state(params, OPTIMIZER, key, MESH)


def test_moments_and_average_lie_as_their_parameters_and_the_rest_is_whole():
    params, shardings, state = make_state()
    assert MESH.devices.shape == (4, 2)
    split = {path: s for path, s in jax.tree.leaves_with_path(shardings)}
    assert sum(not s.is_fully_replicated for s in split.values()) == 2
    moments = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        owner = next((s for own, s in split.items() if path[-len(own) :] == own), None)
        moments += owner is not None
        expected = owner or replicated(MESH)
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), path
    # Parameters, their average, and AdamW's two moments.
    assert moments == 4 * len(split)


def test_a_new_state_starts_at_the_parameters_with_the_optimiser_s_own_start():
    params, _, state = make_state()
    assert state.step == 0 and state.step.dtype == jnp.int32
    for tree in (state.params, state.ema_params):
        jax.tree.map(np.testing.assert_array_equal, tree, params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, OPTIMIZER.init(params))
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(jax.random.key(3))
    )


def test_a_state_can_be_donated_without_harm_to_the_parameters_it_was_made_of():
    params, _, state = make_state()
    donate = jax.jit(
        lambda s: jax.tree.map(lambda leaf: leaf + 1, s.replace(key=None)), donate_argnums=0
    )
    after = donate(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    np.testing.assert_array_equal(params["params"]["kernel"], 1)
    np.testing.assert_array_equal(after.params["lora"]["a"], 3)
    np.testing.assert_array_equal(after.ema_params["lora"]["a"], 3)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_average_follows_the_formula_with_a_decay_that_warms_up(decay):
    random = np.random.default_rng(0)
    values = random.normal(size=(5, 3))
    average, expected = {"w": jnp.asarray(values[0], jnp.float32)}, values[0]
    for step, new in enumerate(values[1:]):
        average = jax.jit(ema_update)(average, {"w": new}, decay, jnp.int32(step))
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * new
        np.testing.assert_allclose(average["w"], expected, rtol=1e-5, atol=1e-6)


def test_average_of_a_late_step_uses_the_full_decay():
    late = ema_update(jnp.zeros(1), jnp.ones(1), 0.99, jnp.int32(10**6))
    np.testing.assert_allclose(late, 0.01, rtol=1e-4)
