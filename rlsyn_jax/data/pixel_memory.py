"""Where a data set's decoded pixels lie: in memory, or in a file where that is too small."""

from __future__ import annotations

import os
import tempfile

import numpy as np

from rlsyn_jax.training.atomic_files import check_room

_SHARE = 0.25  # Of the machine's memory that one data set's pixels may take.


def in_memory_bytes() -> int:
    """Returns how many bytes of pixels are held in memory; of larger data sets none are."""
    return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def allocate_images(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array for a data set's pixels: in memory, or where that is too small in a file.

    The file lies in the system's folder of temporary files (TMPDIR) and goes with the array.

    Args:
        shape: (n, height, width, channels).

    Returns:
        uint8 of this shape.

    Raises:
        StorageError: the folder has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= in_memory_bytes():
        return np.empty(shape, np.uint8)
    # A page that cannot be written later would end the process without a word.
    check_room(tempfile.gettempdir(), size, "the pixels (the variable TMPDIR names another folder)")
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
