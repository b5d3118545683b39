"""Losses of identity recognition: cross entropy, batch-hard triplet, large-margin cosine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross entropy of each sample, float32 [b].

    Args:
        logits: [b, identities].
        labels: int [b].
        label_smoothing: share of the target spread evenly over all identities, in [0, 1).
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def batch_hard_triplet(features: jax.Array, labels: jax.Array, margin: float) -> jax.Array:
    """Returns the batch-hard triplet loss of each anchor (Hermans et al., 1703.07737, eq 5).

    Args:
        features: float [b, d], not normalised.
        labels: int [b].
        margin: how much farther the hardest negative must be than the hardest positive.

    Returns:
        float32 [b]; 0 for an anchor without a positive or without a negative in the batch.
    """
    squares = jnp.sum(features**2, axis=-1)
    squared = squares[:, None] + squares[None] - 2 * features @ features.T
    # The root's derivative is infinite at 0, where the diagonal lies.
    distances = jnp.sqrt(jnp.maximum(squared, 1e-12))
    same = labels[:, None] == labels[None]
    other = same & ~jnp.eye(len(labels), dtype=bool)
    hardest_positive = jnp.where(other, distances, -jnp.inf).max(axis=1)
    hardest_negative = jnp.where(~same, distances, jnp.inf).min(axis=1)
    defined = other.any(axis=1) & (~same).any(axis=1)
    gap = jnp.where(defined, hardest_positive - hardest_negative, -margin)
    return jax.nn.relu(gap + margin)


def cosface_logits(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array, scale: float, margin: float
) -> jax.Array:
    """Returns CosFace logits s (cos(theta) - m [own class]) (Wang et al., 1801.09414, eq 4).

    Args:
        embeddings: [b, d], normalised inside.
        class_weights: [d, identities], columns normalised inside.
        labels: int [b]; a label of -1 gets no margin (how scoring without a label works).
        scale: s > 0.
        margin: m in [0, 1).
    """
    cosine = unit(embeddings) @ unit(class_weights, axis=0)
    own = jax.nn.one_hot(labels, class_weights.shape[1])
    return scale * (cosine - margin * own)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns x with length 1 along an axis."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=axis, keepdims=True), 1e-12))
