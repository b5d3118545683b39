"""Encoded images that come one by one with the name of who is shown, decoded into a data set."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rlsyn_jax.data.folder import natural_order
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import ImageSize, Resize, decode_images


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """An encoded image and who is shown.

    Attributes:
        content: a file's bytes, or its path.
        identity: name of who is shown.
        file_name: what to call the image.
        camera: 0 or more, or None where it is not known.
    """

    content: bytes | Path
    identity: str
    file_name: str
    camera: int | None = None


def read_labelled(
    images: Iterable[LabelledImage],
    *,
    num_images: int,
    name: str,
    described_as: str,
    image_size: ImageSize,
    channels: int,
    resize: Resize = "stretch",
    skip_damaged: bool = False,
) -> IdentityDataset:
    """Decode images as they come; only one of them is held encoded.

    Args:
        images: the images.
        num_images: how many there are at most.
        name: name of the data set.
        described_as: how errors name the place that the images come from.
        image_size: a side length or (height, width).
        channels: 1 for grey, 3 for RGB.
        resize: "stretch", "pad" or "crop", as in `decode_image`.
        skip_damaged: leave out images that cannot be read, and log their names.

    Returns:
        The data set, identities in natural order; cameras count as known only where every image
        has one.

    Raises:
        ValueError: where fewer than two people are shown.
        DamagedImageError: where an image cannot be read and `skip_damaged` is False.
    """
    known = []  # Of each image; the image itself is let go when it is decoded.

    def sources():
        for image in images:
            known.append((image.identity, image.camera, image.file_name))
            yield image.content, f"{image.file_name} of {described_as}"

    pixels, kept = decode_images(
        sources(),
        num_images=num_images,
        image_size=image_size,
        channels=channels,
        resize=resize,
        skip_damaged=skip_damaged,
        place=described_as,
    )
    people, cameras, file_names = ([known[i][part] for i in kept] for part in range(3))
    names = sorted(set(people), key=natural_order)
    if len(names) < 2:
        raise ValueError(
            f"{described_as} shows {len(names)} identities in {len(people)} readable images; "
            "expected at least two."
        )
    label_of = {person: label for label, person in enumerate(names)}
    has_cameras = None not in cameras
    return IdentityDataset(
        name=name,
        images=pixels,
        identities=np.array([label_of[person] for person in people], np.int32),
        cameras=np.array(cameras if has_cameras else [0] * len(cameras), np.int32),
        identity_names=tuple(names),
        file_names=tuple(file_names),
        has_cameras=has_cameras,
    )
