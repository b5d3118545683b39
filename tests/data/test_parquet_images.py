"""Parquet files as Hugging Face's `datasets` writes them; damaged files end in plain words."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.data.parquet_images import read_parquet

VALUES = (10, 20, 30, 40)


def encoded(value):
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(sink, "PNG")
    return sink.getvalue()


IMAGES = [{"bytes": encoded(value), "path": f"{value}.png"} for value in VALUES]


def write(path, images=IMAGES, labels=(1, 0, 1, 1), names=("anna", "ben"), **columns):
    label = columns.pop("label_column", "label")
    table = pa.table({"image": images, label: labels, **columns})
    if names:
        features = {
            "image": {"_type": "Image"},
            label: {"names": list(names), "_type": "ClassLabel"},
        }
        content = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path, row_group_size=3)
    return path


def read(path, **options):
    return read_parquet(path, **{"image_size": 4, "channels": 3} | options)


def test_class_names_are_those_of_the_metadata(tmp_path):
    dataset = read(write(tmp_path / "train.parquet"))
    assert dataset.identity_names == ("anna", "ben") and not dataset.has_cameras
    np.testing.assert_array_equal(dataset.identities, [1, 0, 1, 1])
    np.testing.assert_array_equal(dataset.images[:, 1, 1, 0], VALUES)
    assert dataset.file_names[3] == "train.parquet/3" and dataset.name == "train"


@pytest.mark.parametrize("column", ["label", "identity", "name"])
@pytest.mark.parametrize(
    ("labels", "expected"), [((7, 10, 7, 7), ("7", "10")), (("b", "a", "b", "b"), ("a", "b"))]
)
def test_numbers_texts_and_plain_bytes(tmp_path, column, labels, expected):
    images = [image["bytes"] for image in IMAGES]
    path = write(
        tmp_path / "a.parquet", images, labels, None, label_column=column, camera=[1, 2, 3, 1]
    )
    dataset = read(path)
    assert dataset.identity_names == expected
    np.testing.assert_array_equal(dataset.cameras, [1, 2, 3, 1])


def test_a_folder_gives_its_training_files_in_order(tmp_path):
    for place in (10, 2):
        images = [{"bytes": encoded(place), "path": None}] * 2
        write(tmp_path / f"train-{place}-of-10.parquet", images, (0, 1))
    write(tmp_path / "test-0-of-1.parquet")
    np.testing.assert_array_equal(read(tmp_path).images[:, 0, 0, 0], [2, 2, 10, 10])
    for file in tmp_path.glob("train*"):
        file.unlink()
    assert len(read(tmp_path).images) == 4


def _another_column(path):
    pq.write_table(pa.table({"img": IMAGES, "label": [0] * 4}), path)
    return "has the columns img, label; expected image and one of label, identity, name"


def _without_bytes(path):
    write(path, [*IMAGES[:3], {"bytes": None, "path": "40.png"}])
    return r"Row 3 of .*a.parquet has no bytes in its column image, but the path '40.png'"


def _null_image(path):
    write(path, [*IMAGES[:3], None])
    return r"Row 3 of .*a.parquet has no bytes"


def _null_label(path):
    write(path, labels=(0, None, 1, 1))
    return "Row 1 of .*has the label None; expected a text or a number of 0 to 1"


def _unknown_label(path):
    write(path, labels=(0, 1, 2, 1))
    return "Row 2 of .*has the label 2"


def _no_label(path):
    write(path, labels=(0, 1, -1, 1), names=None)
    return "Row 2 of .*has the label -1; expected a text or a number of 0 or more"


def _damaged_image(path):
    write(path, [*IMAGES[:3], {"bytes": b"jpeg", "path": None}])
    return "Image a.parquet/3 of .*a.parquet cannot be read"


def _one_person(path):
    write(path, labels=(1, 1, 1, 1))
    return "a.parquet shows 1 identities in 4 readable images"


def _cut_off(path):
    path.write_bytes(write(path).read_bytes()[:-20])
    return "a.parquet is no intact Parquet file"


def _empty(path):
    path.write_bytes(b"")
    return "a.parquet is no intact Parquet file"


def _another_file(path):
    path.write_bytes(IMAGES[0]["bytes"])
    return "a.parquet is no intact Parquet file"


def _absent(path):
    return "a.parquet is no .parquet file and no folder of them"


@pytest.mark.parametrize(
    "make",
    [
        _another_column, _without_bytes, _null_image, _null_label, _unknown_label, _no_label,
        _damaged_image, _one_person, _cut_off, _empty, _another_file, _absent,
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, make):
    message = make(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.parquet")


def test_more_rows_than_bytes_are_refused(tmp_path):
    size = 3_000_000
    rows = pa.table({"image": pa.nulls(size, pa.binary()), "label": pa.nulls(size, pa.int64())})
    pq.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="claims 3000000 rows in"):
        read(tmp_path / "a.parquet")


def _survives(path, content):
    path.write_bytes(content)
    try:
        assert len(read(path, skip_damaged=True).images) <= len(content)
    except ValueError as error:
        assert "a.parquet" in str(error)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_end_in_plain_words(tmp_path, damages, data):
    good = write(tmp_path / "a.parquet").read_bytes()
    _survives(tmp_path / "a.parquet", data.draw(damages)(good))


@pytest.mark.slow
def test_damaged_files_end_in_plain_words_in_many_cases(tmp_path, damaged):
    good = write(tmp_path / "a.parquet").read_bytes()
    for seed in range(20_000):
        _survives(tmp_path / "a.parquet", damaged(good, seed))
