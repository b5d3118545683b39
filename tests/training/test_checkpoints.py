"""Checkpoints on a real disk: bit-equal, on another mesh, damaged, while work goes on."""

import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsyn_jax.training import checkpoints
from rlsyn_jax.training.atomic_files import StorageError
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_config, restore_params
from rlsyn_jax.training.meshes import make_mesh, parameter_shardings, replicated
from rlsyn_jax.training.train_state import create_train_state

OPTIMIZER = optax.adam(0.1)


def make_state(seed, fsdp=2):
    random = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": jnp.asarray(random.normal(size=(128, 256)), jnp.float32)},
        "half": jnp.asarray(random.normal(size=5), jnp.bfloat16),
    }
    mesh = make_mesh(fsdp)
    params = jax.device_put(params, parameter_shardings(mesh, params))
    key = jax.device_put(jax.random.key(seed), replicated(mesh))
    state = create_train_state(params, OPTIMIZER, key, mesh)
    # An average of its own, so that it cannot be taken for the parameters.
    return state.replace(step=state.step + seed, ema_params=jax.tree.map(jnp.negative, params))


def assert_bit_equal(got, expected):
    def compare(a, b):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(compare, got, expected)


def save(directory, *steps, **options):
    with CheckpointStore(directory, **options) as store:
        for step in steps:
            store.save(
                step,
                make_state(step),
                config={"name": "é", "step": step},
                iterator_state={"at": step},
            )
    return directory


def damage(step_folder):
    """Cuts every file of the state in two, as a disk that lost its last blocks."""
    files = [path for path in (step_folder / "state").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_a_state_comes_back_bit_equal_with_its_config_and_place_in_the_data(tmp_path):
    save(tmp_path, 3)
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step() == 3
        state, iterator_state, config = store.restore(make_state(0))
    assert_bit_equal(state, make_state(3))
    assert config == {"name": "é", "step": 3} and iterator_state == {"at": 3}
    np.testing.assert_array_equal(
        jax.random.normal(state.key, 4), jax.random.normal(jax.random.key(3), 4)
    )


def test_a_state_is_read_onto_another_mesh(tmp_path):
    save(tmp_path, 1)
    target = make_state(0, fsdp=4)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), target
    )
    for wanted in (target, abstract):
        with CheckpointStore(tmp_path) as store:
            state, _, _ = store.restore(wanted)
        assert_bit_equal(state, make_state(1))
        for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(target)):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    assert state.params["dense"]["kernel"].addressable_shards[0].data.shape == (128, 64)


def test_a_place_in_the_data_may_be_missing(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": jnp.ones(2)}, config={}, iterator_state=None)
        assert store.restore({"params": jnp.zeros(2)})[1:] == (None, {})


def test_the_newest_steps_are_kept(tmp_path):
    save(tmp_path / "two", 1, 2, 3, 4)
    assert steps_in(tmp_path / "two") == [3, 4]
    save(tmp_path / "one", 2, 3, 4, 5, max_to_keep=1)
    assert steps_in(tmp_path / "one") == [5]


def test_another_collection_can_be_asked_for(tmp_path):
    state = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.arange(3.0)}}
    with CheckpointStore(tmp_path) as store:
        store.save(1, state, config={}, iterator_state=None)
    statistics = restore_params(tmp_path, collection="batch_stats")
    np.testing.assert_array_equal(statistics["mean"], [0, 1, 2])
    with pytest.raises(ValueError, match="but no moments"):
        restore_params(tmp_path, collection="moments")


def test_a_forced_save_replaces_the_step(tmp_path):
    save(tmp_path, 1)
    with CheckpointStore(tmp_path) as store:
        store.save(1, make_state(7), config={}, iterator_state=None, force=True)
        assert_bit_equal(store.restore(make_state(0))[0], make_state(7))


