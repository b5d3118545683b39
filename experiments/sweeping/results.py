"""Everything that a sweep's cells measured, in one table."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rlsyn_jax.training.atomic_files import write_bytes, write_text
from sweeping.commands import last_line, log_path
from sweeping.plan import Plan
from sweeping.results_page import render_results
from sweeping.work_folders import is_made

_PARTS = ("mean", "low", "high")
_SYNTHETIC_SETS = ("cold_start", "best_of", "reinforced")


def write_results(plan: Plan, sweep_dir: Path, failures: Mapping[str, str]) -> Path:
    """Writes results.parquet and results.html of the cells that are complete as planned.

    Args:
        plan: of the sweep.
        sweep_dir: its folder.
        failures: name of each cell that failed -> why.

    Returns:
        The page's path.
    """
    rows, states = [], {}
    for name, fields in plan.cells.items():
        workdir = sweep_dir / "cells" / name
        if name in failures:
            states[name] = {"state": "failed", "said": failures[name]}
        elif not is_made(workdir, "report", plan.fingerprint(name, "report")):
            states[name] = {"state": "not complete", "said": last_line(log_path(sweep_dir, name))}
        else:
            states[name] = {"state": "complete", "said": ""}
            metrics = json.loads((workdir / "evaluate" / "metrics.json").read_text())
            rows += [{"cell": name, **_columns(fields), **figure} for figure in figures_of(metrics)]
    write_bytes(sweep_dir / "results.parquet", _parquet(plan, rows))
    page = sweep_dir / "results.html"
    write_text(page, render_results(plan, rows, states))
    return page


def figures_of(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a row for each figure of a run.

    Args:
        metrics: content of evaluate/metrics.json.

    Yields:
        {"arm", "measure", "split", "mean", "low", "high", "difference", "difference_low",
        "difference_high"}. Splits: "open", recognisers on unseen people; "closed", on enrolled
        ones; "synthetic", the synthetic sets themselves, whose names stand for arms; "privacy",
        attacks on them. Differences are paired with the first arm, which has none.
    """
    for arm, measures in metrics["arms"].items():
        for measure, figure in measures.items():
            split, _, name = measure.partition("_")
            if split not in ("open", "closed"):
                split, name = "open", measure  # Pairs of unseen people.
            difference = metrics["differences"].get(arm, {}).get(measure)
            yield _row(arm, name, split, figure, difference)
    for split in ("synthetic", "privacy"):
        for path, figure in _figures(metrics[split]):
            sets = [part for part in path if part in _arms_of(metrics)]
            arm = sets[0] if sets else ""
            name = "/".join(part for part in path if part != arm)
            yield _row(arm, name, split, figure, None)


def _arms_of(metrics: Mapping[str, Any]) -> set[str]:
    """Names of synthetic sets, and of the real images that are measured like them."""
    return {*_SYNTHETIC_SETS, *metrics["synthetic"]}


def _figures(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Yields the path and the figure wherever nested dicts hold one."""
    if isinstance(content, Mapping):
        if set(_PARTS) <= set(content):
            yield path, content
        else:
            for name, part in content.items():
                yield from _figures(part, (*path, name))


def _row(arm: str, measure: str, split: str, figure: Mapping, difference: Mapping | None) -> dict:
    row = {"arm": arm, "measure": measure, "split": split}
    row |= {part: figure[part] for part in _PARTS}
    names = ("difference", "difference_low", "difference_high")
    return row | {name: difference and difference[part] for name, part in zip(names, _PARTS)}


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields as values of a table: tuples become text."""
    return {
        field: "+".join(map(str, value)) if isinstance(value, list | tuple) else value
        for field, value in fields.items()
    }


def _parquet(plan: Plan, rows: list[dict]) -> bytes:
    figures = [("arm", str), ("measure", str), ("split", str)]
    numbers = (*_PARTS, "difference", "difference_low", "difference_high")
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
    kinds[bool] = pyarrow.bool_()
    fields = _columns(next(iter(plan.cells.values())))
    schema = pyarrow.schema(
        [
            ("cell", pyarrow.string()),
            *((field, kinds[type(value)]) for field, value in fields.items()),
            *((name, kinds[kind]) for name, kind in figures),
            *((name, pyarrow.float64()) for name in numbers),
        ]
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()
