"""What of devices and rewards does not fit the work of the stages, told before the first."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError, field
from rlsyn_jax.rl.memory import available_bytes
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.networks import feature_width
from rlsyn_jax.stages.policy import (
    FIELDS_OF_MEMORY,
    policy_settings,
    policy_steps,
    predicted_memory,
)
from rlsyn_jax.stages.stage_record import stage_seconds
from rlsyn_jax.stages.trained_rewards import try_rewards
from rlsyn_jax.training.memory import MARGIN
from rlsyn_jax.training.meshes import make_mesh, own_device


def check_devices(config: ConfigDict, workdir: Path, stages: Collection[str]) -> None:
    """Checks that devices can share the batches of the stages that are to run, and tries rewards.

    Args:
        config: complete configuration.
        workdir: of the run; what is complete there is not checked again.
        stages: names of the stages that are to run.

    Raises:
        ConfigError: names the batch and the number of devices, or the reward that does not work,
            before any stage has begun.
    """
    devices = jax.device_count()
    waiting = [stage for stage in stages if stage_seconds(workdir, stage) is None]
    if waiting and devices % config.fsdp:
        raise ConfigError(
            f"config.fsdp is {config.fsdp}; it must divide the number of devices, {devices}"
        )
    for stage in ("pretrain", "adapt"):
        path = f"{stage}.batch_size"
        trains = config.adapt.steps > 0 if stage == "adapt" else config.pretrain.source == "train"
        if stage in waiting and trains and field(config, path) % devices:
            raise ConfigError(
                f"config.{path} is {field(config, path)}; it must be divisible by the number of "
                f"devices, {devices}"
            )
    if "reinforce" in waiting:
        _check_reinforcement(config, workdir)


def _check_reinforcement(config: ConfigDict, workdir: Path) -> None:
    """Checks an iteration's sizes and rewards; tells its memory and whether that fits."""
    dataset, splits = load_target(config, workdir)
    _, labels = train_labels(dataset, splits)
    bank_shape = (int(np.bincount(labels).max()), feature_width(config))
    mesh = make_mesh(config.fsdp)
    num_classes = len(splits.train_identities)
    _, _, num_trained_steps, _ = policy_steps(config)
    settings = policy_settings(config, num_classes, num_trained_steps, mesh.size)
    try_rewards(config, labels, settings)
    need = predicted_memory(config, num_classes, bank_shape, mesh).peak
    available = available_bytes(own_device().device_set)
    logging.info("reinforce: one iteration will take about %.0f MiB of a device", need / 2**20)
    # The estimate is for XLA's CPU compiler; others are asked when the iteration is compiled.
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and available is not None and need > MARGIN * available:
        raise ConfigError(
            f"one iteration of reinforce would need about {need / 2**20:.0f} MiB of each device, "
            f"and {available / 2**20:.0f} MiB are free; {FIELDS_OF_MEMORY}"
        )
