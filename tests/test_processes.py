"""One run in several processes that share its devices gives what one process gives.

Two real processes of two virtual CPU devices each, joined by jax.distributed, against one process
with four. Every wait has a limit, so that processes that wait for each other for ever fail a test.
"""

import json
import os
import re
import shutil
import socket
import time

import jax
import numpy as np
import pytest

from rlsyn_jax.data.synthetic_writer import read_manifest
from rlsyn_jax.stages.assembled_policy import make_policy
from rlsyn_jax.training import processes
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import make_mesh

# Wide enough that parameters are split over "fsdp", and batches that eight devices can share.
FIELDS = {
    "generator.width": 64,
    "pretrain.class_rows": "appearance",  # Of which learnt rows are the simpler part.
    "adapt.class_rows": "embedding",
    "reinforce.identities": 4,
    "reinforce.minibatches": 2,
    "reinforce.trainable": "all",
    "reinforce.learning_rate": 1e-4,
    "recognize.arms": "('real','real_reinforced_selected')",
}
SECONDS = 1200  # Compiling on a busy machine takes minutes; a hang takes for ever.


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES, JAX_PROCESS_ID is"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "set all of JAX_COORDINATOR_ADDRESS, JAX_NUM"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "localhost:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "JAX_NUM_PROCESSES is '2' and JAX_PROCESS_ID '2'",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "localhost:1",
                "JAX_NUM_PROCESSES": "two",
                "JAX_PROCESS_ID": "0",
            },
            "must be whole numbers",
        ),
    ],
)
def test_processes_named_in_part_or_wrongly_are_refused(monkeypatch, variables, expected):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=expected):
        processes.join_processes()


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # A batch script, or a shell within an allocation.
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "one,other"}, True),
    ],
)
def test_a_launcher_with_several_processes_is_noticed(monkeypatch, variables, joins):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: calls.append(args))
    for name in (*processes._BY_HAND, *processes._LAUNCHER_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join_processes()
    assert calls == [()] * joins


@pytest.mark.parametrize(
    ("variables", "visible"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1"}, "all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2),1", "SLURM_NODEID": "2"}, "all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2),1", "SLURM_NODEID": "1"}, "place"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, "place"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "1"}, "all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "JAX_LOCAL_DEVICE_IDS": "3"}, "place"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "ROCR_VISIBLE_DEVICES": "3"}, "all"),
        (
            {
                "SLURM_STEP_TASKS_PER_NODE": "4",
                "CUDA_VISIBLE_DEVICES": "0,1",
                "SLURM_GPUS_PER_TASK": "2",
            },
            "all",
        ),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "place"),
        (
            {
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
                "JAX_COORDINATOR_ADDRESS": "localhost:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "0",
            },
            "all",
        ),
        ({}, "place"),
    ],
)
def test_a_process_has_the_gpus_of_its_host_or_its_own(monkeypatch, variables, visible):
    for name in list(os.environ):
        if name.startswith(("JAX_", "SLURM_", "OMPI_", "TPU_", "CUDA_", "ROCR_")):
            monkeypatch.delenv(name)
    for name, value in {"SLURM_STEP_NUM_TASKS": "16", **variables}.items():
        monkeypatch.setenv(name, value)

    # As jax leaves it: the one of the process's place on its host.
    updated = dict.fromkeys(processes._VISIBLE, "place")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    processes.join_processes()
    assert updated == dict.fromkeys(processes._VISIBLE, visible)


def test_a_host_of_one_process_sees_all_its_gpus_for_jax_itself(program):
    """In two processes that read what Slurm would say, with jax's own initialisation."""
    script = (
        "import jax; from jax._src import xla_bridge; from rlsyn_jax.training import processes; "
        "processes.join_processes(); print('sees', xla_bridge.CUDA_VISIBLE_DEVICES.value)"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    step |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "JAX_COORDINATOR_PORT": port}
    for tasks, seen in (("1(x2)", "sees all"), ("2(x2)", "sees 0")):
        running = [
            program.python(
                "-c",
                script,
                environment=step
                | {
                    "SLURM_PROCID": str(number),
                    "SLURM_NODEID": str(number),
                    "SLURM_STEP_TASKS_PER_NODE": tasks,
                },
            )
            for number in range(2)
        ]
        assert all(seen in program.log_of(process) for process in running)


