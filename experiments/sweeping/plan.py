"""The plan of a sweep: cells and jobs as plain data, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rlsyn_jax import config as configuration
from rlsyn_jax.training.atomic_files import write_json
from sweeping.cells import Cell, SweepError, read_cells
from sweeping.jobs import Job, PlannedCell, make_jobs
from sweeping.name_patterns import is_like, unmatched
from sweeping.python_files import load_base

_FILE = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a launcher and the results need to know.

    Attributes:
        base: config file, as of --config.
        title: of the base.
        cells: name -> {field: value} of every field that any cell changes.
        jobs: in an order in which they can run.
    """

    base: str
    title: str
    cells: dict[str, dict[str, Any]]
    jobs: list[Job]

    def fingerprint(self, cell: str, stage: str) -> str:
        """Returns what the stage.json of a cell's stage holds, if it was made as planned."""
        return next(
            job.fingerprints[stage]
            for job in self.jobs
            if cell in job.cells and stage in job.fingerprints
        )

    def only(self, patterns: Sequence[str]) -> Plan:
        """Returns the part of the plan that makes some of the cells.

        Args:
            patterns: of cells' names, with *, ? and [...] as in a shell.

        Raises:
            SweepError: no cell has a name like one of them.
        """
        for pattern in unmatched(patterns, self.cells):
            names = "\n".join(self.cells)
            raise SweepError(f"no cell's name is like {pattern!r}; the cells are\n{names}")
        cells = {name: fields for name, fields in self.cells.items() if is_like(name, patterns)}
        needed = {job.name for job in self.jobs if not cells.keys().isdisjoint(job.cells)}
        # A job waits for earlier ones alone; one that trains the prior may be another cell's.
        for job in reversed(self.jobs):
            if job.name in needed:
                needed.update(job.after)
        return dataclasses.replace(
            self, cells=cells, jobs=[job for job in self.jobs if job.name in needed]
        )


def plan_sweep(path: str | Path, sweep_dir: Path) -> Plan:
    """Reads a sweep file, checks every cell and plans its jobs.

    A process of its own does it: a config file may ask for the devices, which are then free again
    for the runs.

    Args:
        path: of the sweep file.
        sweep_dir: absolute folder of the sweep.

    Raises:
        SweepError: a cell cannot work; names it and what is wrong.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_plan, str(path), sweep_dir).result()


def _plan(path: str, sweep_dir: Path) -> Plan:
    base, cells = read_cells(path)
    try:
        make_jobs(_planned(cells))
    except SweepError:
        raise
    except ValueError as error:
        raise SweepError(str(error)) from error
    # Priors are kept together, so that those who train the same one in several pretrain stages, as
    # seeds do, find it. One that nobody shares is kept, too, or more seeds would find other stages.
    together = []
    for cell, planned in zip(cells, _planned(cells)):
        added: dict[str, Any] = {}
        if planned.prior:
            added["pretrain.cache"] = cell.config.pretrain.cache or str(sweep_dir / "priors")
        if "name" not in cell.changes:
            added["name"] = f"{cell.config.name}: {cell.name}"
        together.append(_with(cell, added))
    fields = list(dict.fromkeys(field for cell in cells for field in cell.changes))
    return Plan(
        base=base,
        title=load_base(base)[1].name,
        cells={
            cell.name: {field: configuration.field(cell.config, field) for field in fields}
            for cell in cells
        },
        jobs=make_jobs(_planned(together)),
    )


def _with(cell: Cell, added: dict[str, Any]) -> Cell:
    config = cell.config.copy_and_resolve_references()
    config.update_from_flattened_dict(added)
    return dataclasses.replace(cell, changes=cell.changes | added, config=config)


def _planned(cells: list[Cell]) -> list[PlannedCell]:
    # Imported here, in the planning process alone: the stages take seconds to load.
    from rlsyn_jax.stages import stage_fingerprints
    from rlsyn_jax.stages.pretrain import prior_fingerprint

    planned = []
    for cell in cells:
        trains = cell.config.pretrain.source == "train"
        try:
            prior = prior_fingerprint(cell.config) if trains else ""
        except (ValueError, OSError) as error:
            raise SweepError(f"cell {cell.name}: {error}") from error
        fingerprints = stage_fingerprints(cell.config)
        planned.append(PlannedCell(cell.name, cell.changes, fingerprints, prior))
    return planned


def read_plan(sweep_dir: Path) -> Plan:
    """Reads what write_plan wrote.

    Raises:
        FileNotFoundError: no sweep has been planned in the folder.
        SweepError: the file is damaged.
    """
    path = sweep_dir / _FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; --launcher=none makes it")
    try:
        content = json.loads(path.read_text())
        jobs = [
            Job(**{**job, "after": tuple(job["after"]), "cells": tuple(job["cells"])})
            for job in content.pop("jobs")
        ]
        return Plan(**content, jobs=jobs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SweepError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it, and the sweep's "
            "command plans anew, without making anew what is complete"
        ) from error


def write_plan(plan: Plan, sweep_dir: Path) -> None:
    """Writes sweep.json, for whoever wants to know what a sweep's folders are."""
    write_json(sweep_dir / _FILE, dataclasses.asdict(plan))


def is_written(plan: Plan, sweep_dir: Path) -> bool:
    """Returns whether that is what sweep.json has."""
    path = sweep_dir / _FILE
    content = json.loads(json.dumps(dataclasses.asdict(plan)))
    return path.exists() and json.loads(path.read_text()) == content
