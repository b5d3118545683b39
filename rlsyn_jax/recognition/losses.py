"""Losses of identity recognition: cross entropy, batch-hard triplet, margins on cosines."""

from __future__ import annotations

import math

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


def batch_hard_triplet(
    features: jax.Array, labels: jax.Array, margin: float, counted: jax.Array | None = None
) -> jax.Array:
    """Returns the batch-hard triplet loss of each anchor (Hermans et al., 1703.07737, eq 5).

    Args:
        features: float [b, d], not normalised.
        labels: int [b].
        margin: how much farther the hardest negative must be than the hardest positive.
        counted: bool [b], who can be a positive or a negative; None = all.

    Returns:
        float32 [b]; 0 for an anchor without a positive or without a negative in the batch.
    """
    squares = jnp.sum(features**2, axis=-1)
    squared = squares[:, None] + squares[None] - 2 * features @ features.T
    # The root's derivative is infinite at 0, where the diagonal lies.
    distances = jnp.sqrt(jnp.maximum(squared, 1e-12))
    same = labels[:, None] == labels[None]
    other, different = same & ~jnp.eye(len(labels), dtype=bool), ~same
    if counted is not None:
        other, different = other & counted, different & counted
    hardest_positive = jnp.where(other, distances, -jnp.inf).max(axis=1)
    hardest_negative = jnp.where(different, distances, jnp.inf).min(axis=1)
    defined = other.any(axis=1) & different.any(axis=1)
    gap = jnp.where(defined, hardest_positive - hardest_negative, -margin)
    return jax.nn.relu(gap + margin)


def cosface_logits(cosine: jax.Array, own: jax.Array, scale: float, margin: float) -> jax.Array:
    """Returns CosFace logits s (cos(theta) - m [own class]) (Wang et al., 1801.09414, eq 4).

    Args:
        cosine: [b, identities], of the angles between embeddings and class weights.
        own: bool [b, identities]; a sample without an own class gets no margin.
        scale: s > 0.
        margin: m in [0, 1).
    """
    return scale * jnp.where(own, cosine - margin, cosine)


def arcface_logits(
    cosine: jax.Array, own: jax.Array, scale: float, margin: float, easy_margin: bool = False
) -> jax.Array:
    """Returns ArcFace logits s cos(theta + m [own class]) (Deng et al., 1801.07698, eq 3).

    Past theta = pi - m the cosine would rise again. There it goes on falling, as InsightFace has
    it: cos(theta) - m sin(m). With the easy margin it is left alone where theta is above pi / 2.

    Args:
        cosine, own: as of cosface_logits.
        scale: s > 0.
        margin: m in radians, 0 to pi.
        easy_margin: whether the margin is left out where theta is above pi / 2.
    """
    # The root's derivative is infinite at 0.
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 1e-12))
    added = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        moved = jnp.where(cosine > 0, added, cosine)
    else:
        moved = jnp.where(cosine > -math.cos(margin), added, cosine - margin * math.sin(margin))
    return scale * jnp.where(own, moved, cosine)


def circle_logits(cosine: jax.Array, own: jax.Array, scale: float, margin: float) -> jax.Array:
    """Returns logits whose cross entropy is circle loss (Sun et al., 2002.10857, eq 4 to 8).

    Own class: s [1 + m - cos]+ (cos - (1 - m)); others: s [cos + m]+ (cos - m). The weights in
    brackets pull what is far from its optimum more; they count as constants in the gradient.

    Args:
        cosine, own: as of cosface_logits.
        scale: s > 0.
        margin: m in [0, 1).
    """
    constant = jax.lax.stop_gradient(cosine)
    positive = jax.nn.relu(1 + margin - constant) * (cosine - (1 - margin))
    negative = jax.nn.relu(constant + margin) * (cosine - margin)
    return scale * jnp.where(own, positive, negative)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns x with length 1 along an axis."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=axis, keepdims=True), 1e-12))
