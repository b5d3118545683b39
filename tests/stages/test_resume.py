"""A run that is killed at any moment goes on by the same command and ends with the same bytes.

Real processes, real SIGKILLs. What is compared with a run that was never killed: parameters,
optimiser state, running averages, keys and data positions of the newest checkpoints, every image,
manifest, journal of kept images, metrics.jsonl line by line, and metrics.json.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

pytestmark = pytest.mark.slow

# Metrics are written every 20 steps and with checkpoints, which fall on other steps or on the same.
FIELDS = {
    "pretrain.steps": 75,
    "pretrain.checkpoint_every": 25,
    "adapt.steps": 75,
    "adapt.checkpoint_every": 20,
    "reinforce.iterations": 6,
    "reinforce.checkpoint_every": 2,
    "reinforce.evaluate_every": 3,
    "synthesize.near_copy_quantile": 0.5,
    "recognize.steps": 50,
    "recognize.checkpoint_every": 15,
    "recognize.ema_decay": 0.9,
    "recognize.arms": "('real','real_reinforced_selected')",
}


@pytest.fixture(scope="module")
def never_killed(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("never_killed") / "run"
    program.run(workdir, fields=FIELDS)
    return workdir


def last_step(path) -> int:
    """The newest whole line's step, or -1."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=-1)


def lines(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_when(program, process, happened):
    """Kills the process at the moment something has happened; it must not end before."""
    while process.poll() is None:
        if happened():
            os.kill(process.pid, signal.SIGSTOP)
            if happened():
                process.kill()
                assert process.wait() == -signal.SIGKILL
                return
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.002)
    pytest.fail(f"the run ended before it could be killed:\n{program.log_of(process)}")


def checkpoint(folder):
    """Everything in the newest step of a folder: arrays by name, the record and the position."""
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    arrays = ocp.PyTreeCheckpointer().restore(folder / str(step) / "state")
    meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    flat = jax.tree_util.tree_flatten_with_path(arrays)[0]
    content = {jax.tree_util.keystr(path): value for path, value in flat}
    return {"step": step, "meta": meta, "arrays": content}


def raw(value):
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).dtype.str, np.asarray(value).shape, np.asarray(value).tobytes()


def require_same(run, reference):
    """Compares everything that two runs of one config wrote and that is not a time."""
    folders = sorted(path.parent.parent for path in reference.glob("**/state/_METADATA"))
    stores = sorted({path.parent.relative_to(reference) for path in folders})
    assert len(stores) == 11  # 3 generators and their training, 3 extractors, 2 recognisers.
    for store in stores:
        one, other = checkpoint(run / store), checkpoint(reference / store)
        assert one["step"] == other["step"] and one["meta"] == other["meta"], store
        assert one["arrays"].keys() == other["arrays"].keys()
        for name, value in one["arrays"].items():
            assert raw(value) == raw(other["arrays"][name]), f"{store}: {name} differs"
    files = [
        path.relative_to(reference)
        for pattern in ("**/*.png", "**/manifest.parquet", "**/metrics.jsonl", "*/*.json")
        for path in sorted(reference.glob(pattern))
        if path.name != "stage.json"
    ]
    assert len(files) > 30
    for file in files:
        assert (run / file).read_bytes() == (reference / file).read_bytes(), f"{file} differs"


MOMENTS = {
    "pretrain, 15 steps after a checkpoint": lambda w: (
        last_step(w / "pretrain" / "metrics.jsonl") >= 40
    ),
    "pretrain, while a checkpoint is written": lambda w: any(
        (w / "pretrain" / "checkpoints").glob("*.orbax-checkpoint-tmp")
    ),
    "pretrain, between two extractors": lambda w: (
        w / "pretrain" / "extractors" / "reward" / "1"
    ).exists(),
    "adapt, 15 steps after a checkpoint": lambda w: last_step(w / "adapt" / "metrics.jsonl") >= 40,
    "reinforce, before the first checkpoint": lambda w: (
        last_step(w / "reinforce" / "metrics.jsonl") >= 1
    ),
    "reinforce, between two iterations": lambda w: (w / "reinforce" / "checkpoints" / "2").exists(),
    "reinforce, within an iteration after one": lambda w: (
        last_step(w / "reinforce" / "metrics.jsonl") in (3, 5)
    ),
    "synthesize, within an identity": lambda w: (
        lines(w / "synthesize" / "cold_start" / "journal.jsonl") % 3 == 1
    ),
    "synthesize, in the second set": lambda w: (
        lines(w / "synthesize" / "reinforced" / "journal.jsonl") >= 4
    ),
    "recognize, 10 steps after a checkpoint": lambda w: (
        last_step(w / "recognize" / "seed_0" / "real" / "metrics.jsonl") == 40
    ),
    "recognize, in the last arm": lambda w: (
        last_step(w / "recognize" / "seed_0" / "real_reinforced_selected" / "metrics.jsonl") >= 20
    ),
}


