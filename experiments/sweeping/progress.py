"""How far a sweep is, in one line: "3/12 cells, 1 failed, 14 min 20 s left"."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rlsyn_jax.training.metrics import duration
from sweeping.jobs import Job
from sweeping.work_folders import stage_record


def seconds_of_stages(sweep_dir: Path, done: Iterable[Job]) -> dict[str, float]:
    """Returns the mean seconds that each stage took in jobs that are done."""
    seconds: dict[str, list[float]] = {}
    for job in done:
        for stage in job.stages:
            record = stage_record(sweep_dir / job.workdir, stage)
            if record.get("complete") and not (sweep_dir / job.workdir / stage).is_symlink():
                seconds.setdefault(stage, []).append(record["seconds"])
    return {stage: statistics.mean(values) for stage, values in seconds.items()}


def seconds_left(
    todo: Sequence[tuple[Job, float]], stage_seconds: Mapping[str, float], parallel: int
) -> float | None:
    """Returns about how long the rest will take, or None while a stage has never been seen done.

    Args:
        todo: jobs that are not done, and seconds that have been spent on each.
        stage_seconds: mean seconds of each stage.
        parallel: jobs that run at once.
    """
    if any(stage not in stage_seconds for job, _ in todo for stage in job.stages):
        return None
    work = [
        max(0.0, sum(stage_seconds[stage] for stage in job.stages) - spent) for job, spent in todo
    ]
    # No job is divided.
    return max(sum(work) / parallel, max(work, default=0.0))


def progress_line(done: int, failed: int, total: int, left: float | None) -> str:
    """Returns the line for so many cells, and seconds left."""
    parts = [f"{done}/{total} cells"]
    if failed:
        parts.append(f"{failed} failed")
    if left is not None and done + failed < total:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)
