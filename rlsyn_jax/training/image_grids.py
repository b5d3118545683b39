"""Many images in one, as a PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from rlsyn_jax.training.atomic_files import write_bytes


def make_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Lays images out row by row.

    Args:
        images: uint8 [n, h, w, 1 or 3].
        columns: images a row; the last row is filled with white.

    Returns:
        uint8 [rows * h, columns * w, 3].
    """
    number, height, width, channels = images.shape
    rows = -(-number // columns)
    canvas = np.full((rows * columns, height, width, 3), 255, np.uint8)
    canvas[:number] = images if channels == 3 else np.repeat(images, 3, axis=-1)
    grid = canvas.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, 3)


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Writes an image, uint8 [h, w, 3], atomically as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
