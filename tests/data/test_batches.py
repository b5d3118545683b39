"""Batches are the same global sequence for any number of devices and processes, and resume."""

import json
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlsyn_jax.data.batches import BatchIterator


def _mesh(num_devices=1, fsdp=1):
    return jax.make_mesh(
        (num_devices // fsdp, fsdp),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:num_devices],
    )


def _arrays(num_images=20):
    identities = np.arange(num_images, dtype=np.int32)
    images = np.broadcast_to(identities[:, None, None, None], (num_images, 4, 3, 3))
    return images.astype(np.uint8), identities


def _iterator(num_devices=1, fsdp=1, num_images=20, **options):
    options = {"batch_size": 8, "seed": 3} | options
    return BatchIterator(*_arrays(num_images), mesh=_mesh(num_devices, fsdp), **options)


def _take(iterator, count):
    return np.stack([np.asarray(next(iterator)["identity"]) for _ in range(count)])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_images_stay_with_their_labels_and_keep_their_dtype(prefetch):
    batch = next(_iterator(4, prefetch=prefetch))
    assert batch["image"].dtype == np.uint8
    assert batch["identity"].dtype == np.int32
    assert batch["image"].shape == (8, 4, 3, 3)
    assert batch["image"].sharding.spec == PartitionSpec(("data", "fsdp"))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["identity"])


@pytest.mark.parametrize(("num_devices", "fsdp"), [(2, 1), (4, 2), (8, 1), (8, 4)])
def test_global_batches_do_not_depend_on_the_number_of_devices(num_devices, fsdp):
    expected = _take(_iterator(1), 7)
    np.testing.assert_array_equal(_take(_iterator(num_devices, fsdp), 7), expected)


def test_every_epoch_is_a_new_permutation():
    order = _take(_iterator(batch_size=4), 10).reshape(2, 20)
    for epoch in order:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(20))
    assert not np.array_equal(order[0], order[1])


def test_a_data_set_smaller_than_the_batch_fills_it():
    batch = np.asarray(next(_iterator(num_images=3))["identity"])
    np.testing.assert_array_equal(np.bincount(batch)[:3] >= 2, True)


def test_seeds_differ():
    assert not np.array_equal(_take(_iterator(seed=1), 2), _take(_iterator(seed=2), 2))


@pytest.mark.parametrize("consumed", [0, 1, 5])
def test_resumes_at_the_same_next_batch_with_other_device_counts(consumed):
    first = _iterator(1)
    for _ in range(consumed):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    expected = _take(first, 4)
    for num_devices in (1, 2, 8):
        second = _iterator(num_devices)
        next(second)
        second.set_state(state)
        assert second.get_state() == state
        np.testing.assert_array_equal(_take(second, 4), expected)


def test_state_of_another_order_is_refused():
    state = _iterator().get_state()
    with pytest.raises(ValueError, match="batch_size = 8, but this run has 16"):
        _iterator(batch_size=16).set_state(state)
    with pytest.raises(ValueError, match="seed = 3"):
        _iterator(seed=4).set_state(state)
    with pytest.raises(ValueError, match="num_images = 20"):
        _iterator(num_images=21).set_state(state)
    with pytest.raises(ValueError, match="fields"):
        _iterator().set_state({"next_index": 3})
    with pytest.raises(ValueError, match="next_index"):
        _iterator().set_state(state | {"next_index": -1})


def test_bad_arguments_are_named():
    images, identities = _arrays()
    good = {"batch_size": 8, "seed": 0, "mesh": _mesh(4)}
    with pytest.raises(ValueError, match="multiple of the number of devices in the mesh, 4"):
        BatchIterator(images, identities, **good | {"batch_size": 6})
    with pytest.raises(ValueError, match="identities has shape"):
        BatchIterator(images, identities[:-1], **good)
    with pytest.raises(ValueError, match="no images"):
        BatchIterator(images[:0], identities[:0], **good)
    with pytest.raises(ValueError, match="seed is -1"):
        BatchIterator(images, identities, **good | {"seed": -1})
    with pytest.raises(ValueError, match="dtype float32"):
        BatchIterator(images, identities.astype(np.float32), **good)
    with pytest.raises(ValueError, match="axes"):
        BatchIterator(images, identities, **good | {"mesh": jax.make_mesh((1,), ("data",))})


_PROCESS = """
    import sys
    import jax
    import numpy as np
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    port, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", count, index)
    from jax.sharding import AxisType
    from rlsyn_jax.data.batches import BatchIterator
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    identities = np.arange(20)
    iterator = BatchIterator(identities[:, None], identities, batch_size=8, seed=3, mesh=mesh)
    for step in range(3):
        array = next(iterator)["identity"]
        for shard in array.addressable_shards:
            print("ROWS", step, shard.index[0].start, *np.asarray(shard.data).tolist())
"""


@pytest.mark.slow
def test_two_processes_share_the_sequence_of_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", textwrap.dedent(_PROCESS), port, "2"]
    processes = [
        subprocess.Popen([*command, str(index)], stdout=subprocess.PIPE, text=True)
        for index in range(2)
    ]
    rows = np.full((3, 8), -1)
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        lines = [line.split()[1:] for line in output.splitlines() if line.startswith("ROWS")]
        assert len(lines) == 6
        for step, start, *values in np.asarray(lines, dtype=int):
            rows[step, start : start + 2] = values
    np.testing.assert_array_equal(rows, _take(_iterator(1), 3))
