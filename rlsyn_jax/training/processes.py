"""How the processes of one run find each other, and what they do together.

Every process runs the same program on the same files. Training is one computation on the devices of
all; samples are drawn by each process for people of its own; what is small (evaluation, pictures,
the report) each process computes alone, and the first one writes it down.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Set by a launcher where a run has several processes; jax knows how to read the rest from it.
# Slurm's is that of a step: in a batch script that srun did not start there is one process.
_LAUNCHER_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
# Named by hand where there is no launcher.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# GPUs that a launcher shows a process, and jax's fields of those that it may use.
_SHOWN = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_VISIBLE = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")
# Seconds that a process which ends waits for the others. One that failed alone ends them all then.
_PATIENCE = 20


def join_processes() -> None:
    """Joins the run's other processes, where the environment names any; before any device is used.

    Raises:
        ValueError: only a part of what names the processes by hand is set, or no numbers.
    """
    given = {name: os.environ[name] for name in _BY_HAND if name in os.environ}
    if given and len(given) < len(_BY_HAND):
        raise ValueError(
            f"{', '.join(sorted(given))} is set; set all of {', '.join(_BY_HAND)}, or none"
        )
    if given:
        address, number, place = (given[name] for name in _BY_HAND)
        if not (number.isdecimal() and place.isdecimal() and int(place) < int(number)):
            raise ValueError(
                f"JAX_NUM_PROCESSES is {number!r} and JAX_PROCESS_ID {place!r}; they must be whole "
                "numbers, and the second one of 0 to the first less 1"
            )
        jax.distributed.initialize(
            address,
            num_processes=int(number),
            process_id=int(place),
            shutdown_timeout_seconds=_PATIENCE,
        )
        _see_gpus()
        return
    for name in _LAUNCHER_VARIABLES:
        value = os.environ.get(name, "1")
        if value != "1" and not (name == "TPU_WORKER_HOSTNAMES" and "," not in value):
            jax.distributed.initialize(shutdown_timeout_seconds=_PATIENCE)
            _see_gpus()
            return


def check_joined() -> None:
    """Looks whether devices of other processes are there without these having been joined.

    Raises:
        ValueError: each process would take itself for the only one, and write all files.
    """
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"the devices are those of {jax.process_count()} processes, which no launcher's "
            f"environment names; set {', '.join(_BY_HAND)} for each"
        )


def _see_gpus() -> None:
    """Gives a launcher's process every GPU that it sees, where they are its own.

    jax has left it the one of its place among the processes of its host. That is not right where
    there is one process a host, nor where the launcher shows each process its own GPUs alone.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return
    shown = [os.environ.get(name, "") for name in _SHOWN]
    own = "SLURM_GPUS_PER_TASK" in os.environ or any(ids and "," not in ids for ids in shown)
    if own or _processes_here() == 1:
        for field in _VISIBLE:
            jax.config.update(field, "all")


def _processes_here() -> int | None:
    """Returns how many processes the launcher has started on this host; None where it says not."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
    # Slurm's are of each host of the step, as in 2(x3),1.
    counts = []
    for part in os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        number, _, times = part.rstrip(")").partition("(x")
        counts += [int(number or 0)] * int(times or 1)
    host = int(os.environ.get("SLURM_NODEID", "0"))
    return counts[host] if host < len(counts) and counts[host] else None


def is_primary() -> bool:
    """Whether this is the process that writes files; starts no devices where it is alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here; `name` is the same in all."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def agreed(values: Any) -> Any:
    """Returns the first process's values in every process, so that all decide alike.

    Args:
        values: pytree of bools, ints or floats; among several processes, floats become float32.
    """
    if not jax.distributed.is_initialized():
        return values
    received = multihost_utils.broadcast_one_to_all(values)
    return jax.tree.map(lambda value, new: type(value)(new), values, received)


def own_share(number: int) -> list[int | None]:
    """Returns which of so many pieces of work this process does, by their numbers.

    Returns:
        As many turns in every process, so that all can ask something of each other after each; None
        is a turn without work, at the end.
    """
    if not jax.distributed.is_initialized():
        return list(range(number))
    count = jax.process_count()
    turns = range(jax.process_index(), -(-number // count) * count, count)
    return [turn if turn < number else None for turn in turns]


def gathered(content: bytes) -> list[bytes]:
    """Returns what each process has given, in the order of the processes; all must call it."""
    if not jax.distributed.is_initialized():
        return [content]
    lengths = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    received = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(received, lengths)]