def test_a_process_alone_writes_waits_for_nobody_and_agrees_with_itself():
    assert processes.is_primary()
    processes.barrier("nobody else")
    values = {"a": 0.1, "b": True}
    assert processes.agreed(values) is values


def test_a_run_of_processes_named_in_part_says_so_and_fails(program, tmp_path):
    process = program.start(tmp_path / "run", environment={"JAX_NUM_PROCESSES": "2"})
    log = program.log_of(process)
    assert process.returncode == 1 and log.startswith("error: JAX_NUM_PROCESSES is set; set all")
    assert len(log.splitlines()) == 1 and not (tmp_path / "run").exists()


def places_of_two() -> list[dict[str, str]]:
    """The environments of two processes that join each other on a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    run = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [run | {"JAX_PROCESS_ID": str(number)} for number in range(2)]


def images_of(journal) -> list[tuple[str, int]]:
    """The images that a process has written or left out, in a data set of samples."""
    rows = map(json.loads, journal.read_text().splitlines())
    return [(row["identity"], row["number"]) for row in rows]


def start_two(program, workdir, *flags, fields):
    """Starts a run of two processes with two devices each."""
    return [
        program.start(workdir, *flags, fields=fields, devices=2, environment=place)
        for place in places_of_two()
    ]


def end(program, running) -> list[str]:
    """Kills all processes of a run, and returns what each said."""
    for process in running:
        process.kill()
    return [program.log_of(process) for process in running]


def wait_until(program, running, happened):
    """Waits until something has happened; that no process ends before it, or fails, is required."""
    limit = time.monotonic() + SECONDS
    while not happened():
        ended = [process.poll() for process in running]
        if time.monotonic() > limit or any(ended) or all(code == 0 for code in ended):
            logs = "\n\n".join(end(program, running))
            pytest.fail(f"exit codes {ended} (None: was still running):\n{logs}")
        time.sleep(0.01)


def run_two(program, workdir, *flags, fields) -> list[str]:
    """Runs two processes to their good end, and returns what each said."""
    running = start_two(program, workdir, *flags, fields=fields)
    wait_until(program, running, lambda: all(process.poll() == 0 for process in running))
    return [program.log_of(process) for process in running]


ONE_FAILS = """
import sys
import jax
from rlsyn_jax.training import processes
processes.join_processes()
processes.barrier("both are here")
if jax.process_index() == int(sys.argv[1]):
    sys.exit("error: the disk of this one is full")
processes.barrier("never reached by both")
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_alone_says_why_and_ends_the_others(program, failing):
    arguments = ("-c", ONE_FAILS, str(failing))
    running = [program.python(*arguments, environment=place) for place in places_of_two()]
    limit = time.monotonic() + 120
    while None in [process.poll() for process in running] and time.monotonic() < limit:
        time.sleep(0.1)
    codes = [process.poll() for process in running]
    logs = end(program, running)
    assert None not in codes and 0 not in codes, logs
    assert "error: the disk of this one is full" in logs[failing]


@pytest.fixture(scope="module")
def one(program, tmp_path_factory):
    """A whole run in one process with four devices."""
    workdir = tmp_path_factory.mktemp("one_process") / "run"
    running = [program.start(workdir, fields=FIELDS, devices=4)]
    wait_until(program, running, lambda: running[0].poll() == 0)
    return workdir


@pytest.fixture(scope="module")
def two(program, one, tmp_path_factory):
    """The same in two processes, from the same extractors: (workdir, what each process said)."""
    workdir = tmp_path_factory.mktemp("two_processes") / "run"
    extractors = one / "pretrain" / "extractors"
    shutil.copytree(extractors, workdir / "pretrain" / "extractors")
    return workdir, run_two(program, workdir, fields=FIELDS)


def require_close(one, other, *, moved):
    """Compares parameters; `moved` is the scale of what training changed in them.

    Adam divides by the gradient's size, so rounding in a gradient near 0 may turn one coordinate's
    step around: all but one in a thousand must agree closely, and all to a few steps.
    """
    assert jax.tree.structure(one) == jax.tree.structure(other)
    flat = [np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (one, other)]
    difference = np.abs(flat[0] - flat[1])
    assert np.quantile(difference, 0.999) < 0.01 * moved
    assert difference.max() < moved


