"""An ordinary Python function as a reward inside a compiled, sharded program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rewards.host_callback import on_host
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.training.meshes import batch_sharding, make_mesh, replicated

NAMED = []


@on_host
def nearest_reference(embeddings, features, mask, identities, *, scale):
    """The cosine to the nearest reference, in a loop no compiler would see through."""
    NAMED.append(identities.tolist())
    result = np.zeros(embeddings.shape[:2])
    for i, samples in enumerate(embeddings):
        for g, sample in enumerate(samples):
            result[i, g] = scale * max(sample @ row for row in features[i][mask[i]])
    return result


@on_host
def wrong_shape(embeddings, features, mask, identities):
    return np.zeros(3)


@pytest.fixture
def bank():
    random = np.random.default_rng(1)
    return build_reference_bank(random.normal(size=(7, 5)), np.array([0, 0, 1, 2, 2, 2, 3]), 4)


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_function_called_directly(bank, devices):
    embeddings = np.random.default_rng(2).normal(size=(2, 8, 5)).astype(np.float32)
    mesh = make_mesh(devices=jax.devices()[:devices])
    flat = jax.device_put(embeddings.reshape(16, 5), batch_sharding(mesh))
    identities = jnp.array([3, 1])
    scores = jax.jit(
        lambda e: nearest_reference(e.reshape(2, 8, 5), bank.take(identities), scale=2.0),
        out_shardings=replicated(mesh),
    )(flat)
    chosen = bank.take(identities)
    for i in range(2):
        rows = np.asarray(chosen.features)[i][np.asarray(chosen.mask)[i]]
        np.testing.assert_allclose(scores[i], 2 * (embeddings[i] @ rows.T).max(axis=1), rtol=1e-5)
    assert NAMED[-1] == [3, 1]


def test_a_wrong_shape_is_named(bank):
    with pytest.raises(Exception, match=r"wrong_shape returned shape \(3,\).*\(4, 2\)"):
        jax.block_until_ready(jax.jit(lambda e: wrong_shape(e, bank))(jnp.ones((4, 2, 5))))


def test_is_refused_among_several_processes(bank, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="serves one process, and this run has several"):
        wrong_shape(jnp.zeros((4, 2, 5)), bank)
