"""Equations (4) and (5) by explicit loops, and credit by removing each sample in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rewards import coverage
from rlsyn_jax.rewards.coverage import distributional_coverage, kernel_row_sums
from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank

IDENTITIES = np.array([0, 0, 0, 1, 2, 2])
SIGMA, ALPHA = 0.6, 0.35


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def kernel(left, right):
    return np.exp(-np.sum((left - right) ** 2) / (2 * SIGMA**2))


def set_reward(samples, references):
    closeness = [kernel(g, r) for g in samples for r in references]
    redundancy = [kernel(g, other) for g in samples for other in samples]
    return np.mean(closeness) - ALPHA * np.mean(redundancy)


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(3)
    references = unit(generator.normal(size=(6, 4)))
    samples = unit(generator.normal(size=(3, 5, 4)))
    bank = build_reference_bank(references, IDENTITIES, 3)
    groups = [references[IDENTITIES == identity] for identity in range(3)]
    return jnp.asarray(samples, jnp.float32), samples, bank, groups


def reward(embeddings, bank, credit, **options):
    options = {"sigma": SIGMA, "alpha": ALPHA, **options}
    result = jax.jit(lambda e, b: distributional_coverage(e, b, credit=credit, **options))(
        embeddings, bank
    )
    assert result.shape == embeddings.shape[:2] and result.dtype == jnp.float32
    return result


def test_broadcast_equals_the_formula(problem):
    embeddings, samples, bank, groups = problem
    result = reward(embeddings, bank, "broadcast")
    for identity in range(3):
        expected = set_reward(samples[identity], groups[identity])
        np.testing.assert_allclose(result[identity], expected, atol=1e-6)


def test_leave_one_out_equals_removal(problem):
    embeddings, samples, bank, groups = problem
    result = reward(embeddings, bank, "leave_one_out")
    for identity in range(3):
        whole = set_reward(samples[identity], groups[identity])
        for sample in range(5):
            rest = np.delete(samples[identity], sample, axis=0)
            expected = 5 * (whole - set_reward(rest, groups[identity]))
            np.testing.assert_allclose(result[identity, sample], expected, atol=5e-6)


def test_per_sample_equals_the_formula_and_averages_to_the_set(problem):
    embeddings, samples, bank, groups = problem
    result = reward(embeddings, bank, "per_sample")
    for identity in range(3):
        for sample in range(5):
            own = samples[identity, sample]
            expected = np.mean([kernel(own, r) for r in groups[identity]])
            expected -= ALPHA * np.mean([kernel(own, g) for g in samples[identity]])
            np.testing.assert_allclose(result[identity, sample], expected, atol=1e-6)
    np.testing.assert_allclose(
        result.mean(1), reward(embeddings, bank, "broadcast")[:, 0], atol=1e-6
    )


@pytest.mark.parametrize("credit", ["leave_one_out", "broadcast", "per_sample"])
def test_padding_does_not_matter(problem, credit):
    embeddings, _, bank, _ = problem
    longer = ReferenceBank(
        jnp.concatenate([bank.features, jnp.ones((3, 2, 4))], 1),
        jnp.concatenate([bank.mask, jnp.zeros((3, 2), bool)], 1),
        bank.identities,
        bank.total_variance,
    )
    np.testing.assert_allclose(
        reward(embeddings, longer, credit), reward(embeddings, bank, credit), atol=1e-6
    )


@pytest.mark.parametrize("credit", ["leave_one_out", "broadcast", "per_sample"])
def test_blocks_of_vectors_give_what_all_at_once_do(problem, credit, monkeypatch):
    embeddings, _, bank, _ = problem
    whole = reward(embeddings, bank, credit)
    monkeypatch.setattr(coverage, "_BLOCK", 2)
    np.testing.assert_allclose(reward(embeddings, bank, credit), whole, atol=2e-6)


def test_memory_grows_with_samples_and_references_and_not_with_their_product():
    def temporaries(number):
        arguments = (jax.ShapeDtypeStruct((2, number, 8), jnp.float32),) * 2
        mask = jax.ShapeDtypeStruct((2, number), bool)
        sums = jax.jit(lambda left, right, mask: kernel_row_sums(left, right, mask, SIGMA))
        return sums.lower(*arguments, mask).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8192) < 3 * temporaries(4096)


def test_half_alpha_is_half_the_squared_discrepancy(problem):
    embeddings, _, bank, groups = problem
    result = reward(embeddings, bank, "broadcast", alpha=0.5)[:, 0]
    moved = reward(jnp.roll(embeddings, 1, axis=0), bank, "broadcast", alpha=0.5)[:, 0]
    samples = np.float64(embeddings)

    def discrepancy(left, right):
        def mean(a, b):
            return np.mean([kernel(u, v) for u in a for v in b])

        return mean(left, left) - 2 * mean(left, right) + mean(right, right)

    for identity in range(3):
        own = discrepancy(samples[identity], groups[identity])
        other = discrepancy(samples[identity - 1], groups[identity])
        np.testing.assert_allclose(
            result[identity] - moved[identity], -0.5 * (own - other), atol=2e-6
        )


def test_a_duplicate_gets_less_credit_than_a_distinct_sample():
    references = np.eye(3)
    bank = build_reference_bank(references, np.zeros(3, int), 1)
    result = reward(jnp.asarray(references[[0, 0, 1]][None], jnp.float32), bank, "leave_one_out")
    assert result[0, 2] > result[0, 0] + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"alpha": -1.0}, "alpha"),
        ({"credit": "shared"}, "credit must be one of"),
    ],
)
def test_refuses_options(problem, options, message):
    embeddings, _, bank, _ = problem
    options = {"sigma": SIGMA, "alpha": ALPHA, "credit": "broadcast", **options}
    with pytest.raises(ValueError, match=message):
        distributional_coverage(embeddings, bank, **options)


def test_refuses_to_leave_one_of_one_out(problem):
    embeddings, _, bank, _ = problem
    with pytest.raises(ValueError, match="at least 2 samples"):
        reward(embeddings[:, :1], bank, "leave_one_out")
