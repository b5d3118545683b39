"""The spherical map: its parts against their definitions, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.report import dosnes as module
from rlsyn_jax.report.dosnes import (
    divergence,
    dosnes,
    doubly_stochastic,
    hemispheres,
    neighbor_affinities,
)


def clusters(count=40):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), count)
    return 6 * np.eye(5)[labels] + random.normal(size=(3 * count, 5)), labels


def test_affinities_have_the_perplexity_and_sinkhorn_makes_them_doubly_stochastic():
    features, _ = clusters()
    affinities = neighbor_affinities(features, 12.0)
    np.testing.assert_allclose(affinities, affinities.T)
    # One far point has uniform affinities to two equal neighbours at perplexity 2.
    triangle = np.array([[0.0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    np.testing.assert_allclose(neighbor_affinities(triangle, 2.0), (1 - np.eye(3)) / 2, atol=1e-6)
    scaled = doubly_stochastic(affinities)
    np.testing.assert_allclose(scaled.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(scaled.sum(1), 1, atol=1e-6)


def test_descent_follows_the_gradient_of_the_divergence():
    features, _ = clusters(8)
    affinities = doubly_stochastic(neighbor_affinities(features, 5.0))
    affinities = jnp.asarray(affinities / affinities.sum(), jnp.float32)
    start = jax.random.normal(jax.random.key(0), (24, 3))
    start = start / jnp.linalg.norm(start, axis=1, keepdims=True)
    gradient = jax.grad(divergence, argnums=1)(affinities, start)
    kernel = (1 - np.eye(24)) / (
        1 + np.square(np.asarray(start)[:, None] - np.asarray(start)[None]).sum(-1)
    )
    pull = (np.asarray(affinities) - kernel / kernel.sum()) * kernel
    written = 4 * (pull.sum(1)[:, None] * start - pull @ start)
    np.testing.assert_allclose(gradient, written, atol=1e-6)
    end = module._descend(affinities, start, 200)
    assert divergence(affinities, end) < 0.5 * divergence(affinities, start)


def test_clusters_stay_apart_on_the_sphere():
    features, labels = clusters()
    points = dosnes(features, perplexity=15)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-5)
    nearest = (points @ points.T - 2 * np.eye(len(points))).argmax(1)
    assert (labels[nearest] == labels).mean() > 0.95
    np.testing.assert_array_equal(points, dosnes(features, perplexity=15))
    assert np.abs(points - dosnes(features, perplexity=15, seed=1)).max() > 0.1


def test_projection_keeps_areas():
    points = np.random.default_rng(0).normal(size=(40_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    front, places = hemispheres(points)
    radius = np.linalg.norm(places, axis=1)
    assert radius.max() <= 1 + 1e-9 and front.mean() == pytest.approx(0.5, abs=0.02)
    # In a uniformly filled disc a quarter of the points lies within half the radius.
    assert (radius < 0.5).mean() == pytest.approx(0.25, abs=0.02)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="n at least 4"):
        dosnes(np.ones((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        dosnes(np.full((9, 2), np.nan))
