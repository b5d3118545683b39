"""Memory that compiled programs need, against programs whose buffers are known."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.rl.memory import available_bytes, peak_bytes


def compiled(function, *shapes, **options):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function, **options).lower(*shapes).compile()


def test_arguments_results_and_temporaries_are_counted():
    size = 4 * 256**2
    one = compiled(lambda a, b: a @ b, (256, 256), (256, 256))
    assert peak_bytes(one) == pytest.approx(3 * size, rel=0.02)
    # One product more is alive while the last is computed.
    chain = compiled(lambda a, b: (a @ b) @ b, (256, 256), (256, 256))
    assert peak_bytes(chain) == pytest.approx(4 * size, rel=0.02)


def test_a_donated_argument_is_counted_once():
    plain = compiled(lambda a: 2 * a, (256, 256))
    donated = compiled(lambda a: 2 * a, (256, 256), donate_argnums=0)
    assert peak_bytes(plain) - peak_bytes(donated) == pytest.approx(4 * 256**2, rel=0.02)


def test_devices_of_one_machine_share_its_memory():
    devices = set(jax.devices())
    free = available_bytes(devices)
    assert 2**20 < free < 2**42 / len(devices)
