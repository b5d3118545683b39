"""Sweeps of tiny runs: what is refused at once, and one that is stopped and goes on."""

import signal

import pyarrow.parquet
import pytest
from sweeping.folder_lock import only_sweep


def sweep(program, path, workdir, *flags, **options):
    return program.python(
        "experiments/sweep.py", str(path), f"--workdir={workdir}", *flags, **options
    )


@pytest.mark.slow
def test_what_cannot_run_is_refused_before_anything_starts(program, tiny_sweep, tmp_path):
    path = tiny_sweep('hyper.sweep("adapt.stepz", [1, 2])')
    process = sweep(program, path, tmp_path / "sweep")
    log = program.log_of(process)
    assert log == "error: cell stepz=1: the config has no field 'adapt.stepz'\n"
    assert process.returncode == 1 and not (tmp_path / "sweep").exists()


CELLS = """hyper.chainit([
    hyper.grid({"name": ["one", "other"], "recognize.learning_rate": [1e-3, 3e-3]}),
    hyper.fixed("recognize.start", "nowhere"),
])"""


@pytest.mark.slow
def test_a_sweep_stopped_in_the_middle_ends_as_plain_runs_do(
    program, tiny_sweep, wait_for, tmp_path
):
    path, workdir = tiny_sweep(CELLS), tmp_path / "sweep"
    process = sweep(program, path, workdir, "--parallel=2")
    wait_for(lambda: list(workdir.glob("shared/*/recognize")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    log = program.log_of(process)
    assert process.returncode == 143 and "the same command goes on from here" in log, log
    assert not (workdir / "results.html").exists()

    process = sweep(program, path, workdir, "--parallel=2")
    log = program.log_of(process)
    assert process.returncode == 1, log
    assert "5 cells, 8 jobs, 3 of them shared" in log and "4/5 cells, 1 failed" in log
    failed = "start=nowhere"
    (line,) = [line for line in log.splitlines() if line.startswith("failed: ")]
    assert line.startswith(f"failed: {failed}: error: ") and "nowhere" in line

    # What cells share was made once, and is linked.
    cells = sorted(set(workdir.glob("cells/*")) - {workdir / "cells" / failed})
    assert len(cells) == 4
    times = {"pretrain": 1, "adapt": 1, "reinforce": 1, "recognize": 2, "report": 4}
    for stage, number in times.items():
        assert len({(cell / stage).resolve() for cell in cells}) == number, stage
        logs = "".join(log.read_text() for log in workdir.glob("logs/*.log"))
        assert logs.count(f"{stage}: done in") == number, stage

    table = pyarrow.parquet.read_table(workdir / "results.parquet").to_pylist()
    rows = [row for row in table if row["split"] == "open" and row["measure"] == "map"]
    assert len(rows) == 4 and {row["recognize.learning_rate"] for row in rows} == {1e-3, 3e-3}
    page = (workdir / "results.html").read_text()
    assert "4 of 5 cells are complete, 1 failed." in page

    # A job alone, as other launchers run it: it finds everything complete.
    process = sweep(program, path, workdir, f"--job={cells[0].name}")
    log = program.log_of(process)
    assert process.returncode == 0 and "report: complete in" in log, log

    # The first cell, by the plain command.
    fields = {"recognize.arms": "('synthetic_only',)", "privacy.attacks": "()"}
    fields |= {"reinforce.iterations": 1, "recognize.learning_rate": 1e-3, "name": "one"}
    program.run(tmp_path / "plain", fields=fields)
    assert metrics(tmp_path / "plain") == metrics(cells[0])


def metrics(workdir) -> str:
    return (workdir / "evaluate" / "metrics.json").read_text()


@pytest.mark.slow
def test_where_a_sweep_is_at_work_another_changes_nothing(program, tiny_sweep, tmp_path):
    workdir = tmp_path / "sweep"
    asked = "--launcher=none"
    path = tiny_sweep('hyper.sweep("seed", [0, 1])')
    first = program.log_of(sweep(program, path, workdir, asked))
    assert first.startswith("2 cells")
    plan = (workdir / "sweep.json").read_bytes()
    with only_sweep(workdir):
        # One may look on.
        assert program.log_of(sweep(program, path, workdir, asked)) == first
        path = tiny_sweep('hyper.sweep("seed", [0])')
        for flags in ([asked], []):
            process = sweep(program, path, workdir, *flags)
            assert "another sweep, or a run that it left behind" in program.log_of(process)
            assert process.returncode == 1
        assert (workdir / "sweep.json").read_bytes() == plan