def scale_of(program, stage):
    """The most that a stage's training can change a parameter, about."""
    config = program.config()
    config.update_from_flattened_dict({n: v for n, v in FIELDS.items() if "arms" not in n})
    updates = config.reinforce.iterations * config.reinforce.minibatches
    return {
        "pretrain": config.pretrain.steps * config.pretrain.learning_rate,
        "adapt": config.adapt.steps
        * config.adapt.learning_rate
        * config.adapt.class_embedding_rate,
        "reinforce": updates * config.reinforce.learning_rate,
        "extractors": config.extractor.steps * config.extractor.learning_rate,
        "recognize": config.recognize.steps * config.recognize.learning_rate,
    }[stage]


def require_same_generator(program, one, other, *stages):
    for stage in stages:
        for ema in (True, False):
            both = [restore_params(workdir / stage, ema=ema) for workdir in (one, other)]
            require_close(*both, moved=scale_of(program, stage))


def without_embedding_bias(params):
    """The bias before the last batch normalisation has no gradient: rounding alone moves it."""
    params["backbone"]["embedding"].pop("bias")
    return params


def require_same_curves(one, other):
    """Compares rewards, advantages and held-out measures of every iteration."""
    curves = [
        [json.loads(line) for line in (w / "reinforce" / "metrics.jsonl").read_text().splitlines()]
        for w in (one, other)
    ]
    assert [line["step"] for line in curves[0]] == [line["step"] for line in curves[1]]
    for first, second in zip(*curves):
        assert first.keys() == second.keys()
        for name in first:
            if name.startswith(("reward/", "reward_std/", "advantage/", "fixed/", "held_out/")):
                np.testing.assert_allclose(second[name], first[name], 2e-3, 2e-3, err_msg=name)
    names = {name for line in curves[1] for name in line}
    assert {"reward/semantic", "reward/coverage", "reward/richness"} <= names


