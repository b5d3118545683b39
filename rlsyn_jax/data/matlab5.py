"""Reads vectors of numbers and cells of texts from MATLAB 5 files.

SciPy reads these files too, but files that are damaged can crash it. A file is a header of 128
bytes and elements: uint32 type, uint32 number of bytes, data, zeros up to a multiple of 8; up to
four bytes of data lie in the second word, and their number in the upper half of the first. A
variable is an element of elements, mostly compressed: flags, dimensions, name, content. Source:
MathWorks, MAT-File Format, level 5.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_HEADER = 128
_LARGEST = 2**24  # Bytes, of a file and of all that it holds; these are lists of images.
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {
    1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8",
    13: "<u8",
}  # fmt: skip
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_CELL, _CHARACTERS, _NUMERIC, _COMPLEX = 1, 4, range(6, 16), 0x800


def read_matlab5(path: str | Path, names: tuple[str, ...]) -> dict[str, np.ndarray | list[str]]:
    """Read variables of a MATLAB 5 file.

    Args:
        path: the file.
        names: the variables to read.

    Returns:
        Of each, its numbers, one after the other, as they are stored (MATLAB stores small numbers
        in small types), or the texts of a cell.

    Raises:
        ValueError: where the file is none, is damaged, lacks a variable or holds something else in
            it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        content = path.read_bytes()
        if content[124:128] != b"\x00\x01IM":
            raise ValueError("another header than a MATLAB 5 file in little-endian order")
        variables, room = {}, _LARGEST
        for kind, data in _elements(content[_HEADER:]):
            if kind == _COMPRESSED:
                data = _decompressed(data, room)
                room -= len(data)
                ((kind, data),) = _elements(data)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind}; expected variables")
            name, value = _variable(data, names)
            variables[name] = value
        missing = [name for name in names if name not in variables]
        if missing:
            raise ValueError(f"no variable {', '.join(missing)}")
        return {name: variables[name] for name in names}
    except (OSError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB 5 file with {', '.join(names)}: {error}."
        ) from error


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Give (type, data) of the elements that lie one after the other."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("an element that is cut off")
        kind, size = struct.unpack_from("<II", content, place)
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
            place += 8
        else:
            start = place + 8
            # The next element begins at a multiple of 8, save behind compressed ones.
            place = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(content):
            raise ValueError(f"an element of {size} bytes that is cut off")
        yield kind, content[start : start + size]


def _decompressed(data: bytes, room: int) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data, max(room, 1))  # 0 would be no limit.
    if not stream.eof:
        raise ValueError(f"a compressed variable that is cut off, or {_LARGEST} bytes and more")
    return content


def _variable(data: bytes, names: tuple[str, ...]) -> tuple[str, np.ndarray | list[str] | None]:
    """Return a variable's name and, if it is one of `names`, its value."""
    flags, size, name, content = _parts(data)
    if name not in names:
        return name, None
    kind = flags & 0xFF
    if kind in _NUMERIC and not flags & _COMPLEX:
        if len(content) != 1 or content[0][0] not in _NUMBERS:
            raise ValueError(f"{name} without its numbers")
        stored = np.dtype(_NUMBERS[content[0][0]])
        if len(content[0][1]) != size * stored.itemsize:
            raise ValueError(f"{len(content[0][1])} bytes for the {size} numbers of {name}")
        return name, np.frombuffer(content[0][1], stored)
    if kind == _CELL:
        if len(content) != size:
            raise ValueError(f"{len(content)} entries for the {size} cells of {name}")
        return name, [_text(entry, name) for entry in content]
    raise ValueError(f"{name} of class {kind}; expected numbers or cells of texts")


def _text(entry: tuple[int, bytes], name: str) -> str:
    if entry[0] != _MATRIX:
        raise ValueError(f"an element of type {entry[0]} in a cell of {name}")
    flags, size, _, content = _parts(entry[1])
    if flags & 0xFF != _CHARACTERS or len(content) != 1 or content[0][0] not in _TEXTS:
        raise ValueError(f"a cell of {name} that is no text")
    text = content[0][1].decode(_TEXTS[content[0][0]])
    if len(text) != size:
        raise ValueError(f"{len(text)} characters for the {size} of a cell of {name}")
    return text


def _parts(data: bytes) -> tuple[int, int, str, list[tuple[int, bytes]]]:
    """Return a variable's flags, number of entries, name and content."""
    parts = list(_elements(data))
    if len(parts) < 3 or [kind for kind, _ in parts[:3]] != [6, 5, 1] or len(parts[0][1]) != 8:
        raise ValueError("a variable without flags, dimensions and name")
    dimensions = np.frombuffer(parts[1][1][: len(parts[1][1]) // 4 * 4], "<i4").tolist()
    if not 2 <= len(dimensions) <= 8 or min(dimensions) < 0:
        raise ValueError(f"a variable of the shape {dimensions[:9]}")
    (flags,) = struct.unpack_from("<I", parts[0][1])
    name = parts[2][1].decode("latin-1")
    return flags, math.prod(dimensions), name, parts[3:]
