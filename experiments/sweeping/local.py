"""Runs a sweep's jobs on this machine, so many at a time, each as a process with its log."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

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

# What a run ends with that was asked to end and can go on (rlsyn_jax/training/preemption.py).
_STOPPED = 128 + signal.SIGTERM
_POLL_SECONDS, _TELL_SECONDS = 0.2, 30.0


class Interrupted(Exception):
    """The sweep was asked to end; its runs have saved what they had."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """What one of the runs at a time may use: CUDA_VISIBLE_DEVICES, and processor cores.

    Runs that share cores hold each other up: each would have as many threads as there are cores.
    """

    devices: str = ""
    cores: frozenset[int] = frozenset()


@dataclasses.dataclass
class _Running:
    """A job that has been started: where, since when, and signals it has had."""

    job: Job
    process: subprocess.Popen
    place: _Place
    started: float
    signals: int = 0


class LocalRuns:
    """The jobs of a sweep on one machine."""

    def __init__(
        self, plan: Plan, sweep_dir: Path, lock: int, parallel: int, devices: Sequence[str] = ()
    ):
        """Looks at nothing yet.

        Args:
            plan: of the sweep.
            sweep_dir: its absolute folder.
            lock: file descriptor of the folder's lock, which the runs inherit.
            parallel: jobs at a time.
            devices: CUDA_VISIBLE_DEVICES of each of them; () = all see everything, and each has its
                share of the processor's cores where there are as many.
        """
        self._plan, self._dir, self._lock = plan, sweep_dir, lock
        self._free = [_Place(devices=seen) for seen in devices] or _share_cores(parallel)
        self._parallel = len(self._free)
        self._waiting = list(plan.jobs)
        self._running: list[_Running] = []
        self._done: list[Job] = []
        self.failures: dict[str, str] = {}
        self._signals = 0
        self._told, self._last_told = "", 0.0

    def run(self) -> dict[str, str]:
        """Runs everything that is not complete.

        Returns:
            Name of each cell that failed -> the last line its run said, or why it could not begin.

        Raises:
            Interrupted: SIGINT or SIGTERM came; it was passed on, and all runs have ended.
        """
        made_before = complete_stages(self._dir)
        with self._handled_signals():
            self._settle_complete(made_before)
            while self._waiting or self._running:
                if not self._signals:
                    self._start(made_before)
                self._pass_signals_on()
                self._collect()
                if self._signals and not self._running:
                    raise Interrupted
                if self._running:
                    time.sleep(_POLL_SECONDS)
            self._tell(force=True)
        names = set(self._plan.cells)
        return {name: said for name, said in self.failures.items() if name in names}

    @contextlib.contextmanager
    def _handled_signals(self) -> Iterator[None]:
        """Counts SIGINT and SIGTERM instead of dying of them."""

        def note(number, frame):
            self._signals += 1

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_signals_on(self) -> None:
        """Sends every run a SIGTERM for each signal: it saves at the first, not at the second."""
        for running in self._running:
            while running.signals < self._signals:
                running.signals += 1
                running.process.send_signal(signal.SIGTERM)

    def _settle_complete(self, made_before: dict[str, Path]) -> None:
        """Sets aside what is complete, so that it asks nothing of jobs that are not."""
        for job in list(self._waiting):
            adopt_stages(self._dir, job, made_before)
            if not is_complete(self._dir, job):
                continue
            with contextlib.suppress(FileNotFoundError):  # Of a stage that is to be made anew.
                link_stages(self._dir, job)
                self._waiting.remove(job)
                self._done.append(job)

    def _start(self, made_before: dict[str, Path]) -> None:
        """Starts what can run, and settles what need not or cannot."""
        done = {job.name for job in self._done}
        ready = [job for job in self._waiting if done.issuperset(job.after)]
        # What all others wait for need not leave cores to anybody.
        alone = len(ready) == 1 and not self._running
        for job in list(self._waiting):
            broken = [name for name in job.after if name in self.failures]
            if broken:
                self._waiting.remove(job)
                self._fail(job, self.failures[broken[0]])
            elif done.issuperset(job.after) and self._free:
                self._waiting.remove(job)
                link_stages(self._dir, job)
                adopt_stages(self._dir, job, made_before)
                if is_complete(self._dir, job):
                    self._done.append(job)
                    continue
                place = self._free.pop(0)
                with _on_cores(frozenset() if alone else place.cores):
                    process = start_job(
                        self._plan.base,
                        self._dir,
                        job,
                        environment={"CUDA_VISIBLE_DEVICES": place.devices}
                        if place.devices
                        else {},
                        # Not by the terminal's own signals: they come from here, once.
                        start_new_session=True,
                        # A sweep that is killed leaves runs, which keep the lock until they end.
                        pass_fds=(self._lock,),
                    )
                self._running.append(_Running(job, process, place, time.monotonic()))
                self._say(f"{job.name}: {', '.join(job.stages)}")

    def _collect(self) -> None:
        """Settles the jobs that have ended."""
        for running in list(self._running):
            job, code = running.job, running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            self._free.append(running.place)
            stale = not_as_planned(self._dir, job) if code == 0 else ""
            if stale:
                self._fail(job, stale)
            elif code == 0:
                self._done.append(job)
            elif code in (_STOPPED, -signal.SIGTERM):
                self._waiting.insert(0, job)  # It goes on where it was.
            else:
                said = last_line(log_path(self._dir, job.name))
                if code < 0:
                    said = f"ended by {signal.Signals(-code).name} after: {said or '(nothing)'}"
                self._fail(job, said or f"ended with code {code} and said nothing")
            self._tell(force=True)
        self._tell()

    def _fail(self, job: Job, said: str) -> None:
        self.failures[job.name] = said
        self._say(f"{job.name}: failed: {said}")

    def _tell(self, force: bool = False) -> None:
        """Prints the line of progress, when something has happened and now and then."""
        now = time.monotonic()
        if not force and now - self._last_told < _TELL_SECONDS:
            return
        self._last_told = now
        todo = [(job, 0.0) for job in self._waiting]
        todo += [(running.job, now - running.started) for running in self._running]
        names = set(self._plan.cells)
        text = progress_line(
            len(names & {job.name for job in self._done}),
            len(names & set(self.failures)),
            len(names),
            seconds_left(todo, seconds_of_stages(self._dir, self._done), self._parallel),
        )
        if text != self._told:
            self._told = text
            self._say(text)

    @staticmethod
    def _say(text: str) -> None:
        print(text, flush=True)


def _share_cores(parallel: int) -> list[_Place]:
    """Returns a place for each run at a time, with cores of its own where there are enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if not 1 < parallel <= len(cores):
        return [_Place()] * parallel
    return [_Place(cores=frozenset(cores[number::parallel])) for number in range(parallel)]


@contextlib.contextmanager
def _on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Keeps this thread, and what it starts, on some cores; none = where it is."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
