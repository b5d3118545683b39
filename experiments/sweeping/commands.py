"""The command of a job, the file it says everything in, and its last words."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeping.jobs import Job


def job_command(base: str, sweep_dir: Path, job: Job) -> list[str]:
    """Returns the command line of a job's run."""
    return [
        sys.executable,
        "-m",
        "rlsyn_jax.main",
        f"--config={base}",
        f"--workdir={sweep_dir / job.workdir}",
        f"--stages={','.join(job.stages)}",
        *(f"--config.{field}={_flag(value)}" for field, value in job.changes.items()),
    ]


def _flag(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)


def log_path(sweep_dir: Path, name: str, process: int = 0) -> Path:
    """Returns the file that holds what a job's process has said in all its attempts."""
    return sweep_dir / "logs" / (f"{name}.log" if process == 0 else f"{name}.{process}.log")


def job_environment(sweep_dir: Path) -> dict[str, str]:
    """Returns this process's variables, and a place for what runs compile, which cells share."""
    return {"JAX_COMPILATION_CACHE_DIR": str(sweep_dir / "compilation_cache"), **os.environ}


def start_job(
    base: str,
    sweep_dir: Path,
    job: Job,
    *,
    process: int = 0,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen:
    """Starts a job's run, which appends to its log.

    Args:
        base: config file, as of --config.
        sweep_dir: absolute folder of the sweep.
        job: to run.
        process: its number, where the job has several.
        environment: variables beside those of this process.
        options: of subprocess.Popen.
    """
    path = log_path(sweep_dir, job.name, process)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = job_command(base, sweep_dir, job)
    with open(path, "a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        return subprocess.Popen(
            command,
            env={**job_environment(sweep_dir), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **options,
        )


def last_line(path: Path) -> str:
    """Returns the last line of a log that is not empty; "" where nothing was said."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 65536))
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said and not said[-1].startswith("$ ") else ""
