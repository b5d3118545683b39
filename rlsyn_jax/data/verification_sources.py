"""Published verification sets by name: InsightFace's .bin files, LFW's list of pairs, and RFW.

A source is one of
    FILE.bin                lfw.bin, agedb_30.bin, cfp_fp.bin, calfw.bin, cplfw.bin and their like
    pairs:PAIRS.txt:FOLDER  a list in LFW's form, and the folder of people's folders of images
    rfw:FOLDER              data/RACE and txts/RACE below it: four sets, one a group of people
Faces of the first two must be aligned as those that recognisers train on; RFW's are, by its own
landmarks, to the template of ArcFace.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlsyn_jax.data.image_decoding import ImageSize, Resize
from rlsyn_jax.data.pairs_file import (
    RACES,
    count_pairs,
    read_pairs,
    read_rfw,
    rfw_files,
    rfw_landmarks,
)
from rlsyn_jax.data.verification_bin import count_bin_pairs, read_verification_bin
from rlsyn_jax.data.verification_set import VerificationSet


def check_verification_source(source: str) -> dict[str, tuple[int, int]]:
    """Looks whether a source has a known form and all its files are there, without reading images.

    Args:
        source: as the module says.

    Returns:
        File of each set of it -> (number of pairs, number of folds).

    Raises:
        ValueError: names the source and what would be right.
    """
    kind, path, folder = _parts(source)
    if kind == "rfw":
        files, folders = zip(*(rfw_files(path, race) for race in RACES))
    else:
        files, folders = [path], [folder] if folder else []
    missing = [str(file) for file in files if not file.is_file()]
    missing += [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise ValueError(f"{source!r} is not there: no {', no '.join(missing)}")
    if kind == "bin":
        return {str(path): count_bin_pairs(path)}
    if kind == "rfw":
        for race in RACES:
            rfw_landmarks(path, race)
    return {str(file): count_pairs(file, folder) for file, folder in zip(files, folders)}


def read_verification_source(
    source: str, *, image_size: ImageSize, channels: int, resize: Resize
) -> Iterator[tuple[VerificationSet, str]]:
    """Reads the sets of a source, one after another.

    Args:
        source: as the module says.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.

    Yields:
        (set, the group of people that it shows; "" where there are no groups).

    Raises:
        ValueError: a source of another form, or what the readers of its kind raise.
    """
    kind, path, folder = _parts(source)
    options = {"image_size": image_size, "channels": channels, "resize": resize}
    if kind == "bin":
        yield read_verification_bin(path, **options), ""
    elif kind == "pairs":
        yield read_pairs(path, folder, **options), ""
    else:
        for race in RACES:
            yield read_rfw(path, race, **options), race


def _parts(source: str) -> tuple[str, Path, Path | None]:
    kind, _, rest = source.partition(":")
    if kind == "rfw" and rest:
        return kind, Path(rest), None
    if kind == "pairs" and ":" in rest:
        path, _, folder = rest.partition(":")
        if path and folder:
            return kind, Path(path), Path(folder)
    if source.endswith(".bin"):
        return "bin", Path(source), None
    raise ValueError(
        f"verification set {source!r} is not known; expected FILE.bin, pairs:PAIRS.txt:FOLDER or "
        "rfw:FOLDER"
    )
