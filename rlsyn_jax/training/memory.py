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
    with its moments. decoder: of latents, for rewards. batch: images and labels that a step is
    given. gradients: of the trained parameters. activations: kept for the backward pass, or what
    else is largest at the peak. trajectories: transitions that train, or what each step began with
    where all are differentiated.
    """

    parameters: int = 0
    optimizer: int = 0
    average: int = 0
    bank: int = 0
    value: int = 0
    decoder: int = 0
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

    block: of a block, in activations of [tokens, width]. attentions: of a block, in attention maps
    of [heads, tokens, tokens]. around, attentions_around: beside the blocks.
    """

    block: float
    attentions: float
    around: float
    attentions_around: float


# Of XLA's CPU compiler, fitted to its buffer assignments at widths 128 to 384, 3 to 12 blocks and
# 16 to 256 tokens. Weights' gradients need their inputs, which frozen blocks do not keep.
_KEPT = Kept(block=24.3, attentions=3.0, around=7.7, attentions_around=0.5)
_KEPT_FROZEN = Kept(block=15.7, attentions=3.3, around=10.3, attentions_around=0.0)
# Of blocks that one loop runs: what they keep is stacked, and gradients have a place of their own.
# Fitted at width 128, 16 and 64 tokens, and 4 to 8 blocks.
_LOOPED = {
    "none": Kept(block=34.5, attentions=1.8, around=16.5, attentions_around=1.5),
    "products": Kept(block=10.2, attentions=0.0, around=13.0, attentions_around=3.0),
    "blocks": Kept(block=1.0, attentions=0.0, around=24.5, attentions_around=6.5),
}
_LOOPED_FROZEN = _LOOPED | {"none": _LOOPED["none"]._replace(block=27.4)}
_PIXELS = 8.0  # Images that augmentation, noise and loss hold.
_GATHERED = 0.85  # Of the parameters that other devices hold.
_MERGED = 0.45  # Of the frozen parameters, with low-rank pairs added, and of their gradients.
# What the optimiser's update holds, in trained parameters: gradients and updates; and what Muon
# orthogonalises all matrices at once with; where they are split, it does one after the other.
_ADAMW, _MUON = 2.0, 6.5


def is_looped(model: DiT, on_cpu: bool) -> bool:
    """Returns whether memory is that of one block which a loop runs.

    So it is, by remat, where blocks are not scanned, but XLA's CPU compiler undoes remat there.
    """
    return model.scan_layers or (model.remat != "none" and not on_cpu)


def kept_by_a_sample(
    model: DiT,
    image_shape: tuple[int, int, int],
    kept: Kept,
    *,
    blocks_train: bool,
    on_cpu: bool,
) -> float:
    """Returns the bytes that one sample's forward and backward pass holds.

    XLA's CPU compiler computes in float32 whatever the network's dtype. Elsewhere activations have
    the network's dtype, and attention maps are float32 (their softmax is).

    Args:
        model: the network.
        image_shape: (height, width, channels) of its input.
        kept: of the program, where its blocks are not looped.
        blocks_train: weights inside the blocks get gradients.
        on_cpu: compiled by XLA's CPU compiler.
    """
    tokens, activation, attention = sizes(model, image_shape)
    size = FLOAT if on_cpu else jnp.dtype(model.dtype).itemsize
    if is_looped(model, on_cpu):
        kept = (_LOOPED if blocks_train else _LOOPED_FROZEN)[model.remat]
    activations = activation * (model.depth * kept.block + kept.around)
    attentions = attention * (model.depth * kept.attentions + kept.attentions_around)
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
    trainable: str,
    trained_bytes: int,
    frozen_bytes: int,
    whole_bytes: int,
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
        trainable: one of training.trainable.CHOICES.
        trained_bytes, frozen_bytes, optimizer_bytes: on one device.
        whole_bytes: of all parameters, not split.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.
    """
    pixels = int(np.prod(image_shape))
    blocks_train = trainable in ("lora", "all")
    kept = _KEPT if blocks_train else _KEPT_FROZEN
    sample = kept_by_a_sample(model, image_shape, kept, blocks_train=blocks_train, on_cpu=on_cpu)
    elsewhere = whole_bytes - trained_bytes - frozen_bytes
    passes = batch_size * (sample + FLOAT * _PIXELS * pixels) + _GATHERED * elsewhere
    if is_looped(model, on_cpu):
        passes += trained_bytes
    if trainable == "lora":
        passes += _MERGED * frozen_bytes
    update = _MUON if optimizer == "muon" and not elsewhere else _ADAMW
    # Gradients take the place of activations, which their computation needs no more.
    temporaries = max(passes, update * trained_bytes)
    gradients = min(trained_bytes, temporaries)
    return MemoryParts(
        parameters=trained_bytes + frozen_bytes,
        optimizer=optimizer_bytes,
        average=trained_bytes,
        batch=batch_size * (pixels + FLOAT),
        gradients=int(gradients),
        activations=int(temporaries - gradients),
    )
