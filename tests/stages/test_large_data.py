"""A general data set that memory has no room for is read as one that it holds."""

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.config import default_config
from rlsyn_jax.data import cache, pixel_memory
from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.data.stored_images import StoredImages
from rlsyn_jax.stages import extractors
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.training.meshes import make_mesh

IMAGE = 16 * 16 * 3  # Bytes.


@pytest.fixture(name="config")
def tiny_config(tmp_path):
    random = np.random.default_rng(0)
    for person in range(6):
        folder = tmp_path / "people" / f"person {person}"
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    config = default_config()
    config.image.size = 16
    config.general_data.source = "folder"
    config.general_data.path = str(tmp_path / "people")
    return config


def without_memory(monkeypatch):
    for module in (cache, extractors, pixel_memory):
        monkeypatch.setattr(module, "in_memory_bytes", lambda: 10 * IMAGE)


def test_extractors_learn_from_the_people_that_memory_holds(config, tmp_path, monkeypatch):
    expected = load_general(config, tmp_path / "memory")
    without_memory(monkeypatch)
    stored = load_general(config, tmp_path / "disk")
    assert isinstance(stored.images, StoredImages) and len(stored.images) == 24
    held = extractors.in_memory(stored)
    # 8 of at most 10 images.
    assert held.num_identities == extractors.people_in_memory(stored) == 2
    np.testing.assert_array_equal(held.images, expected.images[:8])
    assert extractors.in_memory(expected) is expected
    assert extractors.people_in_memory(expected) == expected.num_identities


def test_batches_are_the_same(config, tmp_path, monkeypatch):
    expected = load_general(config, tmp_path / "memory")
    without_memory(monkeypatch)
    stored = load_general(config, tmp_path / "disk")
    one, other = (
        BatchIterator(data.images, data.identities, batch_size=16, seed=3, mesh=make_mesh())
        for data in (expected, stored)
    )
    for _ in range(3):
        batches = next(one), next(other)
        for name in ("image", "identity"):
            np.testing.assert_array_equal(*(batch[name] for batch in batches))
