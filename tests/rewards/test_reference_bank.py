"""Grouping, normalising and padding of reference features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.training.meshes import batch_sharding, make_mesh

IDENTITIES = np.array([2, 0, 1, 0, 2, 2])


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32) * 7


def test_groups_in_order_with_unit_norm_and_zero_padding(features):
    bank = build_reference_bank(features, IDENTITIES, 3)
    assert bank.features.shape == (3, 3, 5) and bank.features.dtype == jnp.float32
    assert bank.mask.tolist() == [[True, True, False], [True, False, False], [True] * 3]
    for identity in range(3):
        rows = features[IDENTITIES == identity]
        for column in range(3):
            expected = np.zeros(5)
            if column < len(rows):
                expected = rows[column] / np.sqrt(np.sum(np.float64(rows[column]) ** 2))
            np.testing.assert_allclose(bank.features[identity, column], expected, atol=1e-7)


def test_take_reorders_inside_jit(features):
    bank = build_reference_bank(features, IDENTITIES, 3)
    taken = jax.jit(lambda bank, chosen: bank.take(chosen))(bank, jnp.array([2, 0]))
    np.testing.assert_array_equal(taken.features, np.asarray(bank.features)[[2, 0]])
    np.testing.assert_array_equal(taken.mask, np.asarray(bank.mask)[[2, 0]])
    np.testing.assert_array_equal(taken.identities, [2, 0])
    # The labels stay those of the whole bank.
    assert taken.take(jnp.array([1, 1, 0])).identities.tolist() == [0, 0, 2]


def test_a_bank_on_the_host_stays_there(features):
    bank = build_reference_bank(features, IDENTITIES, 3)
    for part in (bank, bank.padded_to(2), bank.take(np.array([2, 0]))):
        assert all(isinstance(array, np.ndarray) for array in jax.tree.leaves(part))
    asked = bank.take(jnp.array([2, 0]))
    for got, expected in zip(jax.tree.leaves(asked), jax.tree.leaves(bank.take(np.array([2, 0])))):
        assert isinstance(got, jax.Array)
        np.testing.assert_array_equal(got, expected)


def test_rows_carry_their_labels(features):
    bank = build_reference_bank(features, IDENTITIES, 3)
    assert bank.identities.tolist() == [0, 1, 2] and bank.identities.dtype == jnp.int32


@pytest.mark.parametrize(("multiple", "rows"), [(1, 3), (2, 4), (3, 3), (8, 8)])
def test_padding_adds_empty_rows_behind(features, multiple, rows):
    bank = build_reference_bank(features, IDENTITIES, 3)
    padded = bank.padded_to(multiple)
    assert padded.features.shape == (rows, 3, 5) and padded.mask.shape == (rows, 3)
    assert padded.identities.tolist() == [0, 1, 2] + [-1] * (rows - 3)
    assert padded.identities.dtype == jnp.int32 and padded.mask.dtype == bool
    assert not padded.mask[3:].any() and not padded.features[3:].any()
    for got, whole in zip(jax.tree.leaves(padded.take(jnp.arange(3))), jax.tree.leaves(bank)):
        np.testing.assert_array_equal(got, whole)


def test_a_padded_bank_divides_over_devices_and_gives_the_same_rows(features):
    bank = build_reference_bank(features, IDENTITIES, 3)
    placed = jax.device_put(bank.padded_to(8), batch_sharding(make_mesh()))
    taken = jax.jit(lambda bank, chosen: bank.take(chosen))(placed, jnp.array([2, 1]))
    for got, expected in zip(jax.tree.leaves(taken), jax.tree.leaves(bank.take(jnp.array([2, 1])))):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_do_not_overflow(features, scale):
    bank = build_reference_bank(features * np.float32(scale), IDENTITIES, 3)
    norms = np.linalg.norm(np.asarray(bank.features), axis=-1)[np.asarray(bank.mask)]
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_refuses_an_identity_without_a_feature(features):
    with pytest.raises(ValueError, match=r"none for \[3\]"):
        build_reference_bank(features, IDENTITIES, 4)
    with pytest.raises(ValueError, match="at least one feature"):
        build_reference_bank(features[:0], IDENTITIES[:0], 0)


def test_refuses_identities_out_of_range(features):
    with pytest.raises(ValueError, match="index 0 holds 2"):
        build_reference_bank(features, IDENTITIES, 2)
    with pytest.raises(ValueError, match=r"index 0 holds -1"):
        build_reference_bank(features, IDENTITIES * 0 - 1, 2)
    with pytest.raises(ValueError, match="integers"):
        build_reference_bank(features, IDENTITIES.astype(float), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_features_that_are_not_finite(features, value):
    features[4, 1] = value
    with pytest.raises(ValueError, match="not finite, the first at index 4"):
        build_reference_bank(features, IDENTITIES, 3)


def test_refuses_a_zero_feature(features):
    features[3] = 0
    with pytest.raises(ValueError, match="norm zero.*index 3"):
        build_reference_bank(features, IDENTITIES, 3)


def test_refuses_shapes_that_do_not_match(features):
    with pytest.raises(ValueError, match="same n"):
        build_reference_bank(features, IDENTITIES[:5], 3)
    with pytest.raises(ValueError, match="same n"):
        build_reference_bank(features[0], IDENTITIES, 3)
