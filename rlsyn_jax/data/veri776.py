"""Reads VeRi-776, vehicles seen by 20 cameras, by its three lists of names.

    PATH/name_train.txt, name_query.txt, name_test.txt   0001_c001_00016450_0.jpg a line
    PATH/image_train, image_query, image_test

The folder image_train holds more images than name_train.txt names; the list counts. Source: Liu et
al., A Deep Learning-Based Approach to Progressive Vehicle Re-identification, ECCV 2016.
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
    "name_train.txt": ("image_train", Subset.TRAIN),
    "name_query.txt": ("image_query", Subset.QUERY),
    "name_test.txt": ("image_test", Subset.GALLERY),
}
_NAME = re.compile(r"([0-9]{1,9})_c([0-9]{1,9})_")


def read_veri776(
    path: str | Path,
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Read VeRi-776 with its published split.

    Args:
        path: folder that holds the lists and the folders of images.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.

    Returns:
        The data set with `subsets`.

    Raises:
        ValueError: where a list or file is missing, or a name has another form.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    path = Path(path)
    listing = []
    for name, (folder, subset) in _LISTS.items():
        for line, fields in read_list(path / name):
            match = _NAME.match(fields[0])
            if not match:
                raise ValueError(
                    f"{line} is {' '.join(fields)!r}; expected a name such as "
                    "0001_c001_00016450_0.jpg first."
                )
            listing.append(
                PublishedImage(
                    file=listed_file(path, folder, fields[0], line),
                    identity=f"{int(match.group(1)):04d}",
                    camera=int(match.group(2)),
                    subset=subset,
                )
            )
    return read_published(
        path,
        listing,
        name="VeRi-776",
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
    )
