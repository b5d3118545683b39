"""WebDataset archives as their own library writes them; damaged archives end in plain words."""

import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.data.webdataset_tar import read_webdataset


def encoded(value, kind="PNG"):
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(sink, kind)
    return sink.getvalue()


def archive_of(members, tar_format=tarfile.USTAR_FORMAT):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def members(values=(10, 20, 30), numbers=(5, 10, 5), prefix=""):
    listed = []
    for place, (value, number) in enumerate(zip(values, numbers)):
        listed += [(f"{prefix}{place:06d}.png", encoded(value))]
        listed += [(f"{prefix}{place:06d}.cls", str(number).encode())]
    return listed


def read(path, **options):
    return read_webdataset(path, **{"image_size": 4, "channels": 3} | options)


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
@pytest.mark.parametrize("prefix", ["", "train/", "./a.b/", "very/" * 40, "ü/"])
def test_members_of_a_key_are_an_example(tmp_path, tar_format, prefix):
    if prefix.startswith("very") and tar_format == tarfile.USTAR_FORMAT:
        prefix = "very/" * 20
    (tmp_path / "a.tar").write_bytes(archive_of(members(prefix=prefix), tar_format))
    dataset = read(tmp_path / "a.tar")
    assert dataset.identity_names == ("5", "10") and dataset.name == "a"
    np.testing.assert_array_equal(dataset.identities, [0, 1, 0])
    np.testing.assert_array_equal(dataset.images[:, 1, 1, 0], [10, 20, 30])
    assert dataset.file_names[1] == f"a.tar/{prefix}000001.png" and not dataset.has_cameras


def test_a_folder_of_archives_names_and_cameras(tmp_path):
    for shard in (10, 2):
        facts = {"identity": f"anna {shard}", "camera": shard, "more": [None]}
        listed = [*members((shard,), (1,)), ("000000.json", json.dumps(facts).encode())]
        listed.insert(0, ("._000000.png", b"mac"))
        (tmp_path / f"{shard}.tar").write_bytes(archive_of(listed, tarfile.PAX_FORMAT))
    (tmp_path / "shardlist.json").write_text("{}")
    dataset = read(tmp_path)
    assert dataset.identity_names == ("anna 2", "anna 10")
    np.testing.assert_array_equal(dataset.cameras, [2, 10])
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], [2, 10])


def test_folders_and_links_in_an_archive_are_passed_over(tmp_path):
    sink = io.BytesIO(archive_of(members()))
    with tarfile.open(fileobj=sink, mode="a") as tar:
        folder = tarfile.TarInfo("train")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("000009.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(folder)
        tar.addfile(link)
    (tmp_path / "a.tar").write_bytes(sink.getvalue())
    assert len(read(tmp_path / "a.tar").images) == 3


GOOD = archive_of(members())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.tar is no intact, uncompressed tar archive"),
        (b"\x1f\x8b\x08" + bytes(700), "a.tar is no intact, uncompressed tar archive"),
        (GOOD[:1500], "a.tar is no intact.*after byte 1024"),
        (GOOD[:1024] + b"\xff" + GOOD[1025:], "after byte 1024 it holds something that is no head"),
        (archive_of([]), "holds no examples"),
        (archive_of(members()[1:]), "Example '000000' in .*a.tar has no image"),
        (archive_of(members()[:-1]), "Example '000002' in .* has no .cls"),
        (archive_of([("0.cls", b"anna")]), "'0.cls' in .*a.tar holds b'anna'; expected a number"),
        (archive_of([("0.cls", b"-1")]), "holds b'-1'"),
        (archive_of([("0.cls", b"9" * 70000)]), "has 70000 bytes; expected a short text"),
        (archive_of([("0.json", b"{")]), "'0.json' in .* is no JSON"),
        (archive_of([("0.json", b"[" * 60000)]), "'0.json' in .* is no JSON"),
        (archive_of([("0.png", b"a"), ("0.jpg", b"a")]), "'0.jpg' in .* is a second image"),
        (archive_of([("0.png", b"a"), ("0.cls", b"1")]), "Image a.tar/0.png of .* cannot be read"),
        (archive_of(members()[:2]), "shows 1 identities in 1 readable"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="is no .tar file and no folder of them"):
        read(tmp_path / "b.tar")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"0"])
def test_a_claim_of_a_large_member_takes_no_memory(tmp_path, kind):
    header = tarfile.TarInfo("0.png")
    header.size, header.type = 2**28, kind
    with open(tmp_path / "a.tar", "wb") as file:  # A hole: takes no room on the disk.
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**28 + 2**20)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.tar"):
        read(tmp_path / "a.tar")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def _survives(path, content):
    path.write_bytes(content)
    try:
        assert len(read(path, skip_damaged=True).images) <= 40
    except ValueError as error:
        assert "a.tar" in str(error)


CONTENTS = [
    GOOD,
    archive_of(members(prefix="very/" * 40), tarfile.GNU_FORMAT),
    archive_of(members(prefix="ü" * 90 + "/"), tarfile.PAX_FORMAT),
]


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data(), content=st.sampled_from(CONTENTS))
def test_damaged_archives_end_in_plain_words(tmp_path, damages, data, content):
    _survives(tmp_path / "a.tar", data.draw(damages)(content))


@pytest.mark.slow
def test_damaged_archives_end_in_plain_words_in_many_cases(tmp_path, damaged):
    for seed in range(30_000):
        _survives(tmp_path / "a.tar", damaged(CONTENTS[seed % len(CONTENTS)], seed))
