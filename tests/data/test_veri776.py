"""VeRi-776 by its lists of names: the list counts, not the folder."""

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.veri776 import read_veri776

LISTS = {
    "name_train.txt": ["0001_c001_00016450_0.jpg", "0003_c020_00018035_0.jpg"],
    "name_query.txt": ["0002_c002_00030600_0.jpg"],
    # Queries are in the test folder again; lists of some copies add label and camera.
    "name_test.txt": ["0002_c002_00030600_0.jpg 2 2", "0002_c003_00084280_0.jpg", ""],
}


def write(root):
    for name, lines in LISTS.items():
        folder = root / name.replace("name", "image").removesuffix(".txt")
        folder.mkdir()
        for line in filter(None, lines):
            Image.new("RGB", (8, 4), 50).save(folder / line.split()[0])
        (root / name).write_text("\r\n".join(lines))
    Image.new("RGB", (8, 4)).save(root / "image_train" / "0009_c001_00000001_0.jpg")
    return root


def read(root):
    return read_veri776(root, image_size=(4, 8), channels=3)


def test_lists_give_vehicle_camera_and_subset(tmp_path):
    dataset = read(write(tmp_path))
    assert dataset.identity_names == ("0001", "0002", "0003")
    np.testing.assert_array_equal(dataset.identities, [0, 2, 1, 1, 1])
    np.testing.assert_array_equal(dataset.cameras, [1, 20, 2, 2, 3])
    expected = [Subset.TRAIN] * 2 + [Subset.QUERY] + [Subset.GALLERY] * 2
    np.testing.assert_array_equal(dataset.subsets, expected)
    assert dataset.file_names[3] == "image_test/0002_c002_00030600_0.jpg"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car.jpg", "Line 2 of .*name_query.txt is 'car.jpg'; expected"),
        ("0002_c001_/../../x.jpg", "expected a path inside image_query"),
        ("0002_c009_00000001_0.jpg", "there is no file .*image_query"),
    ],
)
def test_bad_names_are_named(tmp_path, line, message):
    write(tmp_path)
    with open(tmp_path / "name_query.txt", "a") as file:
        file.write("\n" + line)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
