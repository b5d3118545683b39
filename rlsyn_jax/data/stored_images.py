"""Images of data sets that are larger than memory, decoded from disk when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rlsyn_jax.data.image_decoding import decode_image

_THREADS = 8


class StoredImages:
    """Encoded images on disk, read as if they were one array uint8 [n, height, width, channels]."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, source: Sequence[dict], rows: np.ndarray, shape: tuple[int, int, int], contents: str
    ):
        """Prepares to read; nothing is read yet.

        Args:
            source: of examples with "image", an encoded image; its __getitems__ takes many numbers.
            rows: numbers of the examples [n].
            shape: (height, width, channels) of every image.
            contents: hash of all that the source holds.
        """
        self._source, self._rows = source, np.asarray(rows, np.int64)
        self._contents = contents
        self.shape = (len(self._rows), *shape)

    def __len__(self) -> int:
        """Returns n."""
        return len(self._rows)

    def take(self, indices: np.ndarray) -> StoredImages:
        """Returns the images at indices [k] without reading them."""
        return StoredImages(self._source, self._rows[indices], self.shape[1:], self._contents)

    def digest(self) -> str:
        """Returns a hash of the images and their order, for which none is read."""
        return hashlib.sha256(self._contents.encode() + self._rows.tobytes()).hexdigest()

    def __getitem__(self, indices: np.ndarray | slice | int) -> np.ndarray:
        """Reads and decodes images: [height, width, channels] of one, [k, ...] of k."""
        rows = self._rows[indices]
        examples = self._source.__getitems__([int(row) for row in np.atleast_1d(rows)])
        images = np.empty((len(examples), *self.shape[1:]), np.uint8)

        def decode(number: int) -> None:
            encoded = examples[number]["image"]
            images[number] = decode_image(encoded, image_size=None, channels=self.shape[-1])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(decode, range(len(examples))))
        return images if np.ndim(rows) else images[0]
