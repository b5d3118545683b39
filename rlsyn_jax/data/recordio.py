"""RecordIO files as MXNet writes them: a .rec of records and a .idx of where each begins.

A record is four parts in little-endian byte order:

    uint32 0xced7230a | uint32 flag << 29 | length | data | zeros up to a multiple of 4

Where the data holds that first word at a multiple of 4, the record is split there and the word left
out: flag 1 begins, 2 continues, 3 ends such a record, and 0 is a whole one. The index is text, a
line "KEY<tab>OFFSET" a record. Data of images begin with a header:

    uint32 num_labels | float32 label | uint64 key | uint64 key2 | num_labels float32 labels

Source: the formats of dmlc-core's recordio.h and of MXNet's recordio.py.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = 0xCED7230A
LARGEST_RECORD = 2**26  # Bytes; no image of the size of a recogniser's input comes near.
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_WHOLE, _BEGIN, _MIDDLE, _END = range(4)


def read_record(file: BinaryIO, offset: int, described_as: str) -> tuple[bytes, int]:
    """Read one record, put together where it was split.

    Args:
        file: an open .rec.
        offset: where the record begins, in bytes.
        described_as: how errors name the file and the record.

    Returns:
        (its data, where the next record begins).

    Raises:
        ValueError: where no record begins there, it is cut off or larger than LARGEST_RECORD.
    """
    size = os.fstat(file.fileno()).st_size
    parts, expected, total = [], (_WHOLE, _BEGIN), 0
    while True:
        if not 0 <= offset <= size - _FRAME.size:
            raise ValueError(
                f"{described_as} begins at byte {offset}, but the file has {size} bytes. It is cut "
                "off, or the index belongs to another file."
            )
        file.seek(offset)
        magic, frame = _FRAME.unpack(file.read(_FRAME.size))
        flag, length = frame >> _LENGTH_BITS, frame & (1 << _LENGTH_BITS) - 1
        if magic != MAGIC:
            raise ValueError(
                f"{described_as}: byte {offset} holds 0x{magic:08x}; expected a record's first "
                f"word, 0x{MAGIC:08x}. The file is damaged, or the index belongs to another one."
            )
        if flag not in expected:
            raise ValueError(
                f"{described_as}: the part at byte {offset} has the flag {flag}; expected "
                f"{' or '.join(map(str, expected))}. The file is damaged."
            )
        offset += _FRAME.size
        if offset + length > size:
            raise ValueError(
                f"{described_as} has a part of {length} bytes at byte {offset}, but the file has "
                f"{size} bytes. It is cut off."
            )
        total += length + len(_MAGIC_BYTES)
        if total > LARGEST_RECORD:
            raise ValueError(
                f"{described_as} is larger than {LARGEST_RECORD} bytes; expected an image."
            )
        parts.append(file.read(length))
        offset += -(-length // 4) * 4
        if flag in (_WHOLE, _END):
            return _MAGIC_BYTES.join(parts), offset
        expected = (_MIDDLE, _END)


def iterate_records(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Give every record of a file in its order, one at a time.

    Args:
        path: a .rec file.

    Yields:
        (offset, data).

    Raises:
        ValueError: where the file cannot be read as records.
    """
    with _opened(path) as file:
        size, offset, number = os.fstat(file.fileno()).st_size, 0, 0
        while offset < size:
            data, following = read_record(file, offset, f"Record {number} of {path}")
            yield offset, data
            offset, number = following, number + 1


def read_index(path: str | Path) -> dict[int, int]:
    """Read where each record begins.

    Args:
        path: a .idx file.

    Returns:
        {key: offset in bytes}, in the file's order.

    Raises:
        ValueError: where the file cannot be read, a line has another form or a key or an offset
            comes twice.
    """
    offsets: dict[int, int] = {}
    taken: set[int] = set()
    with _opened(path) as file:
        number = 0
        while line := file.readline(256):
            number += 1
            fields = line.split()
            if len(fields) != 2 or not all(f.isdigit() and len(f) < 19 for f in fields):
                raise ValueError(
                    f"Line {number} of {path} is {line[:60]!r}; expected a record's key and its "
                    "offset in bytes, with a tab between."
                )
            key, offset = int(fields[0]), int(fields[1])
            if key in offsets:
                raise ValueError(f"Line {number} of {path} has the key {key} a second time.")
            if offset in taken:
                raise ValueError(
                    f"Line {number} of {path} has the offset {offset} a second time; expected one "
                    "key for each record."
                )
            taken.add(offset)
            offsets[key] = offset
    if not offsets:
        raise ValueError(f"Index {path} is empty; expected a line for each record.")
    return offsets


def unpack(data: bytes, described_as: str) -> tuple[np.ndarray, int, bytes]:
    """Take an image's record apart.

    Args:
        data: of `read_record`.
        described_as: how errors name the file and the record.

    Returns:
        (labels float32 [num_labels], at least one; key; the encoded image).

    Raises:
        ValueError: where the data is shorter than its header says.
    """
    if len(data) < _HEADER.size:
        raise ValueError(
            f"{described_as} has {len(data)} bytes; expected a header of {_HEADER.size} and an "
            "image."
        )
    num_labels, label, key, _ = _HEADER.unpack_from(data)
    start = _HEADER.size + 4 * num_labels
    if start > len(data):
        raise ValueError(
            f"{described_as} claims {num_labels} labels, but has {len(data)} bytes. It is damaged."
        )
    labels = np.array([label], "<f4")
    if num_labels:
        labels = np.frombuffer(data, "<f4", num_labels, _HEADER.size)
    return labels, key, data[start:]


def pack(labels: float | Sequence[float], key: int, image: bytes = b"") -> bytes:
    """Put an image's record together, as `unpack` takes it apart.

    Args:
        labels: one label, or several.
        key: 0 to 2**64 - 1.
        image: encoded image.

    Returns:
        The record's data.
    """
    if np.ndim(labels) == 0:
        return _HEADER.pack(0, float(labels), key, 0) + image
    several = np.asarray(labels, "<f4")
    return _HEADER.pack(len(several), 0.0, key, 0) + several.tobytes() + image


class RecordWriter:
    """Writes a .rec and its .idx; `close` completes them."""

    def __init__(self, path: str | Path):
        """Opens both files; `path` ends in .rec."""
        self._records = open(path, "wb")
        self._index = open(Path(path).with_suffix(".idx"), "w", encoding="ascii")

    def write(self, key: int, data: bytes) -> None:
        """Appends a record.

        Args:
            key: 0 or more, unique.
            data: less than 2**29 bytes.

        Raises:
            ValueError: the data is too long for the format.
        """
        if len(data) >= 1 << _LENGTH_BITS:
            raise ValueError(f"Record {key} has {len(data)} bytes; the format holds 536,870,911.")
        self._index.write(f"{key}\t{self._records.tell()}\n")
        cuts, start = [], 0
        while (start := data.find(_MAGIC_BYTES, start)) >= 0:
            if start % 4 == 0:
                cuts.append(start)
                start += 3
            start += 1
        starts = [0, *(cut + 4 for cut in cuts)]
        for place, (first, last) in enumerate(zip(starts, [*cuts, len(data)])):
            flag = _WHOLE
            if cuts:
                flag = _BEGIN if place == 0 else _END if place == len(cuts) else _MIDDLE
            self._records.write(_FRAME.pack(MAGIC, flag << _LENGTH_BITS | last - first))
            self._records.write(data[first:last])
        self._records.write(bytes(-len(data) % 4))

    def close(self) -> None:
        """Writes what is left to the disk and closes both files."""
        for file in (self._records, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}.") from error
