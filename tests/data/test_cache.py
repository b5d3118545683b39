"""A cached data set comes back equal, without TensorFlow, and a damaged cache is made again."""

import dataclasses
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rlsyn_jax.data import cache
from rlsyn_jax.data.cache import cached_dataset
from rlsyn_jax.data.identity_dataset import IdentityDataset

_NAMES = (
    "Zoë",
    "李 小龙",
    " leading",
    "trailing\t",
    '"quoted"',
    "a\u2028b",
    "line\nbreak",
    "#1",
    "",
)


def _dataset(channels=3, has_cameras=True, names=_NAMES, num_images=30):
    random = np.random.default_rng(0)
    return IdentityDataset(
        name="Döjö",
        images=random.integers(0, 256, (num_images, 9, 7, channels), np.uint8),
        identities=random.permutation(np.arange(num_images, dtype=np.int32) % len(names)),
        cameras=random.integers(0, 4, num_images).astype(np.int32) * has_cameras,
        identity_names=names,
        file_names=tuple(f"é {i}/1.png" for i in range(num_images)),
        has_cameras=has_cameras,
    )


def _assert_equal(first, second):
    for field in ("images", "identities", "cameras"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
        assert getattr(first, field).dtype == getattr(second, field).dtype
    for field in ("name", "identity_names", "file_names", "has_cameras"):
        assert getattr(first, field) == getattr(second, field)


def test_a_published_split_comes_back_and_is_guarded(tmp_path):
    subsets = np.arange(30, dtype=np.int8) % 4
    dataset = dataclasses.replace(_dataset(), subsets=subsets)
    for make in (lambda: dataset, _never):
        cached = cached_dataset(make, tmp_path, "1")
        _assert_equal(cached, dataset)
        np.testing.assert_array_equal(cached.subsets, subsets)
        assert cached.subsets.dtype == np.int8
    assert cache._digest(dataset) != cache._digest(_dataset())
    builder = tfds.builder_from_directory(tmp_path / "dataset-1")
    assert builder.info.features["subset"].names == ["train", "query", "gallery", "distractor"]


def _never():
    raise AssertionError("the cache was not used")


@pytest.mark.parametrize(("channels", "has_cameras"), [(3, True), (1, False)])
def test_comes_back_equal_without_reading_the_source_again(
    tmp_path, monkeypatch, channels, has_cameras
):
    monkeypatch.setattr(cache, "_READ_AT_ONCE", 7)
    dataset = _dataset(channels, has_cameras)
    _assert_equal(cached_dataset(lambda: dataset, tmp_path / "new" / "dir", "ab1"), dataset)
    _assert_equal(cached_dataset(_never, tmp_path / "new" / "dir", "ab1"), dataset)
    assert [path.name for path in (tmp_path / "new" / "dir").iterdir()] == ["dataset-ab1"]


def test_another_fingerprint_or_name_is_another_cache(tmp_path):
    first, second = _dataset(), _dataset(num_images=20)
    cached_dataset(lambda: first, tmp_path, "1")
    _assert_equal(cached_dataset(lambda: second, tmp_path, "2"), second)
    _assert_equal(cached_dataset(lambda: second, tmp_path, "1", name="tfds:b c"), second)
    _assert_equal(cached_dataset(_never, tmp_path, "1"), first)
    with pytest.raises(ValueError, match=r"fingerprint is '\.\./x'"):
        cached_dataset(_never, tmp_path, "../x")


def test_is_an_ordinary_tfds_data_set(tmp_path):
    dataset = _dataset(names=("anna", "ben"))
    cached_dataset(lambda: dataset, tmp_path, "1")
    builder = tfds.builder_from_directory(tmp_path / "dataset-1")
    source = builder.as_data_source(split="train")
    assert builder.info.features["identity"].names == ["anna", "ben"]
    np.testing.assert_array_equal(source[4]["image"], dataset.images[4])


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, lambda path: path.unlink()])
@pytest.mark.parametrize(
    "pattern",
    [
        "*.array_record*",
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "identity.labels.txt",
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, caplog, pattern, damage):
    dataset = _dataset()
    cached_dataset(lambda: dataset, tmp_path, "1")
    (path,) = (tmp_path / "dataset-1").glob(pattern)
    intact = path.read_bytes()
    damage(path)
    calls = []
    _assert_equal(cached_dataset(lambda: calls.append(1) or dataset, tmp_path, "1"), dataset)
    if calls:
        assert "dataset-1 is damaged" in caplog.text
        assert (tmp_path / "dataset-1" / path.name).read_bytes()[:8] == intact[:8]
    else:
        assert pattern != "*.array_record*"
    _assert_equal(cached_dataset(_never, tmp_path, "1"), dataset)


def test_an_interrupted_write_leaves_no_cache(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_move_unless_present", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached_dataset(_dataset, tmp_path, "1")
    assert list(tmp_path.iterdir()) == []
    _assert_equal(cached_dataset(_dataset, tmp_path, "1"), _dataset())


def test_another_process_that_is_faster_wins(tmp_path):
    dataset = _dataset()

    def slow():
        cached_dataset(lambda: dataset, tmp_path, "1")
        return dataset

    _assert_equal(cached_dataset(slow, tmp_path, "1"), dataset)
    _assert_equal(cached_dataset(_never, tmp_path, "1"), dataset)


def test_a_disk_that_fills_up_is_told_and_nothing_is_left_on_it(mounted, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), np.uint8)
    large = IdentityDataset(
        name="large",
        images=images,
        identities=np.arange(2000) % 10,
        cameras=np.zeros(2000, np.int32),
        identity_names=tuple("abcdefghij"),
        file_names=tuple(map(str, range(2000))),
    )
    with mounted(tmp_path / "disk", "size=2m") as disk:
        with pytest.raises(
            ValueError, match="'large' cannot be cached in .*disk.data: .*No space left"
        ):
            cached_dataset(lambda: large, disk / "data", "1")
        assert list((disk / "data").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be cached in .*file"):
        cached_dataset(_dataset, tmp_path / "file", "1")


_WITHOUT_TENSORFLOW = """
    import sys

    class Without:
        def __init__(self, finder):
            self._finder = finder
        def __getattr__(self, name):
            return getattr(self._finder, name)
        def find_spec(self, name, *arguments):
            if name.split(".")[0] == "tensorflow":
                print("ASKED FOR", name)
                return None
            return self._finder.find_spec(name, *arguments)

    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    import numpy as np
    from rlsyn_jax.data.cache import cached_dataset
    from rlsyn_jax.data.identity_dataset import IdentityDataset
    from rlsyn_jax.data.tfds_source import read_tfds
    dataset = IdentityDataset(
        "toy", np.arange(48, dtype=np.uint8).reshape(4, 4, 3, 1), np.arange(4) % 2,
        np.zeros(4, int), ("a", "b"), ("1", "2", "3", "4"),
    )
    for _ in range(2):
        back = cached_dataset(lambda: dataset, sys.argv[1], "1")
        np.testing.assert_array_equal(back.images, dataset.images)
    assert "tensorflow" not in sys.modules
    print("DONE")
"""


def test_works_where_tensorflow_cannot_be_imported(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(_WITHOUT_TENSORFLOW), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip().endswith("DONE")
