"""The memory of a training step of config.pretrain or config.adapt, told without a device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from rlsyn_jax.models.dit import DiT
from rlsyn_jax.stages.generator import build_generator, denoising_optimizer
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.stages.networks import feature_width
from rlsyn_jax.training.appearance_rows import APPEARANCES
from rlsyn_jax.training.memory import MemoryParts, bytes_on_a_device, predict_training_memory
from rlsyn_jax.training.meshes import make_abstract_mesh
from rlsyn_jax.training.trainable import split


def split_shapes(
    config: ConfigDict, num_classes: int, section: str, *, num_images: int = 0
) -> tuple:
    """Returns the shapes of what trains and of what is frozen; nothing is allocated.

    Args:
        config: complete configuration.
        num_classes: class rows of the generator.
        section: "pretrain", "adapt" or "reinforce".
        num_images: of the general people, whose embeddings lie on devices where looks tell rows.
    """
    if section == "pretrain" and config.pretrain.class_rows == "appearance":
        views, width = 1 + config.pretrain.flip, feature_width(config, "start")
        embeddings = jax.ShapeDtypeStruct((num_images, views, width), jnp.float32)
        places = dict.fromkeys(
            ("order", "place", "first", "count"), jax.ShapeDtypeStruct((num_images,), jnp.int32)
        )
        # What maps embeddings to rows, its bias and the null row.
        trained, _ = _own_shapes(config, width + 1, section)
        return trained, {APPEARANCES: {"embeddings": embeddings, **places}}
    return _own_shapes(config, num_classes, section)


def _own_shapes(config: ConfigDict, num_classes: int, section: str) -> tuple:
    # How blocks are computed does not change their parameters.
    model = build_generator(config, num_classes).clone(remat="none")
    # Its settings count for adapt and reinforce; the prior has no low-rank pairs.
    lora = config.reinforce if section == "reinforce" else config.adapt
    return _split_shapes(
        model,
        sample_shape(config),
        trained_part(config, section),
        lora.lora_rank,
        tuple(lora.lora_targets),
    )


@functools.lru_cache(maxsize=8)
def _split_shapes(
    model: DiT, shape: tuple[int, int, int], trainable: str, lora_rank: int, lora_targets: tuple
) -> tuple:
    def parts(key):
        label = jnp.zeros(1, jnp.int32)
        params = model.init(key, jnp.zeros((1, *shape)), label, label)["params"]
        return split(params, trainable, lora_rank=lora_rank, lora_targets=lora_targets, key=key)

    return jax.eval_shape(parts, jax.random.key(0))


def training_memory(
    config: ConfigDict,
    section: str,
    num_classes: int,
    mesh: Mesh | AbstractMesh,
    *,
    on_cpu: bool,
    num_images: int = 0,
) -> Callable[..., MemoryParts]:
    """Returns the prediction of a step's memory on each device, as a function (model, batch_size).

    The batch size is that of one device.

    Args:
        config: complete configuration.
        section: "pretrain" or "adapt".
        num_classes: class rows of the generator.
        mesh: devices.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.
        num_images: as of `split_shapes`.
    """
    training, trainable = config[section], trained_part(config, section)
    trained, frozen = split_shapes(config, num_classes, section, num_images=num_images)
    optimizer = denoising_optimizer(training, training.steps)
    return functools.partial(
        predict_training_memory,
        image_shape=sample_shape(config),
        optimizer=training.optimizer,
        trainable=trainable,
        trained_bytes=bytes_on_a_device(mesh, trained),
        frozen_bytes=bytes_on_a_device(mesh, frozen),
        whole_bytes=bytes_on_a_device(make_abstract_mesh(1), (trained, frozen)),
        optimizer_bytes=bytes_on_a_device(mesh, jax.eval_shape(optimizer.init, trained)),
        on_cpu=on_cpu,
    )


def trained_part(config: ConfigDict, section: str) -> str:
    """Returns which part of the generator trains in a section: one of trainable.CHOICES."""
    return "all" if section == "pretrain" else config[section].trainable
