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
    """Copies a kept folder into a run, in place of what is there; returns whether it was kept."""
    # Another run may put it there at any moment.
    if not agreed(kept.is_dir()):
        return False
    if is_primary():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
    barrier(f"{folder.name} is copied")
    return True


def keep(folder: Path, kept: Path) -> None:
    """Keeps a copy of a finished folder, whole or not at all; the first process writes it.

    Raises:
        OSError: it cannot be written; says what to do.
    """
    if not is_primary():
        return
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing_", dir=kept.parent))
        shutil.copytree(folder, temporary / kept.name)
        if not kept.exists():
            os.replace(temporary / kept.name, kept)
        shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise storage_error(kept, error) from error
