"""Shuffled batches of an in-memory data set, placed on the device mesh.

Grain orders the examples and every process computes the same order; each process then gathers only
the rows that its own devices hold. The sequence of global batches therefore depends on the seed,
the data set and the batch size alone, never on how many devices or processes share the work.
"""

from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_LARGEST_SEED = 2**32 - 1


class BatchIterator:
    """An endless iterator over shuffled global batches, whose position can be saved.

    Each epoch is a new permutation of the data set. Batches run across the border of two epochs,
    so every batch is full, also where the data set is smaller than one batch.
    """

    def __init__(
        self,
        images: np.ndarray,
        identities: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        mesh: Mesh,
        prefetch: int = 2,
    ):
        """Prepare the order of the examples; nothing is read or moved yet.

        Args:
            images: [num_images, ...], uint8 images, held by the host and identical in every
                process; or what reads them from disk when it is indexed, such as a LatentCache.
            identities: [num_images] integer labels.
            batch_size: number of examples of a global batch, a multiple of the number of devices.
            seed: 0 to 2**32 - 1; decides the permutation of every epoch.
            mesh: device mesh with the axes "data" and "fsdp"; the batch is split over both.
            prefetch: number of batches gathered ahead by a background thread; 0 gathers each
                batch when it is asked for.

        Raises:
            ValueError: where lengths differ, the data set is empty, the batch does not divide over
                the devices, or the seed or the mesh cannot be used.
        """
        identities = np.asarray(identities)
        if len(images.shape) < 2:
            raise ValueError(
                f"images has shape {images.shape}; expected [num_images, height, width, channels]."
            )
        if identities.shape != (len(images),):
            raise ValueError(
                f"identities has shape {identities.shape}; expected ({len(images)},), one label "
                f"for each of the {len(images)} images."
            )
        if len(images) == 0:
            raise ValueError("The data set holds no images; at least one is needed for a batch.")
        if not np.issubdtype(identities.dtype, np.integer):
            raise ValueError(f"identities has dtype {identities.dtype}; expected integers.")
        if set(mesh.axis_names) != {"data", "fsdp"}:
            raise ValueError(f'The mesh has the axes {mesh.axis_names}; expected "data", "fsdp".')
        if batch_size < 1 or batch_size % mesh.size:
            raise ValueError(
                f"batch_size is {batch_size}; expected a positive multiple of the number of "
                f"devices in the mesh, {mesh.size}."
            )
        if not 0 <= seed <= _LARGEST_SEED:
            raise ValueError(f"seed is {seed}; expected 0 to {_LARGEST_SEED}.")
        if prefetch < 0:
            raise ValueError(f"prefetch is {prefetch}; expected 0 or more batches.")

        self._images = images
        self._identities = identities.astype(np.int32)
        self._batch_size = batch_size
        self._sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        self._order = {"num_images": len(images), "batch_size": batch_size, "seed": int(seed)}
        row_slices = self._sharding.addressable_devices_indices_map((batch_size,)).values()
        self._local_ranges = sorted({rows.indices(batch_size)[:2] for (rows,) in row_slices})

        order = grain.MapDataset.range(len(images)).shuffle(seed=int(seed)).repeat()
        batches = order.batch(batch_size, drop_remainder=True).map(self._gather_local_rows)
        options = grain.ReadOptions(num_threads=int(prefetch > 0), prefetch_buffer_size=prefetch)
        self._iterator = iter(batches.to_iter_dataset(options))

    def _gather_local_rows(self, indices: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Read this process's rows of one global batch, keyed by the first row of each device."""
        return {
            start: (self._images[indices[start:stop]], self._identities[indices[start:stop]])
            for start, stop in self._local_ranges
        }

    def __iter__(self) -> "BatchIterator":
        """Return the iterator itself."""
        return self

    def __next__(self) -> dict[str, jax.Array]:
        """Return the next global batch.

        Returns:
            "image" [batch_size, ...] with the shape and dtype of the images, and "identity" int32
            [batch_size]; global arrays split over the mesh along the batch.
        """
        rows = next(self._iterator)

        def place(which: int, shape: tuple[int, ...]) -> jax.Array:
            def read(index: tuple[slice, ...]) -> np.ndarray:
                return rows[index[0].indices(self._batch_size)[0]][which]

            return jax.make_array_from_callback(shape, self._sharding, read)

        return {
            "image": place(0, (self._batch_size, *self._images.shape[1:])),
            "identity": place(1, (self._batch_size,)),
        }

    def get_state(self) -> dict[str, Any]:
        """Return the position: a dict of ints that JSON can hold, to be given to `set_state`."""
        return {**self._order, "next_index": int(self._iterator.get_state()["next_index"])}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position: the next batch is the one that was next then.

        Args:
            state: what `get_state` returned for the same data set, batch size and seed, with any
                number of devices or processes.

        Raises:
            ValueError: where the state belongs to another order of examples or is incomplete.
        """
        expected = {*self._order, "next_index"}
        if set(state) != expected:
            raise ValueError(
                f"The saved iterator state has the fields {sorted(state)}; expected "
                f"{sorted(expected)}, as get_state gives them."
            )
        for field, value in self._order.items():
            if int(state[field]) != value:
                raise ValueError(
                    f"The saved iterator state has {field} = {state[field]}, but this run has "
                    f"{value}: it would not see the same batches. Resume with the saved value, or "
                    "start in a new work directory."
                )
        next_index = int(state["next_index"])
        if next_index < 0:
            raise ValueError(f"The saved next_index is {next_index}; expected 0 or more.")
        self._iterator.set_state({"next_index": next_index})
