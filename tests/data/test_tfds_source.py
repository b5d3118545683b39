"""Prepared TFDS data sets are read by name; what keeps one from being read is said."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rlsyn_jax.data.cache import cached_dataset
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import DamagedImageError
from rlsyn_jax.data.tfds_source import read_tfds

_CLASS_NAMES = ["zoë", "anna", "ben", "absent"]


def _png(value, size=(7, 5)):
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


class RlsynToy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, features, examples, **options):
        self._toy_features, self._examples = features, examples
        super().__init__(**options)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self._toy_features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for index, example in enumerate(self._examples):
            yield index, example | {"image": io.BytesIO(example["image"])}


def _prepare(tmp_path, label_feature, labels, key="label", images=None, **others):
    features = {key: label_feature, "image": tfds.features.Image(shape=(None, None, 1))}
    features |= {name: np.int32 for name in others}
    images = images or [_png(10 * index) for index in range(len(labels))]
    examples = []
    for index, (label, image) in enumerate(zip(labels, images)):
        example = {key: label, "image": image}
        examples.append(example | {name: values[index] for name, values in others.items()})
    options = {"data_dir": tmp_path, "file_format": "array_record"}
    RlsynToy(features, examples, **options).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return tmp_path


def _classes():
    return tfds.features.ClassLabel(names=_CLASS_NAMES)


def _read(data_dir, source="tfds:rlsyn_toy", **options):
    return read_tfds(source, data_dir, **{"image_size": (5, 7), "channels": 1} | options)


def test_class_labels_cameras_and_images(tmp_path):
    _prepare(tmp_path, _classes(), [2, 0, 2, 1], camera=[5, 6, 7, 8])
    dataset = _read(tmp_path)
    assert dataset.name == "rlsyn_toy"
    assert dataset.identity_names == ("zoë", "anna", "ben")
    np.testing.assert_array_equal(dataset.identities, [2, 0, 2, 1])
    np.testing.assert_array_equal(dataset.images[:, 2, 3, 0], [0, 10, 20, 30])
    np.testing.assert_array_equal(dataset.cameras, [5, 6, 7, 8])
    assert dataset.has_cameras and dataset.images.shape == (4, 5, 7, 1)
    assert dataset.file_names == ("train/0", "train/1", "train/2", "train/3")
    assert _read(tmp_path, image_size=4, channels=3).images.shape == (4, 4, 4, 3)


def test_text_and_integer_labels_and_split_slices(tmp_path):
    names = ["s10", "é", "s2", "s10"]
    _prepare(tmp_path / "text", tfds.features.Text(), names, key="name")
    dataset = _read(tmp_path / "text", "tfds:rlsyn_toy:test")
    assert dataset.identity_names == ("s2", "s10", "é")
    np.testing.assert_array_equal(dataset.identities, [1, 2, 0, 1])
    assert not dataset.has_cameras and dataset.file_names[0] == "test/0"
    _prepare(tmp_path / "int", tfds.features.Scalar(np.int64), [40, 7, 7, 9], key="identity")
    assert _read(tmp_path / "int").identity_names == ("7", "9", "40")
    part = _read(tmp_path / "int", "tfds:rlsyn_toy:train[:2]")
    assert part.identity_names == ("7", "40")
    np.testing.assert_array_equal(part.identities, [1, 0])


def test_default_data_dir_comes_from_the_environment(tmp_path, monkeypatch):
    _prepare(tmp_path, _classes(), [0, 1])
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(_read(None).images) == 2


def test_reads_a_cache_of_this_package_too(tmp_path):
    original = IdentityDataset(
        "toy",
        np.arange(140, dtype=np.uint8).reshape(4, 5, 7, 1),
        np.array([0, 1, 1, 0]),
        np.array([0, 1, 2, 3]),
        ("anna", "ben"),
        ("1", "2", "3", "4"),
    )
    cached_dataset(lambda: original, tmp_path, "1")
    (tmp_path / "faces").mkdir()
    (tmp_path / "dataset-1").rename(tmp_path / "faces" / "1.0.0")
    dataset = _read(tmp_path, "tfds:faces")
    np.testing.assert_array_equal(dataset.images, original.images)
    np.testing.assert_array_equal(dataset.identities, original.identities)
    assert dataset.identity_names == ("anna", "ben")


@pytest.mark.parametrize("source", ["mnist", "tfds:", "tfds::train", "folder:x", "tfds:../x"])
def test_other_text_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="expected tfds:NAME or tfds:NAME:SPLIT"):
        _read(tmp_path, source)


def test_unknown_and_unprepared_names(tmp_path):
    _prepare(tmp_path, _classes(), [0, 1])
    with pytest.raises(ValueError, match="'mnist' is not prepared in .*prepared there: rlsyn_toy"):
        _read(tmp_path, "tfds:mnist")
    with pytest.raises(ValueError, match="TFDS has no data set 'nobody'.*prepared there: rlsyn_"):
        _read(tmp_path, "tfds:nobody")
    with pytest.raises(ValueError, match="prepared there: nothing"):
        _read(tmp_path / "absent", "tfds:lfw")
    with pytest.raises(ValueError, match="no split 'dev'.*'test', 'train'"):
        _read(tmp_path, "tfds:rlsyn_toy:dev")


def test_a_format_that_only_tensorflow_reads(tmp_path):
    _prepare(tmp_path, _classes(), [0, 1])
    file = tmp_path / "rlsyn_toy" / "1.0.0" / "dataset_info.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="stored as tfrecord.*file_format=array_record"):
        _read(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match="dataset_info.json is damaged"):
        _read(tmp_path)


def test_missing_features_and_labels(tmp_path):
    _prepare(tmp_path / "a", _classes(), [0, 1], key="species")
    with pytest.raises(ValueError, match=r"features \['image', 'species'\]; expected an `image`"):
        _read(tmp_path / "a")
    _prepare(tmp_path / "b", _classes(), [0, -1])
    with pytest.raises(ValueError, match="label -1"):
        _read(tmp_path / "b")
    _prepare(tmp_path / "c", _classes(), [1, 1])
    with pytest.raises(ValueError, match="shows 1 identity; expected at least two"):
        _read(tmp_path / "c")


def test_a_damaged_image_is_named(tmp_path):
    _prepare(tmp_path, _classes(), [0, 1], images=[_png(1), _png(2)[:-20]])
    with pytest.raises(DamagedImageError, match="Image 1 of tfds:rlsyn_toy cannot be read"):
        _read(tmp_path)


def test_bad_options_come_first(tmp_path):
    with pytest.raises(ValueError, match="channels is 2"):
        _read(tmp_path, channels=2)
