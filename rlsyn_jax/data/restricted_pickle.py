"""Reads pickles of encoded images without running anything that they ask for.

A pickle is a program for a stack machine, and Python's own machine calls whatever it names. This
one knows only the instructions that lists, tuples, numbers, byte strings and NumPy arrays of bytes,
truth values and whole numbers are written with, in protocols 2 to 5 of Python 2 and 3; it calls
nothing. Byte strings stay in the file: what comes back says where they are.

Source: the instructions as CPython's pickletools documents them.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from typing import BinaryIO

import numpy as np

_MOST_INSTRUCTIONS = 2**21
_LONGEST_TEXT = 256
_NUMBERS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
_RECONSTRUCT, _NDARRAY, _DTYPE, _SCALAR, _FROMBUFFER, _ENCODE = (
    "array", "array type", "number type", "number", "array of a buffer", "bytes of a text",
)  # fmt: skip
_NAMES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _ENCODE,
    **{
        (f"numpy.{core}.{module}", name): meaning
        for core in ("core", "_core")
        for module, name, meaning in (
            ("multiarray", "_reconstruct", _RECONSTRUCT),
            ("multiarray", "scalar", _SCALAR),
            ("numeric", "_frombuffer", _FROMBUFFER),
        )
    },
}
# Instruction: (bytes of its length, whether it is text).
_STRINGS = {
    b"T": (4, False), b"U": (1, False), b"B": (4, False), b"C": (1, False), b"\x8e": (8, False),
    b"\x96": (8, False), b"X": (4, True), b"\x8c": (1, True), b"\x8d": (8, True),
}  # fmt: skip
_INTEGERS = {b"J": "<i", b"K": "<B", b"M": "<H"}
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}
_MARK = object()


@dataclasses.dataclass(frozen=True)
class Stored:
    """A string that lies in the file.

    Attributes:
        offset: where it begins, in bytes.
        length: in bytes.
        is_text: UTF-8 that stands for the byte of each character's number.
    """

    offset: int
    length: int
    is_text: bool = False

    def read(self, file: BinaryIO) -> bytes:
        """Returns the bytes.

        Raises:
            ValueError: text that does not stand for bytes.
        """
        file.seek(self.offset)
        content = file.read(self.length)
        return content.decode("utf-8").encode("latin-1") if self.is_text else content


@dataclasses.dataclass
class _Named:
    meaning: str


@dataclasses.dataclass
class _NumberType:
    code: str = ""


@dataclasses.dataclass
class StoredArray:
    """A NumPy array, or one number of NumPy's, that lies in the file.

    Attributes:
        dtype: kind and size, such as "u1".
        shape: numbers of entries.
        content: its bytes, in the order of the entries.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    content: Stored | None = None

    def read(self, file: BinaryIO) -> np.ndarray:
        """Returns the array.

        Raises:
            ValueError: other entries than whole numbers, or another number of bytes.
        """
        if self.dtype not in _NUMBERS or self.content is None:
            raise ValueError(f"an array of {self.dtype or 'nothing'}; expected whole numbers")
        content = self.content.read(file)
        size = int(self.dtype[1:])
        for side in self.shape:
            size *= side
            if size > len(content):
                break
        if size != len(content):
            raise ValueError(
                f"an array of shape {self.shape} and type {self.dtype} in {len(content)} bytes"
            )
        return np.frombuffer(content, "<" + self.dtype).reshape(self.shape)


