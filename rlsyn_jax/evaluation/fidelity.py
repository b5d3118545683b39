"""How near a set of generated images is to real ones, in a feature space."""

from __future__ import annotations

import dataclasses

import numpy as np

_BLOCK = 1024


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared 2-Wasserstein distance between Gaussians fitted to two feature sets (FID).

    Works for singular covariances too, as fewer images than features give.

    Args:
        real: float [n, dim]. fake: float [m, dim].

    Returns:
        The distance, 0 or more; 0 for equal means and covariances.

    Raises:
        ValueError: shapes that do not fit, fewer than two rows, or numbers not finite.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, equation 6.
    """
    real, fake = _checked(real, fake, minimum=2)
    mean_gap = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    real_covariance = np.atleast_2d(np.cov(real, rowvar=False))
    fake_covariance = np.atleast_2d(np.cov(fake, rowvar=False))
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose argument is symmetric.
    values, vectors = np.linalg.eigh(real_covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ fake_covariance @ root)
    overlap = np.sqrt(np.clip(inner, 0, None)).sum()
    distance = mean_gap + np.trace(real_covariance) + np.trace(fake_covariance) - 2 * overlap
    return float(max(distance, 0.0))


@dataclasses.dataclass(frozen=True)
class NeighborStatistics:
    """Shares and densities from nearest-neighbour balls.

    Attributes:
        precision: share of generated samples inside the real manifold, 0..1.
        recall: share of real samples inside the generated manifold, 0..1.
        density: mean number of real balls around a generated sample, over k; 0 or more.
        coverage: share of real samples whose ball holds a generated one, 0..1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(
    real: np.ndarray, fake: np.ndarray, num_neighbors: int = 5
) -> NeighborStatistics:
    """Measures fidelity and variety by k-nearest-neighbour balls.

    Args:
        real: float [n, dim]. fake: float [m, dim].
        num_neighbors: k, below n and m.

    Returns:
        The four figures.

    Raises:
        ValueError: shapes that do not fit, or k not below the number of samples.

    Source: Kynkäänniemi et al., 2019 (precision, recall); Naeem et al., 2020 (density, coverage).
    """
    real, fake = _checked(real, fake, minimum=1)
    if not 1 <= num_neighbors < min(len(real), len(fake)):
        raise ValueError(
            f"num_neighbors is {num_neighbors}; it must be at least 1 and below the number of "
            f"samples, {len(real)} real and {len(fake)} generated"
        )
    real_radii = _radii(real, num_neighbors)
    fake_radii = _radii(fake, num_neighbors)
    inside_real = np.zeros(len(fake), np.int64)
    recalled = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for start in range(0, len(real), _BLOCK):
        block = slice(start, start + _BLOCK)
        distances = _distances(real[block], fake)  # [block, m]
        inside_real += (distances < real_radii[block, None]).sum(axis=0)
        recalled[block] = (distances < fake_radii[None]).any(axis=1)
        covered[block] = distances.min(axis=1) < real_radii[block]
    return NeighborStatistics(
        precision=float((inside_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(inside_real.mean() / num_neighbors),
        coverage=float(covered.mean()),
    )


def _radii(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Distance of every sample to its k-th neighbour, itself not counted."""
    radii = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        distances = _distances(features[start : start + _BLOCK], features)
        radii[start : start + _BLOCK] = np.partition(distances, num_neighbors, axis=1)[
            :, num_neighbors
        ]
    return radii


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squared = (
        np.square(one).sum(axis=1)[:, None] - 2 * one @ other.T + np.square(other).sum(axis=1)[None]
    )
    return np.sqrt(np.clip(squared, 0, None))


def _checked(real, fake, minimum: int) -> tuple[np.ndarray, np.ndarray]:
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected real [n, dim] and fake [m, dim] of one dim, got {real.shape} and "
            f"{fake.shape}"
        )
    if min(len(real), len(fake)) < minimum:
        raise ValueError(
            f"at least {minimum} samples of each are needed, got {len(real)} real and {len(fake)} "
            "generated"
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise ValueError("features must be finite numbers")
    return real, fake
