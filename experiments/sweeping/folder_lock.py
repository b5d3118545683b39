"""One sweep at a time in a folder: whoever plans or runs there holds its lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

# Some clusters' shared disks know no locks; sweeps run there, too.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def only_sweep(sweep_dir: Path) -> Iterator[int]:
    """Holds the folder's lock, which runs can inherit; gives its file descriptor.

    Raises:
        BlockingIOError: another sweep, or a run that one left behind, is at work there.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with open(sweep_dir / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another sweep, or a run that it left behind, is at work in {sweep_dir}; wait for "
                "it, or end it"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(f"{sweep_dir} is on a disk without locks: start no second sweep there")
        yield file.fileno()
