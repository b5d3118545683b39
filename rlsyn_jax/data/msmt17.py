"""Reads MSMT17 by its four lists.

    PATH/list_train.txt, list_val.txt, list_query.txt, list_gallery.txt
        0000/0000_000_01_0303morning_0015_0.jpg 0     path, identity
    PATH/train, PATH/test                             version 1
    PATH/mask_train_v2, PATH/mask_test_v2             version 2

A file's name says identity, number, camera, time. Training and test people are numbered apart.
Source: Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-identification, CVPR
2018.
"""

import re
from pathlib import Path

from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.image_decoding import ImageSize, Resize
from rlsyn_jax.data.published_splits import (
    PublishedImage,
    listed_file,
    read_list,
    read_published,
)

_LISTS = {
    "list_train.txt": ("train", Subset.TRAIN),
    "list_val.txt": ("train", Subset.TRAIN),
    "list_query.txt": ("test", Subset.QUERY),
    "list_gallery.txt": ("test", Subset.GALLERY),
}
_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}
_NAME = re.compile(r"[0-9]+_[0-9]+_([0-9]{1,9})_")


def read_msmt17(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
    with_validation: bool = True,
) -> IdentityDataset:
    """Read MSMT17 with its published split.

    Args:
        path: folder that holds the lists.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.
        with_validation: train on list_val.txt too, as the published 32,621 training images count;
            its people are those of list_train.txt.

    Returns:
        The data set with `subsets`; identities are named train/0000 and test/0000.

    Raises:
        ValueError: where a list or file is missing, or a line has another form.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path = Path(path)
    folders = {}
    for part, known in _FOLDERS.items():
        found = [folder for folder in known if (path / folder).is_dir()]
        if not found:
            raise ValueError(f"{path} holds none of the folders {', '.join(known)} of MSMT17.")
        folders[part] = found[0]
    listing = []
    for name, (part, subset) in _LISTS.items():
        if name == "list_val.txt" and not with_validation:
            continue
        for line, fields in read_list(path / name):
            if len(fields) != 2 or not re.fullmatch(r"[0-9]{1,9}", fields[1]):
                raise ValueError(
                    f"{line} is {' '.join(fields)!r}; expected a path and an identity, such as "
                    "'0000/0000_000_01_0303morning_0015_0.jpg 0'."
                )
            file, identity = fields
            match = _NAME.match(file.rpartition("/")[2])
            if not match:
                raise ValueError(
                    f"{line} names {file!r}, which says no camera; expected "
                    "IDENTITY_NUMBER_CAMERA_..., such as 0000_000_01_0303morning_0015_0.jpg."
                )
            listing.append(
                PublishedImage(
                    file=listed_file(path, folders[part], file, line),
                    identity=f"{part}/{int(identity):04d}",
                    camera=int(match.group(1)),
                    subset=subset,
                )
            )
    return read_published(
        path,
        listing,
        name="MSMT17",
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )
