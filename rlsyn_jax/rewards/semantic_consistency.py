"""Semantic consistency: does a sample look like the identity it was generated for?"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlsyn_jax.rewards.reference_bank import ReferenceBank


def semantic_consistency(embeddings: jax.Array, bank: ReferenceBank) -> jax.Array:
    """Compares each sample with the mean direction of its identity's references.

    Equations (2) and (3) of Jia et al., 2604.07884: the mean of the references is scaled to unit
    norm, and the cosine similarity with it is mapped from [-1, 1] to [0, 1].

    Args:
        embeddings: float [i, g, d], unit norm; g samples of each of i identities.
        bank: references of the same i identities.

    Returns:
        float32 [i, g] in [0, 1]. Where the references of an identity cancel to a zero mean the
        reward is 0.5, as for an orthogonal sample.
    """
    references = jnp.where(bank.mask[..., None], bank.features, 0)  # [i, r, d]
    total = references.sum(axis=1)  # [i, d]
    # The sum and the mean have the same direction.
    norm = jnp.linalg.norm(total, axis=-1, keepdims=True)
    prototype = total / jnp.maximum(norm, 1e-12)
    cosine = jnp.einsum("igd,id->ig", embeddings, prototype, precision="highest")
    # Rounding can carry a cosine just past one.
    return jnp.clip((cosine + 1) / 2, 0, 1).astype(jnp.float32)