def test_a_damaged_newest_step_gives_way_to_the_one_before(tmp_path):
    save(tmp_path, 1, 2)
    damage(tmp_path / "2")
    with CheckpointStore(tmp_path) as store:
        state, iterator_state, _ = store.restore(make_state(0))
        assert_bit_equal(state, make_state(1))
        assert iterator_state == {"at": 1}
    # What is written from there on is not below it, also by a process of its own.
    save(tmp_path, 2)
    assert steps_in(tmp_path) == [1, 2]
    with CheckpointStore(tmp_path) as store:
        assert_bit_equal(store.restore(make_state(0))[0], make_state(2))


def test_where_no_step_can_be_read_all_are_told_and_kept(tmp_path):
    save(tmp_path, 1, 2)
    for step in ("1", "2"):
        damage(tmp_path / step)
    with CheckpointStore(tmp_path) as store:
        with pytest.raises(
            ValueError, match=r"no checkpoint of .* can be read: step 2: [\s\S]*; step 1: "
        ):
            store.restore(make_state(0))
        assert steps_in(tmp_path) == [1, 2]


def test_a_step_below_the_newest_is_not_passed_over_in_silence(tmp_path):
    save(tmp_path, 3)
    with CheckpointStore(tmp_path) as store:
        with pytest.raises(StorageError, match="checkpoint 2 was not written: .* has step 3"):
            store.save(2, make_state(2), config={}, iterator_state=None)


def test_an_empty_folder_is_told(tmp_path):
    with CheckpointStore(tmp_path / "new") as store:
        assert store.latest_step() is None
        with pytest.raises(FileNotFoundError, match="new holds no checkpoint"):
            store.restore(make_state(0))


def test_a_disk_without_room_is_told_before_anything_is_written(mounted, tmp_path):
    state = {"params": jnp.ones(2**17)}
    with mounted(tmp_path / "disk", "size=1m") as folder, CheckpointStore(folder) as store:
        with pytest.raises(StorageError, match="checkpoint 1 needs .* free some space or choose"):
            store.save(1, state, config={}, iterator_state=None)
        assert store.latest_step() is None and steps_in(folder) == []


def large(seed):
    """32 MiB that do not compress, which take longer to write than to copy."""
    return {"params": jax.random.normal(jax.random.key(seed), 2**23)}


def test_work_goes_on_while_a_step_is_written_and_changes_nothing_in_it(tmp_path):
    state, advance = large(0), jax.jit(lambda s: {"params": s["params"] + 1}, donate_argnums=0)
    expected = np.array(state["params"])
    with CheckpointStore(tmp_path, max_to_keep=1) as store:
        for number in (1, 2):
            store.save(number, state, config={}, iterator_state=None)
            assert steps_in(tmp_path) == [1][: number - 1]  # The step before is not yet deleted.
            for _ in range(3):
                state = advance(state)
            # Whoever asks waits.
            assert store.latest_step() == number and steps_in(tmp_path) == [number]
            np.testing.assert_array_equal(store.restore(state)[0]["params"], expected)
            expected = np.array(state["params"])
    assert steps_in(tmp_path) == [2]


def test_a_step_that_could_not_be_written_is_told_and_does_not_count(
    mounted, tmp_path, monkeypatch
):
    # Something else fills the disk after its room was checked.
    monkeypatch.setattr(checkpoints, "check_room", lambda *_: None)
    small = {"params": jnp.ones(8)}
    with mounted(tmp_path / "disk", "size=20m") as folder:
        with CheckpointStore(folder) as store:
            store.save(1, small, config={}, iterator_state=None)
            store.save(2, large(0), config={}, iterator_state=None)
            with pytest.raises(StorageError, match="cannot write .*: the disk is full; free some"):
                store.save(3, small, config={}, iterator_state=None)
            assert store.latest_step() == 1 and steps_in(folder) == [1]
        store = CheckpointStore(folder)
        with pytest.raises(StorageError, match="the disk is full"), store:
            store.save(2, large(0), config={}, iterator_state=None)
        with CheckpointStore(folder) as store:
            np.testing.assert_array_equal(store.restore(small)[0]["params"], 1)


