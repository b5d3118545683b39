"""Checks of arrays that others made, before anything is measured; errors name file and array."""

from __future__ import annotations

import numpy as np

# Squares of numbers of this size, and sums of them, are finite in float32.
_LARGEST = 1e15


def checked_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings [n, dim] as they are.

    Raises:
        ValueError: another shape or type, no image, numbers that are not finite or too large to
            be squared, or a row of zeros, which has no direction.
    """
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: expected numbers [n, dim] of at least one image, got "
            f"{embeddings.shape} as {embeddings.dtype}"
        )
    wrong = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(wrong):
        raise ValueError(f"{name}: must be finite numbers, and row {wrong[0]} is not")
    largest = np.abs(embeddings).max(axis=1).astype(np.float64)
    wrong = np.flatnonzero(largest == 0)
    if len(wrong):
        raise ValueError(
            f"{name}: {len(wrong)} of {len(embeddings)} rows are zeros, the first row {wrong[0]}; "
            "leave out images of which a network had nothing to say"
        )
    wrong = np.flatnonzero((largest > _LARGEST) | (largest < 1 / _LARGEST))
    if len(wrong):
        raise ValueError(
            f"{name}: the largest number of row {wrong[0]} is {largest[wrong[0]]:g}; it must lie "
            f"between {1 / _LARGEST:g} and {_LARGEST:g}, so that lengths are finite"
        )
    return embeddings


def checked_labels(name: str, labels: np.ndarray, number: int) -> np.ndarray:
    """Returns int64 [number]; whole numbers of any type are taken.

    Raises:
        ValueError: another length, or anything but whole numbers.
    """
    if labels.shape != (number,):
        raise ValueError(f"{name}: expected one of each of {number} images, got {labels.shape}")
    if labels.dtype.kind not in "biuf" or not (np.isfinite(labels) & (labels == labels // 1)).all():
        raise ValueError(f"{name}: must be whole numbers, got {labels.dtype}")
    # Beyond, different numbers would become the same.
    bits = 53 if labels.dtype.kind == "f" else 63
    if labels.size and not (-(2**bits) <= labels.min() and labels.max() < 2**bits):
        raise ValueError(
            f"{name}: must be -2**{bits} to 2**{bits} - 1 as {labels.dtype}, got {labels.min()} to "
            f"{labels.max()}"
        )
    return labels.astype(np.int64)


def checked_truths(name: str, truths: np.ndarray) -> np.ndarray:
    """Returns bool of the same shape; 0 and 1 of any type are taken.

    Raises:
        ValueError: anything else.
    """
    if truths.dtype.kind not in "biuf" or not np.isin(truths, (0, 1)).all():
        raise ValueError(f"{name}: must be true or false, or 1 or 0, got others as {truths.dtype}")
    return truths.astype(bool)


def checked_images(name: str, images: np.ndarray, number: int) -> np.ndarray:
    """Returns uint8 [number, height, width, 1 or 3] as they are.

    Raises:
        ValueError: another type, shape or count.
    """
    right = images.ndim == 4 and images.dtype == np.uint8 and images.shape[-1] in (1, 3)
    if not right or not images.size:
        raise ValueError(
            f"{name}: expected uint8 [n, height, width, 1 or 3], got {images.shape} as "
            f"{images.dtype}"
        )
    if len(images) != number:
        raise ValueError(f"{name}: {len(images)} images do not fit {number} embeddings")
    return images
