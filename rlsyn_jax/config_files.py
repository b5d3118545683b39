"""Python files of users (configs, sweeps), and what went wrong in them, told by file and line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path


def line_in(error: BaseException, path: str | Path) -> int | None:
    """Returns the last line of a file through which an error came, or None; the file need not be.

    Args:
        error: as it was caught.
        path: of the file.
    """
    path = Path(path).absolute()
    if isinstance(error, SyntaxError) and error.filename:
        if Path(error.filename).absolute() == path:
            return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path]
    return lines[-1] if lines else None


def described(error: BaseException) -> str:
    """Returns what an error says, in one line, and its kind where the words alone are no sentence.

    Of a field that a configuration does not have, ml_collections tells all that it has; here it is
    the one that may be meant.
    """
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    said = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    unknown = re.match(r"""(?:Key )?["']([^"']+)["'] does not exist""", said)
    if unknown or isinstance(error, KeyError):
        meant = re.search(r"Did you mean.*", said)
        name = unknown.group(1) if unknown else said.split(" Did you mean")[0].strip("'\"")
        return f"the config has no field {name!r}" + (f". {meant.group()}" if meant else "")
    if isinstance(error, ValueError):
        return said
    return f"{type(error).__name__}: {said}"


def told(error: BaseException, path: str | Path) -> str:
    """Returns where in a file an error arose, as far as that is known, and what it says."""
    line = line_in(error, path)
    return f"{path}{f', line {line}' if line else ''}: {described(error)}"
