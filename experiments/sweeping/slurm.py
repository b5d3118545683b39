"""Runs a sweep's jobs on Slurm, through submitit.

Jobs that wait for the same ones are one array. A job's processes find each other by Slurm's
environment. SIGTERM, which comes before the time is up and when the job is preempted, reaches the
runs; what they saved is on disk when they end, and the job goes back into the queue.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import submitit
from submitit.core.utils import pickle_load

import sweeping
from rlsyn_jax.training.atomic_files import write_json
from sweeping.cells import SweepError
from sweeping.commands import last_line, log_path, start_job
from sweeping.jobs import Job
from sweeping.plan import Plan
from sweeping.progress import progress_line, seconds_left, seconds_of_stages
from sweeping.work_folders import (
    adopt_stages,
    complete_stages,
    is_complete,
    link_stages,
    not_as_planned,
)

# This package is not installed where jobs run: they carry it with them.
cloudpickle.register_pickle_by_value(sweeping)

# What a run ends with that was asked to end and can go on (rlsyn_jax/training/preemption.py).
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
# A job that comes back so often does not get on in the time that it is given.
_MOST_RESTARTS = 100
_LARGEST_ARRAY = 1000  # Slurm's own default is 1001.
_POLL_SECONDS = 5
# Seconds for which Slurm's commands may fail: of a job that is to end, and of who watches.
_PATIENCE_OF_A_JOB, _PATIENCE_OF_A_SWEEP = 30, 600
_POLLS_FOR_RESULT = 3  # A shared disk may show a result later than the queue shows the end.


class SlurmJob:
    """What each process of a job does; submitit carries it there."""

    def __init__(self, base: str, sweep_dir: Path, job: Job):
        """Keeps what to run: the base config, the sweep's folder and the job."""
        self._base, self._dir, self._job = base, sweep_dir, job

    def __call__(self) -> None:
        """Runs the job to its end, or sends it back into the queue.

        Raises:
            RuntimeError: the run failed; says the last line of its log.
        """
        process = int(os.environ["SLURM_PROCID"])
        link_stages(self._dir, self._job)
        # Slurm signals every process of a step: the run gets SIGTERM from there, once.
        code = start_job(self._base, self._dir, self._job, process=process).wait()
        if code in _STOPPED and _may_go_on():
            # Slurm ends the job's processes when it takes the job back: at once, from here on.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if process == 0:
                _ask("scontrol", "requeue", _own_number(), patience=_PATIENCE_OF_A_JOB)
            time.sleep(600)
        if code:
            said = last_line(log_path(self._dir, self._job.name, process))
            raise RuntimeError(f"ended with code {code} after: {said}")


def _may_go_on() -> bool:
    """Whether the job was interrupted rather than cancelled, and not too often yet."""
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) >= _MOST_RESTARTS:
        return False
    shown = _ask("scontrol", "show", "job", "-o", _own_number(), patience=_PATIENCE_OF_A_JOB)
    return "JobState=RUNNING" in shown


