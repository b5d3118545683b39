"""InsightFace's files as published and as im2rec writes them; lists in both orders; damage."""

import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.data.insightface import read_insightface, read_lst, write_insightface

WORD = b"\x0a\x23\xd7\xce"
LABELS = (0, 0, 1, 1, 1, 10571)


def encoded(value, kind="PNG", size=(4, 4)):
    sink = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(sink, kind)
    return sink.getvalue()


def record(labels, key, image=b""):
    """A record by hand: one label in the header, several behind it."""
    several = b"".join(struct.pack("<f", label) for label in labels) if len(labels) > 1 else b""
    count = len(labels) if several else 0
    data = struct.pack("<IfQQ", count, 0.0 if several else labels[0], key, 0) + several + image
    assert data.find(WORD) == -1
    return WORD + struct.pack("<I", len(data)) + data + bytes(-len(data) % 4)


def published(labels_of=lambda label: [label]):
    """Records as InsightFace publishes them: 0, six images, three people."""
    images = [
        record(labels_of(label), key, encoded(10 * key)) for key, label in enumerate(LABELS, 1)
    ]
    people = [record([1.0, 3.0], 7), record([3.0, 6.0], 8), record([6.0, 7.0], 9)]
    return [record([7.0, 10.0], 0), *images, *people]


def write(path, records, keys=None, index=True):
    path.mkdir(exist_ok=True)
    (path / "train.rec").write_bytes(b"".join(records))
    offsets = np.cumsum([0, *map(len, records)])
    lines = [f"{key}\t{offset}\n" for key, offset in zip(keys or range(len(records)), offsets)]
    if index:
        (path / "train.idx").write_text("".join(lines))
    return path


def read(path, **options):
    return read_insightface(path, **{"image_size": 4, "channels": 3} | options)


def check(dataset, keys=range(1, 7)):
    assert dataset.identity_names == ("0", "1", "10571")
    np.testing.assert_array_equal(dataset.identities, [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(dataset.images[:, 2, 2, 0], [10, 20, 30, 40, 50, 60])
    assert dataset.file_names == tuple(map(str, keys)) and not dataset.has_cameras


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("labels_of", [lambda i: [i], lambda i: [i, 0.5], lambda i: [i] + [1] * 9])
def test_published_files_are_read_with_and_without_index(tmp_path, labels_of, index):
    write(tmp_path / "faces", published(labels_of), index=index)
    dataset = read(tmp_path / "faces")
    check(dataset)
    assert dataset.name == "faces"
    check(read(tmp_path / "faces" / "train.rec", image_size=(4, 4)))


@pytest.mark.parametrize("first", [0, 1, 7])
def test_im2recs_files_have_images_alone(tmp_path, first):
    keys = list(range(first, first + 6))
    check(read(write(tmp_path, published()[1:7], keys)), keys)


def test_a_shuffled_index_gives_its_own_order(tmp_path):
    records = published()
    write(tmp_path, records)
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(reversed(lines)))
    check(read(tmp_path))
    only_images = write(tmp_path / "im2rec", records[1:7])
    lines = (only_images / "train.idx").read_text().splitlines(keepends=True)
    (only_images / "train.idx").write_text("".join(reversed(lines)))
    assert read(only_images).file_names == tuple("543210")


def test_another_name_and_grey_and_damaged_images(tmp_path, caplog):
    write(tmp_path, [*published()[1:7], record([1], 6, b"\xff\xd8not a jpeg")])
    for file in ("train.rec", "train.idx"):
        (tmp_path / file).rename(tmp_path / file.replace("train", "file"))
    with pytest.raises(ValueError, match=r"Image 6 of .*file.rec cannot be read"):
        read(tmp_path)
    dataset = read(tmp_path, skip_damaged=True, channels=1)
    check(dataset, range(6))
    assert dataset.images.shape[-1] == 1 and "1 of 7 images in" in caplog.text


def test_what_is_written_is_laid_out_as_published(tmp_path):
    images = [(label, encoded(10 * key)) for key, label in enumerate(LABELS, 1)]
    write_insightface(tmp_path / "train.rec", iter(images), num_images=6)
    by_hand = published()
    assert (tmp_path / "train.rec").read_bytes() == b"".join(by_hand)
    offsets = np.cumsum([0, *map(len, by_hand)])[:-1]
    expected = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
    assert (tmp_path / "train.idx").read_text() == expected
    check(read(tmp_path))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([(1, b"a"), (0, b"b")], "Image 2 has the label 0; expected labels in order"),
        ([(-1, b"a")], "Image 1 has the label -1"),
        ([(2**24 + 1, b"a")], "Image 1 has the label 16777217"),
        ([(0, b"a")], "1 images and 1 people were given; expected 2"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        write_insightface(tmp_path / "a.rec", iter(images), num_images=2)


def _swap(records, key, new):
    return [*records[:key], new, *records[key + 1 :]]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (_swap(published(), 0, record([70.0, 72.0], 0)), "images end at 70, but there are 10"),
        (_swap(published(), 0, record([np.nan, 2.0], 0)), "images end at nan"),
        (_swap(published(), 0, record([np.inf, 2.0], 0)), "images end at inf"),
        (_swap(published(), 0, record([-5.0, 2.0], 0)), "images end at -5"),
        (_swap(published(), 3, record([0.5], 3, b"x")), "Record 3 of .*label 0.5"),
        (_swap(published(), 3, record([-1.0], 3, b"x")), "Record 3 of .*label -1"),
        (_swap(published(), 3, record([np.nan], 3, b"x")), "Record 3 of .*label nan"),
        (_swap(published(), 3, record([3e7], 3, b"x")), "Record 3 of .*label 30000000"),
        (_swap(published(), 3, record([1.0], 3)), r"Image 3 of .* is empty \(0 bytes\)"),
        (published()[1:3], "shows 1 identities in 2 readable"),
        ([b""], "begins at byte 0, but the file has 0"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_record(tmp_path, records, message):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, records))
    assert "train.rec" in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds 0 .rec files; expected train.rec or a single"):
        read(tmp_path)
    with pytest.raises(ValueError, match="absent.rec does not exist"):
        read(tmp_path / "absent.rec")
    (tmp_path / "train.rec").touch()
    with pytest.raises(ValueError, match="train.rec is empty; expected records"):
        read(tmp_path)
    write(tmp_path, published())
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:5]))
    with pytest.raises(ValueError, match="images end at 7, but there are 5 records"):
        read(tmp_path)
    (tmp_path / "train.idx").write_text("".join(lines[:4] + lines[5:]))
    with pytest.raises(ValueError, match="train.idx lacks 1 of the 6 images, 4 the first"):
        read(tmp_path)


