"""Copies a finished synthetic data set into the formats that trainers of the field read.

What is copied keeps its pixels: files go over as they are, save that Market-1501's readers take
.jpg alone. Each export is a new folder, which has its name only when it is whole.
"""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rlsyn_jax.data.identity_dataset import Subset
from rlsyn_jax.data.image_decoding import IMAGE_EXTENSIONS
from rlsyn_jax.data.insightface import write_insightface
from rlsyn_jax.data.market1501 import FOLDERS, list_market1501
from rlsyn_jax.data.synthetic_writer import read_identity_names, read_manifest
from rlsyn_jax.training.atomic_files import whole_folder

# How torchreid, fast-reid and the readers copied from them find identity and camera; they search
# the whole path, so that a folder may be taken for a name.
_READERS_PATTERN = re.compile(r"([-\d]+)_c(\d)")
# Market-1501 has the sequences 1 to 6.
_SYNTHETIC_SEQUENCE = 9


def check_not_mistaken(target: Path) -> None:
    """Raises ValueError where Market-1501's readers would take a folder's path for an image's."""
    mistaken = _READERS_PATTERN.search(str(target.absolute()))
    if mistaken:
        raise ValueError(
            f"{target.absolute()} holds {mistaken.group()!r}, which fast-reid and torchreid would "
            "take for identity and camera of every image; choose another folder."
        )


def export_into_market1501(directory: str | Path, real: str | Path, target: str | Path) -> int:
    """Copies a data set in Market-1501's layout, with synthetic images of the people that train.

    Synthetic images are named as real ones of a sequence 9, 0002_c1s9_000000_00.jpg, and are given
    the cameras of the person's real images by turns, so that no new pair of person and camera
    comes up. Real images of other kinds, as CUHK03-NP's .png, become .jpg, too.

    Args:
        directory: folder of the synthetic data set, whose people are named as in `real` (0002).
        real: folder of the real data set, as `read_market1501` reads it.
        target: folder to make.

    Returns:
        Number of synthetic images.

    Raises:
        ValueError: people of the synthetic set do not train in the real one, `target` is there, or
            its path would be mistaken for an image's name.
        StorageError: the disk is full or read-only.
    """
    directory, real, target = Path(directory), Path(real), Path(target)
    check_not_mistaken(target)
    cameras: dict[str, list[int]] = {}
    for image in list_market1501(real):
        if image.subset == Subset.TRAIN:
            cameras.setdefault(image.identity, []).append(image.camera)
    manifest = read_manifest(directory)
    strangers = sorted(set(manifest["identity"]) - set(cameras))
    if strangers:
        raise ValueError(
            f"{len(strangers)} people of {directory}, {strangers[0]!r} the first, are not among "
            f"those of {real / 'bounding_box_train'}; expected a set made from that data set."
        )
    with whole_folder(target) as folder:
        for name in FOLDERS:
            shutil.copytree(real / name, folder / name)
            _name_jpg(folder / name)
        counts: dict[str, int] = {}
        for identity, file in zip(manifest["identity"], manifest["file"]):
            number = counts.get(identity, 0)
            camera = cameras[identity][number % len(cameras[identity])]
            name = f"{identity}_c{camera}s{_SYNTHETIC_SEQUENCE}_{number:06d}_00.jpg"
            content = _as_jpeg(directory / file)
            (folder / "bounding_box_train" / name).write_bytes(content)
            counts[identity] = number + 1
    return len(manifest["file"])


def export_insightface(
    directory: str | Path, target: str | Path, *, image_size: tuple[int, int] | None = None
) -> int:
    """Writes train.rec, train.idx and property, as InsightFace's trainers read them.

    Args:
        directory: folder of the synthetic data set.
        target: folder to make.
        image_size: (height, width) of the images; InsightFace's networks take (112, 112) and resize
            nothing. None: as they are.

    Returns:
        Number of images; label i is the i-th identity that has images. Trainers ask for it as
        num_image, and for the number of identities, which property has first, as num_classes.

    Raises:
        ValueError: there are no images, or `target` is there.
        StorageError: the disk is full or read-only.
    """
    directory = Path(directory)
    examples = list(_examples(directory))
    with Image.open(directory / examples[0][1]) as first:
        width, height = first.size
    if image_size is not None:
        height, width = image_size
    with whole_folder(target) as folder:
        write_insightface(
            folder / "train.rec",
            ((label, _of_size(directory / file, (width, height))) for label, file, _ in examples),
            num_images=len(examples),
        )
        (folder / "property").write_text(f"{examples[-1][0] + 1},{height},{width}\n")
    return len(examples)


def export_webdataset(
    directory: str | Path, target: str | Path, *, images_per_archive: int = 10_000
) -> int:
    """Writes WebDataset archives 000000.tar, 000001.tar, ...

    Each example is the image, .cls with the label, and .json with its row of the manifest.

    Args:
        directory: folder of the synthetic data set.
        target: folder to make.
        images_per_archive: examples in an archive, at most. Readers that shuffle want more than
            one archive, and people are mixed over them.

    Returns:
        Number of images; label i is the i-th identity that has images.

    Raises:
        ValueError: there are no images, `images_per_archive` is below 1, or `target` is there.
        StorageError: the disk is full or read-only.
    """
    if images_per_archive < 1:
        raise ValueError(f"images_per_archive is {images_per_archive}; expected 1 or more.")
    directory = Path(directory)
    examples = list(_examples(directory))
    # Readers take archives from start to end: without this, one person would follow another.
    order = np.random.default_rng(0).permutation(len(examples))
    with whole_folder(target) as folder:
        for number, start in enumerate(range(0, len(examples), images_per_archive)):
            with tarfile.open(
                folder / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT
            ) as tar:
                for place in range(start, min(start + images_per_archive, len(examples))):
                    label, file, row = examples[order[place]]
                    suffix = Path(file).suffix
                    _add(tar, f"{place:08d}{suffix}", (directory / file).read_bytes())
                    _add(tar, f"{place:08d}.cls", str(label).encode())
                    content = json.dumps(row, ensure_ascii=False, allow_nan=True)
                    _add(tar, f"{place:08d}.json", content.encode())
    return len(examples)


def _examples(directory: Path) -> Iterator[tuple[int, str, dict]]:
    """Give (label, file, row of the manifest), in the order of the labels."""
    manifest = read_manifest(directory)
    if not manifest["identity"]:
        raise ValueError(f"The data set {directory} has no images to write.")
    present = set(manifest["identity"])
    names = [name for name in read_identity_names(directory) if name in present]
    label_of = {name: label for label, name in enumerate(names)}
    rows = [dict(zip(manifest, values)) for values in zip(*manifest.values())]
    for row in sorted(rows, key=lambda row: label_of[row["identity"]]):
        yield label_of[row["identity"]], row["file"], row


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _name_jpg(folder: Path) -> None:
    """Turns the images of a folder that are not named .jpg into such."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.suffix != ".jpg":
            content = _as_jpeg(path)
            path.unlink()
            path.with_suffix(".jpg").write_bytes(content)


def _as_jpeg(path: Path) -> bytes:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return path.read_bytes()
    with Image.open(path) as image:
        return _encoded(image)


def _of_size(path: Path, size: tuple[int, int]) -> bytes:
    """Returns the file as it is, or its image resized to (width, height)."""
    with Image.open(path) as image:
        if image.size == size:
            return path.read_bytes()
        return _encoded(image.resize(size, Image.Resampling.BICUBIC))


def _encoded(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.convert("L" if image.mode == "L" else "RGB").save(sink, "JPEG", quality=95, subsampling=0)
    return sink.getvalue()