KILLED = """
import sys, time
import jax
import jax.numpy as jnp
from rlsyn_jax.training.checkpoints import CheckpointStore

store = CheckpointStore(sys.argv[1])
store.save(1, {"params": jnp.ones(2**24)}, config={}, iterator_state=None)
state = {"params": jax.random.normal(jax.random.key(0), 2**24)}
store.save(2, state, config={}, iterator_state=None)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_the_step_before(program, tmp_path):
    process = program.python("-c", KILLED, str(tmp_path))
    while process.poll() is None and not list(tmp_path.glob("2.*/state*/ocdbt.process_0/d/*")):
        time.sleep(0.002)
    process.kill()
    log = program.log_of(process)
    assert process.returncode == -9 and steps_in(tmp_path) == [1], log
    assert list(tmp_path.glob("2.orbax-checkpoint-tmp"))
    state = {"params": jnp.zeros(2**24)}
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step() == 1
        np.testing.assert_array_equal(store.restore(state)[0]["params"], 1)
        store.save(2, state, config={}, iterator_state=None)
        assert store.latest_step() == 2
        np.testing.assert_array_equal(store.restore(state)[0]["params"], 0)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A stage's folder: checkpoints of two steps, and a model that is something else again."""
    folder = tmp_path_factory.mktemp("run") / "adapt"
    save(folder / "checkpoints", 1, 2)
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp-1").mkdir()
    with CheckpointStore(folder / "model") as store:
        store.save(0, {"params": make_state(5).params}, config={}, iterator_state=None)
    return folder


@pytest.mark.parametrize(
    ("place", "seed", "averaged"),
    [
        ("", 5, False),
        ("model", 5, False),
        ("model/0", 5, False),
        ("checkpoints", 2, True),
        ("checkpoints/1", 1, True),
    ],
)
def test_parameters_are_found_from_any_folder_of_a_run(stage, place, seed, averaged):
    expected = make_state(seed)
    assert_bit_equal(restore_params(stage / place, ema=False), expected.params)
    average = expected.ema_params if averaged else expected.params
    params = restore_params(str(stage / place))
    assert_bit_equal(params, average)
    assert {device for leaf in jax.tree.leaves(params) for device in leaf.devices()} == {
        jax.devices()[0]
    }


def test_a_run_without_a_model_gives_its_newest_checkpoint(tmp_path):
    save(tmp_path / "checkpoints", 9, 10)
    (tmp_path / "model").mkdir()
    assert_bit_equal(restore_params(tmp_path, ema=False), make_state(10).params)


def test_the_record_of_a_checkpoint_is_found_where_its_parameters_are(stage, tmp_path):
    assert restore_config(stage) == {}
    assert restore_config(stage / "checkpoints") == {"name": "é", "step": 2}
    assert restore_config(stage / "checkpoints" / "1") == {"name": "é", "step": 1}
    with pytest.raises(FileNotFoundError, match="no numbered step in it"):
        restore_config(tmp_path)


@pytest.mark.parametrize("lost", ["state/manifest.ocdbt", "state/_METADATA", "state/d", "meta"])
def test_parameters_of_a_checkpoint_that_lacks_a_part_are_told(tmp_path, lost):
    save(tmp_path, 1)
    path = tmp_path / "1" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=rf"^checkpoint {tmp_path}/1 cannot be read: .*copy it"):
        restore_config(tmp_path) if lost == "meta" else restore_params(tmp_path)


def test_paths_without_parameters_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; give a stage's folder"):
        restore_params(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no numbered step in it, in model/ or in checkpo"):
        restore_params(tmp_path)
    with CheckpointStore(tmp_path) as store:
        store.save(4, {"weights": jnp.ones(2)}, config={}, iterator_state=None)
    with pytest.raises(ValueError, match=r"4 holds \['weights'\], but no params"):
        restore_params(tmp_path)
