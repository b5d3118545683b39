"""What of a sweep on Slurm can be checked without one: parameters, and the order of arrays."""

import os

import pytest
from sweeping.cells import SweepError
from sweeping.jobs import Job
from sweeping.plan import Plan

submitit = pytest.importorskip("submitit", reason="pip install -e '.[slurm]'")
slurm = pytest.importorskip("sweeping.slurm")


@pytest.fixture
def slurm_commands(tmp_path, monkeypatch):
    """Commands of Slurm's name, so that a cluster seems to be there."""
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def job(name, *after):
    return Job(name, f"cells/{name}", {}, {"report": name}, {}, after, (name,))


def test_jobs_that_wait_for_the_same_are_an_array_after_those(slurm_commands):
    jobs = [job("a"), job("b", "a"), job("c", "b"), job("d", "b"), job("e", "a"), job("f")]
    arrays = [[job.name for job in group] for group in slurm._arrays(jobs)]
    assert arrays == [["a", "f"], ["b", "e"], ["c", "d"]]
    # What is complete is waited for no more.
    assert [len(group) for group in slurm._arrays(jobs[1:5])] == [2, 2]


def test_an_array_is_not_longer_than_slurm_takes(slurm_commands):
    sizes = [len(group) for group in slurm._arrays([job(str(n)) for n in range(2500)])]
    assert sizes == [1000, 1000, 500]


def test_a_job_is_told_by_sigterm_and_may_come_back(slurm_commands, tmp_path):
    runs = slurm.SlurmRuns(Plan("base", "title", {}, []), tmp_path, {"time": 7, "nodes": 2})
    executor = runs._executor(["12", "13_4"])
    script = executor._make_submission_file_text("command", "uid")
    for line in (
        "--signal=TERM@90",
        "--requeue",
        "--time=7",
        "--nodes=2",
        "--dependency=afterany:12:13_4",
    ):
        assert f"#SBATCH {line}\n" in script, script
    assert "USR2" not in script


def test_an_element_of_an_array_asks_for_itself_alone(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm._own_number() == "7"
    # The last element has the number of the whole array.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm._own_number() == "7_2"


def test_a_server_that_does_not_answer_is_asked_again(tmp_path, monkeypatch):
    command, asked = tmp_path / "squeue", tmp_path / "asked"
    command.write_text(
        f"#!/bin/sh\necho x >> {asked}\n"
        f'[ $(wc -l < {asked}) -ge 3 ] || {{ echo "Socket timed out" >&2; exit 1; }}\n'
        "echo 4 RUNNING\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.01)
    assert slurm._queue() == {"4": "RUNNING"}
    asked.unlink()
    monkeypatch.setattr(slurm, "_PATIENCE_OF_A_SWEEP", 0)
    with pytest.raises(SweepError, match="squeue failed for 0 s, with code 1: Socket timed out"):
        slurm._queue()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({}, "--slurm.time is missing"), ({"time": 1, "tiem": 2}, "Unavailable parameter.*tiem")],
)
def test_wrong_parameters_are_refused(slurm_commands, tmp_path, parameters, expected):
    with pytest.raises((ValueError, NameError), match=expected):
        slurm.SlurmRuns(Plan("base", "title", {}, []), tmp_path, parameters)


def test_without_a_cluster_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no sbatch here"):
        slurm.SlurmRuns(Plan("base", "title", {}, []), tmp_path, {"time": 1})
