"""What a command of rlsyn_jax.evaluation hands back to be printed and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Measured(NamedTuple):
    """The outcome of one command.

    Attributes:
        metrics: content of metrics.json.
        rows: (name, text) of the printed table; a heading has no text.
        page: makes the HTML page of --report.
    """

    metrics: dict
    rows: list[tuple[str, str]]
    page: Callable[[], str]


def share_text(figure: dict, form: str = ".2f", *, middle: str = "value") -> str:
    """Returns a share with its interval in percent."""
    value, low, high = (100 * figure[name] for name in (middle, "low", "high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"
