"""The stages of a run; each module has `run(config, workdir)` and resumes by itself."""

from __future__ import annotations

import importlib
import logging as standard_logging
import os
from pathlib import Path
from types import ModuleType

import jax
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.stages.folder_checks import check_folders
from rlsyn_jax.stages.stage_record import made_from
from rlsyn_jax.training.atomic_files import check_writable
from rlsyn_jax.training.metrics import import_tensorboard
from rlsyn_jax.training.processes import check_joined


def set_up(config: ConfigDict, workdir: Path) -> None:
    """Checks what the run needs and where it writes, and logs the devices found."""
    check_joined()
    logging.get_absl_handler().addFilter(_not_chatter)
    check_folders(config, workdir)
    check_writable(workdir, minimum_free_bytes=64 * 2**20)
    if config.tensorboard:
        import_tensorboard()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # Set, it is shared between runs.
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
    _module(stage).run(config, workdir)


def stage_fingerprints(config: ConfigDict) -> dict[str, str]:
    """Returns each stage's fingerprint as stage.json will have it, before anything is run.

    Two runs whose fingerprints of a stage are equal make the same there.

    Args:
        config: complete configuration.

    Returns:
        Name of each stage, in their order -> hash of everything its output depends on.
    """
    found: dict[str, str] = {}
    # The report reads from every stage.
    for stage in (*_module("report").INPUTS, "report"):
        module = _module(stage)
        inputs = {name: found[name] for name in module.INPUTS}
        found[stage] = made_from(stage, config, module.FIELDS, inputs)["fingerprint"]
    return found


def _module(stage: str) -> ModuleType:
    return importlib.import_module(f"rlsyn_jax.stages.{stage}")
