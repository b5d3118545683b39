"""A data set with a published split through the stages' inputs, the cache and the measures."""

import dataclasses
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.insightface import write_insightface
from rlsyn_jax.stages import recognition_measures
from rlsyn_jax.stages.inputs import load_general, load_target, train_labels


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Six people to train on, four to search for by three cameras, distractors and junk."""
    root = tmp_path_factory.mktemp("market")
    random = np.random.default_rng(0)

    def save(folder, person, camera, number):
        (root / folder).mkdir(exist_ok=True)
        name = f"{person:04d}" if person >= 0 else "-1"
        pixels = random.integers(0, 256, (8, 4, 3), np.uint8)
        Image.fromarray(pixels).save(root / folder / f"{name}_c{camera}s1_{number:06d}_00.png")

    for person in range(1, 7):
        for number in range(person + 1):
            save("bounding_box_train", person, 1 + number % 3, number)
    for person in range(10, 14):
        for camera in (1, 2, 3):
            save("query", person, camera, 0)
            save("bounding_box_test", person, camera, 1)
    for number in range(5):
        save("bounding_box_test", 0, 1, number)
        save("bounding_box_test", -1, 2, number)
    return root


def config_of(path, source="market1501"):
    config = default_config()
    config.image.size = 8
    config.data.source, config.data.path, config.data.num_identities = source, str(path), 0
    config.split.train_images, config.split.closed_images = 0, 1
    validate(config)
    return config


def test_the_published_split_comes_back_from_the_cache(market, tmp_path):
    config = config_of(market)
    first, second = load_target(config, tmp_path), load_target(config, tmp_path)
    for dataset, splits in (first, second):
        assert np.bincount(dataset.subsets).tolist() == [27, 12, 12, 5]
        assert len(splits.train) == 21 and len(splits.closed_query) == 6
        assert len(splits.open_query) == 12 and len(splits.open_gallery) == 17
        _, labels = train_labels(dataset, splits)
        assert np.bincount(labels).tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(first[0].subsets, second[0].subsets)
    assert second[0].subsets.dtype == np.int8


def test_limits_on_identities_are_those_of_training(market, tmp_path):
    config = config_of(market)
    config.data.min_images, config.data.num_identities = 4, 2
    dataset, splits = load_target(config, tmp_path)
    assert [dataset.identity_names[i] for i in splits.train_identities] == ["0003", "0004"]
    assert len(splits.open_query) == 12 and len(splits.open_gallery) == 17
    config.data.min_images = 7
    with pytest.raises(ConfigError, match="1 identities are left of 6 with min_images 7"):
        load_target(config, tmp_path)


def test_validation_looks_at_training_images_alone(market, tmp_path):
    config = config_of(market)
    tested, splits = load_target(config, tmp_path)
    config.split.measures = "validation"
    dataset, again = load_target(config, tmp_path)
    files = {tested.file_names[i] for i in splits.train}
    assert set(dataset.file_names) == files
    assert len(again.train_identities) == len(again.open_identities) == 3
    # Training images come first: all have as many as asked for who have one besides.
    config.split.train_images, config.split.closed_images = 2, 2
    dataset, again = load_target(config, tmp_path)
    counts = np.bincount(dataset.identities, minlength=6)[again.train_identities]
    trained = np.bincount(dataset.identities[again.train], minlength=6)[again.train_identities]
    np.testing.assert_array_equal(trained, np.minimum(2, np.maximum(counts - 1, 1)))


def test_the_general_domain_is_the_training_images_alone(market, tmp_path):
    config = config_of(market)
    config.general_data = config.data
    dataset = load_general(config, tmp_path)
    assert dataset.subsets is None and len(dataset.images) == 27
    assert dataset.identity_names == tuple(f"{person:04d}" for person in range(1, 7))


def test_the_ranking_is_that_of_the_published_query_and_gallery(market, tmp_path):
    dataset, splits = load_target(config_of(market), tmp_path)
    embeddings = np.random.default_rng(1).normal(size=(len(dataset.images), 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    measured, _ = recognition_measures._measure(config_of(market), dataset, splits, embeddings)
    values, people = measured["open_map"]

    def facts(index):
        name = dataset.file_names[index].rpartition("/")[2]
        return int(name[:4]), int(name[6])

    gallery = [i for i, f in enumerate(dataset.file_names) if f.startswith("bounding_box_test")]
    queries = [i for i, f in enumerate(dataset.file_names) if f.startswith("query")]
    expected = []
    for query in queries:
        ranked = sorted(gallery, key=lambda i: -embeddings[query] @ embeddings[i])
        ranked = [facts(i) for i in ranked if facts(i) != facts(query)]
        hits = np.flatnonzero([person == facts(query)[0] for person, _ in ranked])
        assert len(hits) == 2 and len(ranked) == 16  # Of the other cameras; distractors stay.
        expected.append(np.mean([(n + 1) / (hit + 1) for n, hit in enumerate(hits)]))
    np.testing.assert_allclose(values, expected)
    assert len(np.unique(people)) == 4


def test_pairs_never_show_distractors_and_are_drawn_from_few_images(market, tmp_path, monkeypatch):
    config = config_of(market)
    config.evaluate.verification_pairs = 40
    dataset, splits = load_target(config, tmp_path)
    for limit in (4096, 20):
        monkeypatch.setattr(recognition_measures, "_PAIRED_IMAGES", limit)
        folds = recognition_measures._folds(config, dataset, splits)
        first, second, is_same = folds.first, folds.second, folds.is_same
        shown = np.unique(np.concatenate([first, second]))
        assert len(shown) <= min(limit, 24)
        assert np.isin(dataset.subsets[shown], (Subset.QUERY, Subset.GALLERY)).all()
        same = dataset.identities[first] == dataset.identities[second]
        np.testing.assert_array_equal(same, is_same)


def test_sources_are_checked_before_anything_is_read(market, tmp_path):
    config = config_of(market)
    config.data.source = "market"
    with pytest.raises(ConfigError, match="config.data.source is 'market'.*'market1501', 'cuhk"):
        validate(config)
    config.data.source, config.data.path = "msmt17", ""
    with pytest.raises(ConfigError, match="config.data.path is ''; it must be the path of the"):
        validate(config)
    with pytest.raises(ConfigError, match="not a folder"):
        load_target(config_of(tmp_path / "absent"), tmp_path)


def test_subsets_are_checked(market, tmp_path):
    dataset, _ = load_target(config_of(market), tmp_path)
    for wrong in (dataset.subsets[:-1], dataset.subsets + 1):
        with pytest.raises(ValueError, match="subsets must be"):
            dataclasses.replace(dataset, subsets=wrong)


def _as_insightface(folder, images):
    write_insightface(folder / "faces.rec", iter(images), num_images=len(images))
    return folder / "faces.rec"


def _as_parquet(folder, images):
    table = pa.table({"image": [image for _, image in images], "label": [i for i, _ in images]})
    pq.write_table(table, folder / "faces.parquet")
    return folder / "faces.parquet"


def _as_webdataset(folder, images):
    with tarfile.open(folder / "faces.tar", "w") as tar:
        for place, (label, image) in enumerate(images):
            for name, content in (("png", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{place:04d}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder / "faces.tar"


@pytest.mark.parametrize(
    ("source", "make"),
    [
        ("insightface", _as_insightface),
        ("parquet", _as_parquet),
        ("webdataset", _as_webdataset),
    ],
)
def test_archives_are_sources_too(market, tmp_path, source, make):
    files = sorted((market / "bounding_box_train").iterdir())
    images = [(int(file.name[:4]), file.read_bytes()) for file in files]
    archive = make(tmp_path, images)
    for path in (archive, tmp_path):
        config = config_of(path, source)
        dataset, splits = load_target(config, tmp_path / "run")
        assert dataset.subsets is None and len(dataset.images) == len(images)
        assert dataset.identity_names == tuple("123456")
        assert len(splits.open_identities) == 3
    assert len(list((tmp_path / "run" / "data").iterdir())) == 2
    make(tmp_path, images[:-1])
    config = config_of(archive, source)
    assert len(load_target(config, tmp_path / "run")[0].images) == len(images) - 1
