"""What runs of the same settings share: folders that are kept by the hash of what made them.

Several runs may look for a folder, and put it there, at the same time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from rlsyn_jax.training.atomic_files import storage_error
from rlsyn_jax.training.processes import agreed, barrier, is_primary


def fetch(kept: Path, folder: Path) -> bool:
    """Copies a kept folder into a run, whole or not at all, in place of what is there.

    Args:
        kept: the folder in the cache.
        folder: where the run wants it.

    Returns:
        Whether it was kept.

    Raises:
        OSError: it cannot be written; says what to do.
    """
    # Another run may put it there at any moment.
    if not agreed(kept.is_dir()):
        return False
    if is_primary():
        shutil.rmtree(folder, ignore_errors=True)
        _copy(kept, folder)
    barrier(f"{folder.name} is copied")
    return True


def keep(folder: Path, kept: Path) -> None:
    """Keeps a copy of a finished folder, whole or not at all; the first process writes it.

    What is kept already stays.

    Args:
        folder: of the run.
        kept: the folder in the cache.

    Raises:
        OSError: it cannot be written; says what to do.
    """
    if is_primary() and not kept.exists():
        _copy(folder, kept)


def _copy(source: Path, target: Path) -> None:
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing_", dir=target.parent))
        shutil.copytree(source, temporary / "copy")
        os.replace(temporary / "copy", target)
    except OSError as error:
        # Another run was faster.
        if not target.is_dir():
            raise storage_error(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
