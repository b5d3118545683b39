"""Lays out the study's data sets as experiments/ablation.py reads them, from published archives.

    python experiments/study_data.py FOLDER --omniglot-small1=DIR --omniglot-small2=DIR \
        --lfw=DIR --orl=DIR

Each DIR is an unpacked archive, and those that are left out are passed over:

- Omniglot (Lake et al. 2015, github.com/brendenlake/omniglot, python/images_background_small1.zip
  and _small2.zip): ALPHABET/characterNN/ID_DRAWER.png becomes
  omniglot/small1/ALPHABET-NN/DRAWER.png.
- LFW-a (Wolf et al. 2011; grey and aligned, 250 x 250 pixels): NAME/NAME_NNNN.jpg. The faces are
  cut out and made 96 x 96. People with up to three images become lfw_general, the others, with
  their first twenty at most, lfw_target: nobody is in both.
- ORL (Samaria and Harter 1994): sN/N.pgm becomes orl_faces.

Images are written as PNG; a data set that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from rlsyn_jax.training.atomic_files import whole_folder

_FACE = (53, 46, 197, 190)  # Left, top, right, bottom of what is kept of LFW-a's pixels.
_FACE_SIDE = 96
_GENERAL_IMAGES, _TARGET_IMAGES = 3, 20
_CHARACTER = re.compile(r"character(\d+)$")
_DRAWER = re.compile(r"_(\d+)$")


def omniglot_images(source: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yields IDENTITY/NAME and the image of every drawing; a character is an identity."""
    for path in sorted(source.glob("*/character*/*.png")):
        character, drawer = _CHARACTER.search(path.parent.name), _DRAWER.search(path.stem)
        if character and drawer:
            yield f"{path.parents[1].name}-{character[1]}/{drawer[1]}", Image.open(path)


def lfw_images(source: Path, *, general: bool) -> Iterator[tuple[str, Image.Image]]:
    """Yields NAME/FILE and the face of everybody with few images, or of everybody else."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.jpg"))
        if (len(files) <= _GENERAL_IMAGES) == general:
            for path in files[:_TARGET_IMAGES]:
                face = Image.open(path).convert("L").crop(_FACE)
                face = face.resize((_FACE_SIDE, _FACE_SIDE), Image.Resampling.LANCZOS)
                yield f"{folder.name}/{path.stem}", face


def orl_images(source: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yields sN/N and the image of every photograph."""
    for path in sorted(source.glob("s*/*.pgm")):
        yield f"{path.parent.name}/{path.stem}", Image.open(path)


def lay_out(folder: Path, images: Iterator[tuple[str, Image.Image]], source: Path) -> int:
    """Writes a data set, whole or not at all; returns how many images.

    Args:
        folder: of the data set; where it is there already, nothing is written.
        images: IDENTITY/NAME and image.
        source: named where it has none.

    Raises:
        ValueError: there is no image.
    """
    if folder.exists():
        return 0
    number = 0
    with whole_folder(folder) as partial:
        for name, image in images:
            path = partial / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            number += 1
        if not number:
            raise ValueError(f"{source} has no image where one is expected; see --help")
    return number


def main(arguments: list[str]) -> None:
    """Lays out what is asked for."""
    options = parse(arguments)
    made = {
        "omniglot/small1": (options.omniglot_small1, omniglot_images),
        "omniglot/small2": (options.omniglot_small2, omniglot_images),
        "lfw_general": (options.lfw, lambda source: lfw_images(source, general=True)),
        "lfw_target": (options.lfw, lambda source: lfw_images(source, general=False)),
        "orl_faces": (options.orl, orl_images),
    }
    for name, (source, images_of) in made.items():
        if source is None:
            continue
        try:
            number = lay_out(options.folder / name, images_of(source), source)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {name}: {error}")
        print(f"{options.folder / name}: {number or 'was there already'}", flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="that experiments/ablation.py gets as --data")
    for name in ("omniglot-small1", "omniglot-small2", "lfw", "orl"):
        parser.add_argument(f"--{name}", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
