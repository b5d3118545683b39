"""The type of a command's options that name a folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def named_folder(text: str) -> Path:
    """Returns the path that an option of argparse gives.

    Raises:
        argparse.ArgumentTypeError: it is empty, as of a variable that is not set, which would be
            the current folder, or a file's.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a folder (. is this one)")
    if Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is a file; name a folder")
    return Path(text)
