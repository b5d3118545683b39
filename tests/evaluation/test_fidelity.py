"""Fréchet distance against closed forms, neighbour statistics against the package prdc."""

import numpy as np
import prdc
import pytest
from scipy import linalg

from rlsyn_jax.evaluation.fidelity import frechet_distance, precision_recall_density_coverage


def test_frechet_distance_of_diagonal_gaussians():
    # Samples whose means and covariances are exact.
    base = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    real, fake = base * [1, 2], base * [3, 5] + [1, 0]
    assert frechet_distance(real, fake) == pytest.approx(1 + (3 - 1) ** 2 + (5 - 2) ** 2)


def test_frechet_distance_against_the_matrix_square_root():
    random = np.random.default_rng(0)
    real = random.normal(size=(300, 5)) @ random.normal(size=(5, 5))
    fake = random.normal(size=(200, 5)) @ random.normal(size=(5, 5)) + 1
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(
        a + b - 2 * linalg.sqrtm(a @ b).real
    )
    assert frechet_distance(real, fake) == pytest.approx(expected)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    few = random.normal(size=(4, 30))  # singular covariance
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 1) == pytest.approx(30, rel=1e-6)


@pytest.mark.parametrize("sizes", [(60, 45), (1100, 30)])
def test_neighbour_statistics_agree_with_prdc(sizes):
    random = np.random.default_rng(1)
    real = random.normal(size=(sizes[0], 4))
    fake = random.normal(size=(sizes[1], 4)) * 0.7 + 0.4
    expected = prdc.compute_prdc(real, fake, nearest_k=5)
    result = precision_recall_density_coverage(real, fake, num_neighbors=5)
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value), name


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="num_neighbors is 5"):
        precision_recall_density_coverage(np.ones((5, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="one dim"):
        frechet_distance(np.ones((5, 2)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.full((5, 2), np.inf), np.ones((5, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.ones((1, 2)), np.ones((5, 2)))
