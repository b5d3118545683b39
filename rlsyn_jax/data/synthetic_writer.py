"""Synthetic identity data sets on disk: written image by image, resumable, readable by others.

DIRECTORY/IDENTITY/NUMBER.png (or .jpg) as ImageFolder-style tools expect, manifest.parquet with one
row an image, README.md as the data card. journal.jsonl says, while the data set is being written,
which images are done; it stays as the record of what was left out. Where several processes draw
images, each has a journal of its own.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.image_decoding import decode_image
from rlsyn_jax.data.published_splits import listed_file
from rlsyn_jax.training.atomic_files import storage_error, write_bytes, write_text
from rlsyn_jax.training.processes import gathered, is_primary

MANIFEST = "manifest.parquet"
IDENTITIES = b"identity_names"
MOST_PEOPLE = 9999  # Of Market-1501's names, which have four digits.
_FORMATS = {"png": ("PNG", {}), "jpg": ("JPEG", {"quality": 95, "subsampling": 0})}
# Characters that some file system or shell refuses in a name.
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f\x7f]')
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}


class SyntheticDatasetWriter:
    """Writes a synthetic data set; opened again on the same folder, it goes on where it stopped.

    Attributes:
        records: {(identity name, number): row of the manifest} of the images written so far.
        rejected: {(identity name, number): entry} of the images that were left out.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        identity_names: tuple[str, ...],
        image_format: str = "png",
        divided: bool = False,
    ):
        """Opens or makes the folder.

        Args:
            directory: folder of the data set.
            identity_names: every identity, in the order of the labels.
            image_format: "png" or "jpg".
            divided: each process of the run writes images of its own, and `gather` tells all of
                them; else all are given the same images, and the first one writes them.

        Raises:
            ValueError: unknown format, or identity names that are empty or given twice.
            StorageError: the folder cannot be made.
        """
        if image_format not in _FORMATS:
            raise ValueError(f"image_format is {image_format!r}; expected 'png' or 'jpg'")
        self._folders = folder_names(identity_names)
        self._identity_names = tuple(identity_names)
        self._image_format = image_format
        self._directory = Path(directory)
        self._divided, self._appended = divided, []
        own = "" if is_primary() else f"-{jax.process_index()}"
        self._journal = self._directory / f"journal{own}.jsonl"
        self.records: dict[tuple[str, int], dict] = {}
        self.rejected: dict[tuple[str, int], dict] = {}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for journal in sorted(self._directory.glob("journal*.jsonl")):
                self._read_journal(journal)
        except OSError as error:
            raise storage_error(self._journal, error) from error

    def existing(self, identity: str, number: int) -> bool:
        """Whether image `number` of the identity is written, or was left out."""
        return (identity, number) in self.records or (identity, number) in self.rejected

    def write_image(
        self, identity: str, number: int, image: np.ndarray, entry: Mapping[str, Any]
    ) -> None:
        """Writes one image and its row.

        Args:
            identity: one of identity_names.
            number: 0 or more, unique within the identity.
            image: uint8 [height, width, 1 or 3].
            entry: columns of the manifest besides identity and file: numbers or strings.

        Raises:
            ValueError: unknown identity or an image of another shape or type.
            StorageError: the disk is full or read-only.
        """
        if identity not in self._folders:
            raise ValueError(f"identity {identity!r} is none of this data set's")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise ValueError(
                f"image must be uint8 [height, width, 1 or 3], got {image.dtype} {image.shape}"
            )
        file = f"{self._folders[identity]}/{number:05d}.{self._image_format}"
        content = _encode(image, self._image_format)
        write_bytes(self._directory / file, content, by_every_process=self._divided)
        self._append({"number": number, "identity": identity, "file": file, **entry})

    def reject(self, identity: str, number: int, entry: Mapping[str, Any]) -> None:
        """Notes that an image was left out; `entry` says what it was."""
        self._append({"number": number, "identity": identity, "left_out": True, **entry})

    def gather(self) -> None:
        """Tells every process what each has written and left out; all must call it.

        It needs no file of another process, which shared file systems show late.
        """
        for content in gathered(b"".join(self._appended)):
            for line in content.splitlines():
                self._note(json.loads(line))

    def finish(self, *, card: str, metadata: Mapping[str, str]) -> None:
        """Writes the manifest, ordered by identity and number, and the data card.

        Args:
            card: Markdown text of README.md.
            metadata: strings kept in the manifest's schema.

        Raises:
            StorageError: the disk is full or read-only.
        """
        order = {name: place for place, name in enumerate(self._identity_names)}
        keys = sorted(self.records, key=lambda key: (order[key[0]], key[1]))
        rows = [self.records[key] for key in keys]
        columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        table = pa.table(columns or {"identity": pa.array([], pa.string())})
        names = json.dumps(self._identity_names, ensure_ascii=False)
        table = table.replace_schema_metadata({IDENTITIES: names, **metadata})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        write_text(self._directory / "README.md", card)
        # Last: a data set with a manifest is a complete one.
        write_bytes(self._directory / MANIFEST, sink.getvalue())

    def _read_journal(self, journal: Path) -> None:
        content = journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content) and journal == self._journal:
            # A kill while a line was written leaves a part of it.
            write_bytes(journal, whole, by_every_process=True)
        for line in whole.splitlines():
            row = json.loads(line)
            if row.get("left_out") or (self._directory / row["file"]).is_file():
                self._note(row)

    def _note(self, row: dict) -> None:
        key = row["identity"], row.pop("number")
        if row.pop("left_out", False):
            self.rejected[key] = row
        else:
            self.records[key] = row

    def _append(self, row: dict) -> None:
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._note(row)
        if not (self._divided or is_primary()):
            return
        if self._divided:
            self._appended.append(line)
        try:
            with open(self._journal, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self._journal, error) from error


