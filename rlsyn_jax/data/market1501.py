"""Reads Market-1501 and what is laid out like it: CUHK03-NP, DukeMTMC-reID, own data.

    PATH/bounding_box_train/0002_c1s1_000451_03.jpg   identity 2, camera 1
    PATH/query/0001_c1s1_001051_00.jpg
    PATH/bounding_box_test/0000_c1s1_000151_01.jpg    a distractor: identity 0
    PATH/bounding_box_test/-1_c1s1_000401_03.jpg      junk: identity -1

Sources: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015; Zhong et al.,
Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017 (CUHK03-NP).
"""

import logging
import re
from pathlib import Path
from typing import Literal

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.image_decoding import IMAGE_EXTENSIONS, ImageSize, Resize
from rlsyn_jax.data.published_splits import DISTRACTORS, PublishedImage, read_published

FOLDERS = {
    "bounding_box_train": Subset.TRAIN,
    "query": Subset.QUERY,
    "bounding_box_test": Subset.GALLERY,
}
_NAME = re.compile(r"(-1|[0-9]{1,9})_c([0-9]{1,9})(?=[_s.])")
_LAYOUT = f"expected the folders {', '.join(FOLDERS)}"


def read_market1501(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
    name: str = "Market-1501",
) -> IdentityDataset:
    """Read a data set in Market-1501's layout with its published split.

    Junk (identity -1) is left out, as the ranking's protocol takes it out for every query.
    Distractors (identity 0) stay in the gallery. Files that are no images (Thumbs.db) are passed
    over.

    Args:
        path: folder that holds bounding_box_train, query and bounding_box_test.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.
        name: name of the data set.

    Returns:
        The data set with `subsets`; identity names are as in the files (0002).

    Raises:
        ValueError: where folders are missing, a name has another form or the split is not sound.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path = Path(path)
    return read_published(
        path,
        list_market1501(path),
        name=name,
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )


def read_cuhk03_np(
    path: str | Path,
    boxes: Literal["detected", "labeled"],
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read CUHK03 by the new protocol, in Market-1501's layout.

    Args:
        path: folder that holds `detected` and `labeled`, or one of these two.
        boxes: "detected" by a person detector, or "labeled" by hand: two data sets whose figures
            cannot be compared.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.

    Returns:
        The data set with `subsets`.

    Raises:
        ValueError: as `read_market1501`, or `boxes` is none of the two.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    if boxes not in ("detected", "labeled"):
        raise ValueError(f"boxes is {boxes!r}; expected 'detected' or 'labeled'.")
    path = Path(path)
    other = {"detected": "labeled", "labeled": "detected"}[boxes]
    if path.resolve().name == other:
        raise ValueError(f"{path} holds the {other} boxes of CUHK03; {boxes} ones were asked for.")
    return read_market1501(
        cuhk03_np_folder(path, boxes),
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
        name=f"CUHK03-NP {boxes}",
    )


def cuhk03_np_folder(path: str | Path, boxes: str) -> Path:
    """Return the folder of the wanted boxes: below the one that is given, or that itself."""
    below = Path(path) / boxes
    return below if below.is_dir() else Path(path)


def list_market1501(path: Path) -> list[PublishedImage]:
    """Return the images of a folder in Market-1501's layout, without junk.

    Args:
        path: folder that holds bounding_box_train, query and bounding_box_test.

    Returns:
        Training, query and gallery images, each in natural order of their names.

    Raises:
        ValueError: where folders are missing or a name has another form.
    """
    missing = [folder for folder in FOLDERS if not (path / folder).is_dir()]
    if missing:
        raise ValueError(f"{path} does not hold {', '.join(missing)}; {_LAYOUT}.")
    listing, num_junk = [], 0
    for folder, subset in FOLDERS.items():
        names = [
            entry.name
            for entry in (path / folder).iterdir()
            if entry.suffix.lower() in IMAGE_EXTENSIONS and not entry.name.startswith(".")
        ]
        for name in sorted(names, key=natural_order):
            match = _NAME.match(name)
            if not match:
                raise ValueError(
                    f"{path / folder / name} has another name than Market-1501's images; expected "
                    "IDENTITY_cCAMERA..., such as 0002_c1s1_000451_03.jpg."
                )
            identity, camera = match.groups()
            if identity == "-1":
                num_junk += 1
                continue
            is_distractor = int(identity) == 0
            if is_distractor and subset != Subset.GALLERY:
                raise ValueError(
                    f"{path / folder / name} is of identity 0, which stands for distractors; "
                    "expected them in bounding_box_test alone. Number people from 1."
                )
            listing.append(
                PublishedImage(
                    file=f"{folder}/{name}",
                    # Leading zeros do not tell people apart, and files of one person may differ.
                    identity=DISTRACTORS if is_distractor else f"{int(identity):04d}",
                    camera=int(camera),
                    subset=Subset.DISTRACTOR if is_distractor else subset,
                )
            )
    if num_junk:
        logging.info("%s: %d junk images (identity -1) are left out.", path, num_junk)
    return listing
