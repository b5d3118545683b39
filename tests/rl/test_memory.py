"""Memory that compiled programs need, against programs whose buffers are known."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.rl.memory import available_bytes, memory_need
from rlsyn_jax.stages import assembled_policy
from rlsyn_jax.stages.assembled_policy import Policy


def compiled(function, *shapes, **options):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function, **options).lower(*shapes).compile()


def test_arguments_results_and_temporaries_are_counted():
    size = 4 * 256**2
    one = compiled(lambda a, b: a @ b, (256, 256), (256, 256))
    assert memory_need(one).peak == pytest.approx(3 * size, rel=0.02)
    assert memory_need(one).to_allocate == pytest.approx(size, rel=0.02)
    # One product more is alive while the last is computed.
    chain = compiled(lambda a, b: (a @ b) @ b, (256, 256), (256, 256))
    assert memory_need(chain).peak == pytest.approx(4 * size, rel=0.02)


def test_a_donated_argument_is_counted_once():
    plain = compiled(lambda a: 2 * a, (256, 256))
    donated = compiled(lambda a: 2 * a, (256, 256), donate_argnums=0)
    assert memory_need(plain).peak - memory_need(donated).peak == pytest.approx(
        4 * 256**2, rel=0.02
    )


def test_an_iteration_that_does_not_fit_is_refused_with_the_fields_to_change(monkeypatch):
    state = jnp.zeros((64, 64))
    policy = Policy(
        iteration=jax.jit(lambda state, *inputs: (state @ state, {})),
        state=state,
        frozen={},
        reference={},
        bank={},
        embedding_params={},
        real_spread=0.0,
        weights={},
    )
    assert assembled_policy.compiled(policy).step(state)[0].shape == (64, 64)
    monkeypatch.setattr(assembled_policy, "available_bytes", lambda devices: 4 * 64**2 - 1)
    with pytest.raises(
        ConfigError, match="config.reinforce.micro_batch .*config.remat.*config.fsdp"
    ):
        assembled_policy.compiled(policy)


def test_devices_of_one_machine_share_its_memory():
    devices = set(jax.devices())
    free = available_bytes(devices)
    assert 2**20 < free < 2**42 / len(devices)
