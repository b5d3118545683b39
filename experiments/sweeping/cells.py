"""The cells of a sweep: each one's config, checked, and a name by what it changes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config_checks import validate
from rlsyn_jax.config_files import told
from sweeping import hyper
from sweeping.python_files import load_base, load_python_file

_LONGEST_NAME = 80


class SweepError(ValueError):
    """A sweep cannot be run; the message says which cell or field is wrong."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder, from the fields in which cells differ.
        changes: dotted field -> value, as on the command line.
        config: complete and valid.
    """

    name: str
    changes: dict[str, Any]
    config: ConfigDict


def read_cells(path: str | Path) -> tuple[str, list[Cell]]:
    """Reads a sweep file: BASE, a config file as of --config, and get_hyper(hyper).

    Args:
        path: of the Python file.

    Returns:
        BASE with an absolute path, and the cells in the file's order.

    Raises:
        SweepError: the file lacks a part or fails, or a cell's config cannot work; names the line,
            or cell and field.
        FileNotFoundError: one of the files is not there.
    """
    module = load_python_file(path)
    for part in ("BASE", "get_hyper"):
        if not hasattr(module, part):
            raise SweepError(f"{path} has no {part}; a sweep file needs BASE and get_hyper(hyper)")
    if not isinstance(module.BASE, str) or not callable(module.get_hyper):
        raise SweepError(f"{path}: BASE must be a config file's path, and get_hyper a function")
    base, config = load_base(module.BASE)
    try:
        changes = module.get_hyper(hyper)
    except Exception as error:  # It is a program, and can fail as any does.
        raise SweepError(told(error, path)) from error
    if not changes:
        raise SweepError(f"{path}: get_hyper gives no cell")
    if not isinstance(changes, list | tuple) or not all(
        isinstance(each, Mapping) and all(isinstance(field, str) for field in each)
        for each in changes
    ):
        raise SweepError(
            f"{path}: get_hyper returns {changes!r:.80}; expected a list of {{field: value}}, one "
            "of each cell, as hyper's functions make them"
        )
    changes = [{field: _plain(value) for field, value in each.items()} for each in changes]
    names = cell_names(changes)
    cells = []
    for name, changed in zip(names, changes):
        cells.append(Cell(name, dict(changed), changed_config(config, changed, name)))
    return base, cells


def _plain(value: Any) -> Any:
    """Returns a value without NumPy's kinds of numbers, which np.logspace and its like give."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def changed_config(base: ConfigDict, changes: Mapping[str, Any], name: str) -> ConfigDict:
    """Returns the base with some fields changed.

    Raises:
        SweepError: a field is unknown, its value has another type, or the config cannot work.
    """
    config = base.copy_and_resolve_references().lock()
    for path, value in changes.items():
        *sections, field = path.split(".")
        section = config
        for part in sections:
            section = section[part] if isinstance(section, ConfigDict) and part in section else None
        if not isinstance(section, ConfigDict) or field not in section:
            raise SweepError(f"cell {name}: the config has no field {path!r}")
        if isinstance(section[field], ConfigDict):
            raise SweepError(f"cell {name}: {path!r} is a section; set its fields one by one")
        try:
            section[field] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            raise SweepError(f"cell {name}: config.{path} is {value!r}: {error}") from error
    try:
        validate(config)
    except ValueError as error:
        raise SweepError(f"cell {name}: {error}") from error
    return config


def cell_names(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a name for each cell, from the fields in which cells differ.

    Fields stand by their paths' order, and are told by the last parts that tell them apart. A name
    that is too long, or that another cell has too, ends with a hash of what the cell changes. Names
    do not depend on the order of cells and of fields.

    Args:
        changes: of each cell: dotted field -> value.

    Raises:
        SweepError: two cells change the same.
    """
    for number, changed in enumerate(changes):
        if changed in changes[:number]:
            first = list(changes).index(changed)
            raise SweepError(
                f"cells {first + 1} and {number + 1} of the sweep are equal: {changed}"
            )
    fields = sorted({field for changed in changes for field in changed})
    varied = [
        field
        for field in fields
        if len({repr(changed.get(field, _Absent)) for changed in changes}) > 1
    ]
    labels = _labels(varied)
    names = [
        ",".join(
            _readable(f"{labels[field]}={_text(changed[field])}")
            for field in varied
            if field in changed
        )
        or "base"
        for changed in changes
    ]
    counts = Counter(names)
    return [
        name
        if counts[name] == 1 and len(name) <= _LONGEST_NAME
        else f"{name[: _LONGEST_NAME - 9]}-{_short_hash(changed)}"
        for name, changed in zip(names, changes)
    ]


class _Absent:
    """What a cell has for a field that it does not change."""


def _labels(fields: Sequence[str]) -> dict[str, str]:
    """Returns the shortest ends of dotted paths that are all different."""
    labels = {}
    for field in fields:
        parts = field.split(".")
        for length in range(1, len(parts) + 1):
            label = ".".join(parts[-length:])
            ends = [other for other in fields if f".{other}".endswith(f".{label}")]
            if len(ends) == 1:
                break
        labels[field] = label
    return labels


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value)) or "none"
    return str(value)


def _readable(text: str) -> str:
    """Keeps what every file system and shell takes as it is."""
    return re.sub(r"[^0-9A-Za-z_.=+-]+", "-", text).strip("-")


def _short_hash(changes: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:8]
