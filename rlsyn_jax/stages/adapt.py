"""Cold start: aligns the prior to the target's identities by the denoising objective."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.models.class_rows import predict_class_rows, with_class_table
from rlsyn_jax.stages.extractors import (
    class_means,
    embed_images,
    in_memory,
    load_extractor,
    looks_of_people,
)
from rlsyn_jax.stages.generator import (
    load_model,
    make_sampler,
    save_model,
    train_denoising,
    write_sample_grid,
)
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_general, load_target, train_labels
from rlsyn_jax.stages.latent_space import LATENT_FIELDS
from rlsyn_jax.stages.prior_appearance import load_appearance_map
from rlsyn_jax.stages.prior_classes import check_knows_general
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.appearance_rows import class_table
from rlsyn_jax.training.meshes import make_mesh, parameter_shardings, place
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
    start = config.adapt.class_rows
    rows = None
    if start == "embedding":
        rows = rows_by_appearance(config, workdir, prior, images, labels)
    params = with_new_classes(prior, num_classes, start, jax.random.key(config.seed), rows)
    last = average = params
    if config.adapt.steps:
        trained, frozen = split(
            params,
            config.adapt.trainable,
            lora_rank=config.adapt.lora_rank,
            lora_targets=tuple(config.adapt.lora_targets),
            key=jax.random.key(config.seed + 2),
        )
        mesh = make_mesh(config.fsdp)
        last, average = train_denoising(
            config,
            "adapt",
            record,
            mesh,
            trained=trained,
            frozen=frozen,
            images=images,
            labels=labels,
            data_name="target",
            num_classes=num_classes,
            seed=config.seed,
        )
        # What trained lies on the mesh, and low-rank pairs are added to what did not.
        frozen = place(frozen, parameter_shardings(mesh, frozen))
        last, average = merge(last, frozen), merge(average, frozen)
    save_model(record, config, last, average)
    write_sample_grid(
        make_sampler(config, num_classes),
        load_model(config, workdir, "adapt"),
        num_classes,
        record.directory / "samples.png",
        seed=config.seed,
    )
    record.finish()


def rows_by_appearance(
    config: ConfigDict, workdir: Path, prior: dict, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Returns class rows of the target's people by what their training images look like.

    What looks is the extractor "start", which knows general people alone, as the prior does. Where
    it told the prior's rows in training, it tells these in the same way; else what it says of rows
    is learnt from those of the general people.

    Args:
        config, workdir: of the run, whose stage pretrain is complete.
        prior: parameters of the prior, with a class row for each of the general people.
        images: uint8 [n, h, w, c], training images of the target.
        labels: int32 [n], from 0 on.

    Returns:
        float32 [people, width].

    Raises:
        ConfigError: the prior knows other people than config.general_data.
    """
    extractor = load_extractor(config, workdir, "start")
    appearance_map = load_appearance_map(workdir)
    if appearance_map is not None:
        return np.asarray(class_table(appearance_map, looks_of_people(extractor, images, labels)))[
            :-1
        ]
    general = load_general(config, workdir)
    table = np.asarray(prior["y_embedder"]["embedding_table"])[:-1]
    check_knows_general(len(table), general, "adapt.class_rows='embedding'")
    general = in_memory(general)
    known, new = (
        class_means(embed_images(extractor, pictures), people)
        for pictures, people in ((general.images, general.identities), (images, labels))
    )
    predicted = predict_class_rows(table[: len(known)], known, new)
    logging.info(
        "adapt: embeddings tell %.0f %% of what sets the prior's class rows apart",
        100 * predicted.explained,
    )
    return predicted.rows


def with_new_classes(
    params: dict, num_classes: int, start: str, key: jax.Array, rows: np.ndarray | None = None
) -> dict:
    """Replaces the class table by fresh rows for new identities; the null row is kept.

    Args:
        params: a generator's parameters.
        num_classes: new identities.
        start: "zero" (the paper), "normal" (deviation 0.02, DiT's initialisation), "mean" (the
            mean of the prior's rows) or "embedding" (the rows that are given).
        key: typed random key, for "normal".
        rows: float [new identities, width], for "embedding".

    Returns:
        Parameters whose table is [num_classes + 1, width].
    """
    table = params["y_embedder"]["embedding_table"]
    shape = (num_classes, table.shape[1])
    table_rows = {
        "embedding": lambda: jnp.asarray(rows),
        "zero": lambda: jnp.zeros(shape),
        "normal": lambda: 0.02 * jax.random.normal(key, shape),
        "mean": lambda: jnp.broadcast_to(table[:-1].mean(axis=0), shape),
    }[start]()
    return with_class_table(params, jnp.concatenate([table_rows, table[-1:]]))
