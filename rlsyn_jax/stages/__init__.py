"""The stages of a run; each module has `run(config, workdir)` and resumes by itself."""

from __future__ import annotations

import importlib
import logging as standard_logging
import os
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.training.atomic_files import check_writable

# Launchers whose environment names the other processes of a run.
_LAUNCHER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def set_up(config: ConfigDict, workdir: Path) -> None:
    """Checks the work folder, joins the run's other processes, and logs the devices found."""
    logging.get_absl_handler().addFilter(_not_chatter)
    check_writable(workdir, minimum_free_bytes=64 * 2**20)
    several = [os.environ.get(name, "1") for name in _LAUNCHER_VARIABLES]
    if any(value != "1" for value in several):
        jax.distributed.initialize()
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    found = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    logging.info(
        "%s: %d device(s) (%s), %d process(es), jax %s, fsdp %d, workdir %s",
        config.name,
        jax.device_count(),
        found,
        jax.process_count(),
        jax.__version__,
        config.fsdp,
        workdir,
    )


def _not_chatter(record: standard_logging.LogRecord) -> bool:
    """Lets through what this program says, and what goes wrong in the libraries it uses."""
    ours = f"{os.sep}rlsyn_jax{os.sep}" in record.pathname
    return ours or record.levelno >= standard_logging.ERROR


def run_stage(stage: str, config: ConfigDict, workdir: Path) -> None:
    """Runs one stage by name."""
    importlib.import_module(f"rlsyn_jax.stages.{stage}").run(config, workdir)
