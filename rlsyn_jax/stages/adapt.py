"""Cold start: aligns the prior to the target's identities by the denoising objective."""

from __future__ import annotations

from pathlib import Path

import flax
import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.stages.generator import (
    load_model,
    make_sampler,
    save_model,
    train_denoising,
    write_sample_grid,
)
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.latent_space import LATENT_FIELDS
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.trainable import merge, split

FIELDS = (*TARGET_FIELDS, "generator", *LATENT_FIELDS, "adapt")
INPUTS = ("pretrain",)


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "adapt", config, FIELDS, INPUTS)
    if record.complete:
        return
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    num_classes = len(splits.train_identities)
    logging.info("adapt: %d images of %d identities", len(images), num_classes)
    prior = load_model(config, workdir, "pretrain")
    params = with_new_classes(
        prior, num_classes, config.adapt.class_rows, jax.random.key(config.seed)
    )
    trained, frozen = split(
        params,
        config.adapt.trainable,
        lora_rank=config.adapt.lora_rank,
        lora_targets=tuple(config.adapt.lora_targets),
        key=jax.random.key(config.seed + 2),
    )
    last, average = train_denoising(
        config,
        "adapt",
        record,
        make_mesh(config.fsdp),
        trained=trained,
        frozen=frozen,
        images=images,
        labels=labels,
        data_name="target",
        num_classes=num_classes,
        seed=config.seed,
    )
    save_model(record, config, merge(last, frozen), merge(average, frozen))
    write_sample_grid(
        make_sampler(config, num_classes),
        load_model(config, workdir, "adapt"),
        num_classes,
        record.directory / "samples.png",
        seed=config.seed,
    )
    record.finish()


def with_new_classes(params: dict, num_classes: int, start: str, key: jax.Array) -> dict:
    """Replaces the class table by fresh rows for new identities; the null row is kept.

    Args:
        params: a generator's parameters.
        num_classes: new identities.
        start: "zero" (the paper), "normal" (deviation 0.02, DiT's initialisation) or "mean" (the
            mean of the prior's rows).
        key: typed random key, for "normal".

    Returns:
        Parameters whose table is [num_classes + 1, width].
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    table = flat["y_embedder/embedding_table"]
    shape = (num_classes, table.shape[1])
    rows = {
        "zero": lambda: jnp.zeros(shape),
        "normal": lambda: 0.02 * jax.random.normal(key, shape),
        "mean": lambda: jnp.broadcast_to(table[:-1].mean(axis=0), shape),
    }[start]()
    flat["y_embedder/embedding_table"] = jnp.concatenate([rows, table[-1:]])
    return flax.traverse_util.unflatten_dict(flat, sep="/")
