"""Files that are either whole or not there: written beside, synced, then renamed.

Of several processes of a run the first one writes, and the others return, unless each is to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlsyn_jax.training.processes import is_primary


class StorageError(OSError):
    """A folder cannot hold what the run wants to write; the message says what to do."""


def write_bytes(path: str | Path, content: bytes, *, by_every_process: bool = False) -> None:
    """Writes a whole file atomically.

    Args:
        path: of the file; its folder is made where missing.
        content: of it.
        by_every_process: not by the first one alone; paths then differ between processes.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    if by_every_process or is_primary():
        _write(Path(path), content)


def _write(path: Path, content: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}")
        # The usual permissions, unlike those of a private temporary file.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise storage_error(path, error) from error


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically; raises as write_bytes."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON atomically; raises as write_bytes."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a new folder to fill, which gets its name only when everything in it is written.

    Args:
        path: a folder that is empty or not there.

    Yields:
        A folder beside it, which is removed where the block raises.

    Raises:
        ValueError: something is there already.
        StorageError: the disk is full, or the folder cannot be written.
    """
    check_absent(path)
    path = Path(path).absolute()
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_absent(path: str | Path) -> None:
    """Checks that nothing would be lost if a folder were written to path.

    Raises:
        ValueError: something is there, and it is not an empty folder.
    """
    path = Path(path)
    if path.is_symlink() or path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already and not an empty folder; choose another one")


def storage_error(path: Path, error: OSError) -> StorageError:
    """Returns an error that says what is wrong with the place of path, and the remedy."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space or choose another folder",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EACCES: "permission denied; choose a folder that you may write to",
        errno.ENOTDIR: "a part of the path is a file; choose another folder",
        errno.EEXIST: "a part of the path is a file; choose another folder",
    }
    reason = reasons.get(error.errno, str(error))
    return StorageError(error.errno, f"cannot write {path}: {reason}")


def check_writable(directory: str | Path, minimum_free_bytes: int) -> None:
    """Makes the folder and proves that it takes a file and has room.

    Raises:
        StorageError: it is read-only, is no folder, or has too little room.
    """
    directory = Path(directory)
    probe = directory / ".write_probe"
    _write(probe, b"probe")
    probe.unlink(missing_ok=True)  # Another process of the run may have been faster.
    check_room(directory, minimum_free_bytes, "a run")


def check_takes_file(path: str | Path) -> None:
    """Proves, by another one beside it, that a file can be written; makes its folder.

    Raises:
        StorageError: it cannot, or the path is a folder's.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError(errno.EISDIR, f"cannot write {path}: it is a folder; name a file")
    probe = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}")
    try:
        _write(probe, b"probe")
    except StorageError as error:
        raise storage_error(path, error) from error
    probe.unlink()


def check_room(directory: str | Path, minimum_free_bytes: int, purpose: str) -> None:
    """Checks that the disk of an existing folder has room for `purpose`.

    Raises:
        StorageError: it has too little.
    """
    free = shutil.disk_usage(directory).free
    if free < minimum_free_bytes:
        raise StorageError(
            errno.ENOSPC,
            f"the disk is full: {directory} has {free / 2**20:.1f} MiB left and {purpose} needs at "
            f"least {minimum_free_bytes / 2**20:.0f} MiB; free some space or choose another "
            "folder",
        )
