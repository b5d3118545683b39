"""CUHK03's two files, generated in MATLAB's layout; damaged ones end in plain words."""

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlsyn_jax.data.cuhk03 import read_cuhk03, read_split
from rlsyn_jax.data.identity_dataset import Subset

# (pair, person, view, image), label; identities of the split count over all pairs.
FILES = (
    ("1_001_1_01.png", 1), ("1_001_1_02.png", 1), ("1_001_2_06.png", 1),
    ("1_002_1_01.png", 2), ("1_002_2_10.png", 2),
    ("5_001_1_05.png", 1467), ("5_001_2_07.png", 1467),
)  # fmt: skip
TRAIN, QUERY, GALLERY = [1, 2, 3, 6, 7], [4], [5]


def config(**changed):
    """The new protocol's variables, as MATLAB keeps them: columns, cells of texts."""
    files = np.empty((len(FILES), 1), object)
    files[:, 0] = [name for name, _ in FILES]
    column = {
        "labels": [label for _, label in FILES],
        "camId": [int(name.split("_")[2]) for name, _ in FILES],
        "train_idx": TRAIN,
        "query_idx": QUERY,
        "gallery_idx": GALLERY,
    }
    variables = {name: np.array(v, np.float64)[:, None] for name, v in column.items()}
    return variables | {"filelist": files} | changed


def pixels_of(place):
    """Another colour in each corner, so that a transposed image is seen."""
    image = np.full((8, 4, 3), 20 * place, np.uint8)
    image[0, 3] = [255, 0, 0]
    image[7, 0] = [0, 255, 0]
    return image


def write_archive(path, boxes="detected"):
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as archive:
        cells = archive.create_group("#refs#")
        empty = cells.create_dataset("empty", data=np.array([0, 0], np.uint64))
        empty.attrs["MATLAB_empty"] = 1
        pairs = archive.create_dataset(boxes, (1, 5), h5py.ref_dtype)
        for pair in range(5):
            people = cells.create_dataset(f"pair{pair}", (10, 3), h5py.ref_dtype)
            people[...] = np.full((10, 3), empty.ref, h5py.ref_dtype)
            pairs[0, pair] = people.ref
        for place, (name, _) in enumerate(FILES):
            pair, person, _, number = map(int, name.removesuffix(".png").split("_"))
            image = cells.create_dataset(f"image{place}", data=pixels_of(place).transpose(2, 1, 0))
            cells[f"pair{pair - 1}"][number - 1, person - 1] = image.ref
    return path


def write(root, boxes="detected", **changed):
    write_archive(root / "cuhk-03.mat", boxes)
    scipy.io.savemat(root / f"cuhk03_new_protocol_config_{boxes}.mat", config(**changed))
    return root


def read(root, boxes="detected", **options):
    return read_cuhk03(root, boxes, **{"image_size": (8, 4), "channels": 3} | options)


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
@pytest.mark.parametrize("compressed", [True, False])
def test_the_split_and_its_images_are_read(tmp_path, boxes, compressed):
    write_archive(tmp_path / "cuhk03_release" / "cuhk-03.mat", boxes)
    split = tmp_path / f"cuhk03_new_protocol_config_{boxes}.mat"
    scipy.io.savemat(split, config(), do_compression=compressed)
    dataset = read(tmp_path, boxes)
    order = [place - 1 for place in TRAIN + QUERY + GALLERY]
    assert dataset.file_names == tuple(FILES[place][0] for place in order)
    np.testing.assert_array_equal(dataset.images, [pixels_of(place) for place in order])
    assert dataset.identity_names == ("0001", "0002", "1467")
    np.testing.assert_array_equal(dataset.identities, [0, 0, 0, 2, 2, 1, 1])
    np.testing.assert_array_equal(dataset.cameras, [1, 1, 2, 1, 2, 1, 2])
    expected = [Subset.TRAIN] * 5 + [Subset.QUERY, Subset.GALLERY]
    np.testing.assert_array_equal(dataset.subsets, expected)
    assert read(tmp_path, boxes, channels=1, image_size=4).images.shape == (7, 4, 4, 1)