def figures(value, path=""):
    """Every number of nested dicts and lists, by its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in items for k, v in figures(part, f"{path}/{name}").items()}
    return {path: value}


@pytest.mark.slow
def test_the_whole_method_in_two_processes_ends_with_the_same_numbers(program, one, two):
    workdir, logs = two
    for log in logs:
        assert "4 device(s) (cpu), 2 process(es)" in log and "report: done in" in log
        assert "[Gloo]" in log
    require_same_generator(program, one, workdir, "pretrain", "adapt", "reinforce")
    require_same_curves(one, workdir)
    for arm in ("real", "real_reinforced_selected"):
        folders = [w / "recognize" / "seed_0" / arm for w in (one, workdir)]
        params = [without_embedding_bias(restore_params(folder)) for folder in folders]
        require_close(*params, moved=scale_of(program, "recognize"))
    first, second = (
        figures(json.loads((w / "evaluate" / "metrics.json").read_text())) for w in (one, workdir)
    )
    assert first.keys() == second.keys() and len(first) > 50
    # These count some 60 pairs, queries or samples, a few of which rounding may turn.
    counts = re.compile(
        r"/(verification|equal_error_rate|tar_at_far|\w+_rank\d|identity_accuracy|identity_error"
        r"|precision|recall|density|coverage|share)"
    )
    for name, value in first.items():
        if isinstance(value, float):
            tolerance = 0.05 if counts.search(name) else 1e-2
            np.testing.assert_allclose(second[name], value, tolerance, tolerance, err_msg=name)
        else:
            assert second[name] == value, name


@pytest.mark.slow
def test_two_processes_write_every_file_once(program, one, two):
    def files(workdir):
        left = ("compilation_cache", "ocdbt.process", "array_metadatas", "extractors", "/d/")
        paths = (str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file())
        return sorted(path for path in paths if not any(part in path for part in left))

    workdir, _ = two
    journals = ["synthesize/cold_start/journal-1.jsonl", "synthesize/reinforced/journal-1.jsonl"]
    assert files(workdir) == sorted(files(one) + journals)
    for name in ("cold_start", "reinforced"):
        folders = [w / "synthesize" / name for w in (one, workdir)]
        alone, first, second = (
            images_of(folder / journal)
            for folder, journal in zip(
                (*folders, folders[1]), ("journal.jsonl", "journal.jsonl", "journal-1.jsonl")
            )
        )
        assert first and second and sorted(first + second) == sorted(alone)
        columns = [read_manifest(folder) for folder in folders]
        for column in ("identity", "file", "seed", "checkpoint"):
            assert columns[0][column] == columns[1][column]
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    for log in run_two(program, workdir, fields=FIELDS):
        assert log.count("nothing to do") == 7
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.slow
def test_one_process_goes_on_with_the_data_set_that_two_had_begun(program, two, tmp_path):
    done, _ = two
    for stage in ("pretrain", "adapt", "reinforce"):
        shutil.copytree(done / stage, tmp_path / stage)
    folder = tmp_path / "synthesize" / "cold_start"
    running = start_two(program, tmp_path, "--stages=synthesize", fields=FIELDS)
    wait_until(program, running, lambda: (folder / "journal-1.jsonl").exists())
    end(program, running)
    begun = images_of(folder / "journal-1.jsonl")
    assert begun and not (folder / "manifest.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
    alone = [program.start(tmp_path, "--stages=synthesize", fields=FIELDS, devices=4)]
    wait_until(program, alone, lambda: alone[0].poll() == 0)
    kept = [time for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert len(kept) >= len(begun)
    for name in ("cold_start", "reinforced"):
        columns = [read_manifest(w / "synthesize" / name) for w in (done, tmp_path)]
        for column in ("identity", "file", "seed"):
            assert columns[0][column] == columns[1][column]


@pytest.mark.slow
def test_two_processes_train_the_extractors_together(program, one, tmp_path):
    # Not the prior after them: told looks by these extractors, it magnifies how they differ.
    run_two(program, tmp_path, "--stages=pretrain", fields=FIELDS | {"fsdp": 2})
    for name in ("reward", "judge", "start"):
        folders = [w / "pretrain" / "extractors" / name for w in (one, tmp_path)]
        params = [without_embedding_bias(restore_params(folder)) for folder in folders]
        require_close(*params, moved=scale_of(program, "extractors"))


@pytest.mark.slow
def test_two_processes_train_the_prior_split_over_both(program, one, tmp_path):
    extractors = one / "pretrain" / "extractors"
    shutil.copytree(extractors, tmp_path / "pretrain" / "extractors")
    run_two(program, tmp_path, "--stages=pretrain", fields=FIELDS | {"fsdp": 2})
    require_same_generator(program, one, tmp_path, "pretrain")


@pytest.fixture(scope="module")
def killed(program, one, tmp_path_factory):
    """Cold start and RL with parameters split over two processes that are killed in between."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    shutil.copytree(one / "pretrain", workdir / "pretrain")
    fields, flag = FIELDS | {"fsdp": 2}, "--stages=adapt,reinforce"
    running = start_two(program, workdir, flag, fields=fields)
    checkpoints = workdir / "reinforce" / "checkpoints"
    wait_until(program, running, lambda: (checkpoints / "1").exists())
    end(program, running)
    assert not json.loads((workdir / "reinforce" / "stage.json").read_text())["complete"]
    assert not (checkpoints / "2").exists()
    for log in run_two(program, workdir, flag, fields=fields):
        assert "adapt: complete" in log and "reinforce: resuming" in log
        assert "reinforce 1/" not in log and "reinforce 2/2" in log
    return workdir


@pytest.mark.slow
def test_two_killed_processes_go_on_and_end_with_the_same_numbers(program, one, killed):
    require_same_generator(program, one, killed, "adapt", "reinforce")
    require_same_curves(one, killed)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (4, 1), (4, 2), (8, 4)])
def test_what_two_processes_saved_is_read_on_any_devices(program, killed, devices, fsdp):
    config = program.config()
    config.update_from_flattened_dict({n: v for n, v in FIELDS.items() if "arms" not in n})
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    target = make_policy(config, killed, mesh).state
    with CheckpointStore(killed / "reinforce" / "checkpoints") as store:
        state, _, _ = store.restore(target)
    assert int(state.step) == config.reinforce.iterations
    assert np.array_equal(*(jax.random.key_data(s.key) for s in (state, target)))
    held = {device for value in jax.tree.leaves(state.params) for device in value.devices()}
    assert held == set(jax.devices()[:devices])
    saved = restore_params(killed / "reinforce" / "checkpoints", ema=False)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), saved)
    for value, other in zip(jax.tree.leaves(state), jax.tree.leaves(target)):
        assert value.sharding == other.sharding


