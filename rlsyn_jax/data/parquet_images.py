"""Reads Hugging Face's image data sets: Parquet files with the columns `image` and `label`.

`image` holds encoded bytes, or pairs of bytes and path. `label` (or `identity`, `name`) is a number
or a text; names of numbers come from the metadata that `datasets` writes. `camera` is optional.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import ImageSize, Resize
from rlsyn_jax.data.labelled_images import LabelledImage, read_labelled

_LABELS = ("label", "identity", "name")
_ROWS_AT_ONCE = 8  # Each may be as large as the largest image of the file.
_LARGEST_ROW_GROUP = 2**32


def read_parquet(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read the images of Parquet files, a few rows at a time.

    Args:
        path: a .parquet file, or a folder of them; of a folder that holds train*.parquet, those.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names; a file that is
            damaged itself is an error all the same.

    Returns:
        The data set.

    Raises:
        ValueError: where a file is damaged, or lacks a column or a value; names file and row.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("train*.parquet")) or sorted(path.glob("*.parquet"))
        files.sort(key=lambda file: natural_order(file.name))
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"{path} is no .parquet file and no folder of them.")
    num_images = sum(_num_rows(file) for file in files)
    return read_labelled(
        (image for file in files for image in _images(file)),
        num_images=num_images,
        name=path.stem,
        described_as=str(path),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no intact Parquet file: {error}.") from error


def _num_rows(path: Path) -> int:
    """Return the number of rows, once the sizes that the file claims are possible."""
    with _opened(path) as file:
        metadata = file.metadata
        num_rows = metadata.num_rows
        # Every row holds an image of its own.
        if not 0 <= num_rows <= path.stat().st_size:
            raise ValueError(
                f"{path} claims {num_rows} rows in {path.stat().st_size} bytes. It is damaged."
            )
        for number in range(metadata.num_row_groups):
            size = metadata.row_group(number).total_byte_size
            if not 0 <= size <= _LARGEST_ROW_GROUP:
                raise ValueError(
                    f"Row group {number} of {path} claims {size} bytes; expected at most "
                    f"{_LARGEST_ROW_GROUP}. Write it again with smaller row groups."
                )
        return num_rows


def _images(path: Path) -> Iterator[LabelledImage]:
    with _opened(path) as file:
        schema = _schema(file, path)
        names = schema.names
        label = next((name for name in _LABELS if name in names), None)
        if "image" not in names or label is None:
            raise ValueError(
                f"{path} has the columns {', '.join(names)}; expected image and one of "
                f"{', '.join(_LABELS)}."
            )
        class_names = _class_names(schema, label)
        columns = [name for name in ("image", label, "camera") if name in names]
        row = 0
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=columns)
        while (examples := _next_rows(batches, path, row)) is not None:
            for example in examples:
                described_as = f"Row {row} of {path}"
                camera = example.get("camera")
                yield LabelledImage(
                    _image_bytes(example["image"], described_as),
                    _identity(example[label], class_names, described_as),
                    f"{path.name}/{row}",
                    camera if type(camera) is int and 0 <= camera < 2**31 else None,
                )
                row += 1


def _schema(file: pq.ParquetFile, path: Path) -> pa.Schema:
    try:
        return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} has columns of an unknown type: {error}.") from error


def _next_rows(batches: Iterator[pa.RecordBatch], path: Path, row: int) -> list[dict] | None:
    try:
        batch = next(batches, None)
        return None if batch is None else batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged after row {row}: {error}.") from error


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Return the names that `datasets` keeps of numbered labels."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known else None


def _image_bytes(image, described_as: str) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        where = image.get("path") if isinstance(image, dict) else None
        raise ValueError(
            f"{described_as} has no bytes in its column image"
            + (f", but the path {where!r:.200}" if where else "")
            + "; expected encoded images inside the file."
        )
    return content


def _identity(label, class_names: list[str] | None, described_as: str) -> str:
    if isinstance(label, str) and label:
        return label
    if type(label) is int and label >= 0:
        if class_names is None:
            return str(label)
        if label < len(class_names):
            return class_names[label]
    raise ValueError(
        f"{described_as} has the label {label!r:.60}; expected a text or a number of "
        + (f"0 to {len(class_names) - 1}." if class_names else "0 or more.")
    )