def test_a_run_killed_in_every_stage_ends_as_one_never_killed(program, tmp_path, never_killed):
    workdir = tmp_path / "run"
    for moment, happened in MOMENTS.items():
        process = program.start(workdir, fields=FIELDS)
        kill_when(program, process, lambda happened=happened: happened(workdir))
        stage = moment.partition(",")[0]
        assert not json.loads((workdir / stage / "stage.json").read_text())["complete"], moment
    log = program.run(workdir, fields=FIELDS)
    assert "recognize: resuming" in log and "synthesize: complete" in log
    require_same(workdir, never_killed)


@pytest.mark.parametrize("seed", [0])
def test_a_run_killed_at_random_moments_ends_as_one_never_killed(
    program, tmp_path, never_killed, seed
):
    workdir = tmp_path / "run"
    generator = np.random.default_rng(seed)
    for _ in range(8):
        process = program.start(workdir, fields=FIELDS)
        try:
            process.wait(timeout=generator.uniform(4, 16))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    program.run(workdir, fields=FIELDS)
    require_same(workdir, never_killed)


def test_a_disk_that_fills_up_is_named_and_room_lets_the_run_go_on(
    program, mounted, tmp_path, never_killed
):
    with mounted(tmp_path / "disk", "size=100m") as disk:
        for trigger in ("pretrain/checkpoints/25", "synthesize/cold_start/journal.jsonl"):
            process = program.start(disk / "run", fields=FIELDS)
            while process.poll() is None and not (disk / "run" / trigger).exists():
                time.sleep(0.002)
            fill(disk / "filler")
            log = program.log_of(process)
            assert process.returncode == 1
            assert "Traceback" not in log
            assert "error: " in log.splitlines()[-1] and "disk is full" in log.splitlines()[-1]
            (disk / "filler").unlink()
        program.run(disk / "run", fields=FIELDS)
        require_same(disk / "run", never_killed)


def fill(path):
    """Writes a file until the disk is full."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


# Everything that an iteration carries over: window, running statistics, value function.
CARRIED = {
    "reinforce.algorithm": "dpok",
    "reinforce.value_steps": 2,
    "reinforce.normalise_over": "running",
    "reinforce.trained_steps": "window",
    "reinforce.num_trained_steps": 2,
    "reinforce.window_iterations": 3,
    "reinforce.kl_weight": 0.1,
    "reinforce.trainable": "lora",
    "reinforce.iterations": 60,
    "reinforce.checkpoint_every": 1,
    "reinforce.evaluate_every": 30,
}


def test_reinforcement_killed_twenty_times_ends_with_the_same_bits(program, tmp_path):
    start = tmp_path / "start"
    program.run(start, "--stages=pretrain,adapt", fields=CARRIED)
    runs = [tmp_path / name for name in ("whole", "killed")]
    for run in runs:
        shutil.copytree(start, run)
    stage = "--stages=reinforce"
    program.run(runs[0], stage, fields=CARRIED)
    checkpoints = runs[1] / "reinforce" / "checkpoints"
    generator = np.random.default_rng(0)

    def saved() -> int:
        return max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)

    for _ in range(20):
        before = saved()
        process = program.start(runs[1], stage, fields=CARRIED)
        while process.poll() is None and saved() == before:
            time.sleep(0.002)
        # Anywhere within the iterations that follow, or while one is written.
        time.sleep(generator.uniform(0, 0.2))
        assert process.poll() is None, program.log_of(process)
        process.kill()
        process.wait()
    assert saved() < CARRIED["reinforce.iterations"]
    program.run(runs[1], stage, fields=CARRIED)
    one, other = (checkpoint(run / "reinforce" / "checkpoints") for run in runs)
    assert one["step"] == other["step"] == CARRIED["reinforce.iterations"]
    assert any("value" in name for name in one["arrays"])
    for name, value in one["arrays"].items():
        assert raw(value) == raw(other["arrays"][name]), f"{name} differs"
    files = [run / "reinforce" / "metrics.jsonl" for run in runs]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_asked_to_end_saves_its_step_and_goes_on_to_the_same_numbers(
    program, tmp_path, never_killed
):
    workdir = tmp_path / "run"
    metrics = {stage: workdir / stage / "metrics.jsonl" for stage in ("pretrain", "reinforce")}
    # Between two checkpoints of each, so that the step that is saved is one of its own.
    reached = {
        "pretrain": lambda: last_step(metrics["pretrain"]) >= 40,
        "reinforce": lambda: last_step(metrics["reinforce"]) >= 3,
    }
    for stage, happened in reached.items():
        process = program.start(workdir, fields=FIELDS)
        while process.poll() is None and not happened():
            time.sleep(0.002)
        process.terminate()
        log = program.log_of(process)
        assert process.returncode == 143, log
        assert f"SIGTERM: {stage}" in log and "goes on from there" in log
    program.run(workdir, fields=FIELDS)
    require_same(workdir, never_killed)
