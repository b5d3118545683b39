"""MSMT17 by its lists, in both versions' folders; bad lists are named with their line."""

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.msmt17 import read_msmt17

# Identity 0 of the training lists is not identity 0 of the test lists.
LISTS = {
    "list_train.txt": [
        "0000/0000_000_01_0303morning_0015_0.jpg 0",
        "0000/0000_001_14_0303morning_0016_1.jpg 0",
        "0001/0001_000_05_0303noon_0097_0.jpg 1",
    ],
    "list_val.txt": ["0001/0001_009_15_0303afternoon_0101_0_ex.jpg 1"],
    "list_query.txt": ["0000/0000_000_09_0303noon_0026_0.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_001_10_0303noon_0026_0.jpg 0",
        "0002/0002_001_10_0303noon_0027_0.jpg 2",
    ],
}


def write(root, folders=("train", "test"), lists=LISTS):
    for name, lines in lists.items():
        folder = root / folders[name in ("list_query.txt", "list_gallery.txt")]
        for line in lines:
            file = folder / line.split()[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 8), 50).save(file)
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def read(root, **options):
    return read_msmt17(root, image_size=(8, 4), channels=3, **options)


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_lists_give_identity_camera_and_subset(tmp_path, folders):
    dataset = read(write(tmp_path, folders))
    assert dataset.identity_names == ("test/0000", "test/0002", "train/0000", "train/0001")
    np.testing.assert_array_equal(dataset.identities, [2, 2, 3, 3, 0, 0, 1])
    np.testing.assert_array_equal(dataset.cameras, [1, 14, 5, 15, 9, 10, 10])
    expected = [Subset.TRAIN] * 4 + [Subset.QUERY] + [Subset.GALLERY] * 2
    np.testing.assert_array_equal(dataset.subsets, expected)
    assert dataset.file_names[0] == f"{folders[0]}/{LISTS['list_train.txt'][0].split()[0]}"
    assert len(read(tmp_path, with_validation=False).images) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000/0000_000_01_a_0_0.jpg", "Line 2 of .*expected a path and an identity"),
        ("0000/0000_000_01_a_0_0.jpg zero", "Line 2 of .*expected a path and an identity"),
        ("0000/0000_000_01_a_0_0.jpg 99999999999", "Line 2 of .*expected a path and an ident"),
        ("0000/picture.jpg 0", "Line 2 of .*says no camera"),
        ("../train/0000/0000_000_01_0303morning_0015_0.jpg 0", "expected a path inside test"),
        ("/etc/0000_000_01_a.jpg 0", "expected a path inside test"),
        ("0000/0000_000_01_gone.jpg 0", "Line 2 of .*there is no file .*test/0000/0000_000_01_go"),
        ("0000/0000_000_01_" + "x" * 5000 + " 0", "there is no file"),
        (LISTS["list_query.txt"][0], "lists test/0000/0000_000_09_0303noon_0026_0.jpg twice"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    root = write(tmp_path)
    with open(root / "list_query.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read(root)


def test_missing_lists_and_folders_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "list_gallery.txt").write_bytes(b"\n")
    with pytest.raises(ValueError, match="list_gallery.txt is empty"):
        read(tmp_path)
    (tmp_path / "list_gallery.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="list_gallery.txt is not UTF-8"):
        read(tmp_path)
    (tmp_path / "list_gallery.txt").unlink()
    with pytest.raises(ValueError, match="list_gallery.txt cannot be read: No such file"):
        read(tmp_path)
    (tmp_path / "test").rename(tmp_path / "tests")
    with pytest.raises(ValueError, match="none of the folders test, mask_test_v2"):
        read(tmp_path)
