"""A finished synthetic data set in every format, read back by the readers of those formats."""

import numpy as np
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.data.insightface import read_insightface
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter
from rlsyn_jax.data.webdataset_tar import read_webdataset
from rlsyn_jax.stages import dataset_exports, pretrain
from rlsyn_jax.stages.dataset_exports import check_exports, export_dataset, real_images


def written(directory, number):
    writer = SyntheticDatasetWriter(directory, identity_names=("ann", "bob"))
    images = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3)).astype(np.uint8)
    for place, image in enumerate(images):
        writer.write_image(("ann", "bob")[place % 2], place, image, {})
    writer.finish(card="# Card", metadata={})
    return images


@pytest.fixture
def config():
    config = default_config()
    config.synthesize.exports = ("market1501", "recordio", "webdataset")
    return config


def test_every_format_holds_every_image(config, tmp_path):
    images = written(tmp_path / "reinforced", 6)
    export_dataset(config, tmp_path / "reinforced")
    expected = sorted(map(bytes, images.reshape(6, -1)))
    for dataset in (
        read_insightface(tmp_path / "reinforced_recordio" / "train.rec", image_size=8, channels=3),
        read_webdataset(tmp_path / "reinforced_webdataset", image_size=8, channels=3),
    ):
        assert sorted(map(bytes, dataset.images.reshape(6, -1))) == expected
        assert np.bincount(dataset.identities).tolist() == [3, 3]
    names = {p.name for p in (tmp_path / "reinforced_market1501" / "bounding_box_train").iterdir()}
    assert names == {f"{i:04d}_c1s1_{n:06d}_00.jpg" for i in (1, 2) for n in range(3)}
    before = (tmp_path / "reinforced_recordio").stat().st_mtime_ns
    export_dataset(config, tmp_path / "reinforced")
    assert (tmp_path / "reinforced_recordio").stat().st_mtime_ns == before


def test_other_people_than_the_target_s_are_exported_alone(config, tmp_path):
    """Their names are not among those of the real images, which "market1501" would add."""
    config.data.source, config.data.path = "market1501", str(tmp_path / "market")
    config.synthesize.exports = ("market1501",)
    written(tmp_path / "prior", 4)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / "market" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match="are not among those of"):
        export_dataset(config, tmp_path / "prior")
    export_dataset(config, tmp_path / "prior", of_target=False)
    assert len(list((tmp_path / "prior_market1501" / "bounding_box_train").iterdir())) == 4


def test_cuhk03_np_is_in_that_layout_too(config, tmp_path):
    config.data.source, config.data.path = "cuhk03_np:detected", str(tmp_path / "cuhk03")
    assert real_images(config) == tmp_path / "cuhk03"
    (tmp_path / "cuhk03" / "detected").mkdir(parents=True)
    assert real_images(config) == tmp_path / "cuhk03" / "detected"
    config.data.source = "msmt17"
    assert real_images(config) is None


def test_faces_are_exported_at_the_size_that_recognisers_see(config, tmp_path):
    config.synthesize.exports = ("recordio",)
    config.recognize.image_size = 12
    written(tmp_path / "set", 2)
    export_dataset(config, tmp_path / "set")
    assert (tmp_path / "set_recordio" / "property").read_text() == "2,12,12\n"


def test_more_people_than_names_hold_are_told_before(config):
    check_exports(config, 9999)
    said = "hold 9999 people, and a data set will have 10000"
    with pytest.raises(ConfigError, match=said):
        check_exports(config, 10_000)
    config.data.source = "market1501"  # People keep the names that they have.
    check_exports(config, 10_000)
    for fields in ({"prior_identities": 10_000}, {"identities": "novel", "num_novel": 10_000}):
        others = config.copy_and_resolve_references()
        others.synthesize.update(fields)
        with pytest.raises(ConfigError, match=said):
            check_exports(others, 3)
        others.synthesize.exports = ("recordio",)
        check_exports(others, 3)


def test_they_are_told_before_anything_trains(program, monkeypatch, tmp_path):
    monkeypatch.setattr(dataset_exports, "MOST_PEOPLE", 3)
    config = program.config(synthesize={"exports": ("market1501",)})
    with pytest.raises(ConfigError, match="hold 3 people"):
        pretrain.run(config, tmp_path)
    assert not (tmp_path / "pretrain" / "model").exists()


def test_nothing_is_written_that_nobody_asked_for_or_of_nothing(config, tmp_path):
    written(tmp_path / "empty", 0)
    export_dataset(config, tmp_path / "empty")
    written(tmp_path / "set", 2)
    config.synthesize.exports = ("recordio",)
    export_dataset(config, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "set", "set_recordio"]
