"""The option --only of sweeps: patterns of the names of what is to run."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fnmatch import fnmatchcase


def add_only(parser: argparse.ArgumentParser) -> None:
    """Adds --only to a command; `options.only` is then a list of patterns, [] = everything."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="of names of cells to run, with * and ?; may be given several times",
    )


def is_like(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is like one of some patterns, with *, ? and [...] as in a shell."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Returns the patterns that none of some names is like."""
    names = list(names)
    return [pattern for pattern in patterns if not any(is_like(name, [pattern]) for name in names)]
