"""Latents of a data set, encoded once and kept as array_record shards.

A record holds one image: for each variant (as it is, mirrored) the mean and the log-variance of
its latents, so that every epoch can draw its own. A shard is written whole or not at all, and
encoding goes on at the first that is missing. Letters in shapes: n images, v variants, h w height
and width, c channels.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from rlsyn_jax.training.atomic_files import check_room, storage_error, write_json

# Half precision keeps three digits, which is below the noise that the latents are drawn with.
DTYPE = np.dtype(np.float16)


class LatentCache:
    """Latents on disk, read as if they were one array [n, v, 2, h, w, c] of float16."""

    def __init__(self, folder: str | Path):
        """Opens a complete cache.

        Args:
            folder: as `encode_dataset` filled it.

        Raises:
            ValueError: it is not complete.
        """
        folder = Path(folder)
        metadata = read_metadata(folder)
        shards = _shards(folder, metadata) if metadata else []
        if not shards or not all(path.exists() for path in shards):
            raise ValueError(f"{folder} is not a complete cache of latents")
        self.shape = (metadata["num_images"], *metadata["record_shape"])
        self.dtype = DTYPE
        self._source = ArrayRecordDataSource([str(path) for path in shards])

    def __len__(self) -> int:
        """Returns n."""
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray | slice | int) -> np.ndarray:
        """Reads images by number: [v, 2, h, w, c] of one, [k, v, 2, h, w, c] of k."""
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        numbers = [int(number) for number in np.atleast_1d(indices)]
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise IndexError(f"images {numbers} are asked for, and there are {len(self)}")
        records = self._source.__getitems__(numbers) if numbers else []
        values = [np.frombuffer(record, DTYPE).reshape(self.shape[1:]) for record in records]
        found = np.stack(values) if values else np.empty((0, *self.shape[1:]), DTYPE)
        return found if np.ndim(indices) else found[0]


def encode_dataset(
    images: np.ndarray,
    folder: str | Path,
    *,
    encode: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    latent_shape: tuple[int, int, int],
    made_from: dict,
    mirrored: bool,
    batch_size: int,
    shard_images: int,
    progress: Callable[[int], None] = lambda done: None,
    process: tuple[int, int] = (0, 1),
) -> None:
    """Encodes the shards of a data set that are not there yet.

    Args:
        images: uint8 [n, height, width, channels], or anything that is indexed like it.
        folder: of the cache; made where missing.
        encode: uint8 [batch_size, height, width, channels] -> (mean, log_variance), float
            [batch_size, h, w, c]; compiled by the caller.
        latent_shape: (h, w, c).
        made_from: JSON-like: all that the latents depend on, such as the autoencoder's hash and how
            images were brought to their size.
        mirrored: also keep the latents of every image's mirror image.
        batch_size: images encoded at once.
        shard_images: images of a file.
        progress: told how many images are done, after each batch.
        process: number of this process and how many share the work; each writes its own shards,
            and the cache is complete when all have returned.

    Raises:
        ValueError: the folder holds latents that were made from something else; says what differs.
        StorageError: the disk has no room.
    """
    folder = Path(folder)
    variants = 2 if mirrored else 1
    metadata = {
        "made_from": made_from,
        "num_images": len(images),
        "record_shape": [variants, 2, *latent_shape],
        "shard_images": shard_images,
    }
    _claim(folder, metadata)
    shards = _shards(folder, metadata)
    per_image = int(np.prod(metadata["record_shape"])) * DTYPE.itemsize
    for number, path in enumerate(shards):
        first, last = number * shard_images, min((number + 1) * shard_images, len(images))
        if number % process[1] != process[0]:
            continue
        if path.exists():
            progress(last)
            continue
        check_room(folder, (last - first) * per_image + 2**20, "the latents")
        # Processes in other containers may have the same number.
        temporary = path.with_suffix(f".{secrets.token_hex(8)}.partial")
        try:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            for start in range(first, last, batch_size):
                stop = min(start + batch_size, last)
                # Padded to one size, so that one program serves all batches.
                batch = np.zeros((batch_size, *images.shape[1:]), np.uint8)
                batch[: stop - start] = images[np.arange(start, stop)]
                views = [batch, batch[:, :, ::-1]][:variants]
                moments = np.stack([np.stack(encode(jnp.asarray(view)), 1) for view in views], 1)
                _check_finite(moments[: stop - start], start)
                for record in moments[: stop - start].astype(DTYPE):
                    writer.write(record.tobytes())
                progress(stop)
            writer.close()
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise storage_error(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)


def draw_latents(key: jax.Array, records: jax.Array) -> jax.Array:
    """Draws latents from what a cache holds: of each image one variant, and one sample of it.

    Args:
        key: typed random key.
        records: [b, v, 2, h, w, c].

    Returns:
        float32 [b, h, w, c].
    """
    variant_key, noise_key = jax.random.split(key)
    chosen = jax.random.randint(variant_key, (len(records),), 0, records.shape[1])
    moments = records[jnp.arange(len(records)), chosen].astype(jnp.float32)  # [b, 2, h, w, c]
    mean, log_variance = moments[:, 0], moments[:, 1]
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(noise_key, mean.shape)


def read_metadata(folder: str | Path) -> dict | None:
    """Returns what a cache says about itself, or None where there is none."""
    path = Path(folder) / "metadata.json"
    return json.loads(path.read_text()) if path.exists() else None


def _claim(folder: Path, metadata: dict) -> None:
    """Writes the metadata, or checks that they are the folder's own."""
    found = read_metadata(folder)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        write_json(folder / "metadata.json", metadata)
        return
    if found != json.loads(json.dumps(metadata)):
        lines = []
        for part in sorted(set(found) | set(metadata)):
            there, now = found.get(part), metadata.get(part)
            if isinstance(there, dict) and isinstance(now, dict):
                lines += [
                    f"  {name}: {there.get(name)!r} there, {now.get(name)!r} now"
                    for name in sorted(set(there) | set(now))
                    if there.get(name) != now.get(name)
                ]
            elif there != now:
                lines.append(f"  {part}: {there!r} there, {now!r} now")
        raise ValueError(
            f"{folder} holds latents that were made from something else:\n"
            + "\n".join(lines)
            + "\nGive another folder, or delete it to encode anew."
        )


def _shards(folder: Path, metadata: dict) -> list[Path]:
    count = -(-metadata["num_images"] // metadata["shard_images"])
    return [folder / f"latents-{i:05d}-of-{count:05d}.array_record" for i in range(count)]


def _check_finite(moments: np.ndarray, first: int) -> None:
    wrong = np.flatnonzero(
        ~np.isfinite(moments).reshape(len(moments), -1).all(1)
        | (np.abs(moments[:, :, 0]).reshape(len(moments), -1).max(1) > np.finfo(DTYPE).max)
    )
    if len(wrong):
        raise FloatingPointError(
            f"the latents of image {first + int(wrong[0])} are not finite, or "
            "too large for half precision; check its weights"
        )