SHARED_TRAINING = """
import hashlib, json, sys
import jax
import numpy as np
from rlsyn_jax.training import processes

processes.join_processes()
from rlsyn_jax.config import default_config
from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.stages.generator import init_params, make_training
from rlsyn_jax.training.checkpoints import CheckpointStore
from rlsyn_jax.training.meshes import make_mesh, on_this_process
from rlsyn_jax.training.trainable import split

mesh, config = make_mesh(int(sys.argv[2])), default_config()
config.update_from_flattened_dict(
    {"image.size": 8, "generator.width": 64, "generator.depth": 1, "pretrain.optimizer": "muon"}
)
trained, frozen = split(init_params(config, 8, seed=0), "all")
state, frozen, step = make_training(
    config, "pretrain", mesh, trained=trained, frozen=frozen, num_classes=8, seed=0
)
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
batches = BatchIterator(images, np.arange(64) % 8, batch_size=8, seed=0, mesh=mesh)


def advance(state):
    batch = next(batches)
    return step(state, frozen, batch["image"], batch["identity"])


with CheckpointStore(sys.argv[1]) as store:
    if store.latest_step() is None:
        for _ in range(2):
            state, _ = advance(state)
        store.save(2, state, config={}, iterator_state=batches.get_state())
    else:
        state, position, _ = store.restore(state)
        batches.set_state(position)
    on_this_device = {shard.data.shape for v in jax.tree.leaves(state.params)
                      for shard in v.addressable_shards if v.size >= 2**14}
    whole = on_this_process(state.replace(key=jax.random.key_data(state.key)))
    digest = hashlib.sha256()
    for value in jax.tree.leaves(whole):
        digest.update(np.asarray(value).tobytes())
    _, metrics = advance(state)
    loss = float(metrics["loss"])
    said = {"digest": digest.hexdigest(), "loss": loss, "devices": jax.device_count()}
    print(json.dumps(said | {"processes": jax.process_count(), "shapes": sorted(on_this_device)}))
"""


def last_words(program, process) -> dict:
    """What a process of SHARED_TRAINING said at its good end."""
    log = program.log_of(process)
    assert process.returncode == 0, log
    return json.loads(next(line for line in reversed(log.splitlines()) if line.startswith("{")))


@pytest.mark.slow
def test_what_two_processes_saved_other_processes_read_on_any_number_of_devices(program, tmp_path):
    arguments = ("-c", SHARED_TRAINING, str(tmp_path))
    savers = [
        program.python(*arguments, "4", devices=2, environment=place) for place in places_of_two()
    ]
    saved = [last_words(program, process) for process in savers]
    assert [words["processes"] for words in saved] == [2, 2]
    assert saved[0] == saved[1] and [64, 96] in saved[0]["shapes"]
    for devices, fsdp in ((1, 1), (4, 2), (8, 8)):
        process = program.python(*arguments, str(fsdp), devices=devices)
        words = last_words(program, process)
        assert (words["devices"], words["processes"]) == (devices, 1)
        assert [64, 384 // fsdp] in words["shapes"]
        assert words["digest"] == saved[0]["digest"]
        assert words["loss"] == pytest.approx(saved[0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_one_process_that_is_asked_to_end_ends_both_at_the_same_step(program, tmp_path):
    run = tmp_path / "run"
    # Longer than anybody waits, and no checkpoint that is due.
    fields = FIELDS | {"fsdp": 2, "pretrain.steps": 10**6, "pretrain.checkpoint_every": 10**6}
    metrics, reached = run / "pretrain" / "metrics.jsonl", 0
    for asked in (0, 1):
        running = start_two(program, run, "--stages=pretrain", fields=fields)

        def has_gone_on(before=reached):
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            return bool(lines) and json.loads(lines[-1])["step"] > before + 20

        wait_until(program, running, has_gone_on)
        running[asked].terminate()
        limit = time.monotonic() + 120
        while None in [process.poll() for process in running] and time.monotonic() < limit:
            time.sleep(0.05)
        codes = [process.poll() for process in running]
        logs = end(program, running)
        assert codes == [143, 143], logs
        steps = [re.findall(r"SIGTERM: pretrain, step (\d+), is on disk", log) for log in logs]
        assert steps[0] == steps[1] and len(steps[0]) == 1, logs
        assert int(steps[0][0]) > reached
        reached = int(steps[0][0])
        checkpoints = run / "pretrain" / "checkpoints"
        assert max(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()) == reached
        assert not list(checkpoints.glob("*tmp*"))
