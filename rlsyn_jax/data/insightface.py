"""InsightFace's face data sets: images in RecordIO files, and its lists of image files.

Two kinds of .rec are about. Those that InsightFace publishes (CASIA-WebFace, MS1M) have a record 0
without an image, whose two labels (a, b) say that records 1 to a - 1 are images and records a to
b - 1 stand for the people: their labels are each person's first and last + 1 image. Those of
MXNet's im2rec hold images alone. A list of files (.lst) also comes in two orders:

    INDEX<tab>LABEL<tab>PATH                    im2rec
    ALIGNED<tab>PATH<tab>LABEL[<tab>...]        InsightFace's face2rec
"""

from collections.abc import Iterator
from pathlib import Path

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import ImageSize, Resize
from rlsyn_jax.data.labelled_images import LabelledImage, read_labelled
from rlsyn_jax.data.published_splits import listed_file
from rlsyn_jax.data.recordio import (
    RecordWriter,
    iterate_records,
    pack,
    read_index,
    read_record,
    unpack,
)

# Labels are 32-bit floating-point numbers; above this, whole numbers fall together.
LARGEST_LABEL = 2**24


def read_insightface(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read a .rec of faces, image by image.

    Args:
        path: a .rec file, or a folder that holds train.rec or a single .rec. The .idx of the same
            name beside it says where records begin; without one they are taken in their order.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names; a file that is
            damaged between images is an error all the same.

    Returns:
        The data set; identities are named by their numbers, images by their keys. Of several labels
        the first is the identity.

    Raises:
        ValueError: where the files are damaged or do not belong together; names file and record.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    records = _record_file(Path(path))
    offsets = _offsets(records)
    with open(records, "rb") as file:
        keys = _image_keys(file, records, offsets)
        return read_labelled(
            _images(file, records, offsets, keys),
            num_images=len(keys),
            name=records.resolve().parent.name,
            described_as=str(records),
            image_size=image_size,
            channels=channels,
            resize=resize,
            skip_damaged=skip_damaged,
        )


def read_lst(
    path: str | Path,
    root: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read the image files that a .lst names.

    Args:
        path: a .lst file in either order; the order is found from its lines.
        root: folder that the paths start from.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.

    Returns:
        The data set; identities are named by their numbers.

    Raises:
        ValueError: where a line has another form, or a path is absent or leads out of `root`.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path, root = Path(path), Path(root)
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"List {path} cannot be read: {error}.") from error
    fields = [line.split("\t") for line in lines]
    # A path in the third place is no number; one in the second place that is a number, such as
    # 7, would be read as a label, unless some other line tells.
    orders = {_order_of(line) for line in fields} - {None}
    if len(orders) != 1:
        raise ValueError(
            f"The lines of {path} are {'of two orders' if orders else 'of no known order'}; "
            "expected INDEX LABEL PATH or ALIGNED PATH LABEL in each, with tabs between."
        )
    label_place, path_place = orders.pop()

    def images() -> Iterator[LabelledImage]:
        for number, line in enumerate(fields, start=1):
            described_as = f"Line {number} of {path}"
            if len(line) < 3:
                raise ValueError(f"{described_as} has {len(line)} fields; expected 3 or more.")
            listed = line[path_place].strip()
            file = listed_file(root, ".", listed, described_as)
            identity = _identity_of(_number(line[label_place]), described_as)
            yield LabelledImage(root / file, identity, listed)

    return read_labelled(
        images(),
        num_images=len(fields),
        name=path.stem,
        described_as=str(path),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )


def write_insightface(
    path: str | Path, images: Iterator[tuple[int, bytes]], *, num_images: int
) -> None:
    """Write images as InsightFace publishes its data sets: record 0, images, people.

    Args:
        path: the .rec to write; its .idx is written beside it.
        images: (label, encoded image) in the order of the labels.
        num_images: how many there are.

    Raises:
        ValueError: labels that are not in order or too large for the format, or another number.
    """
    writer = RecordWriter(path)
    try:
        ranges: dict[int, list[int]] = {}
        # Record 0 comes first and says how many people there are: its place is filled at the end.
        writer.write(0, pack([0.0, 0.0], 0))
        key = 0
        for key, (label, image) in enumerate(images, start=1):
            if not 0 <= label <= LARGEST_LABEL or label < max(ranges, default=0):
                raise ValueError(
                    f"Image {key} has the label {label}; expected labels in order, 0 to "
                    f"{LARGEST_LABEL}."
                )
            writer.write(key, pack(label, key, image))
            ranges.setdefault(label, [key, key])[1] = key + 1
        if key != num_images or num_images + len(ranges) >= LARGEST_LABEL:
            raise ValueError(
                f"{key} images and {len(ranges)} people were given; expected {num_images} images, "
                f"and fewer than {LARGEST_LABEL} together."
            )
        for place, label_range in enumerate(ranges.values()):
            writer.write(num_images + 1 + place, pack(label_range, num_images + 1 + place))
    finally:
        writer.close()
    first = num_images + 1
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(pack([first, first + len(ranges)], 0))


def _record_file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.rec"))
        if path / "train.rec" in found:
            return path / "train.rec"
        if len(found) == 1:
            return found[0]
        raise ValueError(
            f"Folder {path} holds {len(found)} .rec files; expected train.rec or a single one."
        )
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a .rec file or its folder.")
    return path


def _offsets(records: Path) -> dict[int, int]:
    index = records.with_suffix(".idx")
    if index.exists():
        return read_index(index)
    offsets = {key: offset for key, (offset, _) in enumerate(iterate_records(records))}
    if not offsets:
        raise ValueError(f"{records} is empty; expected records.")
    return offsets


def _image_keys(file, records: Path, offsets: dict[int, int]) -> list[int]:
    """Return the keys of the records that are images."""
    first = min(offsets)
    described_as = f"Record {first} of {records}"
    data, _ = read_record(file, offsets[first], described_as)
    labels, _, image = unpack(data, described_as)
    if first or image or len(labels) != 2:
        return list(offsets)
    end = float(labels[0])
    if not (end.is_integer() and 2 <= end <= len(offsets)):
        raise ValueError(
            f"Record 0 of {records} says that images end at {end:g}, but there are {len(offsets)} "
            "records. The file is damaged, or the index belongs to another one."
        )
    missing = [key for key in range(1, int(end)) if key not in offsets]
    if missing:
        raise ValueError(
            f"{records.with_suffix('.idx')} lacks {len(missing)} of the {int(end) - 1} images, "
            f"{missing[0]} the first. It is cut off, or belongs to another file."
        )
    return list(range(1, int(end)))


def _images(file, records, offsets, keys) -> Iterator[LabelledImage]:
    for key in keys:
        described_as = f"Record {key} of {records}"
        data, _ = read_record(file, offsets[key], described_as)
        labels, _, image = unpack(data, described_as)
        yield LabelledImage(image, _identity_of(float(labels[0]), described_as), str(key))


def _identity_of(label: float | None, described_as: str) -> str:
    if label is None or not (0 <= label <= LARGEST_LABEL and float(label).is_integer()):
        raise ValueError(
            f"{described_as} has the label {label}; expected a whole number of 0 to "
            f"{LARGEST_LABEL}."
        )
    return str(int(label))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _order_of(line: list[str]) -> tuple[int, int] | None:
    """Return the places of label and path that a line of a .lst can have, if only one."""
    if len(line) < 3:
        return None
    im2rec = _number(line[1]) is not None and _number(line[-1]) is None
    face2rec = _number(line[1]) is None and _number(line[2]) is not None
    if im2rec == face2rec:
        return None
    return (1, -1) if im2rec else (2, 1)
