"""Market-1501's folders as published: names, junk, distractors, stray files; and CUHK03-NP."""

import dataclasses
import glob
import os
import re

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.market1501 import read_cuhk03_np, read_market1501
from rlsyn_jax.data.splits import split_dataset

MARKET = (
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c2s1_000301_01.jpg",
    "bounding_box_train/0007_c3s3_077419_03.jpg",
    "bounding_box_train/0007_c6s1_023976_02.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "query/0003_c2s3_064562_00.jpg",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/-1_c5s1_000401_01.jpg",
    "bounding_box_test/0000_c1s1_000151_01.jpg",
    "bounding_box_test/0000_c6s3_096367_04.jpg",
    "bounding_box_test/0001_c1s1_001051_01.jpg",
    "bounding_box_test/0001_c4s1_000801_02.jpg",
    "bounding_box_test/0003_c5s3_065187_02.jpg",
)
CUHK03 = (
    "bounding_box_train/0003_c1_21.png",
    "bounding_box_train/0003_c2_26.png",
    "bounding_box_train/0010_c1_81.png",
    "query/0001_c1_1.png",
    "query/0001_c2_6.png",
    "bounding_box_test/0001_c1_2.png",
    "bounding_box_test/0001_c2_7.png",
)


def write(root, names, size=(4, 8)):
    """Writes one grey image a name, of value 10 times its place."""
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (place * 10,) * 3).save(root / name)
    return root


def read(root, reader=read_market1501, *arguments, **options):
    return reader(root, *arguments, **{"image_size": (8, 4), "channels": 3} | options)


def as_other_libraries(root, folder):
    """Files and labels as the readers of the field have them: a glob, a pattern, junk skipped."""
    found = []
    for path in glob.glob(os.path.join(root, folder, "*.jpg")):
        person, camera = map(int, re.search(r"([-\d]+)_c(\d)", os.path.basename(path)).groups())
        if person != -1:
            found.append((os.path.relpath(path, root), person, camera))
    return sorted(found)


def test_every_image_has_the_label_camera_and_subset_that_other_readers_give(tmp_path):
    root = write(tmp_path / "market", MARKET)
    for stray in ("bounding_box_test/Thumbs.db", "query/Thumbs.db", "readme.txt"):
        (root / stray).write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "bounding_box_train" / "._0002_c1s1_000451_03.jpg").write_bytes(b"")
    dataset = read(root)
    assert dataset.images.shape == (11, 8, 4, 3) and dataset.has_cameras
    for folder, subsets in (
        ("bounding_box_train", [Subset.TRAIN]),
        ("query", [Subset.QUERY]),
        ("bounding_box_test", [Subset.GALLERY, Subset.DISTRACTOR]),
    ):
        got = []
        for i in np.flatnonzero(np.isin(dataset.subsets, subsets)):
            name = dataset.identity_names[dataset.identities[i]]
            person = 0 if name == "distractors" else int(name)
            assert (person == 0) == (dataset.subsets[i] == Subset.DISTRACTOR)
            got.append((dataset.file_names[i], person, int(dataset.cameras[i])))
        assert sorted(got) == as_other_libraries(root, folder)
    values = [10 * MARKET.index(file) for file in dataset.file_names]
    assert (np.abs(dataset.images[:, 3, 2, 0].astype(int) - values) <= 2).all()


def test_the_published_query_and_gallery_are_the_open_set(tmp_path):
    dataset = read(write(tmp_path, MARKET))
    splits = split_dataset(
        dataset,
        held_out_fraction=0.9,
        train_images_per_identity=0,
        closed_images_per_identity=1,
        seed=3,
    )
    files = np.array(dataset.file_names)
    assert sorted(files[splits.open_query]) == sorted(n for n in MARKET if n.startswith("query"))
    assert sorted(files[splits.open_gallery]) == sorted(
        n for n in MARKET if n.startswith("bounding_box_test/0")
    )
    training = np.concatenate([splits.train, splits.closed_query])
    assert sorted(files[training]) == sorted(MARKET[:4])
    assert len(splits.train) == len(splits.closed_query) == 2
    names = [dataset.identity_names[i] for i in splits.train_identities]
    assert names == ["0002", "0007"]
    assert [dataset.identity_names[i] for i in splits.open_identities] == ["0001", "0003"]
    people = dict(zip(files[splits.open_gallery], splits.open_gallery_people))
    assert [people[n] == 0 for n in MARKET[8:]] == [True, True, False, False, False]
    query_people = dict(zip(files[splits.open_query], splits.open_query_people))
    assert query_people[MARKET[4]] == people[MARKET[10]] == people[MARKET[11]] > 0
    assert query_people[MARKET[5]] == people[MARKET[12]] != people[MARKET[11]]
    np.testing.assert_array_equal(splits.open_query_cameras, [1, 2])


