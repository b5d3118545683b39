"""Exports, read back by this package's readers and by a direct reading of each format."""

import glob
import io
import json
import os
import re
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.exports import export_insightface, export_into_market1501, export_webdataset
from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.insightface import read_insightface
from rlsyn_jax.data.market1501 import read_market1501
from rlsyn_jax.data.recordio import iterate_records, unpack
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter
from rlsyn_jax.data.webdataset_tar import read_webdataset

PEOPLE = ("0002", "0007", "0010")  # The last has no image.
SIZE = {"image_size": (8, 4), "channels": 3}


@pytest.fixture(params=["png", "jpg"])
def synthetic(tmp_path, request):
    """A finished synthetic set: three images of 0002, two of 0007."""
    writer = SyntheticDatasetWriter(
        tmp_path / "synthetic", identity_names=PEOPLE, image_format=request.param
    )
    for name, number in (("0007", 0), ("0002", 0), ("0002", 1), ("0007", 1), ("0002", 2)):
        value = 20 * (number + 1) + int(name)
        writer.write_image(name, number, np.full((8, 4, 3), value, np.uint8), {"seed": number})
    writer.finish(card="card", metadata={})
    return tmp_path / "synthetic"


ORDER = [(0, 22), (0, 42), (0, 62), (1, 27), (1, 47)]  # (label, value)


@pytest.fixture
def real(tmp_path):
    names = (
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0002_c4s6_000301_01.jpg",
        "bounding_box_train/0007_c3s3_077419_03.jpg",
        "query/0001_c1s1_001051_00.jpg",
        "bounding_box_test/-1_c1s1_000401_03.jpg",
        "bounding_box_test/0001_c4s1_000801_02.jpg",
    )
    for name in names:
        (tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (200,) * 3).save(tmp_path / "real" / name)
    return tmp_path / "real"


def test_market1501_is_a_copy_with_more_images_of_its_people(tmp_path, synthetic, real):
    target = tmp_path / "with_synthetic"
    assert export_into_market1501(synthetic, real, target) == 5
    for file in real.rglob("*.jpg"):
        assert (target / file.relative_to(real)).read_bytes() == file.read_bytes()
    # As fast-reid and torchreid read it: the whole path is searched, and .jpg alone are listed.
    found = {}
    for path in sorted(glob.glob(os.path.join(target, "bounding_box_train", "*.jpg"))):
        person, camera = map(int, re.compile(r"([-\d]+)_c(\d)").search(path).groups())
        assert 0 <= person <= 1501 and 1 <= camera <= 6
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (8, 4, 3)
        found.setdefault(person, []).append((camera, int(pixels[4, 2, 0])))
    values = {2: [22, 42, 62, 200, 200], 7: [27, 47, 200]}
    assert {p: sorted(v for _, v in images) for p, images in found.items()} == values
    assert {p: {c for c, _ in images} for p, images in found.items()} == {2: {1, 4}, 7: {3}}
    dataset = read_market1501(target, **SIZE)
    assert np.bincount(dataset.subsets).tolist() == [8, 1, 1]
    assert [dataset.identity_names[i] for i in np.unique(dataset.identities)][1:] == [
        "0002",
        "0007",
    ]
    assert (dataset.subsets == Subset.TRAIN).sum() == sum(map(len, found.values()))


def test_real_images_of_other_kinds_become_jpg(tmp_path, synthetic, real):
    """As CUHK03-NP's: readers list .jpg alone, or .png alone."""
    before = {}
    for file, suffix in zip(sorted(real.rglob("*.jpg")), (".png", ".JPG", ".jpeg") * 2):
        with Image.open(file) as image:
            image.save(file.with_suffix(suffix))
        file.unlink()
        before[file.relative_to(real)] = file.with_suffix(suffix)
    (real / "query" / "Thumbs.db").write_bytes(b"1")
    target = tmp_path / "with_synthetic"
    export_into_market1501(synthetic, real, target)
    found = {
        file.relative_to(target) for file in target.rglob("*_0?.jpg") if "s9_" not in file.name
    }
    assert found == set(before)
    assert not [file for file in target.rglob("*") if file.suffix in (".png", ".JPG", ".jpeg")]
    for name, file in before.items():
        if file.suffix != ".png":
            assert (target / name).read_bytes() == file.read_bytes()
        assert (np.asarray(Image.open(target / name)) == 200).all()


def test_insightface_files_have_the_size_that_is_asked_for(tmp_path, synthetic):
    export_insightface(synthetic, tmp_path / "faces", image_size=(6, 6))
    assert (tmp_path / "faces" / "property").read_text() == "2,6,6\n"
    found = []
    for _, data in iterate_records(tmp_path / "faces" / "train.rec"):
        labels, _, encoded = unpack(data, "record")
        if encoded:
            pixels = np.asarray(Image.open(io.BytesIO(encoded)))
            assert pixels.shape == (6, 6, 3)
            found.append((int(labels[0]), int(np.median(pixels))))
    assert found == ORDER


