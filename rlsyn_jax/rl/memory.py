"""How much memory an iteration needs on a device: told beforehand, and by its compiled program."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax

from rlsyn_jax.models.dit import DiT
from rlsyn_jax.rl.iteration import PolicySettings

_FLOAT = 4  # Bytes; XLA's CPU compiler computes in float32 whatever the network's dtype.
# What XLA's CPU compiler holds, fitted to its buffer assignments at widths 128 to 384, 5 to 12
# blocks and 16 to 256 tokens. Of a block for the backward pass, in activations of [tokens, width]:
_KEPT_OF_BLOCK, _KEPT_OF_FROZEN_BLOCK = 26.7, 19.2  # Weights' gradients need their inputs.
_KEPT_ATTENTIONS = 3.0  # And in attention maps of [heads, tokens, tokens].
_AROUND_BLOCKS, _ATTENTIONS_AROUND = 6.0, 1.0  # Beside the blocks, at the peak.
_ROLLOUT, _ROLLOUT_ATTENTIONS = 27.0, 1.8  # Of a forward pass alone, whatever the depth.
_GRADIENT_COPIES = 0.6  # Of the trained parameters, alive at the peak.


class MemoryNeed(NamedTuple):
    """A program's memory on one device in bytes, as the compiler has laid it out.

    The program itself and what else lives on the device come on top.

    arguments: what it is given. results: what does not take a donated argument's place.
    temporaries: what it holds while it runs.
    """

    arguments: int
    results: int
    temporaries: int

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)

    @property
    def to_allocate(self) -> int:
        """What is needed on top of arguments that are on the device already."""
        return self.results + self.temporaries


def memory_need(program: jax.stages.Compiled) -> MemoryNeed:
    """Returns what a lowered and compiled function needs on each device."""
    analysis = program.memory_analysis()
    return MemoryNeed(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        analysis.temp_size_in_bytes,
    )


def predict_iteration_memory(
    settings: PolicySettings,
    model: DiT,
    num_trained_steps: int,
    *,
    trained_bytes: int,
    frozen_bytes: int,
    bank_bytes: int,
    value_bytes: int,
    blocks_train: bool,
    num_devices: int,
) -> MemoryNeed:
    """Returns what one iteration will need on each device, without compiling it.

    The largest of three phases counts: the rollout's forward pass of all samples, the fit of the
    value function to all transitions, and a micro-batch's forward and backward pass. The states
    and next states of the trained steps are there in all of them. Recomputing blocks (remat) is
    left out: XLA's CPU compiler saves next to nothing by it, other compilers need less than told.

    Args:
        settings: of the iteration.
        model: the generator.
        num_trained_steps: steps of a rollout that train.
        trained_bytes, frozen_bytes: parameters on one device.
        bank_bytes: of the reference bank on one device.
        value_bytes: of the value function's parameters; 0 = none.
        blocks_train: weights inside the blocks get gradients (trainable is lora or all).
        num_devices: over which samples are split.
    """
    height, width, channels = settings.image_shape
    pixels = height * width * channels
    tokens = (height // model.patch_size) * (width // model.patch_size)
    activation, attention = tokens * model.width, model.num_heads * tokens**2
    # Without gradient the unconditional branch keeps nothing for the backward pass.
    guidance = settings.guidance_scale != 1
    branches = 2 if guidance and settings.unconditional == "trained" else 1
    samples = settings.batch_size // num_devices
    transitions = num_trained_steps * samples

    kept = _KEPT_OF_BLOCK if blocks_train else _KEPT_OF_FROZEN_BLOCK
    of_transition = activation * (model.depth * kept + _AROUND_BLOCKS)
    of_transition += attention * (model.depth * _KEPT_ATTENTIONS + _ATTENTIONS_AROUND)
    update = branches * settings.micro_batch // num_devices * of_transition
    # A minibatch is cut out of all transitions where there are several.
    update += 2 * pixels * transitions / settings.minibatches * (settings.minibatches > 1)
    rollout = branches * samples * (_ROLLOUT * activation + _ROLLOUT_ATTENTIONS * attention)
    value = transitions * (pixels + 128 + 6 * 256) if settings.value_steps else 0
    trajectories = 2 * pixels * transitions
    # The parameters, two moments and the average; and the cold start, where it is asked for.
    copies = 5 if settings.kl_weight > 0 else 4
    return MemoryNeed(
        arguments=int(copies * trained_bytes + frozen_bytes + bank_bytes + 3 * value_bytes),
        results=0,
        temporaries=int(
            _FLOAT * (trajectories + max(update, rollout, value)) + _GRADIENT_COPIES * trained_bytes
        ),
    )


def available_bytes(devices: set[jax.Device]) -> int | None:
    """Returns the bytes that each of some devices of this process can still take, or None.

    Args:
        devices: accelerators that count their memory, or CPU devices, which share the machine's.
    """
    statistics = [device.memory_stats() for device in devices]
    if all(known and "bytes_limit" in known for known in statistics):
        return min(known["bytes_limit"] - known.get("bytes_in_use", 0) for known in statistics)
    memory = Path("/proc/meminfo")
    if any(device.platform != "cpu" for device in devices) or not memory.exists():
        return None
    lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 2**10 // jax.local_device_count()
