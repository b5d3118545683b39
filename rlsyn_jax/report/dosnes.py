"""DOSNES: a map of embeddings on the sphere, without the crowding at a flat map's centre."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def dosnes(
    features: np.ndarray, *, perplexity: float = 30.0, num_iterations: int = 500, seed: int = 0
) -> np.ndarray:
    """Places every feature vector on the unit sphere, near its neighbours.

    Args:
        features: float [n, dim], n at least 4.
        perplexity: effective number of neighbours; lowered to (n - 1) / 3 for small sets.
        num_iterations: gradient steps.
        seed: of the start.

    Returns:
        float32 [n, 3], of length 1.

    Raises:
        ValueError: fewer than 4 points, or features that are not finite.

    Source: Lu, Corander and Yang, Doubly Stochastic Neighbor Embedding on Spheres, 2016.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 4 or not np.isfinite(features).all():
        raise ValueError(
            f"expected finite features [n, dim] with n at least 4, got shape {features.shape}"
        )
    affinities = doubly_stochastic(
        neighbor_affinities(features, min(perplexity, (len(features) - 1) / 3))
    )
    start = np.random.default_rng(seed).normal(size=(len(features), 3))
    points = _descend(
        jnp.asarray(affinities / affinities.sum(), jnp.float32),
        jnp.asarray(start / np.linalg.norm(start, axis=1, keepdims=True), jnp.float32),
        num_iterations,
    )
    return np.asarray(points)


def neighbor_affinities(features: np.ndarray, perplexity: float) -> np.ndarray:
    """Symmetric Gaussian affinities whose bandwidths give every point the perplexity.

    Args:
        features: float [n, dim].
        perplexity: exp of the entropy of each point's distribution over neighbours, 1 to n - 1.

    Returns:
        float64 [n, n], zero on the diagonal.
    """
    lengths = np.square(features).sum(axis=1)
    squared = np.clip(lengths[:, None] - 2 * features @ features.T + lengths[None], 0, None)
    np.fill_diagonal(squared, np.inf)
    squared -= squared.min(axis=1, keepdims=True)
    scale = np.median(squared[np.isfinite(squared)]) or 1.0
    low, high = np.full(len(squared), -40.0), np.full(len(squared), 40.0)  # log precision
    for _ in range(60):
        middle = (low + high) / 2
        weights = np.exp(-squared / scale * np.exp(middle)[:, None])
        shares = weights / weights.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return (shares + shares.T) / 2


def doubly_stochastic(affinities: np.ndarray, *, num_iterations: int = 200) -> np.ndarray:
    """Scales a symmetric matrix so that every row and every column sums to 1 (Sinkhorn, Knopp).

    Args:
        affinities: float [n, n], symmetric, not negative, no row of zeros.
        num_iterations: at most so many rounds.

    Returns:
        float64 [n, n], symmetric.
    """
    scaling = np.ones(len(affinities))
    for _ in range(num_iterations):
        # The geometric mean of old and new keeps the symmetric iteration from swinging.
        fresh = np.sqrt(scaling / (affinities @ scaling))
        done = np.abs(fresh / scaling - 1).max() < 1e-10
        scaling = fresh
        if done:
            break
    return scaling[:, None] * affinities * scaling[None]


def divergence(affinities: jax.Array, points: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of the map's Student-t affinities from the given ones.

    Args:
        affinities: float32 [n, n], sums to 1.
        points: float32 [n, 3].

    Returns:
        float32 scalar, 0 or more.
    """
    gaps = points[:, None] - points[None]
    kernel = (1 - jnp.eye(len(points))) / (1 + jnp.square(gaps).sum(-1))
    map_affinities = kernel / kernel.sum()
    ratio = jnp.maximum(affinities, 1e-12) / jnp.maximum(map_affinities, 1e-12)
    return (affinities * jnp.log(ratio)).sum()


@functools.partial(jax.jit, static_argnums=2)
def _descend(affinities: jax.Array, points: jax.Array, num_iterations: int) -> jax.Array:
    """Gradient descent with momentum; every step ends on the sphere."""
    rate = len(points) / 4.0

    def slope(points, exaggeration):
        # The gradient of `divergence`, written with matrix products instead of [n, n, 3] gaps.
        inner = jnp.square(points).sum(-1)
        squared = inner[:, None] - 2 * points @ points.T + inner[None]
        kernel = (1 - jnp.eye(len(points))) / (1 + jnp.maximum(squared, 0))
        pull = (exaggeration * affinities - kernel / kernel.sum()) * kernel
        return 4 * (pull.sum(1)[:, None] * points - pull @ points)

    def step(number, carry):
        points, velocity = carry
        early = number < num_iterations // 4
        gradient = slope(points, jnp.where(early, 6.0, 1.0))
        velocity = jnp.where(early, 0.5, 0.8) * velocity - rate * gradient
        length = jnp.linalg.norm(velocity, axis=1, keepdims=True)
        velocity = velocity * jnp.minimum(1.0, 0.3 / jnp.maximum(length, 1e-12))
        points = points + velocity
        return points / jnp.linalg.norm(points, axis=1, keepdims=True), velocity

    return jax.lax.fori_loop(0, num_iterations, step, (points, jnp.zeros_like(points)))[0]


def hemispheres(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects each hemisphere into the unit disc, areas kept (Lambert's azimuthal projection).

    Args:
        points: float [n, 3], of length 1.

    Returns:
        (bool [n] whether a point is on the front, z >= 0; float [n, 2] its place in the disc; the
        back is seen from behind).
    """
    points = np.asarray(points, np.float64)
    front = points[:, 2] >= 0
    depth = np.abs(points[:, 2])
    places = points[:, :2] / np.sqrt(1 + depth)[:, None]
    places[~front, 0] *= -1
    return front, places
