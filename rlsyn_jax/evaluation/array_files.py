"""Named arrays from files of others: .npz and .safetensors, and never a pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors

_DAMAGE = (ValueError, TypeError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError)


def load_arrays(
    path: str | Path, names: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads named arrays.

    Args:
        path: a .npz or .safetensors file.
        names: arrays that must be there.
        optional: arrays that may be there; others are not read.

    Returns:
        {name: array}.

    Raises:
        ValueError: another kind of file, one that is damaged or needs unpickling, or a missing
            array.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path}: expected a .npz or .safetensors file")
    wanted = (*names, *optional)
    try:
        if path.suffix == ".npz":
            opened = np.load(path, allow_pickle=False)
            if isinstance(opened, np.ndarray):
                raise ValueError("it holds one array and no names")
            with opened as file:
                found = list(file.files)
                arrays = {name: file[name] for name in wanted if name in found}
        else:
            with safetensors.safe_open(path, framework="numpy") as file:
                found = list(file.keys())
                arrays = {name: file.get_tensor(name) for name in wanted if name in found}
    except _DAMAGE as error:
        raise ValueError(
            f"{path}: not a readable {path.suffix} file of plain arrays ({error}); pickled objects "
            "are not loaded"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: lacks the arrays {missing}; it holds {sorted(found)}")
    return arrays
