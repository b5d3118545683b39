"""The synthetic data set on disk: contract, resumption, names, readers."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsyn_jax.data.folder import read_folder
from rlsyn_jax.data.synthetic_writer import (
    SyntheticDatasetWriter,
    export_market1501,
    folder_names,
    load_synthetic,
    read_manifest,
)

NAMES = ("zoë", "a/b", "Ann", "ann")


def image(number, channels=3):
    values = np.random.default_rng(number).integers(0, 256, (8, 8, channels))
    return values.astype(np.uint8)


def fill(writer, names=NAMES, count=2, channels=3):
    for place, name in enumerate(names):
        for number in range(count):
            if not writer.existing(name, number):
                writer.write_image(
                    name, number, image(10 * place + number, channels), {"seed": place, "r": 0.5}
                )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_written_data_set_reads_back_exactly(tmp_path, channels):
    writer = SyntheticDatasetWriter(tmp_path, identity_names=NAMES)
    fill(writer, channels=channels)
    writer.finish(card="# Card\n", metadata={"config": "test"})
    dataset, columns = load_synthetic(tmp_path)
    assert dataset.identity_names == NAMES
    assert dataset.identities.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(dataset.images[3], image(11, channels))
    assert list(columns) == ["identity", "file", "seed", "r"]
    assert read_manifest(tmp_path) == columns
    assert (tmp_path / "README.md").read_text() == "# Card\n"
    assert pq.read_schema(tmp_path / "manifest.parquet").metadata[b"config"] == b"test"


def test_image_folder_readers_take_it_unchanged(tmp_path):
    names = ("first", "second")
    writer = SyntheticDatasetWriter(tmp_path, identity_names=names)
    fill(writer, names)
    writer.finish(card="", metadata={})
    folder = read_folder(tmp_path, image_size=8, channels=3)
    np.testing.assert_array_equal(folder.images, load_synthetic(tmp_path)[0].images)


def test_opened_again_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole = SyntheticDatasetWriter(tmp_path / "whole", identity_names=NAMES)
    fill(whole)
    whole.reject("Ann", 7, {"seed": 1})
    whole.finish(card="", metadata={})

    part = SyntheticDatasetWriter(tmp_path / "part", identity_names=NAMES)
    part.reject("Ann", 7, {"seed": 1})
    part.write_image("Ann", 1, image(21), {"seed": 2, "r": 0.5})
    part.write_image("zoë", 0, image(0), {"seed": 0, "r": 0.5})
    journal = tmp_path / "part" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"number": 1, "iden')  # killed while writing
    (tmp_path / "part" / "zoë" / "00000.png").unlink()  # lost
    again = SyntheticDatasetWriter(tmp_path / "part", identity_names=NAMES)
    assert again.existing("Ann", 1) and again.existing("Ann", 7)
    assert not again.existing("zoë", 0)
    fill(again)
    again.finish(card="", metadata={})
    files = ["manifest.parquet", *read_manifest(tmp_path / "whole")["file"]]
    for file in files:
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    for line in journal.read_text().splitlines():
        json.loads(line)


def test_a_data_set_in_which_nothing_was_kept_is_empty(tmp_path):
    writer = SyntheticDatasetWriter(tmp_path, identity_names=NAMES)
    writer.reject("Ann", 0, {"seed": 0})
    writer.finish(card="", metadata={})
    dataset, _ = load_synthetic(tmp_path)
    assert len(dataset.images) == 0 and dataset.num_identities == 4


def test_export_uses_market1501_names(tmp_path):
    writer = SyntheticDatasetWriter(tmp_path / "a", identity_names=("p", "q"))
    fill(writer, ("p", "q"))
    writer.finish(card="", metadata={})
    assert export_market1501(tmp_path / "a", tmp_path / "m") == 4
    files = sorted(path.name for path in (tmp_path / "m" / "bounding_box_train").iterdir())
    assert files[:2] == ["0001_c1s1_000000_00.jpg", "0001_c1s1_000001_00.jpg"]
    assert files[3] == "0002_c1s1_000001_00.jpg"


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match="holds no manifest.parquet"):
        load_synthetic(tmp_path)
    with pytest.raises(ValueError, match="expected 'png' or 'jpg'"):
        SyntheticDatasetWriter(tmp_path, identity_names=("a",), image_format="gif")
    with pytest.raises(ValueError, match="unique"):
        SyntheticDatasetWriter(tmp_path, identity_names=("a", "a"))
    writer = SyntheticDatasetWriter(tmp_path, identity_names=("a",))
    with pytest.raises(ValueError, match="none of this data set"):
        writer.write_image("b", 0, image(0), {})
    with pytest.raises(ValueError, match="uint8"):
        writer.write_image("a", 0, image(0).astype(float), {})


@given(st.lists(st.text(min_size=1, max_size=90), min_size=1, max_size=6, unique=True))
def test_folder_names_are_apart_and_safe(names):
    names = [n for n in names if n.isprintable() or "/" in n] or ["a"]
    folders = list(folder_names(tuple(names)).values())
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert "/" not in folder and folder not in (".", "..") and len(folder.encode()) <= 255


def test_a_damaged_data_set_is_named_with_its_row(tmp_path):
    writer = SyntheticDatasetWriter(tmp_path, identity_names=("a",))
    for number, size in enumerate((4, 4, 6)):
        writer.write_image("a", number, np.zeros((size, size, 3), np.uint8), {})
    writer.finish(card="", metadata={})
    path = tmp_path / "manifest.parquet"
    table = pq.read_table(path)
    files = table["file"].to_pylist()
    for columns, message in (
        ({"identity": ["a"] * 3, "file": files}, "has 6 x 6 pixels, the first image .* 4 x 4"),
        ({"identity": ["a", "b"], "file": files[:2]}, "Row 1 of .* the identity 'b'"),
        ({"identity": ["a"], "file": ["../00000.png"]}, "Row 0 of .* a path inside"),
        ({"identity": ["a"], "file": ["a/9.png"]}, "Row 0 of .* there is no file"),
        ({"identity": ["a"]}, r"lacks the columns \['file'\]"),
    ):
        changed = pa.table(columns).replace_schema_metadata(table.schema.metadata)
        pq.write_table(changed, path)
        with pytest.raises(ValueError, match=message):
            load_synthetic(tmp_path)
    pq.write_table(table.replace_schema_metadata({b"identity_names": b"{"}), path)
    with pytest.raises(ValueError, match="damaged identity_names"):
        load_synthetic(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="no intact Parquet file"):
        load_synthetic(tmp_path)
