"""The nearest real image of every synthetic one: how much was copied."""

from __future__ import annotations

import einops
import numpy as np

from rlsyn_jax.evaluation.unit_rows import unit_rows

METRICS = ("cosine", "euclidean")
# Side of the squares' grid in which pixels are compared: averages forgive small shifts.
_COMPARED_SIDE = 32
# Images that become numbers at a time, which take four times the memory of bytes.
_BLOCK = 4096


class NearestReal:
    """The nearest of the same real embeddings, for one block of synthetic ones after the other."""

    def __init__(self, real: np.ndarray, *, metric: str = "cosine"):
        """Prepares the real embeddings once.

        Args:
            real: float [m, dim], m at least 1.
            metric: "cosine" distance, 0 to 2, for embeddings; "euclidean" for pixels.

        Raises:
            ValueError: no [m, dim] of finite numbers, no embedding, or an unknown metric.
        """
        real = _checked(real)
        if not len(real):
            raise ValueError(f"expected real [m, dim] with m at least 1, got {real.shape}")
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; it must be one of {METRICS}")
        self._metric = metric
        self._real = unit_rows(real) if metric == "cosine" else real
        self._lengths = np.square(self._real).sum(axis=1)

    def distances(
        self, synthetic: np.ndarray, *, block_size: int = 4096
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds each synthetic embedding's nearest real one.

        Args:
            synthetic: float [n, dim].
            block_size: synthetic embeddings compared at a time.

        Returns:
            (float32 [n] distance; int64 [n] place of the nearest real one).

        Raises:
            ValueError: no [n, dim] of finite numbers, or of another dim than the real ones.
        """
        synthetic = _checked(synthetic)
        if synthetic.shape[1:] != self._real.shape[1:]:
            raise ValueError(
                "expected synthetic [n, dim] and real [m, dim] of one dim, got "
                f"{synthetic.shape} and {self._real.shape}"
            )
        if self._metric == "cosine":
            synthetic = unit_rows(synthetic)
        distances = np.empty(len(synthetic), np.float32)
        nearest = np.empty(len(synthetic), np.int64)
        for start in range(0, len(synthetic), block_size):
            block = slice(start, start + block_size)
            similarity = synthetic[block] @ self._real.T  # [block, m]
            if self._metric == "cosine":
                nearest[block] = similarity.argmax(axis=1)
                distances[block] = np.clip(1 - similarity.max(axis=1), 0, 2)
            else:
                nearest[block] = (self._lengths - 2 * similarity).argmin(axis=1)
                # Anew from the two, so that a copy lies at 0 and not at a rounding error's root.
                gaps = synthetic[block] - self._real[nearest[block]]
                distances[block] = np.linalg.norm(gaps, axis=1)
        return distances, nearest


def nearest_real_distances(
    synthetic: np.ndarray, real: np.ndarray, *, metric: str = "cosine", block_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Finds each synthetic embedding's nearest real one; see `NearestReal`.

    Args:
        synthetic: float [n, dim]. real: float [m, dim], m at least 1.
        metric: "cosine" or "euclidean".
        block_size: synthetic embeddings compared at a time.

    Returns:
        (float32 [n] distance; int64 [n] place of the nearest real one).

    Raises:
        ValueError: shapes that do not fit, an unknown metric, numbers that are not finite, or no
            real embedding.
    """
    return NearestReal(real, metric=metric).distances(synthetic, block_size=block_size)


def near_threshold(held_out_distances: np.ndarray, quantile: float) -> float:
    """Distance below which a share of images lies that are as near to real ones as held-out ones.

    Args:
        held_out_distances: float [h], of held-out images to their nearest real one.
        quantile: that share, 0..1; of fewer than 1 / quantile images it is the smallest distance.

    Returns:
        Quantile of position quantile (h + 1) in the order of the distances, which the next image of
        the same kind lies below with that probability.

    Source: Weibull's plotting position; Hyndman and Fan, Sample Quantiles in Statistical Packages,
    1996, definition 6.
    """
    return float(np.quantile(held_out_distances, quantile, method="weibull"))


def pixel_features(images: np.ndarray, *, factor: int = 1) -> np.ndarray:
    """Pixels as features whose Euclidean distance is the root mean squared difference.

    Args:
        images: uint8 [n, h, w, c].
        factor: side of the squares that are averaged into one pixel; divides h and w. Averages
            forgive small shifts, and take less memory.

    Returns:
        float32 [n, h w c / factor^2]; distances lie in 0..1.

    Raises:
        ValueError: no uint8 images, or a factor that does not divide their sides.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f"expected images [n, h, w, c] as uint8, got {images.shape} as {images.dtype}"
        )
    if factor < 1 or images.shape[1] % factor or images.shape[2] % factor:
        raise ValueError(
            f"factor is {factor}; it must divide the sides of {images.shape[1]} x "
            f"{images.shape[2]} pixels"
        )
    height, width, channels = images.shape[1:]
    means = np.empty((len(images), height // factor * (width // factor) * channels), np.float32)
    for start in range(0, len(images), _BLOCK):
        means[start : start + _BLOCK] = einops.reduce(
            images[start : start + _BLOCK].astype(np.float32),
            "n (h a) (w b) c -> n (h w c)",
            "mean",
            a=factor,
            b=factor,
        )
    means /= 255 * np.sqrt(max(means.shape[1], 1), dtype=np.float32)
    return means


def averaged_pixels(images: np.ndarray) -> np.ndarray:
    """Pixel features of averages, of about 32 squares a side, in which copies are looked for.

    Args:
        images: uint8 [n, h, w, c].

    Returns:
        float32 [n, dim]; Euclidean distances lie in 0..1.

    Raises:
        ValueError: no uint8 images.
    """
    images = np.asarray(images)
    factor = max(1, min(images.shape[1:3], default=1) // _COMPARED_SIDE)
    while any(side % factor for side in images.shape[1:3]):
        factor -= 1
    return pixel_features(images, factor=factor)


def _checked(embeddings) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2:
        raise ValueError(f"expected embeddings [n, dim], got shape {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings must be finite numbers")
    return embeddings
