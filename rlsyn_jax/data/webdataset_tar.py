"""Reads WebDataset archives: tar files whose members of one key make up one example.

    000000.jpg  000000.cls  [000000.json]  000001.jpg  000001.cls ...

A member's key is its path up to the first dot of its name. `.cls` is a person's number; where a
`.json` has an "identity", that is the person's name, and "camera" the camera's number.
"""

import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import IMAGE_EXTENSIONS, ImageSize, Resize
from rlsyn_jax.data.labelled_images import LabelledImage, read_labelled

_LARGEST_IMAGE = 2**26
_LARGEST_TEXT = 2**16
_BLOCK = 512


@dataclasses.dataclass
class _Example:
    """What is known of one example; the image itself stays in the archive."""

    archive: Path
    key: str
    image_name: str = ""
    offset: int = 0
    size: int = 0
    number: str | None = None
    identity: str | None = None
    camera: int | None = None


def read_webdataset(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read the images of WebDataset archives, one by one.

    Args:
        path: a .tar file, or a folder of them.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names; an archive that
            is damaged between images is an error all the same.

    Returns:
        The data set.

    Raises:
        ValueError: where an archive is damaged or compressed, or an example lacks image or number.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path = Path(path)
    archives = [path]
    if path.is_dir():
        archives = sorted(path.glob("*.tar"), key=lambda file: natural_order(file.name))
    if not archives or not all(archive.is_file() for archive in archives):
        raise ValueError(f"{path} is no .tar file and no folder of them.")
    examples = [example for archive in archives for example in _examples(archive)]
    if not examples:
        raise ValueError(f"{path} holds no examples; expected images with a .cls each.")
    return read_labelled(
        _images(examples),
        num_images=len(examples),
        name=path.stem,
        described_as=str(path),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )


def _images(examples: list[_Example]) -> Iterator[LabelledImage]:
    for example in examples:
        with open(example.archive, "rb") as file:
            file.seek(example.offset)
            content = file.read(example.size)
        yield LabelledImage(
            content,
            example.identity or example.number,
            f"{example.archive.name}/{example.image_name}",
            example.camera,
        )


class _HeaderReader:
    """The archive's file for tarfile, which needs no long piece of it: headers alone are read."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, number: int) -> bytes:
        if not 0 <= number <= _LARGEST_TEXT:
            raise tarfile.ReadError(f"a header of {number} bytes")
        return self._file.read(number)


def _members(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """Give the archive's regular files, and check that it was read to its end."""
    size = os.fstat(file.fileno()).st_size
    place = 0
    try:
        archive = tarfile.TarFile(fileobj=_HeaderReader(file), mode="r")
        while (member := archive.next()) is not None:
            archive.members.clear()  # Else every header is kept.
            end = member.offset_data + member.size
            if member.size < 0 or archive.offset <= place or end > size:
                raise tarfile.ReadError(f"{member.name!r:.99} of {member.size} bytes")
            place = archive.offset
            if member.isreg() and not member.issparse():
                yield member
        # To tarfile a damaged header is an end, as is an archive without its last, empty block.
        file.seek(archive.offset)
        if any(file.read(_BLOCK)):
            raise tarfile.ReadError("something that is no header")
    except Exception as error:  # tarfile raises many kinds on damaged headers.
        raise ValueError(
            f"{path} is no intact, uncompressed tar archive: after byte {place} it holds {error}. "
            "Unpack it with gunzip if it is compressed, else fetch it again."
        ) from error


def _examples(path: Path) -> Iterator[_Example]:
    example = None
    with open(path, "rb") as file:
        for member in _members(file, path):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if not stem:  # Hidden files, such as those that macOS adds.
                continue
            key = f"{folder}/{stem}" if folder else stem
            if example is None or key != example.key:
                if example is not None:
                    yield _checked(example)
                example = _Example(path, key)
            _add(example, member, f".{extension.lower()}", file)
    if example is not None:
        yield _checked(example)


def _add(example: _Example, member: tarfile.TarInfo, extension: str, file: BinaryIO) -> None:
    described_as = f"{member.name!r:.200} in {example.archive}"
    if extension in IMAGE_EXTENSIONS:
        if example.image_name:
            raise ValueError(f"{described_as} is a second image of its key; expected one.")
        if member.size > _LARGEST_IMAGE:
            raise ValueError(f"{described_as} has {member.size} bytes; expected an image.")
        example.image_name, example.offset = member.name, member.offset_data
        example.size = member.size
    elif extension in (".cls", ".json"):
        if member.size > _LARGEST_TEXT:
            raise ValueError(f"{described_as} has {member.size} bytes; expected a short text.")
        here = file.tell()
        file.seek(member.offset_data)
        content = file.read(member.size)
        file.seek(here)
        if extension == ".cls":
            text = content.strip()
            if not text.isdigit() or len(text) > 9:
                raise ValueError(f"{described_as} holds {content[:40]!r}; expected a number.")
            example.number = str(int(text))
            return
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{described_as} is no JSON: {error}.") from error
        if isinstance(facts, dict):
            identity, camera = facts.get("identity"), facts.get("camera")
            if isinstance(identity, str) and identity:
                example.identity = identity
            if type(camera) is int and 0 <= camera < 2**31:
                example.camera = camera


def _checked(example: _Example) -> _Example:
    described_as = f"Example {example.key!r:.200} in {example.archive}"
    if not example.image_name:
        raise ValueError(
            f"{described_as} has no image; expected a member that ends in "
            f"{' '.join(IMAGE_EXTENSIONS)}."
        )
    if example.number is None and example.identity is None:
        raise ValueError(f"{described_as} has no .cls with a person's number.")
    return example
