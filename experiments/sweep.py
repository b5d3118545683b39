"""Runs a sweep: many runs from one small file, with what they share computed once.

    python experiments/sweep.py experiments/sweeps/reward_weights.py --workdir=DIR [--parallel=2]
    python experiments/sweep.py FILE --workdir=DIR --launcher=slurm --slurm.time=240 \
        --slurm.partition=gpu --slurm.gpus_per_node=8 --slurm.nodes=2

FILE has BASE, a config file as --config takes it, and get_hyper(hyper), which gives the cells: a
list of dicts of config fields, made with experiments/sweeping/hyper.py. Every cell is checked
before anything starts. DIR/cells/NAME is a cell's work folder, DIR/shared/ has the stages that
several cells share, DIR/logs/ what the runs said, DIR/results.parquet a row for each cell, arm,
measure and split, and DIR/results.html the page to look at. The same command goes on where it was
stopped, makes failed cells anew, and takes over what a smaller or larger sweep in DIR has made, as
long as DIR keeps its path: the priors' folder is part of what runs know themselves by.

On Slurm (`pip install -e '.[slurm]'`) the jobs wait for each other in the queue, save and go back
into it when they are preempted or their time is up, and --slurm.NAME=VALUE are submitit's
parameters. The command then watches the queue; ended and given again, it watches on.

`--only=PATTERN` runs nothing but the cells with such names, and what they share with others; it
may be given several times.
`--launcher=none` plans, lists the jobs that are not complete, gathers the results so far and runs
nothing. `--job=NAME` runs one job of that plan, and is what other launchers may call, in every
process of the job: experiments/jobset.yaml does on GKE.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from sweeping.cells import SweepError
from sweeping.commands import job_command, job_environment
from sweeping.folder_lock import only_sweep
from sweeping.local import Interrupted, LocalRuns
from sweeping.name_patterns import add_only
from sweeping.named_folder import named_folder
from sweeping.plan import Plan, is_written, plan_sweep, read_plan, write_plan
from sweeping.results import write_results
from sweeping.work_folders import is_complete, link_stages


def main(arguments: list[str]) -> None:
    """Plans, runs what is not complete, and gathers the results; ends with 1 if a cell failed."""
    options, slurm = parse(arguments)
    sweep_dir = options.workdir.absolute()
    try:
        if options.job:
            become(read_plan(sweep_dir), sweep_dir, options.job)
        plan = plan_sweep(options.file, sweep_dir)
        shared = sum(len(job.cells) > 1 for job in plan.jobs)
        print(
            f"{len(plan.cells)} cells, {len(plan.jobs)} jobs, {shared} of them shared", flush=True
        )
        asked = plan.only(options.only) if options.only else plan
        # What is only looked at may be at work.
        looks_on = options.launcher == "none" and is_written(plan, sweep_dir)
        with contextlib.nullcontext(-1) if looks_on else only_sweep(sweep_dir) as lock:
            if not looks_on:
                write_plan(plan, sweep_dir)
            failures = run(asked, sweep_dir, lock, options, slurm)
    except (SweepError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except Interrupted:
        print("stopped; the same command goes on from here", flush=True)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        if options.launcher == "slurm":
            print("no longer watching; the jobs stay in the queue, the same command watches on")
        sys.exit(128 + signal.SIGINT)
    print(f"results: {write_results(plan, sweep_dir, failures)}", flush=True)
    for name, said in failures.items():
        print(f"failed: {name}: {said}", flush=True)
    sys.exit(1 if failures else 0)


def run(
    plan: Plan,
    sweep_dir: Path,
    lock: int,
    options: argparse.Namespace,
    slurm: dict[str, object],
) -> dict[str, str]:
    """Runs the jobs with the launcher that is asked for; returns cells that failed, and why."""
    if options.launcher == "none":
        for job in plan.jobs:
            if not is_complete(sweep_dir, job):
                after = f", after {', '.join(job.after)}" if job.after else ""
                print(f"{job.name}: {', '.join(job.stages)}{after}")
        return {}
    if options.launcher == "slurm":
        try:
            from sweeping.slurm import SlurmRuns
        except ModuleNotFoundError as error:
            message = f"--launcher=slurm needs {error.name}: pip install -e '.[slurm]'"
            raise SweepError(message) from error
        return SlurmRuns(plan, sweep_dir, slurm).run()
    devices = options.gpus.split(";") if options.gpus else []
    return LocalRuns(plan, sweep_dir, lock, options.parallel, devices).run()


def become(plan: Plan, sweep_dir: Path, name: str) -> NoReturn:
    """Turns this process into the run of one job, which then gets the launcher's signals itself.

    Raises:
        SweepError: there is no such job.
        FileNotFoundError: a stage that it starts from is not complete.
    """
    jobs = {job.name: job for job in plan.jobs}
    if name not in jobs:
        raise SweepError(f"{name!r} is no job of {sweep_dir}; its jobs are {', '.join(jobs)}")
    link_stages(sweep_dir, jobs[name])
    command = job_command(plan.base, sweep_dir, jobs[name])
    os.execvpe(command[0], command, job_environment(sweep_dir))


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """Returns the options, and Slurm's by name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="sweep file")
    parser.add_argument("--workdir", type=named_folder, required=True, help="folder of the sweep")
    parser.add_argument("--launcher", choices=("local", "slurm", "none"), default="local")
    parser.add_argument("--parallel", type=int, default=1, help="local runs at a time")
    parser.add_argument(
        "--gpus",
        default="",
        help="CUDA_VISIBLE_DEVICES of each local run at a time, as '0;1' or '0,1;2,3'; instead of "
        "--parallel",
    )
    add_only(parser)
    parser.add_argument("--job", default="", help="run this job of the plan in --workdir")
    options, rest = parser.parse_known_args(arguments)
    slurm = {}
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not (name.startswith("--slurm.") and equals):
            parser.error(f"unknown argument {argument!r}; Slurm's are --slurm.NAME=VALUE")
        try:
            slurm[name.removeprefix("--slurm.")] = json.loads(value)
        except json.JSONDecodeError:
            slurm[name.removeprefix("--slurm.")] = value
    if slurm and options.launcher != "slurm":
        parser.error("--slurm.NAME=VALUE needs --launcher=slurm")
    if options.parallel < 1:
        parser.error(f"--parallel is {options.parallel}; it must be at least 1")
    return options, slurm


if __name__ == "__main__":
    main(sys.argv[1:])
