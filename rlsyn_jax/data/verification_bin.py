"""Reads the .bin verification sets of InsightFace: lfw.bin, cfp_fp.bin, agedb_30.bin, and others.

A .bin is a pickle of (2 n encoded images, n truth values): images 2 i and 2 i + 1 are pair i.
Images are byte strings or uint8 arrays. No code of a pickle is run (`restricted_pickle`).
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from rlsyn_jax.data.image_decoding import ImageSize, Resize, check_image_options, decode_image
from rlsyn_jax.data.restricted_pickle import Stored, StoredArray, read_restricted_pickle
from rlsyn_jax.data.verification_set import VerificationSet


def read_verification_bin(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "crop",
) -> VerificationSet:
    """Read a .bin, image by image.

    Args:
        path: the file.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`, where an image has another size.

    Returns:
        The pairs in their order, named by the file.

    Raises:
        ValueError: where the file is damaged or holds anything else.
        DamagedImageError: where an image cannot be read; names file and image.
    """
    size = check_image_options(image_size, channels, resize)
    path = Path(path)
    with _opened(path) as file:
        encoded, is_same = _content(file, path)
        # A pickle names what it holds twice by a number, two bytes for an image: decoded once.
        number_of: dict[int, int] = {}
        places, distinct = np.empty(len(encoded), np.int64), []
        for place, image in enumerate(encoded):
            places[place] = number_of.setdefault(id(image), len(number_of))
            if places[place] == len(distinct):
                distinct.append(place)
        images = np.empty((len(distinct), *size, channels), np.uint8)
        for number, place in enumerate(distinct):
            images[number] = decode_image(
                _image_bytes(file, encoded[place], f"Image {place} of {path}"),
                image_size=size,
                channels=channels,
                resize=resize,
                described_as=f"{place} of {path}",
            )
    return VerificationSet(
        name=path.stem,
        images=images,
        first=places[::2],
        second=places[1::2],
        is_same=is_same,
        num_folds=_num_folds(is_same),
    )


def count_bin_pairs(path: str | Path) -> tuple[int, int]:
    """Count what a .bin holds, without decoding an image.

    Args:
        path: the file.

    Returns:
        (number of pairs, number of folds).

    Raises:
        ValueError: as `read_verification_bin`, but for what its images hold.
    """
    path = Path(path)
    with _opened(path) as file:
        _, is_same = _content(file, path)
    return len(is_same), _num_folds(is_same)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}.") from error


def _num_folds(is_same: np.ndarray) -> int:
    return min(10, len(is_same))


def _content(file: BinaryIO, path: Path) -> tuple[list | tuple, np.ndarray]:
    """Return the images, as they are stored, and the truth values."""
    content = read_restricted_pickle(file, str(path))
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise ValueError(f"{path} does not hold two things; expected images and truth values.")
    encoded, answers = content
    if not isinstance(encoded, list | tuple):
        raise ValueError(f"{path} holds no list of images.")
    is_same = _truth_values(file, answers, path)
    if len(encoded) != 2 * len(is_same):
        raise ValueError(
            f"{path} holds {len(encoded)} images and {len(is_same)} truth values; expected two "
            "images for each."
        )
    return encoded, is_same


def _image_bytes(file, image, described_as: str) -> bytes:
    try:
        if isinstance(image, Stored):
            return image.read(file)
        if isinstance(image, StoredArray) and image.dtype == "u1":
            return image.read(file).tobytes()
    except ValueError as error:
        raise ValueError(f"{described_as} is damaged: {error}.") from error
    raise ValueError(f"{described_as} is neither bytes nor an array of bytes.")


def _truth_values(file, answers, path: Path) -> np.ndarray:
    try:
        if isinstance(answers, StoredArray):
            values = answers.read(file).reshape(-1)
        elif isinstance(answers, list | tuple):
            values = [
                answer.read(file).item() if isinstance(answer, StoredArray) else answer
                for answer in answers
            ]
            for place, value in enumerate(values):
                # Named by its kind: what a pickle builds of kept values may be endless to print.
                if not isinstance(value, int):
                    raise ValueError(f"{place} is a {type(value).__name__}")
        else:
            raise ValueError("they are no list")
        for place, value in enumerate(values):
            if value not in (0, 1):
                raise ValueError(f"{place} is {value}")
    except ValueError as error:
        raise ValueError(
            f"The truth values of {path} are none: {error}; expected True or False, or 1 or 0."
        ) from error
    return np.array(values, bool)
