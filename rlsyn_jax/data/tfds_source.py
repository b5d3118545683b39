"""Reads identity data sets that were prepared with TensorFlow Datasets, without TensorFlow."""

import json
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import ImageSize, Resize, check_image_options, decode_image
from rlsyn_jax.data.pixel_memory import allocate_images

_PREFIX = "tfds"
_LABELS = ("label", "identity", "name")
_READABLE = ("array_record", "parquet")
_READ_AT_ONCE = 1024


def read_tfds(
    source: str,
    data_dir: str | Path | None = None,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
) -> IdentityDataset:
    """Read a prepared TFDS data set into memory.

    The data set needs an `image` feature, a `label`, `identity` or `name` feature (class labels,
    integers or text) that says who is shown, and may have `camera`. Identities are those that
    occur in the split: in the order of the class labels, else in natural order.

    Args:
        source: "tfds:NAME" (split "train") or "tfds:NAME:SPLIT"; NAME may be NAME/CONFIG, SPLIT a
            slice such as train[:100].
        data_dir: where TFDS keeps prepared data; by default the environment's TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.

    Returns:
        The data set.

    Raises:
        ValueError: where the text has another form, the data set is unknown, not prepared, stored
            in a format that only TensorFlow reads, or lacks the split or a feature.
        DamagedImageError: where an image cannot be read.
    """
    size = check_image_options(image_size, channels, resize)
    prefix, _, rest = source.partition(":")
    name, _, split = rest.partition(":")
    split = split or "train"
    if prefix != _PREFIX or not name or ".." in name:
        raise ValueError(f"Data set {source!r}; expected tfds:NAME or tfds:NAME:SPLIT.")
    builder = _prepared_builder(name, _data_dir(data_dir))
    features = builder.info.features
    label = next((key for key in _LABELS if key in features), None)
    has_image = "image" in features and isinstance(features["image"], tfds.features.Image)
    if label is None or not has_image:
        raise ValueError(
            f"TFDS data set {name!r} has the features {sorted(features)}; expected an `image` and "
            f"one of {', '.join(_LABELS)}."
        )
    try:
        examples = builder.as_data_source(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        raise ValueError(
            f"TFDS data set {name!r} has no split {split!r} ({error}); expected one of "
            f"{sorted(builder.info.splits)} or a slice of one."
        ) from error

    num_images = len(examples)
    images = allocate_images((num_images, *size, channels))
    labels, cameras = [], []
    for start in range(0, num_images, _READ_AT_ONCE):
        rows = list(range(start, min(start + _READ_AT_ONCE, num_images)))
        for index, example in zip(rows, examples.__getitems__(rows)):
            images[index] = decode_image(
                example["image"],
                image_size=size,
                channels=channels,
                resize=resize,
                described_as=f"{index} of {source}",
            )
            labels.append(example[label])
            cameras.append(int(example.get("camera", 0)))
    identity_names, identities = _number_identities(labels, features[label], source)
    return IdentityDataset(
        name=name,
        images=images,
        identities=identities,
        cameras=np.array(cameras, np.int32),
        identity_names=identity_names,
        file_names=tuple(f"{split}/{index}" for index in range(num_images)),
        has_cameras="camera" in features,
    )


def _data_dir(data_dir: str | Path | None) -> Path:
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def _prepared_builder(name: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    """Open the newest prepared version below `data_dir`, or say what keeps it from being read."""
    versions = {}
    for info in (data_dir / name).glob("*/dataset_info.json"):
        numbers = info.parent.name.split(".")
        if all(number.isdecimal() for number in numbers):
            versions[tuple(map(int, numbers))] = info
    if not versions:
        raise ValueError(_not_prepared(name, data_dir))
    info_file = versions[max(versions)]
    try:
        file_format = json.loads(info_file.read_text("utf-8")).get("fileFormat", "tfrecord")
    except ValueError as error:
        raise ValueError(f"{info_file} is damaged ({error}); prepare {name!r} again.") from error
    if file_format not in _READABLE:
        raise ValueError(
            f"TFDS data set {name!r} in {info_file.parent} is stored as {file_format}, which only "
            "TensorFlow reads. Prepare it again where TensorFlow is installed: `tfds build "
            f"{name} --file_format=array_record --data_dir=DIR`, then give that DIR as data_dir."
        )
    return tfds.builder_from_directory(info_file.parent)


def _not_prepared(name: str, data_dir: Path) -> str:
    prepared = sorted(
        info.parent.parent.relative_to(data_dir).as_posix()
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for info in data_dir.glob(pattern)
    )
    listing = f"prepared there: {', '.join(dict.fromkeys(prepared)) or 'nothing'}"
    if name.partition("/")[0] in tfds.list_builders(with_community_datasets=False):
        return (
            f"TFDS data set {name!r} is not prepared in {data_dir} ({listing}). Preparing it needs "
            f"TensorFlow: `tfds build {name} --file_format=array_record --data_dir={data_dir}`."
        )
    return (
        f"TFDS has no data set {name!r} and none of that name is prepared in {data_dir} "
        f"({listing}). Expected a name from the TFDS catalogue, or a folder read by its path."
    )


def _number_identities(
    labels: list, feature: tfds.features.FeatureConnector, source: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Number the labels that occur from 0, and name them."""
    if isinstance(labels[0], bytes | str):
        labels = [label.decode("utf-8") if isinstance(label, bytes) else label for label in labels]
        present = sorted(set(labels), key=natural_order)
        names = present
    else:
        labels = [int(label) for label in labels]
        present = sorted(set(labels))
        if present[0] < 0:
            raise ValueError(
                f"{source} has images with the label {present[0]}, which stands for no label; "
                "expected a split in which every image has an identity."
            )
        is_class = isinstance(feature, tfds.features.ClassLabel)
        names = [feature.int2str(label) if is_class else str(label) for label in present]
    if len(present) < 2:
        raise ValueError(f"{source} shows {len(present)} identity; expected at least two.")
    number = {label: index for index, label in enumerate(present)}
    return tuple(names), np.array([number[label] for label in labels], np.int32)