def test_market1501_refuses_what_readers_would_mistake(tmp_path, synthetic, real):
    with pytest.raises(ValueError, match="holds '12_c3', which fast-reid and torchreid"):
        export_into_market1501(synthetic, real, tmp_path / "run_12_c3" / "market")
    (real / "bounding_box_train" / "0007_c3s3_077419_03.jpg").rename(
        real / "bounding_box_train" / "0008_c3s3_077419_03.jpg"
    )
    with pytest.raises(ValueError, match="1 people of .*'0007' the first, are not among those"):
        export_into_market1501(synthetic, real, tmp_path / "target")
    with pytest.raises(ValueError, match="is there already"):
        export_insightface(synthetic, real)
    assert not (tmp_path / "target").exists()


def test_insightface_files_hold_the_same_bytes(tmp_path, synthetic):
    target = tmp_path / "faces"
    assert export_insightface(synthetic, target) == 5
    assert (target / "property").read_text() == "2,8,4\n"
    # As InsightFace's loaders read it: offsets of the index, IRHeader, images 1 to label 0 - 1.
    offsets = dict(
        map(int, line.split("\t")) for line in (target / "train.idx").read_text().splitlines()
    )
    content = (target / "train.rec").read_bytes()

    def record(key):
        magic, length = struct.unpack_from("<II", content, offsets[key])
        assert magic == 0xCED7230A and length < 2**29
        data = content[offsets[key] + 8 : offsets[key] + 8 + length]
        flag, label, identifier, _ = struct.unpack_from("<IfQQ", data)
        assert identifier == key
        labels = struct.unpack_from(f"<{flag}f", data, 24) if flag else (label,)
        return labels, data[24 + 4 * flag :]

    (first_person, end), _ = record(0)
    assert (first_person, end, len(offsets)) == (6, 8, 8)
    for key, (label, value) in enumerate(ORDER, start=1):
        labels, image = record(key)
        assert labels == (label,)
        assert np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0] == value
    assert [record(key)[0] for key in (6, 7)] == [(1, 4), (4, 6)]
    dataset = read_insightface(target, **SIZE)
    assert list(zip(dataset.identities, dataset.images[:, 0, 0, 0])) == ORDER


def test_webdataset_archives_hold_every_image_once(tmp_path, synthetic):
    target = tmp_path / "tars"
    assert export_webdataset(synthetic, target, images_per_archive=2) == 5
    seen = []
    for number in range(3):
        with tarfile.open(target / f"{number:06d}.tar") as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        assert len(files) == (6 if number < 2 else 3)
        for key in sorted({name.partition(".")[0] for name in files}):
            (image,) = (
                files[f"{key}.{kind}"] for kind in ("png", "jpg") if f"{key}.{kind}" in files
            )
            row = json.loads(files[f"{key}.json"])
            assert (synthetic / row["file"]).read_bytes() == image
            label, value = (
                int(files[f"{key}.cls"]),
                np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0],
            )
            assert row["identity"] == PEOPLE[label] and row["seed"] == value // 20 - 1
            seen.append((label, value))
    assert sorted(seen) == ORDER
    dataset = read_webdataset(target, **SIZE)
    assert dataset.identity_names == PEOPLE[:2]
    assert list(zip(dataset.identities, dataset.images[:, 0, 0, 0])) == seen


@pytest.mark.slow  # The library imports PyTorch.
def test_webdatasets_own_library_reads_the_archives(tmp_path, synthetic):
    webdataset = pytest.importorskip("webdataset")
    export_webdataset(synthetic, tmp_path / "tars")
    archive = str(tmp_path / "tars" / "000000.tar")
    examples = list(webdataset.WebDataset(archive, shardshuffle=False).decode("rgb8"))
    seen = []
    for example in examples:
        image = example.get("png", example.get("jpg"))
        seen.append((example["cls"], int(image[0, 0, 0])))
    assert sorted(seen) == ORDER


@pytest.mark.parametrize("export", [export_insightface, export_webdataset])
def test_an_empty_set_is_named(tmp_path, export):
    writer = SyntheticDatasetWriter(tmp_path / "empty", identity_names=PEOPLE)
    writer.finish(card="card", metadata={})
    with pytest.raises(ValueError, match="empty has no images to write"):
        export(tmp_path / "empty", tmp_path / "target")
    with pytest.raises(ValueError, match="images_per_archive is 0"):
        export_webdataset(tmp_path / "empty", tmp_path / "target", images_per_archive=0)
