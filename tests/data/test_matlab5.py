"""MATLAB 5 files against SciPy's writer and bytes by hand; bombs take no memory."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlsyn_jax.data import matlab5
from rlsyn_jax.data.matlab5 import read_matlab5

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(name, kind, shape, content, flags=0):
    """A variable by hand, from the format's description."""
    parts = (
        element(6, struct.pack("<II", kind | flags, 0)),
        element(5, struct.pack(f"<{len(shape)}i", *shape)),
        element(1, name),
        content,
    )
    return element(14, b"".join(parts))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_what_scipy_writes_is_read(tmp_path, dtype, compressed):
    texts = np.empty((3, 1), object)
    texts[:, 0] = ["1_001_1_01.png", "ü", ""]
    variables = {"numbers": np.arange(7, dtype=dtype)[:, None], "texts": texts, "other": 1 + 2j}
    scipy.io.savemat(tmp_path / "a.mat", variables, do_compression=compressed)
    content = read_matlab5(tmp_path / "a.mat", ("texts", "numbers"))
    assert content["texts"] == ["1_001_1_01.png", "ü", ""]
    assert content["numbers"].dtype == dtype and content["numbers"].tolist() == list(range(7))


def test_doubles_that_matlab_stores_in_small_types_and_small_elements(tmp_path):
    small = struct.pack("<HH", 2, 3) + bytes([7, 8, 9, 0])  # Three uint8 in one word.
    content = HEADER + variable(b"a", 6, (3, 1), small)
    packed = zlib.compress(variable(b"b", 6, (1, 2), element(4, b"\x01\x02\x03\x04")))
    content += struct.pack("<II", 15, len(packed)) + packed  # Not padded.
    content += variable(b"c", 6, (0, 0), element(9, b""))
    (tmp_path / "a.mat").write_bytes(content)
    read = read_matlab5(tmp_path / "a.mat", ("a", "b", "c"))
    assert read["a"].tolist() == [7, 8, 9]
    assert read["b"].tolist() == [0x0201, 0x0403] and read["c"].tolist() == []


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=9),
        min_size=1,
        max_size=5,
    ),
    numbers=st.lists(st.floats(allow_nan=False), max_size=9),
    compressed=st.booleans(),
)
def test_any_texts_and_numbers(tmp_path, texts, numbers, compressed):
    cells = np.empty((len(texts), 1), object)
    cells[:, 0] = texts
    variables = {"t": cells, "n": np.array(numbers)[:, None]}
    scipy.io.savemat(tmp_path / "a.mat", variables, do_compression=compressed)
    content = read_matlab5(tmp_path / "a.mat", ("t", "n"))
    assert content["t"] == texts and content["n"].tolist() == numbers


def one(content):
    return HEADER + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "another header than a MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "another header"),
        (HEADER, "no variable n"),
        (one(b"1234"), "an element that is cut off"),
        (one(struct.pack("<II", 14, 2**31)), "an element of 2147483648 bytes that is cut off"),
        (one(struct.pack("<II", 5 << 16 | 1, 0)), "a small element of 5 bytes"),
        (one(element(9, b"12345678")), "an element of type 9; expected variables"),
        (one(element(14, b"")), "a variable without flags"),
        (one(variable(b"n", 6, (2**30, 2**30), element(9, b""))), "0 bytes for the 11529215046"),
        (one(variable(b"n", 6, (-1, 1), element(9, b""))), r"a variable of the shape \[-1, 1\]"),
        (one(variable(b"n", 6, (1, 1), element(8, b"x"))), "n without its numbers"),
        (one(variable(b"n", 6, (1, 1), element(9, bytes(8)), 0x800)), "n of class 6; expected"),
        (one(variable(b"n", 2, (1, 1), b"")), "n of class 2"),
        (one(variable(b"n", 1, (3, 1), b"")), "0 entries for the 3 cells"),
        (one(variable(b"n", 1, (1, 1), element(9, bytes(8)))), "an element of type 9 in a cell"),
        (one(variable(b"n", 1, (1, 1), variable(b"", 6, (1, 1), b""))), "that is no text"),
        (one(variable(b"n", 1, (1, 1), variable(b"", 4, (1, 9), element(16, b"x")))), "1 charac"),
        (one(element(15, b"no zlib")[:15]), "incorrect header check"),
        (one(element(15, zlib.compress(bytes(99))[:-5])), "a compressed variable that is cut off"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_matlab5(tmp_path / "a.mat", ("n",))
    assert "a.mat" in str(error.value)


def test_bombs_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab5, "_LARGEST", 2**18)
    zeros = zlib.compress(bytes(2**23), 9)
    (tmp_path / "a.mat").write_bytes(HEADER + struct.pack("<II", 15, len(zeros)) + zeros)
    tracemalloc.start()
    with pytest.raises(ValueError, match="or 262144 bytes and more"):
        read_matlab5(tmp_path / "a.mat", ("n",))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    # Each alone would be small enough.
    half = zlib.compress(variable(b"x", 6, (1, 2**17), element(2, bytes(2**17))))
    halves = (struct.pack("<II", 15, len(half)) + half) * 2
    (tmp_path / "a.mat").write_bytes(HEADER + halves)
    with pytest.raises(ValueError, match="or 262144 bytes and more"):
        read_matlab5(tmp_path / "a.mat", ("n",))
    with open(tmp_path / "a.mat", "wb") as file:
        file.truncate(2**19)
    with pytest.raises(ValueError, match="more than 262144 bytes"):
        read_matlab5(tmp_path / "a.mat", ("n",))
