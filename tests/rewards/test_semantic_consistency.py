"""Equations (2) and (3), read directly."""

import jax.numpy as jnp
import numpy as np

from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank
from rlsyn_jax.rewards.semantic_consistency import semantic_consistency

IDENTITIES = np.array([0, 0, 0, 1, 2, 2])


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def problem():
    generator = np.random.default_rng(1)
    references = unit(generator.normal(size=(6, 4)))
    samples = unit(generator.normal(size=(3, 5, 4)))
    return references, samples


def test_equals_the_formula():
    references, samples = problem()
    bank = build_reference_bank(references, IDENTITIES, 3)
    result = semantic_consistency(jnp.asarray(samples, jnp.float32), bank)
    assert result.shape == (3, 5) and result.dtype == jnp.float32
    for identity in range(3):
        mean = np.zeros(4)
        rows = references[IDENTITIES == identity]
        for row in rows:
            mean += row / len(rows)
        prototype = mean / np.sqrt(np.sum(mean**2))
        for sample in range(5):
            expected = 0.5 * (samples[identity, sample] @ prototype + 1)
            np.testing.assert_allclose(result[identity, sample], expected, atol=1e-6)


def test_padding_does_not_matter():
    references, samples = problem()
    bank = build_reference_bank(references, IDENTITIES, 3)
    longer = ReferenceBank(
        jnp.concatenate([bank.features, jnp.ones((3, 2, 4))], 1),
        jnp.concatenate([bank.mask, jnp.zeros((3, 2), bool)], 1),
        bank.identities,
        bank.total_variance,
    )
    samples = jnp.asarray(samples, jnp.float32)
    np.testing.assert_allclose(
        semantic_consistency(samples, longer), semantic_consistency(samples, bank), atol=1e-6
    )


def test_range_and_extremes():
    direction = unit(np.random.default_rng(2).normal(size=(1, 300)))
    bank = build_reference_bank(direction, np.array([0]), 1)
    samples = jnp.asarray(np.stack([direction, -direction], 1), jnp.float32)
    result = np.asarray(semantic_consistency(samples, bank))
    np.testing.assert_allclose(result, [[1, 0]], atol=1e-6)
    assert result.max() <= 1 and result.min() >= 0


def test_references_that_cancel_give_one_half():
    bank = build_reference_bank(np.array([[1.0, 0], [-1.0, 0]]), np.array([0, 0]), 1)
    result = semantic_consistency(jnp.array([[[1.0, 0], [0, 1.0]]]), bank)
    np.testing.assert_array_equal(result, [[0.5, 0.5]])