def test_splits_depend_on_the_seed_in_the_closed_set_alone(tmp_path):
    names = [f"bounding_box_train/{p:04d}_c1s1_{i:06d}_00.jpg" for p in (1, 2) for i in range(9)]
    dataset = read(write(tmp_path, [*names, *(n.replace("00", "10", 1) for n in MARKET[4:])]))
    kept = []
    for seed in (0, 1):
        splits = split_dataset(
            dataset,
            held_out_fraction=0.0,
            train_images_per_identity=4,
            closed_images_per_identity=3,
            seed=seed,
        )
        assert len(splits.train) == 8 and len(splits.closed_query) == 6
        assert (dataset.subsets[splits.train] == Subset.TRAIN).all()
        kept.append((splits.closed_query.tolist(), splits.open_gallery.tolist()))
    assert kept[0][0] != kept[1][0] and kept[0][1] == kept[1][1]


def test_images_to_search_for_never_train_whoever_they_show(tmp_path):
    dataset = read(write(tmp_path, MARKET))
    shown_twice = dataclasses.replace(dataset, identities=np.arange(11) % 3)
    splits = split_dataset(
        shown_twice,
        held_out_fraction=0.0,
        train_images_per_identity=0,
        closed_images_per_identity=1,
        seed=0,
    )
    training = np.concatenate([splits.train, splits.closed_query])
    np.testing.assert_array_equal(np.sort(training), np.arange(4))


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_np_takes_the_boxes_that_were_asked_for(tmp_path, boxes):
    write(tmp_path / "detected", CUHK03)
    write(tmp_path / "labeled", CUHK03[:-1])
    dataset = read(tmp_path, read_cuhk03_np, boxes)
    assert dataset.name == f"CUHK03-NP {boxes}"
    assert len(dataset.images) == {"detected": 7, "labeled": 6}[boxes]
    assert dataset.identity_names == ("0001", "0003", "0010")
    assert len(read(tmp_path / boxes, read_cuhk03_np, boxes).images) == len(dataset.images)
    np.testing.assert_array_equal(dataset.cameras[:3], [1, 2, 1])


def test_cuhk03_np_refuses_the_other_boxes(tmp_path):
    write(tmp_path / "labeled", CUHK03)
    with pytest.raises(ValueError, match="holds the labeled boxes"):
        read(tmp_path / "labeled", read_cuhk03_np, "detected")
    with pytest.raises(ValueError, match="'labelled'; expected 'detected' or 'labeled'"):
        read(tmp_path, read_cuhk03_np, "labelled")


def _no_gallery(root):
    for file in (root / "bounding_box_test").glob("0[0-9]*"):
        file.unlink()
    return "has no gallery images of people"


def _no_folder(root):
    (root / "query").rename(root / "queries")
    return "does not hold query; expected the folders bounding_box_train, query"


def _other_name(root):
    write(root, ["query/person1.jpg"])
    return "query/person1.jpg has another name"


def _distractor_to_train_on(root):
    write(root, ["bounding_box_train/0000_c1s1_000001_00.jpg"])
    return "0000_c1s1_000001_00.jpg is of identity 0, which stands for distractors"


def _overlap(root):
    write(root, ["bounding_box_train/0003_c1s1_000001_00.jpg"])
    return "trains on and searches for the identity '0003', and 0 more"


def _damaged(root):
    (root / MARKET[0]).write_bytes(b"")
    return r"0002_c1s1_000451_03.jpg is empty \(0 bytes\)"


@pytest.mark.parametrize(
    "damage",
    [_no_gallery, _no_folder, _other_name, _distractor_to_train_on, _overlap, _damaged],
)
def test_what_is_wrong_is_named(tmp_path, damage):
    root = write(tmp_path, MARKET)
    with pytest.raises(ValueError, match=damage(root)) as error:
        read(root)
    assert str(tmp_path) in str(error.value)


def test_damaged_images_are_skipped_where_asked(tmp_path, caplog):
    root = write(tmp_path, MARKET)
    (root / MARKET[0]).write_bytes(b"")
    dataset = read(root, skip_damaged=True)
    assert len(dataset.images) == 10 and MARKET[0] not in dataset.file_names
    assert "1 of 11 images" in caplog.text
    for name in MARKET[4:6]:
        (root / name).write_bytes(b"")
    with pytest.raises(ValueError, match="What can be read of Market-1501.*no query images"):
        read(root, skip_damaged=True)