def read_manifest(directory: str | Path) -> dict[str, list]:
    """Returns the columns of a data set's manifest, one list a column.

    Raises:
        ValueError: the folder holds no complete synthetic data set.
    """
    return _read_table(Path(directory)).to_pydict()


def read_identity_names(directory: str | Path) -> tuple[str, ...]:
    """Returns every identity of a data set, in the order of the labels.

    Raises:
        ValueError: the folder holds no complete synthetic data set.
    """
    return _names(_read_table(Path(directory)), directory)


def load_synthetic(directory: str | Path) -> tuple[IdentityDataset | EmptyDataset, dict]:
    """Reads a synthetic data set into memory.

    Args:
        directory: folder that SyntheticDatasetWriter finished, or a manifest in it of some of its
            images, such as one that a selection left.

    Returns:
        (the data set, whose labels count as in the writer's identity_names; the manifest's
        columns). A data set without an image is an EmptyDataset.

    Raises:
        ValueError: the folder holds no complete synthetic data set, or an image is damaged.
    """
    path = Path(directory)
    directory = path.parent if path.is_file() else path
    table = _read_table(path)
    columns = table.to_pydict()
    names = _names(table, path)
    if not table.num_rows:
        return EmptyDataset(names), columns
    missing = [name for name in ("identity", "file") if name not in columns]
    if missing:
        raise ValueError(f"the manifest of {path} lacks the columns {missing}")
    label_of = {name: label for label, name in enumerate(names)}
    files = []
    for row, (name, file) in enumerate(zip(columns["identity"], columns["file"])):
        described_as = f"Row {row} of the manifest of {path}"
        if not isinstance(name, str) or name not in label_of or not isinstance(file, str):
            raise ValueError(
                f"{described_as} has the identity {name!r:.60} and the file {file!r:.60}; expected "
                "one of identity_names and a path"
            )
        files.append(directory / listed_file(directory, ".", file, described_as))
    first = decode_image(files[0], image_size=None, channels=3)
    with Image.open(files[0]) as image:
        channels = 1 if image.mode == "L" else 3
    images = np.empty((len(files), *first.shape[:2], channels), np.uint8)
    for row, file in enumerate(files):
        image = decode_image(file, image_size=None, channels=channels)
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{file} has {image.shape[0]} x {image.shape[1]} pixels, the first image of {path} "
                f"{first.shape[0]} x {first.shape[1]}; expected one size"
            )
        images[row] = image
    labels = np.array([label_of[name] for name in columns["identity"]], np.int32)
    dataset = IdentityDataset(
        name=directory.name,
        images=images,
        identities=labels,
        cameras=np.zeros(len(labels), np.int32),
        identity_names=names,
        file_names=tuple(columns["file"]),
        has_cameras=False,
    )
    return dataset, columns


