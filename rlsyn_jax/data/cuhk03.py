"""Reads CUHK03 as published: images in cuhk-03.mat, the new protocol's split in a file beside it.

    PATH/cuhk-03.mat (or PATH/cuhk03_release/cuhk-03.mat)      MATLAB 7.3, which is HDF5
    PATH/cuhk03_new_protocol_config_detected.mat, _labeled.mat  MATLAB 5

The first has the cells `detected` and `labeled`: five pairs of cameras, each with a row of ten
images a person, the first five by the pair's first camera; a cell may be empty. The second names
images PAIR_PERSON_VIEW_IMAGE.png, as if they were files, with places that count from 1. Sources: Li
et al., DeepReID, CVPR 2014; Zhong et al., Re-ranking Person Re-identification with k-reciprocal
Encoding, CVPR 2017.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset, Subset
from rlsyn_jax.data.image_decoding import ImageSize, Resize, check_image_options, decode_image
from rlsyn_jax.data.matlab5 import read_matlab5
from rlsyn_jax.data.published_splits import PublishedImage, check_listing

_NAME = re.compile(r"([1-9])_([0-9]{3,4})_([12])_([0-9]{2})\.png")
_SUBSETS = {
    "train_idx": Subset.TRAIN,
    "query_idx": Subset.QUERY,
    "gallery_idx": Subset.GALLERY,
}
_FIELDS = ("labels", "camId", "filelist", *_SUBSETS)
_MOST_IMAGES = 10**6
_LARGEST_IMAGE = 2**24


def read_cuhk03(
    path: str | Path,
    boxes: Literal["detected", "labeled"],
    *,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
) -> IdentityDataset:
    """Read CUHK03 by the new protocol, image by image.

    Args:
        path: folder of the two files.
        boxes: "detected" by a person detector, or "labeled" by hand.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.

    Returns:
        The data set with `subsets`; file names are those of the split.

    Raises:
        ValueError: where a file is missing, damaged, or does not fit the other.
        ImportError: h5py is not installed.
    """
    if boxes not in ("detected", "labeled"):
        raise ValueError(f"boxes is {boxes!r}; expected 'detected' or 'labeled'.")
    size = check_image_options(image_size, channels, resize)
    path = Path(path)
    split = path / f"cuhk03_new_protocol_config_{boxes}.mat"
    listing = read_split(split)
    check_listing(listing, str(split))
    names = sorted({image.identity for image in listing}, key=natural_order)
    label_of = {identity: label for label, identity in enumerate(names)}
    images = np.empty((len(listing), *size, channels), np.uint8)
    archive = path / "cuhk-03.mat"
    if not archive.exists():
        archive = path / "cuhk03_release" / "cuhk-03.mat"
    for place, pixels in enumerate(_images(archive, boxes, listing)):
        # Through the one decoder, so that sizes change as everywhere.
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PPM")
        images[place] = decode_image(
            sink.getvalue(),
            image_size=size,
            channels=channels,
            resize=resize,
            described_as=f"{listing[place].file} of {archive}",
        )
    return IdentityDataset(
        name=f"CUHK03-NP {boxes}",
        images=images,
        identities=np.array([label_of[image.identity] for image in listing], np.int32),
        cameras=np.array([image.camera for image in listing], np.int32),
        identity_names=tuple(names),
        file_names=tuple(image.file for image in listing),
        subsets=np.array([image.subset for image in listing], np.int8),
    )


def read_split(path: Path) -> list[PublishedImage]:
    """Return the images of a new-protocol split, in the order train, query, gallery.

    Args:
        path: cuhk03_new_protocol_config_*.mat.

    Returns:
        The images; `file` is as the split names it.

    Raises:
        ValueError: where the file is damaged or its parts do not fit together.
    """
    content = read_matlab5(path, _FIELDS)
    files = content["filelist"]
    if not isinstance(files, list):
        raise ValueError(f"{path}: filelist holds numbers; expected cells of names.")
    numbers = {
        name: _whole_numbers(content[name], f"{path}: {name}")
        for name in _FIELDS
        if name != "filelist"
    }
    labels, cameras = numbers["labels"], numbers["camId"]
    if not len(files) == len(labels) == len(cameras):
        raise ValueError(
            f"{path} has {len(files)} files, {len(labels)} labels and {len(cameras)} cameras; "
            "expected as many."
        )
    listing = []
    for name, subset in _SUBSETS.items():
        for place in numbers[name]:
            if not 1 <= place <= len(files):
                raise ValueError(f"{path}: {name} has {place}; expected 1 to {len(files)}.")
            file, label, camera = files[place - 1], labels[place - 1], cameras[place - 1]
            match = _NAME.fullmatch(file)
            if not match or int(match.group(3)) != camera or label < 0:
                raise ValueError(
                    f"{path}: image {place} is {file!r:.60} of identity {label} and camera "
                    f"{camera}; expected PAIR_PERSON_VIEW_IMAGE.png, whose view is the camera."
                )
            listing.append(PublishedImage(file, f"{label:04d}", int(camera), subset))
    return listing


def _whole_numbers(values: np.ndarray | list[str], described_as: str) -> list[int]:
    if isinstance(values, list) or not np.isfinite(values).all() or (values % 1).any():
        raise ValueError(f"{described_as} holds other things than whole numbers.")
    if len(values) and np.abs(values.astype(float)).max() > 2**31:
        raise ValueError(f"{described_as} holds {values.max()}; expected numbers of people.")
    return [int(value) for value in values]


def _images(path: Path, boxes: str, listing: list[PublishedImage]) -> Iterator[np.ndarray]:
    try:
        import h5py  # The extra `cuhk03`.
    except ImportError as error:
        raise ImportError(
            f"{path} is HDF5, which needs h5py: pip install 'rlsyn_jax[cuhk03]'."
        ) from error
    try:
        archive = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is no intact MATLAB 7.3 (HDF5) file: {error}.") from error
    with archive:
        pairs: dict[int, np.ndarray] = {}
        for image in listing:
            pair, person, _, number = map(int, _NAME.fullmatch(image.file).groups())
            try:
                if pair not in pairs:
                    pairs[pair] = _people(archive, boxes, pair)
                if not (1 <= number <= 10 and 1 <= person <= pairs[pair].shape[1]):
                    raise ValueError(f"{pairs[pair].shape[1]} people of 10 images")
                pixels = _pixels(archive[pairs[pair][number - 1, person - 1]])
            except Exception as error:  # h5py raises many kinds on damaged files.
                raise ValueError(
                    f"The {boxes} image {image.file} of {path} cannot be read: "
                    f"{type(error).__name__}: {error}. The archive is damaged, or the split "
                    "belongs to another one."
                ) from error
            yield pixels


def _people(archive: Any, boxes: str, pair: int) -> np.ndarray:
    """Return references to the images of a pair of cameras, [10, people]."""
    # MATLAB counts columns first: every array is read the other way round.
    pairs = archive[boxes]
    if pairs.shape != (1, 5) or pair > 5:
        raise ValueError(f"an array {pairs.shape} of pairs of cameras; expected (1, 5)")
    people = archive[pairs[0, pair - 1]]
    if people.ndim != 2 or people.shape[0] != 10 or people.size > _MOST_IMAGES:
        raise ValueError(f"an array {people.shape} of images; expected (10, people)")
    return people[()]


def _pixels(cell: Any) -> np.ndarray:
    """Return an image, uint8 [height, width, 3]."""
    if cell.dtype != np.uint8 or cell.ndim != 3 or cell.shape[0] != 3:
        raise ValueError(f"an array {cell.dtype} {cell.shape}; expected colours of 8 bits")
    if not 0 < cell.size <= _LARGEST_IMAGE:
        raise ValueError(f"an array {cell.shape}; expected an image")
    return np.ascontiguousarray(cell[()].transpose(2, 1, 0))
