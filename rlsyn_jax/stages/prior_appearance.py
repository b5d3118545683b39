"""A prior whose rows are told by looks: how it is trained, and what tells new people's rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.models.class_rows import with_class_table
from rlsyn_jax.stages.extractors import Extractor, class_means, embed_images
from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.training.appearance_rows import (
    APPEARANCES,
    class_table,
    make_appearances,
    tell_rows,
)
from rlsyn_jax.training.checkpoints import has_collection, restore_params
from rlsyn_jax.training.trainable import merge, split

# Of the prior's checkpoint, beside its parameters.
_COLLECTION = "appearance_map"
_EMBEDDED_AT_ONCE = 4096  # Images may lie on disk.


def train_by_appearance(
    config: ConfigDict,
    extractor: Extractor,
    dataset: IdentityDataset,
    train: Callable,
    *,
    seed: int,
) -> tuple[dict, dict, dict]:
    """Trains a prior whose rows an extractor tells.

    Args:
        config: complete configuration.
        extractor: that looks; it knows general people alone.
        dataset: the general people.
        train: of the keyword arguments of `train_denoising` that say what trains.
        seed: of the parameters at the beginning.

    Returns:
        (parameters, their running average, further collections of the checkpoint): rows are those
        of the directions of people's mean embeddings, and what told them is a collection.
    """
    views = _embedded_views(extractor, dataset.images, mirrored=config.pretrain.flip)
    known = unit_rows(class_means(views[:, 0], dataset.identities).astype(np.float32))
    # The table holds the map from embeddings to rows and its bias.
    trained, _ = split(init_params(config, views.shape[-1] + 1, seed=seed), "all")
    parts = train(
        trained=trained,
        frozen={APPEARANCES: make_appearances(views, dataset.identities)},
        labels=np.arange(len(dataset.images)),
        num_classes=config.pretrain.batch_size,
        tell=functools.partial(tell_rows, noise=config.pretrain.appearance_noise),
    )
    last, average = (merge(part, {}) for part in parts)
    maps = [params["y_embedder"]["embedding_table"] for params in (last, average)]
    # Compiled, as a table may be split over the devices of several processes.
    tables = [jax.jit(class_table)(table, known) for table in maps]
    others = {_COLLECTION: {"table": maps[0]}, f"ema_{_COLLECTION}": {"table": maps[1]}}
    return with_class_table(last, tables[0]), with_class_table(average, tables[1]), others


def load_appearance_map(workdir: Path) -> jax.Array | None:
    """Returns what tells rows of a run's prior, as `class_table` takes it.

    Args:
        workdir: of the run, whose stage pretrain is complete.

    Returns:
        float32 [d + 2, width]; None where each row is a person's own, or the prior was not trained
        in the run or fetched for it.
    """
    prior = Path(workdir) / "pretrain" / "model"
    if not has_collection(prior, _COLLECTION):
        return None
    return restore_params(prior, collection=_COLLECTION)["table"]


def _embedded_views(extractor: Extractor, images: np.ndarray, *, mirrored: bool) -> np.ndarray:
    """Returns unit embeddings of images and, where asked for, of their mirror images.

    Returns:
        float32 [n, 1 or 2, d].
    """
    parts = []
    for start in range(0, len(images), _EMBEDDED_AT_ONCE):
        part = images[start : start + _EMBEDDED_AT_ONCE]
        views = (part, part[:, :, ::-1]) if mirrored else (part,)
        parts.append(np.stack([embed_images(extractor, view) for view in views], axis=1))
    return np.concatenate(parts)