def _own_number() -> str:
    """Returns the number of this job, or of this element of an array alone.

    One element of each array has the number of the whole, by which all of it would be asked for.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _ask(*command: str, patience: float) -> str:
    """Returns what one of Slurm's commands says; while it fails, as a busy server does, asks again.

    Raises:
        SweepError: it failed for so many seconds.
    """
    end = time.monotonic() + patience
    while True:
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout
        if time.monotonic() > end:
            raise SweepError(
                f"{command[0]} failed for {patience:.0f} s, with code {found.returncode}: "
                f"{found.stderr.strip()}"
            )
        time.sleep(min(_POLL_SECONDS, patience))


class SlurmRuns:
    """The jobs of a sweep on a cluster."""

    def __init__(self, plan: Plan, sweep_dir: Path, parameters: Mapping[str, Any]):
        """Checks the parameters.

        Args:
            plan: of the sweep.
            sweep_dir: its absolute folder, which all machines see.
            parameters: of submitit's SlurmExecutor, such as time, in minutes.

        Raises:
            ValueError: time is missing, a parameter is unknown, or this is no machine of a cluster.
        """
        if shutil.which("sbatch") is None:
            raise ValueError("there is no sbatch here; start the sweep on a machine of the cluster")
        if "time" not in parameters:
            raise ValueError(
                "--slurm.time is missing; give the minutes that a job may take at once"
            )
        self._plan, self._dir, self._parameters = plan, sweep_dir, dict(parameters)
        self._ids_path = sweep_dir / "slurm" / "jobs.json"
        self._executor()

    def run(self) -> dict[str, str]:
        """Submits what is neither complete nor in the queue, and watches until all has ended.

        Returns:
            Name of each cell that failed -> the last line its run said.
        """
        made_before = complete_stages(self._dir)
        done, todo = [], []
        for job in self._plan.jobs:
            adopt_stages(self._dir, job, made_before)
            (done if is_complete(self._dir, job) else todo).append(job)
        ids = json.loads(self._ids_path.read_text()) if self._ids_path.exists() else {}
        queued = _queue()
        ids = {name: number for name, number in ids.items() if number in queued}
        for group in _arrays([job for job in todo if job.name not in ids]):
            waits_for = [ids[name] for name in group[0].after if name in ids]
            for job, number in zip(group, self._submit(group, waits_for)):
                ids[job.name] = number
            write_json(self._ids_path, ids)
        print(f"{len(todo)} jobs are in the queue, {len(done)} were complete", flush=True)
        return self._watch(done, todo, ids)

    def _submit(self, jobs: list[Job], waits_for: list[str]) -> list[str]:
        """Submits jobs as one array and returns their numbers."""
        executor = self._executor(waits_for)
        with executor.batch():
            submitted = [executor.submit(SlurmJob(self._plan.base, self._dir, job)) for job in jobs]
        return [job.job_id for job in submitted]

    def _executor(self, waits_for: list[str] | None = None) -> submitit.SlurmExecutor:
        parameters = {"job_name": self._dir.name, **self._parameters}
        delay = parameters.pop("signal_delay_s", 90)
        given = parameters.pop("additional_parameters", {})
        # In place of submitit's own signal, which would not reach the run.
        parameters["additional_parameters"] = {"signal": f"TERM@{delay}", "requeue": True, **given}
        if isinstance(parameters.get("setup"), str):
            parameters["setup"] = [parameters["setup"]]
        if waits_for:
            # However they end: a job whose shared stage is missing says so.
            parameters["dependency"] = "afterany:" + ":".join(waits_for)
        executor = submitit.SlurmExecutor(folder=self._dir / "slurm")
        executor.update_parameters(**parameters)
        return executor

    def _watch(self, done: list[Job], todo: list[Job], ids: dict[str, str]) -> dict[str, str]:
        """Tells how far the jobs are until the last has ended."""
        cells, failures, told = set(self._plan.cells), {}, ""
        missing = dict.fromkeys((job.name for job in todo), 0)
        while True:
            queued = _queue()
            for job in list(todo):
                if ids[job.name] in queued:
                    continue
                missing[job.name] += 1
                outcome = self._outcome(ids[job.name])
                if outcome is None and missing[job.name] < _POLLS_FOR_RESULT:
                    continue
                todo.remove(job)
                stale = not_as_planned(self._dir, job) if outcome == "success" else ""
                if outcome == "success" and not stale:
                    done.append(job)
                    continue
                failures[job.name] = self._why(job, failures, stale, outcome is None)
                print(f"{job.name}: failed: {failures[job.name]}", flush=True)
            running = sum(queued.get(ids[job.name]) == "RUNNING" for job in todo)
            left = seconds_left(
                [(job, 0.0) for job in todo],
                seconds_of_stages(self._dir, done),
                max(1, running),
            )
            names = {job.name for job in done}
            text = progress_line(len(cells & names), len(cells & set(failures)), len(cells), left)
            if text != told:
                print(text, flush=True)
                told = text
            if not todo:
                return {name: said for name, said in failures.items() if name in cells}
            time.sleep(_POLL_SECONDS)

    def _outcome(self, number: str) -> str | None:
        """Returns "success" or "error" as the job's first process left it, or None."""
        path = submitit.SlurmJob(self._dir / "slurm", number, tasks=[0]).paths.result_pickle
        return pickle_load(path)[0] if path.exists() else None

    def _why(self, job: Job, failures: Mapping[str, str], stale: str, was_ended: bool) -> str:
        broken = [name for name in job.after if name in failures]
        if broken:
            return failures[broken[0]]
        if stale:
            return stale
        said = last_line(log_path(self._dir, job.name))
        if was_ended:
            return f"ended by Slurm (cancelled, out of memory or of time) after: {said}"
        return said or f"said nothing; see {self._dir / 'slurm'}"


def _arrays(jobs: list[Job]) -> Iterator[list[Job]]:
    """Yields groups of jobs that wait for the same, each after those that it waits for."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.after, []).append(job)
    waiting = list(groups.values())
    while waiting:
        names = {job.name for group in waiting for job in group}
        ready = next(group for group in waiting if not names & set(group[0].after))
        waiting.remove(ready)
        for first in range(0, len(ready), _LARGEST_ARRAY):
            yield ready[first : first + _LARGEST_ARRAY]


def _queue() -> dict[str, str]:
    """Returns number -> state of every job, and element of an array, that is in the queue."""
    command = "squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format=%i %T"
    shown = _ask(*command, patience=_PATIENCE_OF_A_SWEEP)
    return dict(line.split() for line in shown.splitlines())
