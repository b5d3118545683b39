"""How much memory an iteration needs on a device: told beforehand, and by its compiled program."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlsyn_jax.models.dit import DiT
from rlsyn_jax.rl.iteration import PolicySettings
from rlsyn_jax.training.memory import FLOAT, Kept, MemoryParts, kept_by_a_sample, sizes

# What XLA's CPU compiler holds, fitted to its buffer assignments at widths 128 to 384, 5 to 12
# blocks and 16 to 256 tokens. Of a transition's forward and backward pass:
_KEPT = Kept(block=26.7, attentions=3.0, around=6.0, attentions_around=1.0)
_KEPT_FROZEN = _KEPT._replace(block=19.2)  # Weights' gradients need their inputs.
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
    num_steps: int,
    *,
    trained_bytes: int,
    frozen_bytes: int,
    bank_bytes: int,
    value_bytes: int,
    decoder_bytes: int,
    decoding_bytes: int,
    blocks_train: bool,
    num_devices: int,
    on_cpu: bool = True,
) -> MemoryParts:
    """Returns what one iteration will need on each device, without compiling it.

    The largest of four phases counts: the rollout's forward pass of all samples, their decoding for
    the rewards, the fit of the value function to all transitions, and a micro-batch's forward and
    backward pass. The states and next states of the trained steps are there in all of them. With
    the algorithm "pathwise" all samples of one step are a micro-batch, and the states of all steps
    are kept; what the rewards' own networks keep for their backward pass is left out.

    Args:
        settings: of the iteration.
        model: the generator.
        num_trained_steps: steps of a rollout that train.
        num_steps: of a rollout.
        trained_bytes, frozen_bytes: parameters on one device.
        bank_bytes: of the reference bank, and the images that rollouts begin with, on one device.
        value_bytes: of the value function's parameters; 0 = none.
        decoder_bytes: of the parameters of what decodes latents for the rewards; 0 = pixels.
        decoding_bytes: what it holds at its peak on one device.
        blocks_train: weights inside the blocks get gradients (trainable is lora or all).
        num_devices: over which samples are split.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.
    """
    pixels = math.prod(settings.image_shape)
    _, activation, attention = sizes(model, settings.image_shape)
    # Without gradient the unconditional branch keeps nothing for the backward pass; through the
    # steps its input has one.
    guidance = settings.guidance_scale != 1
    pathwise = settings.algorithm == "pathwise"
    branches = 2 if guidance and (settings.unconditional == "trained" or pathwise) else 1
    samples = settings.batch_size // num_devices
    transitions = num_trained_steps * samples

    kept = _KEPT if blocks_train else _KEPT_FROZEN
    of_transition = kept_by_a_sample(
        model, settings.image_shape, kept, blocks_train=blocks_train, on_cpu=on_cpu
    )
    passes = samples if pathwise else settings.micro_batch // num_devices
    kept_states = num_steps * samples if pathwise else 2 * transitions
    update = branches * passes * of_transition
    # A minibatch is cut out of all transitions where there are several.
    update += FLOAT * 2 * pixels * transitions / settings.minibatches * (settings.minibatches > 1)
    size = FLOAT if on_cpu else jnp.dtype(model.dtype).itemsize
    of_sample = size * _ROLLOUT * activation + FLOAT * _ROLLOUT_ATTENTIONS * attention
    value = FLOAT * transitions * (pixels + 128 + 6 * 256) if settings.value_steps else 0
    return MemoryParts(
        parameters=trained_bytes + frozen_bytes,
        optimizer=2 * trained_bytes,  # AdamW's moments.
        average=trained_bytes * (2 if settings.kl_weight > 0 else 1),
        bank=bank_bytes,
        value=3 * value_bytes,
        decoder=decoder_bytes,
        gradients=int(_GRADIENT_COPIES * trained_bytes),
        activations=int(max(update, branches * samples * of_sample, value, decoding_bytes)),
        trajectories=FLOAT * pixels * kept_states,
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
