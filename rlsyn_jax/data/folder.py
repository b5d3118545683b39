"""Reads a folder that holds one folder of images for every identity."""

import re
import unicodedata
from pathlib import Path

import numpy as np
from absl import logging

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import (
    IMAGE_EXTENSIONS,
    ImageSize,
    Resize,
    check_image_options,
    decode_images,
)

_LAYOUT = "expected one folder for each identity with its images inside: PATH/IDENTITY/IMAGE.jpg"
# Photographs as cameras, telephones and browsers write them, which are not decoded here.
_UNREAD_IMAGES = (".heic", ".heif", ".avif", ".gif", ".jfif", ".raw", ".dng", ".cr2", ".nef")
_CAMERA = re.compile(r"_c([0-9]{1,9})(?=[_s.])")


def read_folder(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
    name: str | None = None,
) -> IdentityDataset:
    """Read a folder of identities into memory.

    Identities and their images are in natural order (2 before 10). The camera of an image is the
    number after `_c` in its name where `_`, `s` or `.` follows, as in Market-1501
    (0002_c1s1_000451_03.jpg); cameras count as known only where every image has one. Hidden files
    and files that are no images are passed over. See `decode_image` for how pixels are read.

    Args:
        path: folder that holds one folder for each identity.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names, instead of
            stopping at the first.
        name: name of the data set; the folder's name by default.

    Returns:
        The data set; file names are relative to `path`, with forward slashes.

    Raises:
        ValueError: where the folder or an image is not as described; the message names the path.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    check_image_options(image_size, channels, resize)
    path = Path(path)
    folders = _identity_folders(path)
    files_by_identity = {folder.name: _image_files(folder) for folder in folders}
    listing = [
        (label, identity, file)
        for label, (identity, files) in enumerate(files_by_identity.items())
        for file in files
    ]
    images, kept = decode_images(
        ((file, None) for _, _, file in listing),
        num_images=len(listing),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
        place=str(path),
    )
    identities = [listing[number][0] for number in kept]
    file_names = [f"{listing[number][1]}/{listing[number][2].name}" for number in kept]
    readable = set(identities)
    for label, (identity, files) in enumerate(files_by_identity.items()):
        if label not in readable:
            raise ValueError(
                f"None of the {len(files)} images in {path / identity} can be read; expected at "
                "least one intact image of every identity. Replace them or remove the folder."
            )
    cameras = [camera_of(file_name) for file_name in file_names]
    has_cameras = None not in cameras
    return IdentityDataset(
        name=name or path.resolve().name,
        images=images,
        identities=np.array(identities, np.int32),
        cameras=np.array(cameras if has_cameras else [0] * len(cameras), np.int32),
        identity_names=tuple(files_by_identity),
        file_names=tuple(file_names),
        has_cameras=has_cameras,
    )


def count_images(path: str | Path) -> dict[str, int]:
    """Count the images of every identity in a folder, without reading one.

    Args:
        path: folder that holds one folder for each identity.

    Returns:
        Identity -> number of image files, in the order of `read_folder`.

    Raises:
        ValueError: where the folder is not as `read_folder` wants it; the message names the path.
    """
    return {folder.name: len(_image_files(folder)) for folder in _identity_folders(Path(path))}


def camera_of(file_name: str) -> int | None:
    """Return the camera number that a file name states, as in `0002_c1s1_000451_03.jpg`.

    Args:
        file_name: name of the file; folders before it are not looked at.

    Returns:
        The number after the first `_c` that `_`, `s` or `.` follows, or None.
    """
    match = _CAMERA.search(file_name.rpartition("/")[2])
    return int(match.group(1)) if match else None


def natural_order(name: str) -> tuple:
    """Sort key that orders the numbers in names by value: a2 before a10.

    Args:
        name: a file or folder name.

    Returns:
        A key to compare with other keys of this function; equal only for equal names.
    """
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS


def _visible_entries(folder: Path) -> list[Path]:
    """List a folder in natural order without hidden entries, every name checked to be text."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"Folder {folder} cannot be listed: {error}. Give this user the right to read it."
        ) from error
    for entry in entries:
        try:
            entry.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Folder {folder} holds the name {entry.name!r}, which is not valid UTF-8. Rename "
                "it (`convmv` converts the names of whole folders)."
            ) from error
    return sorted(entries, key=lambda entry: natural_order(entry.name))


def _identity_folders(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"Data set folder {path} does not exist; {_LAYOUT}.")
    if not path.is_dir():
        raise ValueError(f"Data set path {path} is a file; {_LAYOUT}.")
    entries = _visible_entries(path)
    loose = [entry for entry in entries if _is_image_name(entry) and not entry.is_dir()]
    if loose:
        raise ValueError(
            f"Data set folder {path} holds {len(loose)} images directly, {loose[0].name!r} among "
            f"them; {_LAYOUT}. Move each image into its identity's folder."
        )
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise ValueError(f"{entry} is a link to nothing; {_LAYOUT}. Repair or remove it.")
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise ValueError(f"Data set folder {path} holds no identity folders; {_LAYOUT}.")
    if len(folders) == 1:
        raise ValueError(
            f"Data set folder {path} holds only one identity, {folders[0].name!r}; at least two "
            f"are needed to tell identities apart; {_LAYOUT}."
        )
    seen: dict[str, str] = {}
    for folder in folders:
        folded = unicodedata.normalize("NFC", folder.name).casefold()
        folded = unicodedata.normalize("NFC", folded)
        if folded in seen:
            raise ValueError(
                f"Data set folder {path} holds the identities {ascii(seen[folded])} and "
                f"{ascii(folder.name)}, whose names differ only in upper and lower case or in the "
                "way accents are encoded. Merge the two folders if they are one identity, else "
                "rename one."
            )
        seen[folded] = folder.name
    return folders


def _image_files(folder: Path) -> list[Path]:
    entries = _visible_entries(folder)
    for entry in entries:
        if entry.is_dir():
            raise ValueError(
                f"Identity folder {folder} holds the folder {entry.name!r}; {_LAYOUT}. Move its "
                "images one level up, or give the path one level further down."
            )
        if _is_image_name(entry) and entry.exists() and not entry.is_file():
            raise ValueError(f"{entry} is a device or pipe; expected an image file. Remove it.")
    files = [entry for entry in entries if _is_image_name(entry)]
    unread = [entry.suffix for entry in entries if entry.suffix.lower() in _UNREAD_IMAGES]
    if not files:
        raise ValueError(
            f"Identity folder {folder} holds no images; expected at least one file that ends in "
            f"{' '.join(IMAGE_EXTENSIONS)}"
            + (f", and there are {len(unread)} of {unread[0]}. Convert them" if unread else "")
            + ". Add images or remove the folder."
        )
    if unread:
        logging.log_first_n(
            logging.WARNING,
            "%s: %d files of %s are not read; convert them (told of the first three folders)",
            3,
            folder,
            len(unread),
            unread[0],
        )
    return files
