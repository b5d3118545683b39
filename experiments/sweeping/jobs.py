"""What a sweep has to run: every stage that cells share once, then what is left of each cell.

Cells whose runs would make the same up to some stage, told by the stages' fingerprints, share it.
Stages depend on all before them, so the sharing is a tree: a job runs the consecutive stages that
the same cells share, in a work folder of its own, and the jobs below it link to what it made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """What sharing depends on.

    Attributes:
        name: of the cell.
        changes: dotted field -> value, as on the command line.
        fingerprints: stage -> hash of all its output depends on, in the order of stages.
        prior: hash of all the trained prior depends on; "" where none is trained. Cells of several
            seeds share the prior, though not the whole stage.
    """

    name: str
    changes: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    prior: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
    """Consecutive stages that one process, or several together, run in one work folder.

    Attributes:
        name: of its log.
        workdir: folder of the run, relative to the sweep's.
        changes: dotted field -> value.
        fingerprints: stage -> what its stage.json will hold, of the stages to run.
        links: stage -> work folder, relative to the sweep's, that has it complete.
        after: jobs that must have ended before.
        cells: names of those that need it.
    """

    name: str
    workdir: str
    changes: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    links: Mapping[str, str]
    after: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages to run, in their order."""
        return tuple(self.fingerprints)


def make_jobs(cells: Sequence[PlannedCell]) -> list[Job]:
    """Returns the jobs of a sweep, each one after those that it waits for.

    Args:
        cells: with the same stages in the same order.

    Raises:
        ValueError: two cells would make the same; names them.
    """
    jobs = _below(list(cells), first=0, links={}, after=())
    return _train_priors_once(jobs, {cell.name: cell.prior for cell in cells})


def _below(
    cells: list[PlannedCell], first: int, links: dict[str, str], after: tuple[str, ...]
) -> list[Job]:
    """Returns the jobs of cells that share all stages before the `first`."""
    stages = list(cells[0].fingerprints)
    groups: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        if first == len(stages):
            raise ValueError(
                f"cells {cells[0].name} and {cells[1].name} would make the same: no stage of a run "
                "depends on the fields in which they differ; leave one of them out"
            )
        groups.setdefault(cell.fingerprints[stages[first]], []).append(cell)
    jobs = []
    for group in groups.values():
        end = first + 1
        while end < len(stages) and _agree(group, stages[end]):
            end += 1
        head, own = group[0], stages[first:end]
        if len(group) == 1:
            name, workdir = head.name, f"cells/{head.name}"
        else:
            name = f"{own[-1]}-{head.fingerprints[own[-1]]}"
            workdir = f"shared/{name}"
        job = Job(
            name=name,
            workdir=workdir,
            changes=head.changes,
            fingerprints={stage: head.fingerprints[stage] for stage in own},
            links=links,
            after=after,
            cells=tuple(cell.name for cell in group),
        )
        jobs.append(job)
        if len(group) > 1:
            made = links | {stage: workdir for stage in own}
            jobs += _below(group, end, made, (name,))
    return jobs


def _agree(cells: list[PlannedCell], stage: str) -> bool:
    return len({cell.fingerprints[stage] for cell in cells}) == 1


def _train_priors_once(jobs: list[Job], priors: Mapping[str, str]) -> list[Job]:
    """Lets one job train each prior; those that will find it in the cache wait for that one."""
    trainers: dict[str, list[Job]] = {}
    for job in jobs:
        if "pretrain" in job.fingerprints and priors[job.cells[0]]:
            trainers.setdefault(priors[job.cells[0]], []).append(job)
    ordered = []
    for job in jobs:
        group = trainers.get(priors[job.cells[0]], []) if "pretrain" in job.fingerprints else []
        if len(group) < 2:
            ordered.append(job)
        elif job is group[0]:
            ordered += _split(job)
        else:
            trainer = _split(group[0])[0].name
            ordered.append(dataclasses.replace(job, after=(*job.after, trainer)))
    return ordered


def _split(job: Job) -> list[Job]:
    """Returns a job's pretrain stage and what follows it, in the same folder, as jobs."""
    if job.stages == ("pretrain",):
        return [job]
    rest = dict(job.fingerprints)
    first = dataclasses.replace(
        job, name=f"{job.name}.pretrain", fingerprints={"pretrain": rest.pop("pretrain")}
    )
    return [first, dataclasses.replace(job, fingerprints=rest, after=(*job.after, first.name))]