def _one_cell(value):
    files = config()["filelist"].copy()
    files[2, 0] = value
    return files


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_idx": np.array([[0.0]])}, "train_idx has 0; expected 1 to 7"),
        ({"query_idx": np.array([[8.0]])}, "query_idx has 8; expected 1 to 7"),
        ({"query_idx": np.array([[1.5]])}, "query_idx holds other things than whole numbers"),
        ({"query_idx": np.array([[1e300]])}, "query_idx holds 1e.300"),
        ({"query_idx": config()["filelist"]}, "query_idx holds other things"),
        ({"query_idx": np.array([[np.nan]])}, "query_idx holds other things"),
        ({"query_idx": "text"}, "query_idx of class 4; expected numbers"),
        ({"query_idx": np.zeros((0, 1))}, "has no query images"),
        ({"labels": np.ones((3, 1))}, "7 files, 3 labels and 7 cameras"),
        ({"camId": np.ones((7, 1))}, "'1_001_2_06.png' of identity 1 and camera 1; expected"),
        ({"labels": -np.ones((7, 1))}, "of identity -1"),
        ({"filelist": _one_cell("../x.png")}, "image 3 is '../x.png'"),
        ({"filelist": _one_cell(np.zeros((3, 3)))}, "a cell of filelist that is no text"),
        ({"filelist": np.ones((7, 1))}, "filelist holds numbers"),
        ({"query_idx": np.array([[1.0]])}, "lists 1_001_1_01.png|searches for the identity '0001'"),
        ({"filelist": _one_cell("6_001_2_06.png")}, "6_001_2_06.png .*pairs of cameras"),
        ({"filelist": _one_cell("1_009_2_06.png")}, "1_009_2_06.png .*3 people of 10 images"),
        ({"filelist": _one_cell("1_000_2_06.png")}, "1_000_2_06.png .*3 people of 10 images"),
        ({"filelist": _one_cell("1_001_2_00.png")}, "1_001_2_00.png .*3 people of 10 images"),
        ({"filelist": _one_cell("1_003_2_06.png")}, r"1_003_2_06.png .*an array uint64 \(2,\)"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, **changed))
    assert str(tmp_path) in str(error.value)


def test_missing_and_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="boxes is 'labelled'"):
        read(tmp_path, "labelled")
    with pytest.raises(
        ValueError, match="config_detected.mat cannot be read as a MATLAB 5 file.*No such file"
    ):
        read(tmp_path)
    write(tmp_path)
    (tmp_path / "cuhk-03.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match="cuhk-03.mat is no intact MATLAB 7.3"):
        read(tmp_path)
    split = config()
    del split["camId"]
    scipy.io.savemat(tmp_path / "cuhk03_new_protocol_config_detected.mat", split)
    with pytest.raises(ValueError, match="no variable camId"):
        read(tmp_path)


def test_an_image_is_not_read_before_its_size_is_known(tmp_path):
    h5py = pytest.importorskip("h5py")
    write(tmp_path)
    with h5py.File(tmp_path / "cuhk-03.mat", "a") as archive:
        people = archive["#refs#/pair0"]
        huge = archive.create_dataset("huge", (3, 2**20, 2**20), np.uint8, chunks=(3, 64, 64))
        people[0, 0] = huge.ref
    with pytest.raises(ValueError, match=r"1_001_1_01.png .*an array \(3, 1048576, 1048576\)"):
        read(tmp_path)


def _survives(path, content):
    path.write_bytes(content)
    try:
        read_split(path)
    except ValueError as error:
        assert "split.mat" in str(error)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), compressed=st.booleans())
def test_damaged_splits_end_in_plain_words(tmp_path, damages, data, compressed):
    scipy.io.savemat(tmp_path / "split.mat", config(), do_compression=compressed)
    good = (tmp_path / "split.mat").read_bytes()
    _survives(tmp_path / "split.mat", data.draw(damages)(good))


@pytest.mark.slow
def test_damaged_splits_end_in_plain_words_in_many_cases(tmp_path, damaged):
    goods = []
    for compressed in (True, False):
        scipy.io.savemat(tmp_path / "split.mat", config(), do_compression=compressed)
        goods.append((tmp_path / "split.mat").read_bytes())
    for seed in range(20_000):
        _survives(tmp_path / "split.mat", damaged(goods[seed % 2], seed))


@pytest.mark.slow
def test_damaged_archives_end_in_plain_words_in_many_cases(tmp_path, damaged):
    write(tmp_path)
    good = (tmp_path / "cuhk-03.mat").read_bytes()
    for seed in range(5_000):
        (tmp_path / "cuhk-03.mat").write_bytes(damaged(good, seed))
        try:
            read(tmp_path)
        except ValueError as error:
            assert "cuhk-03.mat" in str(error)