IM2REC = "0\t5.000000\ta/1.png\n1\t7.000000\tb/7\n2\t5.000000\ta/2.png\n"
SEVERAL = "0\t5\t0.5\t0.25\ta/1.png\n1\t7\t0.5\t0.5\tb/7\n2\t5\t1\t1\ta/2.png\n"
FACE2REC = "1\ta/1.png\t5\n1\tb/7\t7\n1\ta/2.png\t5\n"
LANDMARKS = "0\ta/1.png\t5\t30.2\t51.6\n0\tb/7\t7\t1\t2\n0\ta/2.png\t5\t1\t2\n"


@pytest.mark.parametrize("text", [IM2REC, SEVERAL, FACE2REC, LANDMARKS])
def test_lists_are_read_in_both_orders(tmp_path, text):
    for place, name in enumerate(("a/1.png", "b/7", "a/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(10 * place))
    (tmp_path / "train.lst").write_text(text)
    dataset = read_lst(tmp_path / "train.lst", tmp_path, image_size=4, channels=3)
    assert dataset.identity_names == ("5", "7")
    np.testing.assert_array_equal(dataset.identities, [0, 1, 0])
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], [0, 10, 20])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "of no known order"),
        ("1 a/1.png 5\n", "of no known order"),
        ("0\t5\t7\n", "of no known order"),
        (IM2REC + FACE2REC, "of two orders"),
        (FACE2REC + "1\ta/1.png\n", "Line 4 of .* has 2 fields"),
        (FACE2REC + "1\t../x\t5\n", "Line 4 of .* names '../x'"),
        (FACE2REC + "1\t/etc/passwd\t5\n", "Line 4 of .* names '/etc/passwd'"),
        (FACE2REC + "1\ta/1.png\t5.5\n", "Line 4 of .* has the label 5.5"),
        (FACE2REC + "1\ta/1.png\tanna\n", "Line 4 of .* has the label None"),
        (FACE2REC + "1\ta/9.png\t5\n", "there is no file .*a/9.png"),
    ],
)
def test_bad_lists_are_named_with_their_line(tmp_path, text, message):
    for name in ("a/1.png", "b/7", "a/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(1))
    (tmp_path / "train.lst").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lst(tmp_path / "train.lst", tmp_path, image_size=4, channels=3)


def _survives(root, damage_records, damage_index):
    """A damaged file gives a data set or says what is wrong, and nothing else."""
    records = b"".join(published())
    offsets = np.cumsum([0, *map(len, published())])[:-1]
    index = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)).encode()
    (root / "train.rec").write_bytes(damage_records(records))
    (root / "train.idx").write_bytes(damage_index(index))
    try:
        dataset = read(root, skip_damaged=True)
        assert len(dataset.images) <= len(LABELS) + 4
    except ValueError as error:
        assert "train." in str(error)


def _as_it_is(content):
    return content


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_records_and_indices_end_in_plain_words(tmp_path, damages, data):
    damage = data.draw(damages)
    _survives(tmp_path, damage, _as_it_is)
    _survives(tmp_path, _as_it_is, damage)


@pytest.mark.slow
def test_damaged_records_and_indices_end_in_plain_words_in_many_cases(tmp_path, damaged):
    for seed in range(30_000):
        _survives(
            tmp_path,
            lambda content, seed=seed: damaged(content, seed),
            _as_it_is if seed % 3 else lambda content, seed=seed: damaged(content, [seed, 1]),
        )
