"""P x K batches on the device: P identities, K images of each."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class IdentityTable:
    """Where the images of each identity are.

    Attributes:
        indices: int32 [identities, most images], padded by 0.
        counts: int32 [identities].
    """

    indices: jax.Array
    counts: jax.Array


def make_identity_table(labels: np.ndarray, num_identities: int) -> IdentityTable:
    """Lists the images of each identity.

    Args:
        labels: int [n] in 0..num_identities - 1; identities may have no image.
        num_identities: rows of the table.
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=num_identities)
    indices = np.zeros((num_identities, max(1, counts.max())), np.int32)
    order = np.argsort(labels, kind="stable")
    rows = labels[order]
    first = np.cumsum(counts) - counts
    indices[rows, np.arange(len(labels)) - first[rows]] = order
    return IdentityTable(jnp.asarray(indices), jnp.asarray(counts, jnp.int32))


def sample_identities(key: jax.Array, candidates: jax.Array, number: int) -> jax.Array:
    """Draws identities without repetition, or evenly repeated where there are too few.

    Args:
        key: typed random key.
        candidates: int [m] identities to draw from.
        number: how many, P.
    """
    order = jax.random.permutation(key, candidates)
    return order[jnp.arange(number) % len(candidates)]


def sample_identities_and_others(
    key: jax.Array, candidates: jax.Array, others: jax.Array, number: int, number_of_others: int
) -> jax.Array:
    """Draws identities, the last of them from others, as `sample_identities` draws each part.

    Args:
        key: typed random key.
        candidates: int [m] identities. others: int [n] identities of another kind.
        number: how many in all, P.
        number_of_others: how many of P are others.
    """
    own = sample_identities(key, candidates, number - number_of_others)
    rest = sample_identities(jax.random.fold_in(key, 1), others, number_of_others)
    return jnp.concatenate([own, rest])


def sample_images(
    key: jax.Array, table: IdentityTable, identities: jax.Array, number: int
) -> jax.Array:
    """Draws images of each identity without repetition, evenly repeated where there are too few.

    Args:
        key: typed random key.
        table: images by identity; every identity drawn must have one.
        identities: int [p].
        number: images of each, K.

    Returns:
        int32 [p, K], indices of images.
    """
    rows, counts = table.indices[identities], table.counts[identities]
    present = jnp.arange(rows.shape[1])[None] < counts[:, None]
    order = jnp.argsort(jnp.where(present, jax.random.uniform(key, rows.shape), 2.0), axis=1)
    places = jnp.arange(number)[None] % jnp.maximum(counts, 1)[:, None]
    return jnp.take_along_axis(rows, jnp.take_along_axis(order, places, axis=1), axis=1)
