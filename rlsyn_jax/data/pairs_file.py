"""Reads verification sets given as folders of people and a list of pairs: LFW, and RFW.

    PATH/NAME/NAME_0001.jpg

    10<tab>300                      folds, and pairs of each kind in a fold (RFW: no such line)
    NAME<tab>1<tab>4                images 1 and 4 of one person
    NAME<tab>1<tab>NAME<tab>2       images of two people

A list with one number in its first line (LFW's pairsDevTrain.txt) is one fold. RFW's images are
loose cuts, and beside its lists lie five landmarks of each, by which they are aligned:

    DATA/NAME/NAME_0001.jpg<tab>LABEL<tab>x<tab>y<tab> ... (RACE_lmk.txt)

Sources: Huang et al., Labeled Faces in the Wild, 2007; Wang et al., Racial Faces in the Wild, ICCV
2019.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from rlsyn_jax.data.face_alignment import align_face
from rlsyn_jax.data.image_decoding import (
    IMAGE_EXTENSIONS,
    ImageSize,
    Resize,
    check_image_options,
    decode_image,
    resize_pixels,
)
from rlsyn_jax.data.published_splits import listed_file
from rlsyn_jax.data.verification_set import VerificationSet

RACES = ("African", "Asian", "Caucasian", "Indian")


def read_pairs(
    pairs: str | Path,
    root: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    name: str | None = None,
    landmarks: Mapping[str, np.ndarray] | None = None,
) -> VerificationSet:
    """Read the images that a list of pairs names, each once.

    Args:
        pairs: the list, pairs.txt.
        root: folder that holds one folder of images for each person.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        name: name of the set; that of the list by default.
        landmarks: PERSON/FILE -> float [5, 2], by which faces are aligned to ArcFace's template
            (data/face_alignment.py) instead of being resized; None: they are, or need not be.

    Returns:
        The pairs in the list's order, which is that of its folds; ten folds where the list does not
        say how many.

    Raises:
        ValueError: where a line has another form, there are fewer or more lines than the first says
            or an image is not there; names file and line.
        DamagedImageError: where an image cannot be read.
    """
    size = check_image_options(image_size, channels, resize)
    pairs, root = Path(pairs), Path(root)
    num_folds, entries = list_pairs(pairs)
    place_of: dict[str, int] = {}
    places = []
    for described_as, *both in entries:
        pair = []
        for person, number in both:
            file = _file_of(root, person, number, described_as)
            pair.append(place_of.setdefault(file, len(place_of)))
        places.append(pair)
    images = np.empty((len(place_of), *size, channels), np.uint8)
    for file, place in place_of.items():
        if landmarks is None:
            pixels = decode_image(root / file, image_size=size, channels=channels, resize=resize)
        else:
            pixels = decode_image(root / file, image_size=None, channels=channels)
            pixels = align_face(pixels, landmarks[_short(file)], size=max(size))
            pixels = resize_pixels(pixels, size, resize)
        images[place] = pixels
    first, second = np.array(places, np.int64).T
    return VerificationSet(
        name=name or pairs.stem,
        images=images,
        first=first,
        second=second,
        is_same=np.array([one[0] == other[0] for _, one, other in entries]),
        num_folds=num_folds,
    )


def read_rfw(
    path: str | Path,
    race: Literal["African", "Asian", "Caucasian", "Indian"],
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
) -> VerificationSet:
    """Read one of the four sets of Racial Faces in the Wild.

    Args:
        path: folder that holds data/RACE/PERSON/PERSON_0001.jpg and txts/RACE/RACE_pairs.txt. By
            txts/RACE/RACE_lmk.txt faces are aligned; without it they are taken to be aligned.
        race: one of RACES, as the data set names its groups.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.

    Returns:
        The pairs.

    Raises:
        ValueError: as `read_pairs`, an unknown race, or landmarks of another form or not of all
            images.
        DamagedImageError: where an image cannot be read.
    """
    if race not in RACES:
        raise ValueError(f"race is {race!r}; expected one of {', '.join(RACES)}.")
    pairs, root = rfw_files(path, race)
    landmarks = rfw_landmarks(path, race)
    if landmarks is None:
        logging.warning(
            "RFW %s: without %s_lmk.txt, images are taken to be aligned as training faces are",
            race,
            race,
        )
    return read_pairs(
        pairs,
        root,
        image_size=image_size,
        channels=channels,
        resize=resize,
        name=f"RFW {race}",
        landmarks=landmarks,
    )


def rfw_files(path: str | Path, race: str) -> tuple[Path, Path]:
    """Return the list of pairs and the folder of people of one of RFW's sets."""
    return Path(path) / "txts" / race / f"{race}_pairs.txt", Path(path) / "data" / race