class EmptyDataset:
    """A synthetic data set in which every image was left out."""

    def __init__(self, identity_names: tuple[str, ...]):
        """Holds the names and nothing else."""
        self.identity_names = identity_names
        self.images = np.zeros((0, 1, 1, 1), np.uint8)
        self.identities = np.zeros(0, np.int32)

    @property
    def num_identities(self) -> int:
        """Number of identities, all of them without an image."""
        return len(self.identity_names)


def export_market1501(directory: str | Path, target: str | Path) -> int:
    """Copies a synthetic data set into Market-1501's naming: 0001_c1s1_000000_00.jpg.

    People count from 1 in the order of the labels; every image is of camera 1.

    Args:
        directory: folder of the synthetic data set.
        target: folder whose bounding_box_train is filled.

    Returns:
        Number of images.

    Raises:
        ValueError: the folder holds no complete synthetic data set, or there are over 9999 people.
        StorageError: the disk is full or read-only.
    """
    dataset, _ = load_synthetic(directory)
    if dataset.num_identities > MOST_PEOPLE:
        raise ValueError(
            f"{directory} has {dataset.num_identities} people; Market-1501's names hold "
            f"{MOST_PEOPLE}"
        )
    counts = np.zeros(dataset.num_identities, np.int64)
    for image, identity in zip(dataset.images, dataset.identities):
        name = f"{identity + 1:04d}_c1s1_{counts[identity]:06d}_00.jpg"
        write_bytes(Path(target) / "bounding_box_train" / name, _encode(image, "jpg"))
        counts[identity] += 1
    return len(dataset.images)


def folder_names(identity_names: tuple[str, ...]) -> dict[str, str]:
    """Returns a folder name for each identity that every file system takes and keeps apart.

    Characters that file systems refuse are percent-encoded; names that differ only in case or in
    the way accents are encoded get a number.

    Raises:
        ValueError: a name is empty or given twice.
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for name in identity_names:
        if not name or name in folders:
            raise ValueError(f"identity names must be unique and not empty; got {name!r}")
        safe = _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", name)
        if safe[0] in ". " or safe[-1] in ". ":
            safe = re.sub(r"^[. ]|[. ]$", lambda match: f"%{ord(match.group()):02X}", safe)
        if safe.split(".")[0].casefold() in _RESERVED:
            safe = f"%{ord(safe[0]):02X}{safe[1:]}"
        while len(safe.encode()) > 200:
            safe = safe[:-1]
        folder, number = safe, 2
        while _folded(folder) in taken:
            folder, number = f"{safe}~{number}", number + 1
        taken.add(_folded(folder))
        folders[name] = folder
    return folders


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _encode(image: np.ndarray, image_format: str) -> bytes:
    kind, options = _FORMATS[image_format]
    sink = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(sink, kind, **options)
    return sink.getvalue()


def _read_table(directory: Path) -> pa.Table:
    path = directory if directory.is_file() else directory / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{directory} holds no {MANIFEST}; expected a synthetic data set that was written to "
            "its end (run the stage synthesize)"
        )
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # Texts that are no UTF-8 are found here.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no intact Parquet file: {error}") from error
    if IDENTITIES not in (table.schema.metadata or {}):
        raise ValueError(f"{path} has no identity_names in its metadata; it is not of this program")
    return table


def _names(table: pa.Table, path: str | Path) -> tuple[str, ...]:
    try:
        names = json.loads(table.schema.metadata[IDENTITIES])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the manifest of {path} has damaged identity_names: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the manifest of {path} has identity_names that are no list of names")
    return tuple(names)
