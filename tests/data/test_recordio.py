"""RecordIO against bytes written by hand and a second reading; damaged files end in plain words."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlsyn_jax.data import recordio
from rlsyn_jax.data.recordio import (
    RecordWriter,
    iterate_records,
    pack,
    read_index,
    read_record,
    unpack,
)

WORD = b"\x0a\x23\xd7\xce"


def frame(flag, data):
    return WORD + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


def records_of(content, path):
    path.write_bytes(content)
    return [data for _, data in iterate_records(path)]


def read_directly(content):
    """A second reading, without checks: records, each joined at the words that were left out."""
    records, parts, place = [], [], 0
    while place < len(content):
        assert content[place : place + 4] == WORD
        (word,) = struct.unpack("<I", content[place + 4 : place + 8])
        flag, length = word >> 29, word % 2**29
        parts.append(content[place + 8 : place + 8 + length])
        place += 8 + (length + 3) // 4 * 4
        if flag in (0, 3):
            records.append(WORD.join(parts))
            parts = []
    return records


def test_whole_padded_and_split_records_are_read(tmp_path):
    content = (
        frame(0, b"abc")
        + frame(0, b"")
        + frame(1, b"abcd") + frame(2, b"") + frame(2, b"12345678") + frame(3, b"xyz")
        + frame(0, b"four")
    )  # fmt: skip
    assert records_of(content, tmp_path / "a.rec") == [
        b"abc",
        b"",
        b"abcd" + WORD + WORD + b"12345678" + WORD + b"xyz",
        b"four",
    ]


def test_the_words_of_a_record_are_those_of_the_format(tmp_path):
    writer = RecordWriter(tmp_path / "a.rec")
    writer.write(3, b"ab" + WORD + b"c")  # Not at a multiple of four: stays.
    writer.write(7, WORD + b"abcd" + WORD)
    writer.close()
    assert (tmp_path / "a.rec").read_bytes() == (
        frame(0, b"ab" + WORD + b"c") + frame(1, b"") + frame(2, b"abcd") + frame(3, b"")
    )
    assert (tmp_path / "a.idx").read_text() == "3\t0\n7\t16\n"
    assert read_index(tmp_path / "a.idx") == {3: 0, 7: 16}


words = st.lists(st.sampled_from([WORD, WORD[:2], WORD[1:], b"\x0a", b"\x00", b"ab"]), max_size=12)


@settings(deadline=None, max_examples=60)
@given(records=st.lists(words.map(b"".join), min_size=1, max_size=4))
@example(records=[WORD[:2] + WORD + WORD[2:]])
def test_what_is_written_is_read_by_two_readings(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("r") / "a.rec"
    writer = RecordWriter(path)
    for key, data in enumerate(records):
        writer.write(key, data)
    writer.close()
    assert read_directly(path.read_bytes()) == records
    assert [data for _, data in iterate_records(path)] == records
    with open(path, "rb") as file:
        for key, offset in read_index(path.with_suffix(".idx")).items():
            assert read_record(file, offset, "record")[0] == records[key]


def test_labels_and_images_are_packed_as_in_mxnet():
    # MXNet's IRHeader: struct "IfQQ"; several labels follow it, and the flag counts them.
    assert pack(5, 9, b"jpeg") == struct.pack("<IfQQ", 0, 5.0, 9, 0) + b"jpeg"
    several = struct.pack("<IfQQ2f", 2, 0.0, 9, 0, 5.0, 7.0) + b"jpeg"
    assert pack([5, 7], 9, b"jpeg") == several
    labels, key, image = unpack(several, "record")
    assert labels.tolist() == [5, 7] and key == 9 and image == b"jpeg"
    labels, key, image = unpack(pack(3, 1), "record")
    assert labels.tolist() == [3] and key == 1 and image == b""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (frame(0, b"abcd")[:-1], "Record 0 of .*a.rec has a part of 4 bytes at byte 8, but .* 11"),
        (frame(0, b"abcd") + WORD, "Record 1 of .*begins at byte 12, but the file has 16"),
        (frame(0, b"abcd") + bytes(8), r"Record 1 .*byte 12 holds 0x00000000; expected"),
        (frame(2, b"abcd"), "part at byte 0 has the flag 2; expected 0 or 1"),
        (frame(1, b"abcd") + frame(0, b""), "part at byte 12 has the flag 0; expected 2 or 3"),
        (frame(7, b""), "has the flag 7"),
        (frame(1, b"abcd"), "begins at byte 12, but the file has 12"),
        (WORD + b"\xff\xff\xff\x1f", "a part of 536870911 bytes"),
    ],
)
def test_damage_is_named_with_file_and_record(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        records_of(content, tmp_path / "a.rec")


def test_a_record_of_another_size_than_an_image_is_not_held(tmp_path, monkeypatch):
    path = tmp_path / "large.rec"
    with open(path, "wb") as file:  # A hole: takes no room on the disk.
        file.write(WORD + struct.pack("<I", 2**28))
        file.truncate(2**28 + 8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="larger than 67108864 bytes"):
        list(iterate_records(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    monkeypatch.setattr(recordio, "LARGEST_RECORD", 60)
    with pytest.raises(ValueError, match="larger than 60 bytes"):
        records_of(frame(1, b"") + frame(2, b"") * 50 + frame(3, b""), tmp_path / "parts.rec")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "a.idx is empty"),
        (b"0\t0\n1 2 3\n", "Line 2 of .*'1 2 3"),
        (b"0\t-4\n", "Line 1 of"),
        (b"0\t1.5\n", "Line 1 of"),
        (b"0\t0\n0\t8\n", "Line 2 of .*the key 0 a second time"),
        (b"0\t8\n1\t8\n", "Line 2 of .*the offset 8 a second time"),
        (b"0\t" + b"9" * 5000, "Line 1 of"),
        (bytes(1000), "Line 1 of"),
        ("\u0663\t\u0664\n".encode(), "Line 1 of"),
    ],
)
def test_a_bad_index_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.idx").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path / "a.idx")


def test_a_short_header_is_named():
    with pytest.raises(ValueError, match="record 5 has 23 bytes; expected a header of 24"):
        unpack(bytes(23), "record 5")
    with pytest.raises(ValueError, match="record 5 claims 4294967295 labels, but has 40 bytes"):
        unpack(b"\xff" * 4 + bytes(36), "record 5")
    assert np.isnan(unpack(struct.pack("<If", 0, np.nan) + bytes(16), "r")[0])
