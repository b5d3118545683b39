"""How much memory a denoising training step needs on a device, told without compiling it.

The figures are fitted to what XLA's CPU compiler lays out, and hold there within 15 %. On
accelerators buffers are used otherwise, mostly better: there they are estimates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from rlsyn_jax.models.dit import DiT
from rlsyn_jax.training.meshes import parameter_shardings

FLOAT = 4  # Bytes.
MARGIN = 1.15  # What a prediction may be off.


class MemoryParts(NamedTuple):
    """A program's memory on one device in bytes, by what it holds.

    parameters: trained and frozen. optimizer: its state. average: of the trained parameters, and
    the cold start's where the KL asks for it. bank: real features. value: DPOK's value function
    with its moments. batch: images and labels that a step is given. gradients: of the trained
    parameters, at the peak. activations: kept for the backward pass, or what else is largest.
    trajectories: transitions that train.
    """

    parameters: int = 0
    optimizer: int = 0
    average: int = 0
    bank: int = 0
    value: int = 0
    batch: int = 0
    gradients: int = 0
    activations: int = 0
    trajectories: int = 0

    @property
    def temporaries(self) -> int:
        """What the program holds while it runs."""
        return self.gradients + self.activations + self.trajectories

    @property
    def arguments(self) -> int:
        """What it is given."""
        return self.peak - self.temporaries

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(self)


class Kept(NamedTuple):
    """What a forward and backward pass holds at its peak, as a compiler lays it out.

    block, frozen_block: of a block, in activations of [tokens, width], with its weights trained or
    frozen (the weights' gradients need their inputs). attentions: of a block, in attention maps of
    [heads, tokens, tokens]. around, attentions_around: beside the blocks.
    """

    block: float
    frozen_block: float
    attentions: float
    around: float
    attentions_around: float


# Of XLA's CPU compiler, fitted to its buffer assignments at widths 128 to 384, 3 to 12 blocks and
# 16 to 256 tokens.
_KEPT = Kept(block=21.5, frozen_block=19.1, attentions=3.05, around=15.3, attentions_around=0.3)
_PIXELS = 8.0  # Images that augmentation, noise and loss hold.
_GRADIENTS = 0.13  # Of the trained parameters, beside all activations; most share their place.
_GATHERED = 0.9  # Of the parameters that other devices hold.
# What the optimiser's update holds, in trained parameters: gradients and updates; and Muon's
# orthogonalisation of all matrices at once.
_UPDATE = {"adamw": 2.0, "muon": 6.3}


def kept_by_a_sample(
    model: DiT,
    image_shape: tuple[int, int, int],
    kept: Kept,
    *,
    blocks_train: bool,
    on_cpu: bool,
) -> float:
    """Returns the bytes that one sample's forward and backward pass holds.

    XLA's CPU compiler computes in float32 whatever the network's dtype, and saves next to nothing
    by remat. Elsewhere activations have the network's dtype, attention maps are float32 (their
    softmax is), and with remat one block's activations are there at a time, beside the inputs of
    all.

    Args:
        model: the network.
        image_shape: (height, width, channels) of its input.
        kept: of the program.
        blocks_train: weights inside the blocks get gradients.
        on_cpu: compiled by XLA's CPU compiler.
    """
    tokens, activation, attention = sizes(model, image_shape)
    block = kept.block if blocks_train else kept.frozen_block
    size = FLOAT if on_cpu else jnp.dtype(model.dtype).itemsize
    depth, inputs = (1, model.depth) if model.remat and not on_cpu else (model.depth, 0)
    activations = activation * (depth * block + inputs + kept.around)
    attentions = attention * (depth * kept.attentions + kept.attentions_around)
    return size * activations + FLOAT * attentions


def sizes(model: DiT, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns the number of a sample's tokens, of values in its activations and attention maps."""
    height, width, _ = image_shape
    tokens = (height // model.patch_size) * (width // model.patch_size)
    return tokens, tokens * model.width, model.num_heads * tokens**2


def bytes_on_a_device(mesh: Mesh | AbstractMesh, shapes: Any) -> int:
    """Returns how much of some parameters, or of their optimiser's state, each device holds.

    Args:
        mesh: devices; an AbstractMesh stands for ones that are not here.
        shapes: pytree of jax.ShapeDtypeStruct.
    """
    shards = jax.tree.map(
        lambda value, sharding: (
            np.prod(sharding.shard_shape(value.shape), dtype=np.int64) * value.dtype.itemsize
        ),
        shapes,
        parameter_shardings(mesh, shapes),
    )
    return int(sum(jax.tree.leaves(shards)))


def predict_training_memory(
    model: DiT,
    batch_size: int,
    *,
    image_shape: tuple[int, int, int],
    optimizer: str,
    blocks_train: bool,
    trained_bytes: int,
    whole_bytes: int,
    frozen_bytes: int,
    optimizer_bytes: int,
    on_cpu: bool,
) -> MemoryParts:
    """Returns what one denoising training step will need on each device, without compiling it.

    The larger of two phases counts: forward and backward pass, and the optimiser's update.

    Args:
        model: the network.
        batch_size: samples on one device.
        image_shape: (height, width, channels) of the network's input.
        optimizer: "adamw" or "muon".
        blocks_train: weights inside the blocks get gradients (trainable is lora or all).
        trained_bytes, frozen_bytes, optimizer_bytes: on one device.
        whole_bytes: of the trained parameters, not split.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.
    """
    pixels = int(np.prod(image_shape))
    sample = kept_by_a_sample(model, image_shape, _KEPT, blocks_train=blocks_train, on_cpu=on_cpu)
    passes = batch_size * (sample + FLOAT * _PIXELS * pixels)
    passes += _GATHERED * (whole_bytes - trained_bytes)
    gradients = _GRADIENTS * trained_bytes
    if _UPDATE[optimizer] * trained_bytes > passes + gradients:
        gradients = trained_bytes
        passes = (_UPDATE[optimizer] - 1) * trained_bytes
    return MemoryParts(
        parameters=trained_bytes + frozen_bytes,
        optimizer=optimizer_bytes,
        average=trained_bytes,
        batch=batch_size * (pixels + FLOAT),
        gradients=int(gradients),
        activations=int(passes),
    )
