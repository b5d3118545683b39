"""Named arrays from files of others: .npz and .safetensors, and never a pickle.

A .npz is a zip archive of arrays, each a header, which claims a type and a shape, and its numbers.
What the header claims is compared with what the archive claims before any memory is taken.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors

# Compressed arrays above this size that shrank to less than a hundredth hold nothing but zeros.
_LARGEST_COMPRESSED = 2**28


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
    with open(path, "rb"):
        pass  # A file that is absent or that nobody may read is told as the system tells it.
    try:
        if path.suffix == ".npz":
            found, arrays = _load_npz(path, wanted)
        else:
            with safetensors.safe_open(path, framework="numpy") as file:
                found = list(file.keys())
                arrays = {name: file.get_tensor(name) for name in wanted if name in found}
    except Exception as error:  # The readers raise many kinds on damaged files.
        raise ValueError(
            f"{path}: not a readable {path.suffix} file of plain arrays ({error}); pickled objects "
            "are not loaded"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: lacks the arrays {missing}; it holds {sorted(found)}")
    return arrays


def _load_npz(path: Path, wanted: tuple[str, ...]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns the names of a .npz and the wanted arrays."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive, and holds one array and no names, or none")
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        arrays = {}
        for name in wanted:
            if name in entries:
                with archive.open(entries[name]) as content:
                    _check_size(name, content, entries[name])
                    content.seek(0)
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return list(entries), arrays


def _check_size(name: str, content, entry: zipfile.ZipInfo) -> None:
    """Raises a ValueError where an array's header claims more or less than is there."""
    version = np.lib.format.read_magic(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name} is of the format {version}")
    shape, _, dtype = readers[version](content)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    claimed, there = math.prod(shape) * dtype.itemsize, entry.file_size - content.tell()
    if min(shape, default=0) < 0 or claimed != there:
        raise ValueError(f"{name} of the shape {shape} and type {dtype} in {there} bytes")
    if there > max(_LARGEST_COMPRESSED, 100 * entry.compress_size):
        raise ValueError(f"{name} of {there} bytes was compressed to {entry.compress_size}")
