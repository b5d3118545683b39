"""Lists of config changes, and how they combine: what a sweep file's `get_hyper` is made of.

A cell's changes are a dict of dotted config fields and their values; everything here is a list of
such dicts.

    def get_hyper(hyper):
        return hyper.product([
            hyper.grid({"reinforce.learning_rate": [1e-3, 1e-2], "reinforce.eta": [0.5, 1.0]}),
            hyper.seeds(3),
        ])
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Changes = dict[str, Any]


def fixed(field: str, value: Any) -> list[Changes]:
    """Returns one cell that sets one field: product with it sets the field everywhere."""
    return [{field: value}]


def sweep(field: str, values: Iterable[Any]) -> list[Changes]:
    """Returns one cell for each value of one field.

    Raises:
        ValueError: there is no value.
    """
    cells = [{field: value} for value in values]
    if not cells:
        raise ValueError(f"the field {field!r} is swept over no value; give at least one")
    return cells


def seeds(number: int, *, first: int = 0) -> list[Changes]:
    """Returns cells of so many seeds: first, first + 1, ..."""
    return sweep("seed", range(first, first + number))


def product(parts: Sequence[Sequence[Changes]]) -> list[Changes]:
    """Returns every combination of one cell of each part; the last part varies fastest.

    Raises:
        ValueError: two parts set the same field.
    """
    return [_merged(combination) for combination in itertools.product(*parts)]


def grid(fields: Mapping[str, Iterable[Any]]) -> list[Changes]:
    """Returns every combination of the fields' values; the last field varies fastest."""
    return product([sweep(field, values) for field, values in fields.items()])


def zipit(parts: Sequence[Sequence[Changes]]) -> list[Changes]:
    """Returns the first cells of all parts as one, then the second ones, and so on.

    Raises:
        ValueError: the parts are not equally long, or two of them set the same field.
    """
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise ValueError(f"zipit needs parts of one length, and got {lengths} cells")
    return [_merged(combination) for combination in zip(*parts)]


def chainit(parts: Sequence[Sequence[Changes]]) -> list[Changes]:
    """Returns the cells of the first part, then those of the second, and so on."""
    return list(itertools.chain.from_iterable(parts))


def _merged(combination: Sequence[Changes]) -> Changes:
    merged: Changes = {}
    for changes in combination:
        for field in changes:
            if field in merged:
                raise ValueError(
                    f"the field {field!r} is set by two parts that are combined; set it in one"
                )
        merged |= changes
    return merged
