"""How the processes of one run find each other."""

from __future__ import annotations

import os

import jax

# Set by a launcher where a run has several processes; jax knows how to read the rest from it.
_LAUNCHER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
# Named by hand where there is no launcher.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes() -> None:
    """Joins the run's other processes, where the environment names any; before any device is used.

    Raises:
        ValueError: only a part of what names the processes by hand is set.
    """
    given = {name: os.environ[name] for name in _BY_HAND if name in os.environ}
    if given and len(given) < len(_BY_HAND):
        raise ValueError(f"{sorted(given)} are set; set all of {', '.join(_BY_HAND)}, or none")
    if given:
        jax.distributed.initialize(
            given["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(given["JAX_NUM_PROCESSES"]),
            process_id=int(given["JAX_PROCESS_ID"]),
        )
        return
    for name in _LAUNCHER_VARIABLES:
        value = os.environ.get(name, "1")
        if value != "1" and not (name == "TPU_WORKER_HOSTNAMES" and "," not in value):
            jax.distributed.initialize()
            return