class _Machine:
    """The stack machine."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.stack: list = []
        self.memo: dict[int, object] = {}

    def run(self):
        """Returns what the pickle describes."""
        for _ in range(_MOST_INSTRUCTIONS):
            self.at = self.file.tell()
            instruction = self.bytes(1)
            if instruction == b".":
                return self.pop()
            self.execute(instruction)
        raise ValueError(f"more than {_MOST_INSTRUCTIONS} instructions")

    def execute(self, instruction: bytes) -> None:
        if instruction in _STRINGS:
            length_bytes, is_text = _STRINGS[instruction]
            self.push(self.string(self.unsigned(length_bytes), is_text))
        elif instruction in _INTEGERS:
            form = _INTEGERS[instruction]
            self.push(struct.unpack(form, self.bytes(struct.calcsize(form)))[0])
        elif instruction in _CONSTANTS:
            self.push(_CONSTANTS[instruction])
        elif instruction in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[instruction])]
            self.push(tuple(reversed(items)))
        elif instruction in _ACTIONS:
            _ACTIONS[instruction](self)
        else:
            raise ValueError(f"instruction {instruction!r}, which no list of images needs")

    def bytes(self, number: int) -> bytes:
        content = self.file.read(number)
        if len(content) < number:
            raise ValueError("the end of the file; it is cut off")
        return content

    def line(self) -> str:
        line = self.file.readline(_LONGEST_TEXT)
        if not line.endswith(b"\n"):
            raise ValueError("a name or number without end")
        return line[:-1].decode("latin-1")

    def unsigned(self, number: int) -> int:
        return int.from_bytes(self.bytes(number), "little")

    def string(self, length: int, is_text: bool) -> Stored:
        offset = self.file.tell()
        if offset + length > self.size:
            raise ValueError(f"a string of {length} bytes; the file ends at {self.size}")
        self.file.seek(offset + length)
        return Stored(offset, length, is_text)

    def push(self, value) -> None:
        self.stack.append(value)

    def pop(self):
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("an instruction that takes from an empty stack")
        return self.stack.pop()

    def top(self, kind: type):
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"an instruction that needs a {kind.__name__.strip('_')}")
        return self.stack[-1]

    def since_mark(self) -> list:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise ValueError("an end without a beginning")

    def text(self, value) -> str:
        """Returns text or ASCII bytes that an instruction needs at once: a name or a code."""
        if not isinstance(value, Stored) or value.length > _LONGEST_TEXT:
            raise ValueError("no short text where one is needed")
        back = self.file.tell()
        self.file.seek(value.offset)
        text = self.file.read(value.length).decode("latin-1")
        self.file.seek(back)
        return text

    def put(self, place: int) -> None:
        if not self.stack:
            raise ValueError("an instruction that takes from an empty stack")
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise ValueError(f"a value {place} that was not kept")
        self.push(self.memo[place])

    def number(self, text: str) -> int:
        digits = text.removesuffix("L").removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            raise ValueError(f"the number {text[:30]!r}")
        return int(text.removesuffix("L"))

    def long(self, length: int) -> None:
        if length > 8:
            raise ValueError(f"a number of {length} bytes")
        self.push(int.from_bytes(self.bytes(length), "little", signed=True))

    def global_name(self, module: str, name: str) -> None:
        if (module, name) not in _NAMES:
            raise ValueError(
                f"the name {module}.{name}: it asks for more than images and truth values, which "
                "is refused"
            )
        self.push(_Named(_NAMES[module, name]))

    def reduce(self) -> None:
        arguments = self.pop()
        named = self.pop()
        if not isinstance(named, _Named) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        match named.meaning, arguments:
            case (meaning, (_Named(meaning="array type"), _, _)) if meaning == _RECONSTRUCT:
                self.push(StoredArray())
            case (meaning, (code, *_)) if meaning == _DTYPE:
                self.push(_NumberType(self.text(code)))
            case (meaning, (_NumberType(code=code), Stored() as content)) if meaning == _SCALAR:
                self.push(StoredArray(code, (), content))
            case (
                meaning,
                (Stored() as content, _NumberType(code=code), tuple() as shape, _),
            ) if meaning == _FROMBUFFER:
                self.push(StoredArray(code, _shape(shape), content))
            case (meaning, (Stored(is_text=True) as content, coding)) if meaning == _ENCODE:
                if self.text(coding) not in ("latin1", "latin-1"):
                    raise ValueError("a text of another encoding than latin1")
                self.push(content)
            case _:
                raise ValueError(f"a call for an {named.meaning} with other arguments")

    def build(self) -> None:
        state = self.pop()
        if self.stack and isinstance(self.stack[-1], _NumberType):
            # Version, byte order and six entries for structures, which do not matter for numbers
            # in little-endian order.
            if not isinstance(state, tuple) or len(state) < 2 or self.text(state[1]) not in "|<=":
                raise ValueError("a number type that is not in little-endian order")
            return
        array = self.top(StoredArray)
        match state:
            case (_, tuple() as shape, _NumberType(code=code), _, Stored() as content):
                # Python 2 has byte strings, Python 3 in protocol 2 texts that were made bytes.
                array.dtype, array.shape, array.content = code, _shape(shape), content
            case _:
                raise ValueError("an array with other parts than NumPy writes")

    def append(self, items: list) -> None:
        self.top(list).extend(items)


def _append_one(machine: _Machine) -> None:
    item = machine.pop()
    machine.append([item])


def _stack_global(machine: _Machine) -> None:
    name = machine.text(machine.pop())
    machine.global_name(machine.text(machine.pop()), name)


def _integer_line(machine: _Machine) -> None:
    # Protocols 0 and 1 write truth values as these two numbers.
    line = machine.line()
    truth = {"00": False, "01": True}
    machine.push(truth[line] if line in truth else machine.number(line))


_ACTIONS = {
    b"\x80": lambda machine: machine.bytes(1),  # Protocol.
    b"\x95": lambda machine: machine.bytes(8),  # Frame.
    b"(": lambda machine: machine.push(_MARK),
    b"]": lambda machine: machine.push([]),
    b"l": lambda machine: machine.push(machine.since_mark()),
    b"t": lambda machine: machine.push(tuple(machine.since_mark())),
    b"e": lambda machine: machine.append(machine.since_mark()),
    b"a": _append_one,
    b"0": lambda machine: machine.pop(),
    b"I": _integer_line,
    b"L": lambda machine: machine.push(machine.number(machine.line())),
    b"\x8a": lambda machine: machine.long(machine.unsigned(1)),
    b"c": lambda machine: machine.global_name(machine.line(), machine.line()),
    b"\x93": _stack_global,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"q": lambda machine: machine.put(machine.unsigned(1)),
    b"r": lambda machine: machine.put(machine.unsigned(4)),
    b"p": lambda machine: machine.put(machine.number(machine.line())),
    b"\x94": lambda machine: machine.put(len(machine.memo)),
    b"h": lambda machine: machine.get(machine.unsigned(1)),
    b"j": lambda machine: machine.get(machine.unsigned(4)),
    b"g": lambda machine: machine.get(machine.number(machine.line())),
}


def read_restricted_pickle(file: BinaryIO, described_as: str):
    """Read a pickle of lists, tuples, numbers, byte strings and plain arrays.

    Args:
        file: an open file, at its beginning.
        described_as: how errors name the file.

    Returns:
        Lists, tuples, bool, int and None as they are; strings as `Stored`, arrays and NumPy's
        numbers as `StoredArray`, to be read from the file. Lists may hold themselves.

    Raises:
        ValueError: where the file is no pickle, is damaged or asks for anything else.
    """
    machine = _Machine(file)
    try:
        return machine.run()
    except ValueError as error:
        raise ValueError(
            f"{described_as} is no pickle of images alone: byte {machine.at} holds {error}."
        ) from error


def _shape(shape: tuple) -> tuple[int, ...]:
    if len(shape) > 4 or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise ValueError("an array of no shape")
    return shape
