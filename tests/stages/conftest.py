"""Data sets of images drawn at random."""

import numpy as np
import pytest

from rlsyn_jax.data.identity_dataset import IdentityDataset


@pytest.fixture
def drawn_dataset():
    """A function (images of each of six people, channels) that gives a data set without cameras."""

    def draw(images_each, channels=3):
        number = 6 * images_each
        return IdentityDataset(
            name="drawn",
            images=np.random.default_rng(0).integers(0, 256, (number, 8, 8, channels), np.uint8),
            identities=np.repeat(np.arange(6), images_each),
            cameras=np.zeros(number, int),
            identity_names=tuple("abcdef"),
            file_names=tuple(f"{image}.png" for image in range(number)),
            has_cameras=False,
        )

    return draw
