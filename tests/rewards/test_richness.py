"""Equations (6) to (9) by explicit covariance matrices, and credit by removing each sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank
from rlsyn_jax.rewards.richness import expression_richness

IDENTITIES = np.array([0, 0, 0, 0, 1, 2, 2])
EXPANSION, TAU = 0.2, 0.7


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def trace(rows):
    mean = np.mean(rows, axis=0)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for row in rows:
        covariance += np.outer(row - mean, row - mean) / (len(rows) - 1)
    return np.trace(covariance)


def set_reward(samples, reference_trace):
    return -(((trace(samples) - (1 + EXPANSION) * reference_trace) / TAU) ** 2)


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(4)
    references = unit(generator.normal(size=(7, 4)) + [2, 0, 0, 0])
    samples = unit(generator.normal(size=(3, 5, 4)) + [1, 0, 0, 0])
    bank = build_reference_bank(references, IDENTITIES, 3)
    first, last = trace(references[:4]), trace(references[5:])
    return jnp.asarray(samples, jnp.float32), samples, bank, [first, (first + last) / 2, last]


def reward(embeddings, bank, credit, expansion=EXPANSION, tau=TAU):
    result = jax.jit(
        lambda e, b: expression_richness(e, b, expansion=expansion, tau=tau, credit=credit)
    )(embeddings, bank)
    assert result.shape == embeddings.shape[:2] and result.dtype == jnp.float32
    return result


def test_reference_variance_with_a_single_reference(problem):
    _, _, bank, traces = problem
    np.testing.assert_allclose(bank.total_variance, traces, rtol=1e-5)


@pytest.mark.parametrize("credit", ["leave_one_out", "broadcast"])
def test_who_else_is_in_a_batch_does_not_matter(problem, credit):
    embeddings, _, bank, _ = problem
    whole = reward(embeddings, bank, credit)
    for batch in ([1], [1, 0], [2, 1]):
        places = jnp.array(batch)
        found = reward(embeddings[places], bank.take(places), credit)
        np.testing.assert_allclose(found, whole[places], rtol=1e-6)


@pytest.mark.parametrize("credit", ["leave_one_out", "broadcast"])
def test_where_nobody_has_two_references_richness_says_nothing(problem, credit):
    bank = build_reference_bank(np.eye(4)[:3], np.arange(3), 3)
    assert np.isnan(bank.total_variance).all()

    def total(embeddings):
        return reward(embeddings, bank, credit).sum()

    value, gradient = jax.value_and_grad(total)(problem[0])
    assert value == 0 and (gradient == 0).all()


def test_broadcast_equals_the_formula(problem):
    embeddings, samples, bank, traces = problem
    result = reward(embeddings, bank, "broadcast")
    for identity in range(3):
        expected = set_reward(samples[identity], traces[identity])
        np.testing.assert_allclose(result[identity], expected, rtol=1e-4, atol=1e-6)


def test_trace_of_unit_features_from_their_mean(problem):
    embeddings, samples, bank, _ = problem
    result = reward(embeddings, bank, "broadcast", expansion=-1 + 1e-12, tau=1.0)
    for identity in range(3):
        mean = samples[identity].mean(axis=0)
        expected = 5 / 4 * (1 - mean @ mean)
        np.testing.assert_allclose(np.sqrt(-result[identity]), expected, rtol=1e-5)


def test_leave_one_out_equals_removal(problem):
    embeddings, samples, bank, traces = problem
    result = reward(embeddings, bank, "leave_one_out")
    for identity in range(3):
        whole = set_reward(samples[identity], traces[identity])
        for sample in range(5):
            rest = np.delete(samples[identity], sample, axis=0)
            expected = 5 * (whole - set_reward(rest, traces[identity]))
            np.testing.assert_allclose(result[identity, sample], expected, rtol=1e-4, atol=5e-6)


def test_nearly_equal_samples_keep_their_digits():
    generator = np.random.default_rng(5)
    samples = np.float32(unit([1.0, 0, 0, 0] + 1e-4 * generator.normal(size=(1, 6, 4))))
    bank = build_reference_bank(np.eye(4)[[0, 0]], np.zeros(2, int), 1)
    result = reward(jnp.asarray(samples), bank, "broadcast", expansion=0.0, tau=1e-7)
    np.testing.assert_allclose(
        np.sqrt(-result[0]) * 1e-7, np.full(6, trace(np.float64(samples[0]))), rtol=1e-3
    )


@pytest.mark.parametrize("credit", ["leave_one_out", "broadcast"])
def test_padding_does_not_matter(problem, credit):
    embeddings, _, bank, _ = problem
    longer = ReferenceBank(
        jnp.concatenate([bank.features, jnp.ones((3, 2, 4))], 1),
        jnp.concatenate([bank.mask, jnp.zeros((3, 2), bool)], 1),
        bank.identities,
        bank.total_variance,
    )
    np.testing.assert_allclose(
        reward(embeddings, longer, credit), reward(embeddings, bank, credit), atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expansion": -1.0}, "expansion"),
        ({"tau": 0.0}, "tau"),
        ({"credit": "per_sample"}, "credit must be one of"),
    ],
)
def test_refuses_options(problem, options, message):
    embeddings, _, bank, _ = problem
    options = {"expansion": EXPANSION, "tau": TAU, "credit": "broadcast", **options}
    with pytest.raises(ValueError, match=message):
        expression_richness(embeddings, bank, **options)


@pytest.mark.parametrize(("credit", "group"), [("leave_one_out", 2), ("broadcast", 1)])
def test_refuses_groups_that_are_too_small(problem, credit, group):
    embeddings, _, bank, _ = problem
    with pytest.raises(ValueError, match=f"at least {group + 1} samples"):
        reward(embeddings[:, :group], bank, credit)
