"""Files of others, damaged in 100,000 ways: each is read or refused in words that name the file.

A case is (kind of file, number) and made from nothing else, so that a failure names it; run as a
script with a kind and numbers, `python tests/data/test_foreign_files.py KIND FIRST LAST`, this file
repeats cases. They run in a child with a limit to its memory, and one of seconds for each case,
whose end by a signal is seen from outside. Nothing in a file may be run: an audit hook watches.
"""

import contextlib
import faulthandler
import functools
import io
import json
import logging
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import scipy.io
from PIL import Image

from rlsyn_jax.data.insightface import read_insightface, read_lst
from rlsyn_jax.data.matlab5 import read_matlab5
from rlsyn_jax.data.pairs_file import read_pairs, read_rfw
from rlsyn_jax.data.parquet_images import read_parquet
from rlsyn_jax.data.recordio import MAGIC, RecordWriter, pack
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic
from rlsyn_jax.data.verification_bin import read_verification_bin
from rlsyn_jax.data.webdataset_tar import read_webdataset
from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.models.weight_files import read_weights
from rlsyn_jax.selection.manifest_selection import read_manifest_rows

SECONDS = 5  # Of the processor for a case; a usual one takes a thousandth.
WAITING = 120  # Seconds for a case that waits, on a machine with other work.
MEMORY = 2**30  # Bytes a case may add to what the readers take when they are imported.
STEM = "foreign"  # Of every file, so that errors can be seen to name it.
OPTIONS = {"image_size": 6, "channels": 3}
EDGES = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**29 - 1, 2**31 - 1]
EDGES += [2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = ["", "0", "-1", "1e9", "nan", "inf", "999999999", "9" * 30, "1_0", "²", "\x00", "../a", "/"]
WORDS += ["a" * 300, "\t", "\n", "\r", "\x85", "é", "1", "2", "4", "10", "A", "B", "\ufeff"]


def png(value, size=(6, 6)):
    sink = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


IMAGES = [png(40 * place) for place in range(6)]


@contextlib.contextmanager
def scratch():
    # In memory where that is possible: a hundred thousand files are written.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


# Damage to bytes.


def edit(content, draw, other=b""):
    """One to three changes at any place."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        content = draw.choice(CHANGES)(content, draw, other)
    return content


def _place(content, draw):
    # The beginning and the end, where the headers are, as often as all that lies between.
    if draw.random() < 0.5:
        near = draw.randrange(min(len(content), 64) + 1)
        return near if draw.random() < 0.6 else len(content) - near
    return draw.randrange(len(content) + 1)


def _cut(content, draw, _):
    return content[: _place(content, draw)]


def _flip(content, draw, _):
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 4, 16))):
        if content:
            content[min(_place(content, draw), len(content) - 1)] ^= 1 << draw.randrange(8)
    return bytes(content)


def _number(content, draw, _):
    width, at = draw.choice((1, 2, 4, 8)), _place(content, draw)
    if draw.random() < 0.7:
        at -= at % 4
    value = draw.choice(EDGES) if draw.random() < 0.7 else draw.getrandbits(64)
    new = (value % 256**width).to_bytes(width, draw.choice(("little", "little", "big")))
    return content[:at] + new + content[at + width :]


def _splice(content, draw, other):
    source = other or content
    start = _place(source, draw)
    part = source[start : start + draw.choice((1, 8, 64, 512))]
    at = _place(content, draw)
    return content[:at] + part + content[at + draw.choice((0, len(part))) :]


def _drop(content, draw, _):
    at = _place(content, draw)
    return content[:at] + content[at + draw.choice((1, 2, 4, 8, 64, 512)) :]


CHANGES = (_cut, _flip, _flip, _number, _number, _number, _splice, _drop)


def edit_text(content, draw):
    """Fields and lines of a text changed, moved and repeated."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        lines = content.split("\n")
        at = draw.randrange(len(lines))
        kind = draw.randrange(5)
        if kind == 0:
            fields = lines[at].split("\t")
            fields[draw.randrange(len(fields))] = draw.choice(WORDS)
            lines[at] = "\t".join(fields)
        elif kind == 1:
            lines.insert(at, draw.choice(lines))
        elif kind == 2:
            del lines[at]
        elif kind == 3:
            lines[at] = lines[at].replace("\t", draw.choice((" ", "", "\t\t")), 1)
        else:
            lines[at] += draw.choice(("\t", "")) + draw.choice(WORDS)
        content = "\n".join(lines) or "\n"
    content = content.encode()
    return edit(content, draw) if draw.random() < 0.3 else content


# One generator for each kind of file: it writes a case and returns what reads it.


@functools.cache
def good_records():
    with scratch() as folder:
        writer = RecordWriter(folder / "a.rec")
        writer.write(0, pack([5.0, 7.0], 0))
        for key in range(1, 5):
            writer.write(key, pack(float(key > 2), key, IMAGES[key]))
        for key, ends in ((5, (1.0, 3.0)), (6, (3.0, 5.0))):
            writer.write(key, pack(ends, key))
        writer.close()
        return (folder / "a.rec").read_bytes(), (folder / "a.idx").read_text()


def make_records(draw):
    """Frames with wrong flags, lengths, numbers of labels and labels."""
    parts = []
    for key in range(draw.randrange(7)):
        label = draw.choice((0.0, 1.0, 2.5, -1.0, float("nan"), float("inf"), 2.0**25))
        count = draw.choice((0, 0, 0, 1, 2, draw.choice(EDGES) % 2**32))
        header = struct.pack("<IfQQ", count, label, key, 0)
        data = header + struct.pack("<2f", label, 3.0)[: 4 * min(count, 2)] + draw.choice(IMAGES)
        length = len(data) if draw.random() < 0.8 else draw.choice(EDGES) % 2**29
        flag = 0 if draw.random() < 0.7 else draw.randrange(8)
        parts.append(struct.pack("<II", MAGIC, flag << 29 | length) + data + bytes(-len(data) % 4))
    return b"".join(parts)


def rec(folder, draw):
    records, index = good_records()
    records = edit(records, draw, IMAGES[0]) if draw.random() < 0.6 else make_records(draw)
    (folder / f"{STEM}.rec").write_bytes(records)
    (folder / f"{STEM}.idx").unlink(missing_ok=True)
    if draw.random() < 0.3:
        (folder / f"{STEM}.idx").write_text(index)
    return lambda: read_insightface(folder / f"{STEM}.rec", skip_damaged=True, **OPTIONS)


def idx(folder, draw):
    records, index = good_records()
    (folder / f"{STEM}.rec").write_bytes(records)
    content = edit_text(index, draw)
    if draw.random() < 0.2:  # Everything is one record, many times.
        content = "".join(f"{key}\t{draw.choice((0, 40))}\n" for key in range(2000)).encode()
    (folder / f"{STEM}.idx").write_bytes(content)
    return lambda: read_insightface(folder / f"{STEM}.rec", **OPTIONS)


def _images_below(folder):
    root = folder / f"{STEM}_images"
    for person in "AB":
        (root / person).mkdir(parents=True, exist_ok=True)
        for number in range(1, 4):
            file = root / person / f"{person}_{number:04d}.png"
            if not file.exists():
                file.write_bytes(IMAGES[number])
    return root


def lst(folder, draw):
    root = _images_below(folder)
    files = [f"{person}/{person}_000{number}.png" for person in "AB" for number in (1, 2)]
    if draw.random() < 0.5:
        text = "".join(f"{n}\t{n // 2}\t{file}\n" for n, file in enumerate(files))
    else:
        text = "".join(f"1\t{file}\t{n // 2}\n" for n, file in enumerate(files))
    (folder / f"{STEM}.lst").write_bytes(edit_text(text, draw))
    return lambda: read_lst(folder / f"{STEM}.lst", root, **OPTIONS)


PAIRS = "2\t1\nA\t1\t2\nA\t1\tB\t2\nB\t1\t3\nA\t3\tB\t3\n"


def pairs(folder, draw):
    root = _images_below(folder)
    (folder / f"{STEM}.txt").write_bytes(edit_text(PAIRS, draw))
    return lambda: read_pairs(folder / f"{STEM}.txt", root, **OPTIONS)


def rfw(folder, draw):
    root = folder / STEM
    if not (root / "data" / "Asian").is_dir():
        (root / "data").mkdir(parents=True)
        (root / "txts" / "Asian").mkdir(parents=True)
        _images_below(folder).rename(root / "data" / "Asian")
    text = PAIRS.partition("\n")[2]
    (root / "txts" / "Asian" / "Asian_pairs.txt").write_bytes(edit_text(text, draw))
    return lambda: read_rfw(root, "Asian", **OPTIONS)


class Harm:
    """What would be called if a pickle were loaded."""

    def __reduce__(self):
        return (os.mkdir, ("/harm/done",))


@functools.cache
def good_pickles():
    import pickle

    answers = [True, False, True]
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    return [
        pickle.dumps(content, protocol)
        for content in ((IMAGES, answers), (arrays, np.array(answers)), (IMAGES, [Harm()] * 3))
        for protocol in range(2, 6)
    ]


def _instruction(draw):
    """Instructions of a pickle, those of no list of images among them."""
    string = draw.choice((b"", b"a", b"numpy", b"os", b"system", b"u1", b"latin1", *IMAGES[:2]))
    length = len(string) if draw.random() < 0.9 else draw.choice(EDGES) % 2**32
    place = draw.randrange(4)
    simple = b"().]}lt0aes\x85\x86\x87\x88\x89N\x93RbQ\x81\x82\x92\x94\x97\x98."
    return draw.choice(
        (
            bytes([draw.choice(simple)]),
            bytes([draw.choice(simple)]),
            bytes([draw.choice(simple)]),
            b"q" + bytes([place]),
            b"h" + bytes([place]),
            b"h" + bytes([place]) * 1,
            b"K" + bytes([draw.randrange(3)]),
            b"I" + draw.choice(WORDS).encode() + b"\n",
            b"L" + str(draw.choice(EDGES)).encode() + b"L\n",
            b"\x8a" + bytes([draw.randrange(10)]) + bytes(8),
            b"J" + struct.pack("<I", draw.choice(EDGES) % 2**32),
            b"C" + bytes([length % 256]) + string,
            b"B" + struct.pack("<I", length) + string,
            b"X" + struct.pack("<I", length) + string,
            b"\x8e" + struct.pack("<Q", length) + string,
            b"r" + struct.pack("<I", draw.choice(EDGES) % 2**32),
            b"cos\nsystem\n",
            b"cbuiltins\nexec\n",
            b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR(K\x03X\x01\x00\x00\x00|tb",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R",
            b"c" + draw.choice(WORDS).encode() + b"\n" + draw.choice(WORDS).encode() + b"\n",
        )
    )


def _pickle_bomb(draw):
    """Values that hold values that are kept: as a tree, 2**60 of them; deep; without end."""
    kind = draw.randrange(5)
    if kind == 0:
        inner = b"K\x01q\x00" + b"0h\x00h\x00\x86q\x00" * draw.choice((5, 60))
    elif kind == 1:
        inner = b")" + b"\x85" * draw.choice((10, 5000))
    elif kind == 2:
        inner = b"]q\x00h\x00a"
    elif kind == 3:
        inner = b"C" + bytes([len(IMAGES[0])]) + IMAGES[0] + b"q\x00"
        return b"\x80\x03](" + inner + b"h\x00" * 3999 + b"e](" + b"\x88" * 2000 + b"e\x86."
    else:
        sides = b"".join(b"I" + str(draw.choice(EDGES)).encode() + b"\n" for _ in range(2))
        inner = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
            b"(I0\n" + sides + b"tcnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR(K\x03X\x01\x00"
            b"\x00\x00|tb\x89C\x00tb"
        )
    images = b"](" + b"".join(b"C" + bytes([len(i)]) + i for i in IMAGES[:2]) + b"e"
    whole = draw.choice((images + b"](" + inner + b"e\x86.", b"](" + inner + b"e](\x88e\x86."))
    return b"\x80\x03" + draw.choice((whole, images + inner + b"\x86."))


def bin_(folder, draw):
    choice = draw.random()
    if choice < 0.5:
        content = edit(draw.choice(good_pickles()), draw, IMAGES[1])
    elif choice < 0.7:
        content = _pickle_bomb(draw)
    else:
        body = b"".join(_instruction(draw) for _ in range(draw.randrange(30)))
        content = b"\x80\x03" + body + draw.choice((b".", b""))
    (folder / f"{STEM}.bin").write_bytes(content)
    return lambda: read_verification_bin(folder / f"{STEM}.bin", **OPTIONS)


@functools.cache
def good_mats():
    texts = np.empty((3, 1), object)
    texts[:, 0] = ["1_001_1_01.png", "1_002_1_01.png", "ü"]
    variables = {"numbers": np.arange(7.0)[:, None], "texts": texts, "other": 1 + 2j}
    goods = []
    for compressed in (True, False):
        sink = io.BytesIO()
        scipy.io.savemat(sink, variables, do_compression=compressed)
        goods.append(sink.getvalue())
    return goods


def mat(folder, draw):
    packed, plain = good_mats()
    choice = draw.random()
    if choice < 0.3:
        content = edit(packed, draw, plain)
    elif choice < 0.6:
        content = edit(plain, draw, packed)
    elif choice < 0.98:  # Damage under the compression.
        content = plain[:128]
        for _ in range(draw.randrange(1, 4)):
            inner = zlib.compress(edit(plain[128:], draw))
            content += struct.pack("<II", 15, len(inner)) + inner
    else:
        inner = zlib.compress(bytes(draw.choice((2**20, 2**25))), 1)
        content = plain[:128] + (struct.pack("<II", 15, len(inner)) + inner) * 50
    (folder / f"{STEM}.mat").write_bytes(content)
    return lambda: read_matlab5(folder / f"{STEM}.mat", ("numbers", "texts"))


@functools.cache
def good_parquets():
    """Files as they should be, and intact ones with columns of any other type."""
    images = [{"bytes": image, "path": None} for image in IMAGES[:4]]
    tables = [
        {"image": images, "label": [0, 0, 1, 1]},
        {"image": IMAGES[:4], "identity": list("aabb"), "camera": [0, 1, 0, 1]},
        {"image": images, "label": ["a", None, "b", "b"]},
        {"image": [None, *images[1:]], "label": [0, 0, 1, -1]},
        {"image": [1, 2], "label": [0, 1]},
        {"image": IMAGES[:2], "label": [[1], [2]]},
        {"image": IMAGES[:2], "label": [{"a": 1}, {"a": 2}]},
        {"image": [{"bytes": "text"}] * 2, "label": [0.5, 1.5]},
        {"image": IMAGES[:2], "label": [True, False], "camera": ["a", "b"]},
        {"picture": IMAGES[:2], "label": [0, 1]},
        {"image": [], "label": []},
    ]
    contents = []
    for columns in tables:
        for codec in ("none", "snappy", "gzip"):
            sink = io.BytesIO()
            pq.write_table(pa.table(columns), sink, compression=codec)
            contents.append(sink.getvalue())
    sink = io.BytesIO()  # A dictionary of one large value, whose rows are pointers.
    large = pa.array([b"\x00" * 2**20] * 64)
    pq.write_table(pa.table({"image": large, "label": list(range(64))}), sink)
    contents.append(sink.getvalue())
    for metadata in (b"{", b'{"info": {"features": {"label": {"names": [1]}}}}', b"[" * 10**5):
        table = pa.table(tables[0]).replace_schema_metadata({b"huggingface": metadata})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        contents.append(sink.getvalue())
    return contents


def parquet(folder, draw):
    contents = good_parquets()
    content = draw.choice(contents[:6] if draw.random() < 0.7 else contents)
    if draw.random() < 0.95:
        content = edit(content, draw, contents[0])
    (folder / f"{STEM}.parquet").write_bytes(content)
    return lambda: read_parquet(folder / f"{STEM}.parquet", skip_damaged=True, **OPTIONS)


@functools.cache
def good_tars():
    contents = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tar_format) as archive:
            for number in range(3):
                long = "long/" * 30 if number == 2 else ""
                parts = {"png": IMAGES[number], "cls": b"%d" % (number % 2)}
                parts["json"] = json.dumps({"identity": f"p{number}", "camera": number}).encode()
                for extension, data in parts.items():
                    member = tarfile.TarInfo(f"{long}é{number}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        contents.append(sink.getvalue())
    return contents


def tar(folder, draw):
    content = bytearray(draw.choice(good_tars()))
    if draw.random() < 0.5:
        content = edit(bytes(content), draw)
    else:  # Fields of headers, with the right checksum.
        for _ in range(draw.choice((1, 1, 2))):
            at = 512 * draw.randrange(len(content) // 512)
            field = draw.choice(("size", "type", "name", "json", "pax"))
            if field == "size":
                value = draw.choice(EDGES)
                octal = b"%011o\x00" % (value % 8**11)
                content[at + 124 : at + 136] = draw.choice(
                    (octal, b"\x80" + value.to_bytes(11, "big"), b"\xff" * 12, b"-0000000100\x00")
                )
            elif field == "type":
                content[at + 156] = draw.choice(b"0\x00123456789LKxgSXDMNV")
            elif field == "name":
                content[at : at + 12] = draw.choice(
                    (b"a.png".ljust(12, b"\0"), b"../a.cls".ljust(12, b"\0"), bytes(12), b"." * 12)
                )
            else:
                data = draw.choice(
                    (b"[" * 500, b'{"identity": 1}', b"9" * 500, b"-1", b"1", b"nan", b"{",
                     b"30 path=../../a.png\n" * 25, b"99999999 size=1\n", b"12 size=-1\n")
                )  # fmt: skip
                content[at + 512 : at + 1024] = data[:512].ljust(512, b"\0")
            header = bytes(content[at : at + 148]) + b" " * 8 + bytes(content[at + 156 : at + 512])
            content[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        if draw.random() < 0.1:  # A header that announces another one, and so on.
            at = 512 * draw.randrange(3)
            content = bytes(content[at : at + 1024]) * draw.choice((3, 1500)) + bytes(content)
    (folder / f"{STEM}.tar").write_bytes(content)
    return lambda: read_webdataset(folder / f"{STEM}.tar", skip_damaged=True, **OPTIONS)


ARRAYS = {"embeddings": np.eye(3, dtype=np.float32), "ids": np.arange(3)}


def _npy(draw):
    """An array's file whose header claims anything."""
    descr = draw.choice(("<f4", "<f8", "|O", "|S1", "<U8", "|V0", "<M8[s]", "f4", "x", 3, ["<f4"]))
    sides = tuple(draw.choice((*EDGES, 3, 3, -1)) for _ in range(draw.randrange(4)))
    header = repr({"descr": descr, "fortran_order": draw.choice((False, True, 1)), "shape": sides})
    header = draw.choice((header, header, header, "(" * 500, header[:-1], "{'a': 1}", "9" * 6000))
    data = draw.choice((b"", bytes(36), bytes(2**16)))
    version = draw.choice((1, 1, 1, 2, 3, 9))
    length = len(header) if draw.random() < 0.9 else draw.choice(EDGES)
    size = struct.pack("<H" if version == 1 else "<I", length % (2**16 if version == 1 else 2**32))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + data


@functools.cache
def good_npzs():
    contents = []
    for save in (np.savez, np.savez_compressed):
        sink = io.BytesIO()
        save(sink, **ARRAYS)
        contents.append(sink.getvalue())
    sink = io.BytesIO()
    np.savez(sink, embeddings=np.array([Harm()], object), ids=np.arange(3))
    contents.append(sink.getvalue())
    return contents


@functools.cache
def npz_bomb():
    """A quarter of a gigabyte of zeros, and a little more."""
    sink = io.BytesIO()
    header = repr({"descr": "|u1", "fortran_order": False, "shape": (2**28 + 2**20,)}).encode()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("embeddings.npy", "w") as entry:
            entry.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
            for _ in range(257):
                entry.write(bytes(2**20))
        archive.writestr("ids.npy", b"")
    return sink.getvalue()


def npz(folder, draw):
    choice = draw.random()
    if choice < 0.6:
        content = edit(draw.choice(good_npzs()), draw)
    elif choice < 0.998:
        sink = io.BytesIO()
        method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(sink, "w", method) as archive:
            for name in draw.choice((("embeddings", "ids"), ("embeddings",), ("ids", "é"))):
                archive.writestr(f"{name}.npy", _npy(draw))
        content = sink.getvalue()
    else:
        content = npz_bomb()
    (folder / f"{STEM}.npz").write_bytes(content)
    return lambda: load_arrays(folder / f"{STEM}.npz", ("embeddings", "ids"))


def tensors(folder, draw):
    content = safetensors.numpy.save(ARRAYS)
    if draw.random() < 0.5:
        content = edit(content, draw)
    else:
        start = 8 + struct.unpack_from("<Q", content)[0]
        header, data = json.loads(content[8:start]), content[start:]
        entry = header[draw.choice(list(header))]
        field = draw.choice(("dtype", "shape", "data_offsets"))
        entry[field] = draw.choice(
            (
                draw.choice(("F16", "BF16", "F8_E4M3", "F8_E5M2", "BOOL", "U64", "C64", "x", "")),
                [draw.choice(EDGES) for _ in range(draw.randrange(4))],
                [0, draw.choice((8, 12, 24, 36))],
                [3, 3, 2],
                draw.choice((None, 1, {}, "a")),
            )
        )
        if field == "dtype" and draw.random() < 0.7:
            entry["dtype"] = draw.choice(("BF16", "F8_E4M3", "F8_E5M2", "F16"))
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            entry["shape"] = [size // (1 if "F8" in entry["dtype"] else 2)]
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + data
    path = folder / f"{STEM}.safetensors"
    path.write_bytes(content)
    if draw.random() < 0.5:
        return lambda: read_weights(path)
    return lambda: load_arrays(path, ("embeddings", "ids"))


@functools.cache
def good_manifest():
    with scratch() as folder:
        writer = SyntheticDatasetWriter(folder, identity_names=("a", "b"))
        for number in range(4):
            image = np.full((6, 6, 3), 60 * number, np.uint8)
            writer.write_image("ab"[number // 2], number, image, {"seed": number})
        writer.finish(card="", metadata={"config": "test"})
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
        return (folder / "manifest.parquet").read_bytes(), files


def manifest(folder, draw):
    content, files = good_manifest()
    for name, image in files.items():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(image)
    path = folder / f"{STEM}.parquet"
    if draw.random() < 0.6:
        path.write_bytes(edit(content, draw, good_parquets()[0]))
    else:  # Intact, with other columns, names and metadata.
        names = draw.choice((b'["a", "b"]', b"[]", b"3", b"{", b'{"a": 1}', b"[1, 2]", b"null"))
        column = [draw.choice(("a", "a", "b", *WORDS, None)) for _ in range(3)]
        if draw.random() < 0.3:
            column = draw.choice(([1, 2, 3], [[1], [2], []], [b"a", b"b", b"a"], [None] * 3))
        listed = [draw.choice((*sorted(files), *WORDS, None)) for _ in range(3)]
        if draw.random() < 0.5:
            listed = sorted(files)[:3]
        columns = {"identity": column, "file": listed, "seed": [1, 2, 3]}
        if draw.random() < 0.2:
            del columns[draw.choice(list(columns))]
        metadata = {b"identity_names": names} if draw.random() < 0.8 else {}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    if draw.random() < 0.5:
        return lambda: load_synthetic(path)
    return lambda: read_manifest_rows(path)


# Numbers of cases add up to 100,000, fewer of those whose reading takes longer.
KINDS = {
    "rec": (rec, 12_000),
    "idx": (idx, 8_000),
    "lst": (lst, 6_000),
    "bin": (bin_, 20_000),
    "mat": (mat, 12_000),
    "parquet": (parquet, 6_000),
    "tar": (tar, 8_000),
    "pairs": (pairs, 6_000),
    "rfw": (rfw, 2_000),
    "safetensors": (tensors, 8_000),
    "npz": (npz, 9_000),
    "manifest": (manifest, 3_000),
}
FORBIDDEN = (
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.mkdir",
    "os.remove", "os.rename", "socket.connect", "ctypes.dlopen",
)  # fmt: skip
_watch = {"on": False, "installed": False, "seen": []}


def _audit(event, arguments):
    if _watch["on"] and event in FORBIDDEN:
        _watch["seen"].append(event)


def outcome(kind, number, folder):
    """Runs a case; returns None where the file was read or refused in clear words, else why not."""
    if not _watch["installed"]:
        sys.addaudithook(_audit)
        _watch["installed"] = True
    read = KINDS[kind][0](folder, random.Random(f"{kind} {number}"))
    _watch["on"], _watch["seen"] = True, []
    try:
        read()
    except ValueError as error:
        if STEM not in str(error) and "RFW Asian" not in str(error):
            return f"an error that does not name the file: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        _watch["on"] = False
    return f"it did {_watch['seen']}" if _watch["seen"] else None


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    faulthandler.dump_traceback_later(WAITING, exit=True)  # What hangs may hear no signal.
    for number in range(25):
        assert outcome(kind, number, tmp_path) is None, (kind, number)
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files_are_read_or_refused():
    assert sum(number for _, number in KINDS.values()) == 100_000
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = child.stdout.read()
    assert child.returncode == 0, said[-5000:]


def main(arguments):
    """Runs some cases, or all; says which one failed, or was running when the process ended."""
    logging.disable(logging.CRITICAL)
    kinds = arguments[:1] or list(KINDS)
    first, last = map(int, arguments[1:3] or (0, 10**9))
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)  # Ends the process, wherever it is.
    failures = 0
    pa.set_cpu_count(1)
    with scratch() as folder:
        for kind in kinds:
            numbers = range(first, min(last, KINDS[kind][1]))
            child = os.fork()
            if not child:
                _limited(kind, numbers, folder)
            _, status = os.waitpid(child, 0)
            reached = (folder / "reached").read_text().split()
            if os.WIFSIGNALED(status):
                name = signal.Signals(os.WTERMSIG(status)).name
                print(f"{kind} {reached[0]}: ended by {name}", flush=True)
            failures += status != 0
    sys.exit(min(failures, 1))


def _limited(kind, numbers, folder):
    """Runs cases under limits, and ends this process."""
    own = folder / kind
    own.mkdir()
    outcome(kind, 0, own)  # What readers import and keep is not a case's memory.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reached = os.open(folder / "reached", os.O_WRONLY | os.O_CREAT)
    failures, started, slowest = [], time.process_time(), (0.0, 0)
    for number in numbers:
        os.pwrite(reached, b"%9d\n" % number, 0)
        signal.alarm(WAITING)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        before = time.process_time()
        wrong = outcome(kind, number, own)
        slowest = max(slowest, (time.process_time() - before, number))
        if wrong:
            failures.append(number)
            if len(failures) <= 20:
                print(f"{kind} {number}: {wrong:.400}", flush=True)
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    print(
        f"{kind}: {len(numbers)} cases, {len(failures)} failures, {seconds:.0f} s, slowest "
        f"{slowest[1]} {slowest[0]:.2f} s, peak "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB",
        flush=True,
    )
    os._exit(1 if failures else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
