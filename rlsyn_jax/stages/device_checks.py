"""Whether the devices found can share the work of the stages, told before the first of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError, field
from rlsyn_jax.stages.inputs import load_target
from rlsyn_jax.stages.policy import policy_settings, policy_steps
from rlsyn_jax.stages.stage_record import stage_seconds


def check_devices(config: ConfigDict, workdir: Path, stages: Collection[str]) -> None:
    """Checks that the batches of the stages that are to run can be shared by the devices.

    Args:
        config: complete configuration.
        workdir: of the run; what is complete there is not checked again.
        stages: names of the stages that are to run.

    Raises:
        ConfigError: names the batch and the number of devices, before any stage has begun.
    """
    devices = jax.device_count()
    waiting = [stage for stage in stages if stage_seconds(workdir, stage) is None]
    if waiting and devices % config.fsdp:
        raise ConfigError(
            f"config.fsdp is {config.fsdp}; it must divide the number of devices, {devices}"
        )
    for stage in ("pretrain", "adapt"):
        path = f"{stage}.batch_size"
        trains = stage == "adapt" or config.pretrain.source == "train"
        if stage in waiting and trains and field(config, path) % devices:
            raise ConfigError(
                f"config.{path} is {field(config, path)}; it must be divisible by the number of "
                f"devices, {devices}"
            )
    if "reinforce" in waiting:
        _, splits = load_target(config, workdir)
        _, _, number, _ = policy_steps(config)
        policy_settings(config, len(splits.train_identities), number, devices)
