"""Data sets that are larger than memory: read through files, equal to those in memory."""

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data import cache, pixel_memory
from rlsyn_jax.data.cache import cached_dataset
from rlsyn_jax.data.folder import read_folder
from rlsyn_jax.data.stored_images import StoredImages
from rlsyn_jax.training.atomic_files import StorageError


@pytest.fixture(name="folder")
def people(tmp_path):
    random = np.random.default_rng(0)
    for person in range(4):
        (tmp_path / "people" / f"{person}").mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (9, 7, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "people" / f"{person}" / f"{number}.png")
    return tmp_path / "people"


def read(folder):
    return read_folder(folder, image_size=(9, 7), channels=3)


@pytest.fixture(name="no_memory")
def memory_for_no_data_set(monkeypatch):
    for module in (pixel_memory, cache):
        monkeypatch.setattr(module, "in_memory_bytes", lambda: 100)


def test_a_large_data_set_is_decoded_when_asked_for(tmp_path, folder, monkeypatch):
    expected = read(folder)
    for module in (pixel_memory, cache):
        monkeypatch.setattr(module, "in_memory_bytes", lambda: 100)
    large = read(folder)
    assert isinstance(large.images, np.memmap)
    np.testing.assert_array_equal(large.images, expected.images)

    def never():
        raise AssertionError("the data set is in the cache")

    for make in (lambda: large, never):
        stored = cached_dataset(make, tmp_path, "1").images
        assert isinstance(stored, StoredImages)
        assert (stored.shape, stored.dtype, len(stored)) == ((24, 9, 7, 3), np.uint8, 24)
        for indices in (
            3,
            slice(2, 9, 3),
            np.array([5, 1, 5]),
            np.arange(24) % 2 == 0,
            slice(None),
        ):
            np.testing.assert_array_equal(stored[indices], expected.images[indices])


def test_a_subset_is_not_read_and_has_its_own_hash(tmp_path, folder, no_memory):
    dataset = cached_dataset(lambda: read(folder), tmp_path, "1")
    images = dataset.images[:]
    part = dataset.subset(np.array([20, 3, 7]), relabel=True)
    assert isinstance(part.images, StoredImages)
    np.testing.assert_array_equal(part.images[:], images[[20, 3, 7]])
    np.testing.assert_array_equal(part.subset(np.array([2, 0])).images[:], images[[7, 20]])
    hashes = {dataset.subset(np.array(rows)).images.digest() for rows in ([0, 1], [1, 0], [0, 2])}
    assert len(hashes) == 3
    assert dataset.subset(np.array([0, 1])).images.digest() in hashes


def test_a_file_that_has_no_room_is_told_before_anything_is_written(no_memory):
    with pytest.raises(StorageError, match="TMPDIR"):
        pixel_memory.allocate_images((10**9, 512, 512, 3))
