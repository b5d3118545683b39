"""Whole files or none, and storage errors that name the remedy, on a real full file system."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlsyn_jax.training.atomic_files import (
    StorageError,
    check_absent,
    check_writable,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


@pytest.fixture
def small_disk(mounted, tmp_path):
    with mounted(tmp_path / "small", "size=1m") as folder:
        yield folder


def test_text_bytes_and_json_come_back_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "a" / "b"
    write_bytes(folder / "bytes", b"\x00\xff")
    write_text(folder / "text", "Zoë\n")
    write_json(folder / "json", {"name": "Zoë", "values": [1, 0.5, None]})
    assert (folder / "bytes").read_bytes() == b"\x00\xff"
    assert (folder / "text").read_text("utf-8") == "Zoë\n"
    written = (folder / "json").read_text("utf-8")
    assert json.loads(written) == {"name": "Zoë", "values": [1, 0.5, None]}
    assert "Zoë" in written and written.endswith("}\n")
    assert sorted(os.listdir(folder)) == ["bytes", "json", "text"]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["n" * 255, "日" * 85])
def test_a_name_of_as_many_bytes_as_the_file_system_takes_is_written(tmp_path, name):
    path = tmp_path / name
    write_text(path, "long")
    assert path.read_text() == "long"


def test_numbers_that_json_lacks_are_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "file", [1])
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", [float("nan")])
    assert json.loads((tmp_path / "file").read_text()) == [1]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match=r"cannot write .*file: .*Input/output error"):
            write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_the_content_is_on_the_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def record_sync(descriptor):
        events.append(("sync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def record_replace(source, target):
        events.append(("rename", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_bytes(tmp_path / "file", b"12345")
    assert events == [("sync", 5), ("rename", 5)]


def test_a_full_disk_keeps_the_old_file_and_tells_the_remedy(small_disk):
    path = small_disk / "file"
    write_text(path, "old")
    with pytest.raises(StorageError, match="disk is full; free some space or choose another fol"):
        write_bytes(path, bytes(2**21))
    assert path.read_text() == "old" and os.listdir(small_disk) == ["file"]
    write_bytes(path, bytes(2**19))


def test_a_read_only_file_system_is_told(mounted, tmp_path):
    with mounted(tmp_path / "disk", read_only=True) as folder:
        with pytest.raises(StorageError, match="read-only; choose another folder") as caught:
            write_text(folder / "file", "text")
        assert caught.value.errno == errno.EROFS and str(folder / "file") in str(caught.value)
        with pytest.raises(StorageError, match="read-only"):
            check_writable(folder / "deep" / "workdir", 0)


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken" / "file", tmp_path / "taken" / "folder" / "file"):
        with pytest.raises(StorageError, match="a part of the path is a file"):
            write_text(path, "text")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        check_writable(tmp_path / "taken", 0)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "permission denied; choose a folder that you may write to"),
        (errno.EDQUOT, "quota is used up; free some space"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_other_refusals_of_the_system_are_told(tmp_path, monkeypatch, number, remedy):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=remedy) as caught:
        write_text(tmp_path / "file", "text")
    assert caught.value.errno == number and isinstance(caught.value.__cause__, OSError)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "workdir", 1)
    assert os.listdir(tmp_path / "new" / "workdir") == []


def test_processes_that_start_together_may_check_one_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        checks = [pool.submit(check_writable, tmp_path, 1) for _ in range(200)]
    assert [check.exception() for check in checks] == [None] * 200
    assert os.listdir(tmp_path) == []


def test_too_little_room_is_told_with_both_sizes(small_disk):
    check_writable(small_disk, 2**19)
    with pytest.raises(StorageError, match=r"has 1\.0 MiB left and a run needs at least 64 MiB"):
        check_writable(small_disk, 2**26)


def test_a_folder_gets_its_name_when_everything_in_it_is_written(tmp_path):
    path = tmp_path / "new" / "folder"
    with whole_folder(path) as folder:
        (folder / "file").write_text("whole")
        assert not path.exists() and folder.parent == path.parent
    assert (path / "file").read_text() == "whole"
    assert os.listdir(path.parent) == ["folder"]
    (tmp_path / "usual").mkdir()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyError("a"), KeyboardInterrupt(), OSError(errno.ENOSPC, "no")])
def test_a_folder_that_fails_is_not_there(tmp_path, error):
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("half")
            raise error
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_never_overwritten_by_a_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in ("empty", "empty/file", "link"):
        with pytest.raises(ValueError, match=f"{place} is there already"):
            check_absent(tmp_path / place)
        with pytest.raises(ValueError, match=f"{place} is there already"):
            with whole_folder(tmp_path / place):
                raise AssertionError("the block ran")
    check_absent(tmp_path / "free")
    assert (tmp_path / "empty" / "file").read_text() == "mine"
