"""A sweep on a real Slurm of this machine: two processes a job, an array, and a preemption."""

import json

import pytest

pytestmark = pytest.mark.slow
# Nothing but SIGTERM saves a step of pretrain.
FIELDS = {"pretrain.steps": 40, "pretrain.checkpoint_every": 10_000}


def started(program, slurm, path, workdir, *flags):
    """Returns the process of a sweep on Slurm."""
    command = ["experiments/sweep.py", str(path), f"--workdir={workdir}", "--launcher=slurm"]
    return program.python(*command, "--slurm.time=60", *flags, environment=slurm.environment)


def require_good_end(program, process, workdir) -> str:
    """Waits for the end, which must be a good one, and returns the log."""
    log = program.log_of(process)
    assert process.returncode == 0, log + "".join(
        path.read_text() for path in workdir.glob("slurm/*.err")
    )
    return log


def test_an_element_of_an_array_goes_back_into_the_queue_alone(
    program, slurm, tiny_sweep, wait_for, tmp_path
):
    path = tiny_sweep('hyper.sweep("pretrain.learning_rate", [1e-3, 2e-3])', **FIELDS)
    workdir = tmp_path / "sweep"
    process = started(program, slurm, path, workdir)
    cells = "learning_rate=0.001", "learning_rate=0.002"
    metrics = [workdir / "cells" / cell / "pretrain" / "metrics.jsonl" for cell in cells]
    wait_for(lambda: all(each.exists() for each in metrics) or process.poll() is not None)
    assert process.poll() is None, program.log_of(process)
    ids = json.loads((workdir / "slurm" / "jobs.json").read_text())
    array = ids[cells[0]].removesuffix("_0")
    assert ids[cells[1]] == f"{array}_1"
    # The last element has the number of the whole array.
    slurm.ask("scancel", "--signal=TERM", ids[cells[1]])
    require_good_end(program, process, workdir)
    said = [(workdir / "logs" / f"{cell}.log").read_text() for cell in cells]
    assert [each.count("SIGTERM: pretrain, step") for each in said] == [0, 1]
    assert [each.count("pretrain: resuming") for each in said] == [0, 1]


def test_a_preempted_job_of_two_processes_goes_on_and_its_array_follows(
    program, slurm, tiny_sweep, wait_for, tmp_path
):
    path = tiny_sweep('hyper.sweep("name", ["one", "other"])', **FIELDS)
    workdir = tmp_path / "sweep"
    process = started(
        program, slurm, path, workdir, "--slurm.partition=low", "--slurm.ntasks_per_node=2"
    )
    metrics = "shared/*/pretrain/metrics.jsonl"
    wait_for(lambda: list(workdir.glob(metrics)) or process.poll() is not None)
    assert process.poll() is None, program.log_of(process)
    # All cores, in a partition that goes before.
    assert slurm.ask("srun", "--partition=high", "--ntasks=4", "echo", "done").count("done") == 4
    log = require_good_end(program, process, workdir)
    assert "2 cells, 3 jobs, 1 of them shared" in log and "2/2 cells" in log

    shared, second = sorted(workdir.glob("logs/evaluate-*.log"), key=lambda path: len(path.name))
    said = shared.read_text()
    assert said.count("SIGTERM: pretrain, step") == 1 and "pretrain: resuming" in said
    assert "2 process(es)" in said and second.read_text().count("2 process(es)") == 2
    ids = json.loads((workdir / "slurm" / "jobs.json").read_text())
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", ids[shared.stem])
    array = ids["name=one"].removesuffix("_0")
    assert ids["name=other"] == f"{array}_1"
    for cell in ("name=one", "name=other"):
        assert (workdir / "cells" / cell / "report" / "report.html").exists()
    assert (workdir / "results.html").exists()