def rfw_landmarks(path: str | Path, race: str) -> dict[str, np.ndarray] | None:
    """Return the landmarks of one of RFW's sets.

    Args:
        path, race: as of `read_rfw`.

    Returns:
        PERSON/FILE -> float64 [5, 2], (x, y) in pixels; None where there is no such file.

    Raises:
        ValueError: a line has another form, or an image of the pairs has no landmarks.
    """
    pairs, root = rfw_files(path, race)
    file = pairs.with_name(f"{race}_lmk.txt")
    if not file.is_file():
        return None
    found = {}
    for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            points = np.array(fields[2:], np.float64).reshape(5, 2)
        except ValueError as error:
            raise ValueError(
                f"Line {number} of {file} is {line!r:.200}; expected an image, a label and five "
                "pairs of coordinates."
            ) from error
        found[_short(fields[0])] = points
    for described_as, *both in list_pairs(pairs)[1]:
        for person, image in both:
            name = _short(_file_of(root, person, image, described_as))
            if name not in found:
                raise ValueError(f"{described_as} names {name}, of which {file} has no landmarks.")
    return found


def count_pairs(pairs: str | Path, root: str | Path) -> tuple[int, int]:
    """Count what a list of pairs names, without reading an image.

    Args:
        pairs: the list, pairs.txt.
        root: folder that holds one folder of images for each person.

    Returns:
        (number of pairs, number of folds).

    Raises:
        ValueError: as `read_pairs`.
    """
    num_folds, entries = list_pairs(Path(pairs))
    for described_as, *both in entries:
        for person, number in both:
            _file_of(Path(root), person, number, described_as)
    return len(entries), num_folds


def list_pairs(path: Path) -> tuple[int, list[tuple[str, tuple[str, int], tuple[str, int]]]]:
    """Return what a list of pairs says.

    Args:
        path: the list.

    Returns:
        (number of folds, (description of the line, (person, number), (person, number)) a pair).

    Raises:
        ValueError: as `read_pairs` says.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"List of pairs {path} cannot be read: {error}.") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    num_folds, each = None, None
    # Names hold no tabs, but may hold spaces; some copies have spaces between all fields.
    fields = [(n, line.split("\t") if "\t" in line else line.split()) for n, line in lines]
    fields = [(n, [field.strip() for field in line]) for n, line in fields]
    if fields and len(fields[0][1]) <= 2:
        number, header = fields.pop(0)
        counts = [_count(field) for field in header]
        if 0 in counts:
            raise ValueError(
                f"Line {number} of {path} is {' '.join(header)!r:.200}; expected the number of "
                "folds and of pairs of each kind, such as '10 300', or a pair."
            )
        num_folds, each = counts if len(counts) == 2 else (1, counts[0])
    entries = []
    for number, line in fields:
        described_as = f"Line {number} of {path}"
        if len(line) == 3:
            one, other = (line[0], line[1]), (line[0], line[2])
        elif len(line) == 4 and line[0] != line[2]:
            one, other = (line[0], line[1]), (line[2], line[3])
        else:
            raise ValueError(
                f"{described_as} is {' '.join(line)!r:.200}; expected a name and two numbers, or "
                "two different names with a number each."
            )
        if not (_count(one[1]) and _count(other[1])):
            raise ValueError(
                f"{described_as} is {' '.join(line)!r:.200}; images are numbered from 1 on."
            )
        entries.append((described_as, (one[0], int(one[1])), (other[0], int(other[1]))))
    if each is not None and len(entries) != 2 * num_folds * each:
        raise ValueError(
            f"{path} has {len(entries)} pairs; its first line says {num_folds} folds of {each} "
            "pairs of each kind. It is cut off, or from several lists."
        )
    if each is not None:
        _check_folds(path, entries, num_folds, each)
    if not entries:
        raise ValueError(f"{path} names no pairs.")
    if num_folds is None:
        num_folds = 10
        if len(entries) % num_folds:
            logging.warning("%s has %d pairs, which make no equal folds.", path, len(entries))
    return num_folds, entries


def _check_folds(path: Path, entries: list, num_folds: int, each: int) -> None:
    for fold in range(num_folds):
        part = entries[2 * each * fold : 2 * each * (fold + 1)]
        same = sum(one[0] == other[0] for _, one, other in part)
        if same != each:
            raise ValueError(
                f"Fold {fold + 1} of {path} has {same} pairs of one person and {len(part) - same} "
                f"of two; expected {each} of each."
            )


def _file_of(root: Path, person: str, number: int, described_as: str) -> str:
    """Return the image's path below root; .jpg, unless only another kind is there."""
    stem = f"{person}/{person}_{number:04d}"
    if ".." not in stem:
        for extension in IMAGE_EXTENSIONS:
            try:
                if (root / (stem + extension)).is_file():
                    return listed_file(root, ".", stem + extension, described_as)
            except (OSError, ValueError):  # No file system has such a name.
                break
    return listed_file(root, ".", stem + IMAGE_EXTENSIONS[0], described_as)


def _short(path: str) -> str:
    """Return PERSON/FILE of a path; lists name images from where their makers had them."""
    return "/".join(path.split("/")[-2:])


def _count(field: str) -> int:
    """Return a whole number of 1 or more, or 0 where the field is none."""
    return int(field) if field.isascii() and field.isdigit() and len(field) < 10 else 0
