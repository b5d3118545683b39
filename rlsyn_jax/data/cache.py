"""Keeps a data set that was costly to read as one TFDS array_record file of PNG images.

Neither writing nor reading needs TensorFlow. What is stored is an ordinary TFDS data set, which
`tfds.builder_from_directory` reads in anyone's code.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.image_decoding import decode_image
from rlsyn_jax.data.pixel_memory import in_memory_bytes
from rlsyn_jax.data.stored_images import StoredImages

_READ_AT_ONCE = 1024


def cached_dataset(
    dataset_fn: Callable[[], IdentityDataset],
    cache_dir: str | Path,
    fingerprint: str,
    *,
    name: str = "dataset",
) -> IdentityDataset:
    """Return the cached data set, or make it with `dataset_fn` and cache it.

    The cache appears under its final name only when complete, so that a run that is killed leaves
    none and several processes may fill it at once. A damaged cache is made again.

    Args:
        dataset_fn: makes the data set; called only where there is no intact cache.
        cache_dir: folder of caches, made where missing.
        fingerprint: letters, digits, `_`, `.` and `-` that change with everything the data set
            depends on (source, size, channels), such as a hash.
        name: start of the cache's folder name; the data set's own name is stored inside.

    Returns:
        The data set, equal to what `dataset_fn` returns in every array and name; images that do not
        fit into memory are read from the cache when they are asked for.

    Raises:
        ValueError: where the fingerprint has other characters or `cache_dir` cannot be written.
    """
    if not re.fullmatch(r"[0-9A-Za-z_.-]+", fingerprint):
        raise ValueError(
            f"fingerprint is {fingerprint!r}; expected letters, digits, '_', '.' and '-' only."
        )
    folder = Path(cache_dir) / f"{re.sub(r'[^0-9A-Za-z_.-]+', '_', name)}-{fingerprint}"
    if folder.exists():
        try:
            return _read(folder)
        except Exception as error:  # A damaged file can make any part of the reader fail.
            logging.warning(
                "The cached data set %s is damaged (%s: %s) and is made again.",
                folder,
                type(error).__name__,
                error,
            )
            damaged = True
    else:
        damaged = False
    dataset = dataset_fn()
    large = dataset.images.nbytes > in_memory_bytes()
    try:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".partial-") as temporary:
            written = _write(dataset, Path(temporary))
            if damaged:
                os.replace(folder, Path(temporary) / "damaged")
            _move_unless_present(written, folder)
    except Exception as error:  # What writes the records raises other kinds than OSError, too.
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(
            f"The data set {dataset.name!r} cannot be cached in {cache_dir}: {said}. Expected a "
            "folder that this user may write, with enough free space."
        ) from error
    return _read(folder) if large else dataset


class IdentityImages(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of an `IdentityDataset` in memory."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, dataset: IdentityDataset, **options: Any):
        """Keep the data set to write; `options` go to TFDS (data_dir, file_format)."""
        self._dataset = dataset
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        dataset = self._dataset
        features = {
            "index": np.int64,
            "image": tfds.features.Image(shape=dataset.images.shape[1:], encoding_format="png"),
            "identity": tfds.features.ClassLabel(
                names=[_one_line(name) for name in dataset.identity_names]
            ),
            "camera": np.int32,
            "file_name": tfds.features.Text(),
        }
        if dataset.subsets is not None:
            features["subset"] = tfds.features.ClassLabel(
                names=[subset.name.lower() for subset in Subset]
            )
        metadata = {
            "name": dataset.name,
            "has_cameras": bool(dataset.has_cameras),
            "sha256": _digest(dataset),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of the identity data set {dataset.name}.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(metadata),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give each image as a PNG file: TFDS stores a file's bytes, but encodes no arrays."""
        dataset = self._dataset
        with tempfile.TemporaryDirectory(dir=self._data_dir_root) as folder:
            file = Path(folder) / "image.png"
            for index, pixels in enumerate(dataset.images):
                grey = pixels.shape[-1] == 1
                Image.fromarray(pixels[..., 0] if grey else pixels).save(file, compress_level=1)
                example = {
                    "index": index,
                    "image": file,
                    "identity": int(dataset.identities[index]),
                    "camera": int(dataset.cameras[index]),
                    "file_name": dataset.file_names[index],
                }
                if dataset.subsets is not None:
                    example["subset"] = int(dataset.subsets[index])
                yield index, example


def _write(dataset: IdentityDataset, temporary: Path) -> Path:
    """Prepare the data set below a temporary folder and return the folder of its files."""
    tfds.disable_progress_bar()
    builder = IdentityImages(dataset, data_dir=temporary, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def _move_unless_present(written: Path, folder: Path) -> None:
    """Rename a complete cache into place, unless another process was faster."""
    try:
        os.replace(written, folder)
    except OSError:
        if not (folder / "dataset_info.json").exists():
            raise


def _read(folder: Path) -> IdentityDataset:
    builder = tfds.builder_from_directory(folder)
    metadata = builder.info.metadata
    num_images = builder.info.splits["train"].num_examples
    source = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    shape = builder.info.features["image"].shape
    stored = num_images * int(np.prod(shape)) > in_memory_bytes()
    images = None if stored else np.empty((num_images, *shape), np.uint8)
    examples = np.empty(num_images, np.int64)  # Where each image is.
    identities, cameras = np.empty((2, num_images), np.int32)
    subsets = np.empty(num_images, np.int8) if "subset" in builder.info.features else None
    file_names = [""] * num_images
    for start in range(0, num_images, _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, num_images)
        numbers = list(range(start, stop))
        for number, example in zip(numbers, source.__getitems__(numbers)):
            index = example["index"]
            examples[index] = number
            if not stored:
                images[index] = decode_image(example["image"], image_size=None, channels=shape[-1])
            identities[index] = example["identity"]
            cameras[index] = example["camera"]
            file_names[index] = example["file_name"].decode("utf-8")
            if subsets is not None:
                subsets[index] = example["subset"]
    names = builder.info.features["identity"].names
    dataset = IdentityDataset(
        name=metadata["name"],
        images=StoredImages(source, examples, shape, metadata["sha256"]) if stored else images,
        identities=identities,
        cameras=cameras,
        identity_names=tuple(json.loads(name) if name.startswith('"') else name for name in names),
        file_names=tuple(file_names),
        has_cameras=metadata["has_cameras"],
        subsets=subsets,
    )
    # The files' own checksums guard images that are not all read here.
    if not stored and _digest(dataset) != metadata["sha256"]:
        raise ValueError("its contents do not have the checksum that was stored with them")
    return dataset


def _one_line(name: str) -> str:
    """Quote a name that TFDS's file of one label a line would change (`_read` undoes it)."""
    changed = not name or name != name.strip() or re.search(r'^"|[\r\n]', name)
    return json.dumps(name, ensure_ascii=False) if changed else name


def _digest(dataset: IdentityDataset) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(dataset.images))
    digest.update(np.ascontiguousarray(dataset.identities))
    digest.update(np.ascontiguousarray(dataset.cameras))
    if dataset.subsets is not None:
        digest.update(np.ascontiguousarray(dataset.subsets))
    names = [dataset.images.shape, dataset.identity_names, dataset.file_names]
    digest.update(json.dumps(names).encode("utf-8"))
    return digest.hexdigest()
