"""Jobs on this machine: their order, who waits, who fails, signals; with a small program as runs.

It writes what a run writes about its stages, and does what the test asks for.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time

import pytest
from sweeping import commands
from sweeping.folder_lock import only_sweep
from sweeping.jobs import Job
from sweeping.local import Interrupted, LocalRuns
from sweeping.plan import Plan

RUN = """
import json, os, pathlib, signal, sys, time
name, workdir, fingerprints, what = sys.argv[1:]
place = pathlib.Path(workdir)
events = open(place.parents[1] / "events", "a", buffering=1)
cores = "" if what != "tells cores" else ",".join(map(str, sorted(os.sched_getaffinity(0))))
events.write(f"begin {name} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}{cores}\\n")
def stop(number, frame):
    events.write(f"stopped {name}\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if what == "fails":
    print("working")
    print("error: it is broken\\n")
    sys.exit(1)
if what == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(20 if what == "slow" and not (place / "seen").exists() else 0.3)
for stage, value in json.loads(fingerprints).items():
    (place / stage).mkdir(parents=True, exist_ok=True)
    made = what.removeprefix("makes ") if what.startswith("makes ") else value
    record = {"complete": True, "fingerprint": made, "seconds": 0.3}
    (place / stage / "stage.json").write_text(json.dumps(record))
events.write(f"end {name}\\n")
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A function (jobs, what each does, options) that gives LocalRuns of the small program."""
    (tmp_path / "run.py").write_text(RUN)

    def make(jobs, does=None, parallel=2, **options):
        def command(base, sweep_dir, job):
            (sweep_dir / job.workdir).mkdir(parents=True, exist_ok=True)
            what = (does or {}).get(job.name, "")
            stages = json.dumps(job.fingerprints)
            program = [sys.executable, "-S", str(tmp_path / "run.py")]
            return [*program, job.name, str(sweep_dir / job.workdir), stages, what]

        monkeypatch.setattr(commands, "job_command", command)
        cells = {job.name: {} for job in jobs if job.workdir.startswith("cells")}
        plan = Plan("base", "title", cells, jobs)
        return LocalRuns(plan, tmp_path / "sweep", lock, parallel, **options)

    with only_sweep(tmp_path / "sweep") as lock:
        yield make


def job(name, *after, links=None, stage="report"):
    workdir = f"shared/{name}" if stage == "adapt" else f"cells/{name}"
    return Job(name, workdir, {}, {stage: f"of {name}"}, links or {}, after, (name,))


def shared_by(*names):
    links = {"adapt": "shared/start"}
    return [job("start", stage="adapt"), *(job(name, "start", links=links) for name in names)]


def events(tmp_path):
    return [line.split() for line in (tmp_path / "sweep" / "events").read_text().splitlines()]


def test_jobs_wait_for_what_they_share_and_so_many_run_at_once(runs, tmp_path, capfd):
    assert runs(shared_by("a", "b", "c", "d", "e")).run() == {}
    happened = events(tmp_path)
    assert happened[:2] == [["begin", "start"], ["end", "start"]]
    running = most = 0
    for what, *_ in happened:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most == 2 and len(happened) == 12
    assert os.readlink(tmp_path / "sweep/cells/a/adapt") == "../../shared/start/adapt"
    said = capfd.readouterr().out.splitlines()
    assert said[-1] == "5/5 cells" and "3/5 cells, 0 s left" in "\n".join(said)


def test_what_is_complete_is_not_run_again_and_what_differs_is(runs, tmp_path):
    runs(shared_by("a", "b")).run()
    (tmp_path / "sweep/cells/b/report/stage.json").unlink()
    first = events(tmp_path)
    assert runs(shared_by("a", "b", "c")).run() == {}
    assert sorted(events(tmp_path)[len(first) :]) == [
        ["begin", "b"],
        ["begin", "c"],
        ["end", "b"],
        ["end", "c"],
    ]


def test_what_another_cell_has_made_is_taken_over(runs, tmp_path):
    runs([job("a")]).run()
    renamed = Job("b", "cells/b", {}, {"report": "of a"}, {}, (), ("b",))
    assert runs([renamed]).run() == {}
    assert [line[1] for line in events(tmp_path)] == ["a", "a"]
    assert (tmp_path / "sweep/cells/b/report/stage.json").exists()


def test_a_complete_cell_does_not_wait_for_what_it_needs_no_more(runs, tmp_path):
    runs([job("a")]).run()
    # As where a sweep grows by a cell that comes first and trains the prior of both.
    grown = [job("b.pretrain", stage="adapt"), job("a", "b.pretrain")]
    assert runs(grown, {"b.pretrain": "fails"}).run() == {}
    assert ["end", "a"] in events(tmp_path)
    assert not [line for line in events(tmp_path)[2:] if line[1] == "a"]


def test_failed_cells_are_told_with_their_last_words_and_the_rest_goes_on(runs, tmp_path):
    does = {"a": "fails", "b": "dies"}
    failures = runs(shared_by("a", "b", "c"), does).run()
    assert failures == {
        "a": "error: it is broken",
        "b": "ended by SIGKILL after: (nothing)",
    }
    assert ["end", "c"] in events(tmp_path)
    assert runs(shared_by("a", "b", "c")).run() == {}  # Mended.


def test_cells_of_a_shared_stage_that_failed_are_not_begun(runs, tmp_path):
    failures = runs(shared_by("a", "b"), {"start": "fails"}).run()
    assert failures == {"a": "error: it is broken", "b": "error: it is broken"}
    assert [line[1] for line in events(tmp_path)] == ["start"]


def test_a_run_that_went_on_from_a_stage_of_another_config_has_failed(runs, tmp_path):
    """As where a cell that ran alone, by another config, comes to share a stage with others."""
    own = tmp_path / "sweep/cells/a/adapt"
    own.mkdir(parents=True)
    (own / "stage.json").write_text('{"complete": true, "fingerprint": "old", "seconds": 1.0}')
    goes_on = {"a": "makes of old"}
    failures = runs(shared_by("a", "b"), goes_on).run()
    assert failures == {
        "a": f"report is not what the sweep plans, since {own} was made by another config; delete "
        "that folder and those of later stages beside it, and run the sweep again"
    }
    shutil.rmtree(own)
    shutil.rmtree(own.with_name("report"))
    assert runs(shared_by("a", "b")).run() == {}


def test_each_place_sees_its_own_devices(runs, tmp_path):
    runs([job(name) for name in "abcd"], devices=["0,1", "2,3"]).run()
    shown = [line[2] for line in events(tmp_path) if line[0] == "begin"]
    assert sorted(shown) == ["0,1", "0,1", "2,3", "2,3"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be shared out")
@pytest.mark.parametrize("parallel", [1, 2, 1000])
def test_runs_at_a_time_share_the_cores(runs, tmp_path, parallel):
    cores = sorted(os.sched_getaffinity(0))
    jobs = [job(name) for name in "abcd"]
    runs(jobs, {name: "tells cores" for name in "abcd"}, parallel=parallel).run()
    shown = {line[2] for line in events(tmp_path) if line[0] == "begin"}
    shares = [cores] if parallel != 2 or len(cores) < 2 else [cores[::2], cores[1::2]]
    assert shown == {",".join(map(str, share)) for share in shares}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be shared out")
def test_what_all_others_wait_for_has_all_cores(runs, tmp_path):
    jobs = shared_by("a", "b")
    runs(jobs, dict.fromkeys(("start", "a", "b"), "tells cores")).run()
    shown = {line[1]: line[2] for line in events(tmp_path) if line[0] == "begin"}
    assert shown["start"] == ",".join(map(str, sorted(os.sched_getaffinity(0))))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_same_sweep_goes_on(runs, tmp_path, number):
    def interrupt():
        while not (tmp_path / "sweep/events").exists() or len(events(tmp_path)) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    with pytest.raises(Interrupted):
        runs([job(name) for name in "abc"], {"a": "slow", "b": "slow"}).run()
    assert signal.getsignal(number) is before
    stopped = [line for line in events(tmp_path) if line[0] == "stopped"]
    assert sorted(stopped) == [["stopped", "a"], ["stopped", "b"]]
    assert runs([job(name) for name in "abc"]).run() == {}


def test_a_run_that_was_asked_to_end_by_somebody_else_is_begun_again(runs, tmp_path):
    sweep = runs([job("a")], {"a": "slow"})

    def interrupt():
        while not sweep._running:
            time.sleep(0.05)
        time.sleep(0.5)
        (tmp_path / "sweep/cells/a/seen").touch()
        sweep._running[0].process.terminate()

    threading.Thread(target=interrupt).start()
    assert sweep.run() == {}
    assert [line[0] for line in events(tmp_path)] == ["begin", "stopped", "begin", "end"]


def test_two_sweeps_do_not_share_a_folder(runs, tmp_path):
    sweep = runs([job("a")], {"a": "slow"})
    refused = []

    def second():
        while not sweep._running:
            time.sleep(0.05)
        try:
            with only_sweep(tmp_path / "sweep"):
                pass
        except BlockingIOError as error:
            refused.append(str(error))
        (tmp_path / "sweep/cells/a/seen").touch()
        sweep._running[0].process.terminate()

    thread = threading.Thread(target=second)
    thread.start()
    sweep.run()
    thread.join()
    assert len(refused) == 1 and "is at work in" in refused[0]
