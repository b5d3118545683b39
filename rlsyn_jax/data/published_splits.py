"""Reads the images of a data set whose training, query and gallery images are published lists.

The readers of the single data sets (`market1501`, `msmt17`, `veri776`) say which files there are,
who is shown and for what; here they are checked against each other and decoded one by one.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.image_decoding import (
    ImageSize,
    Resize,
    check_image_options,
    decode_images,
)

DISTRACTORS = "distractors"


@dataclasses.dataclass(frozen=True)
class PublishedImage:
    """One image of a published split.

    Attributes:
        file: path below the data set's folder, with forward slashes.
        identity: name of who is shown; of distractors, `DISTRACTORS`.
        camera: 0 or more.
        subset: what the image is for.
    """

    file: str
    identity: str
    camera: int
    subset: Subset


def read_published(
    root: str | Path,
    listing: Sequence[PublishedImage],
    *,
    name: str,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Decode the images of a published split, one at a time.

    Args:
        root: folder of the data set.
        listing: the images, in the order to keep.
        name: name of the data set.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names, instead of
            stopping at the first.

    Returns:
        The data set with `subsets`; identities in natural order of their names.

    Raises:
        ValueError: where training, query or gallery is empty, an identity trains and is searched
            for, or a file is listed twice.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    check_image_options(image_size, channels, resize)
    root = Path(root)
    check_listing(listing, f"{name} in {root}")
    names = sorted({image.identity for image in listing}, key=natural_order)
    label_of = {identity: label for label, identity in enumerate(names)}
    images, numbers = decode_images(
        ((root / image.file, None) for image in listing),
        num_images=len(listing),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
        place=str(root),
    )
    kept = [listing[number] for number in numbers]
    if len(kept) < len(listing):
        check_listing(kept, f"What can be read of {name} in {root}")
    return IdentityDataset(
        name=name,
        images=images,
        identities=np.array([label_of[image.identity] for image in kept], np.int32),
        cameras=np.array([image.camera for image in kept], np.int32),
        identity_names=tuple(names),
        file_names=tuple(image.file for image in kept),
        subsets=np.array([image.subset for image in kept], np.int8),
    )


def check_listing(listing: Sequence[PublishedImage], described_as: str) -> None:
    """Check that a split can train and measure.

    Args:
        listing: the images.
        described_as: how errors name the data set and its place.

    Raises:
        ValueError: as `read_published` says.
    """
    people = {subset: set() for subset in Subset}
    files = set()
    for image in listing:
        place = image.file, image.subset
        if place in files:
            raise ValueError(f"{described_as} lists {image.file} twice; expected every file once.")
        files.add(place)
        people[image.subset].add(image.identity)
    for subset in (Subset.TRAIN, Subset.QUERY, Subset.GALLERY):
        if not people[subset]:
            raise ValueError(
                f"{described_as} has no {subset.name.lower()} images of people; expected training, "
                "query and gallery images."
            )
    both = people[Subset.TRAIN] & (people[Subset.QUERY] | people[Subset.GALLERY])
    if both:
        raise ValueError(
            f"{described_as} trains on and searches for the identity {min(both)!r}, and "
            f"{len(both) - 1} more; expected people in query and gallery that training never sees."
        )


def listed_file(root: Path, folder: str, name: str, described_as: str) -> str:
    """Return FOLDER/NAME for a name from a list, if it stays inside the folder and exists.

    Args:
        root: folder of the data set.
        folder: the folder below it that the list is about.
        name: what the list says, with forward or backward slashes.
        described_as: how errors name the list and the line.

    Returns:
        The path below root, with forward slashes.

    Raises:
        ValueError: where the name leads out of the folder or there is no such file.
    """
    parts = name.replace("\\", "/").removeprefix("./").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"{described_as} names {name!r}; expected a path inside {folder}.")
    file = "/".join([folder, *parts])
    try:
        found = (root / file).is_file()
    except OSError:  # A name that is too long for any file system.
        found = False
    if not found:
        raise ValueError(
            f"{described_as} names {name!r}, and there is no file {root / file}. Unpack the whole "
            "data set, or repair the list."
        )
    return file


def read_list(path: Path) -> list[tuple[str, list[str]]]:
    """Return the fields of every line of a list of files, and how errors name the line.

    Args:
        path: a text file with one file name a line and what is known of it, apart by spaces.

    Returns:
        (description, fields) of every line that is not blank.

    Raises:
        ValueError: where the file is not there, is not text or has no lines.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ValueError(f"List {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"List {path} is not UTF-8 text ({error}).") from error
    lines = [
        (f"Line {number} of {path}", line.split())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not lines:
        raise ValueError(f"List {path} is empty; expected one file name a line.")
    return lines
