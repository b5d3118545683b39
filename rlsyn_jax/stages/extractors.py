"""The run's frozen feature extractors: "reward", "judge" and "start".

reward scores samples inside the RL loop; judge measures and never rewards (gate, near copies,
fidelity), with another width, another seed and other batches; start is where recognisers begin, and
has seen the general domain only, as the generator's prior has. Those that learn from general people
alone do not differ between the seeds and targets of an experiment, and are kept as the prior is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.config import field
from rlsyn_jax.data.augmentation import random_crop, random_flip
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.pixel_memory import in_memory_bytes
from rlsyn_jax.data.stored_images import StoredImages
from rlsyn_jax.evaluation.unit_rows import unit_rows
from rlsyn_jax.recognition import embedding
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.networks import RecognitionNetwork
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    Objective,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
    place_pool,
)
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.kept_folders import fetch, keep
from rlsyn_jax.stages.latent_space import image_shape
from rlsyn_jax.stages.networks import SHARED_FIELDS, extractor_network, read_weights
from rlsyn_jax.stages.stage_record import files_fingerprint, fingerprint, plain, shaping
from rlsyn_jax.training.checkpoints import CheckpointStore
from rlsyn_jax.training.meshes import make_mesh, own_device, place, replicated
from rlsyn_jax.training.metrics import Progress
from rlsyn_jax.training.optimizers import make_optimizer, make_schedule
from rlsyn_jax.training.preemption import end_if_preempted

NAMES = ("reward", "judge", "start")
_SEED = 0  # As the prior has one of its own.


@dataclasses.dataclass(frozen=True)
class Extractor:
    """An embedding network with its weights."""

    model: RecognitionNetwork
    variables: dict


def train_extractors(
    config: ConfigDict, workdir: Path, record, general: IdentityDataset | None
) -> None:
    """Trains the three extractors one after the other; those on disk are left alone.

    Args:
        config: complete configuration.
        workdir: of the run.
        record: of the stage that trains them, for its time.
        general: the general-domain data set; None = there is none, so that the target alone is
            learnt from, and no recogniser starts from general people.
    """
    names = NAMES if general is not None else ("reward", "judge")
    cache = Path(config.pretrain.cache) if config.pretrain.cache else None
    held = target = None
    for name in names:
        folder = _folder(workdir, name)
        shared = general is not None and not _learns_target(config, name)
        kept = None
        if shared and cache is not None:
            kept = cache / extractor_fingerprint(config, name, people_in_memory(general)) / name
        if not (folder / "1").is_dir():
            if kept is not None and fetch(kept, folder):
                logging.info("extractor %s was trained before, in %s", name, kept)
                continue
            if target is None and not shared:
                dataset, splits = load_target(config, workdir)
                target = train_labels(dataset, splits)
            if held is None and general is not None:
                held = in_memory(general)
            if shared:
                images, labels = held.images, held.identities
            elif general is None:
                images, labels = target
            else:
                images = np.concatenate([held.images, target[0]])
                labels = np.concatenate([held.identities, held.num_identities + target[1]])
            _train(config, workdir, name, images, labels, seed=_SEED if shared else config.seed)
            record.note_time()
        # Also what a run had made that was killed before it was kept.
        if kept is not None:
            keep(folder, kept)


def in_memory(general: IdentityDataset) -> IdentityDataset:
    """Returns the data set, or its first people, as many as memory holds the images of."""
    if not isinstance(general.images, StoredImages):
        return general
    people = people_in_memory(general)
    kept = general.subset(np.flatnonzero(general.identities < people), relabel=True)
    logging.info("extractors: the first %d people of %s, as memory has room", people, general.name)
    return dataclasses.replace(kept, images=kept.images[:])


def people_in_memory(general: IdentityDataset) -> int:
    """Returns how many people `in_memory` has; no image is read."""
    if not isinstance(general.images, StoredImages):
        return general.num_identities
    of_image = int(np.prod(general.images.shape[1:]))
    number = np.cumsum(np.bincount(general.identities)) * of_image
    people = max(2, int(np.searchsorted(number, in_memory_bytes(), side="right")))
    return min(people, general.num_identities)


def load_extractor(config: ConfigDict, workdir: Path, name: str) -> Extractor:
    """Returns a trained extractor: "reward", "judge" or "start"."""
    model = extractor_network(config, name)
    with CheckpointStore(_folder(workdir, name), max_to_keep=1) as store:
        variables = jax.eval_shape(
            lambda: init_recognizer(model, jax.random.key(0), image_shape(config), 1)
        )
        target = jax.tree.map(
            lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=own_device()),
            {
                "params": {"backbone": variables["params"]["backbone"]},
                "batch_stats": variables["batch_stats"],
            },
        )
        variables, _, _ = store.restore(target)
    return Extractor(model, variables)


def embed_images(
    extractor: Extractor, images: np.ndarray, *, with_mirror: bool = False
) -> np.ndarray:
    """Returns unit embeddings, float32 [n, d], of uint8 images [n, h, w, c].

    With `with_mirror`, of the sum of an image's and its mirror image's embeddings.
    """
    return embedding.embed_images(
        extractor.model, extractor.variables, images, with_mirror=with_mirror
    )


def class_means(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the mean embedding of each class, float64 [classes, d].

    Args:
        embeddings: float [n, d].
        labels: integers [n], each of 0, 1, ..., classes - 1 at least once.
    """
    sums = np.zeros((labels.max() + 1, embeddings.shape[1]))
    np.add.at(sums, labels, embeddings)
    return sums / np.bincount(labels)[:, None]


def looks_of_people(extractor: Extractor, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns where each person's images lie in the mean, unit embeddings float32 [people, d].

    Args:
        extractor: that looks.
        images: uint8 [n, h, w, c].
        labels: integers [n], each of 0, 1, ..., people - 1 at least once.
    """
    return unit_rows(class_means(embed_images(extractor, images), labels).astype(np.float32))


def make_embed(extractor: Extractor) -> Callable[[jax.Array], jax.Array]:
    """Returns a pure function of images in [-1, 1], for use inside compiled programs."""
    return embedding.make_embed(extractor.model, extractor.variables)


def _folder(workdir: Path, name: str) -> Path:
    return Path(workdir) / "pretrain" / "extractors" / name


def _learns_target(config: ConfigDict, name: str) -> bool:
    return name != "start" and config.extractor.with_target


def extractor_fingerprint(config: ConfigDict, name: str, num_identities: int) -> str:
    """Returns the hash of everything that an extractor of general people alone depends on.

    Args:
        config: complete configuration.
        name: of the extractor.
        num_identities: people that it learns, as many as memory has room for.
    """
    data = shaping(config, "general_data")
    data.pop("cache")
    learnt = [num_identities, data, shaping(config, "image")]
    files = files_fingerprint(config, "general_data")
    settings, recognize = _learning(config)
    return fingerprint([name, *learnt, settings, recognize, _SEED, *([files] if files else [])])


def looks_fingerprint(config: ConfigDict) -> str:
    """Returns the hash of how the extractor of general people alone learns, whatever the people."""
    return fingerprint(_learning(config))


def _learning(config: ConfigDict) -> list:
    settings = shaping(config, "extractor")
    settings.pop("with_target")
    shared = ("recognize.network", "recognize.width", "recognize.crop_padding", "recognize.flip")
    return [settings, [field(config, path) for path in (*SHARED_FIELDS, *shared)]]


def _train(
    config: ConfigDict,
    workdir: Path,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
) -> None:
    settings = config.extractor
    mesh = make_mesh()
    model = extractor_network(config, name)
    number = NAMES.index(name)
    num_identities = int(labels.max()) + 1
    rate = {
        "learning_rate": settings.learning_rate,
        "warmup_steps": min(50, settings.steps // 4),
        "total_steps": settings.steps,
        "decay": "cosine",
    }
    optimizer = make_optimizer(**rate, weight_decay=5e-4, gradient_clip=5.0)
    key = jax.random.fold_in(jax.random.key(seed + 10), number)
    init_key, train_key = jax.random.split(key)
    variables = init_recognizer(model, init_key, image_shape(config), num_identities)
    weights = {"reward": settings.weights, "judge": settings.judge_weights}.get(name, "")
    if weights:
        field = "extractor.weights" if name == "reward" else "extractor.judge_weights"
        variables["params"]["backbone"], variables["batch_stats"] = read_weights(
            config, model, weights, field
        )
    state = create_recognizer_state(variables, optimizer, train_key)

    def augment(key, images):
        images = model.resize(images)
        flip_key, crop_key = jax.random.split(key)
        if config.recognize.flip:
            images = random_flip(flip_key, images)
        return random_crop(crop_key, images, padding=config.recognize.crop_padding)

    step = make_train_step(
        model,
        optimizer,
        mesh,
        objective=Objective(
            loss="cosface",
            cosface_scale=settings.cosface_scale,
            cosface_margin=settings.cosface_margin,
        ),
        mixture=Mixture(real=settings.images_per_identity),
        identities_per_batch=settings.identities_per_batch,
        augment=augment,
        schedule=make_schedule(**rate),
    )
    pool = place_pool(ImagePool(images, make_identity_table(labels, num_identities)), mesh)
    state = place(state, replicated(mesh))
    counts = np.bincount(labels)
    # A person with one image says nothing about what changes between images of a person.
    several = np.flatnonzero(counts >= 2)
    candidates = several if len(several) >= settings.identities_per_batch else np.unique(labels)
    candidates = place(jnp.asarray(candidates), replicated(mesh))
    progress = Progress(f"extractor {name}", settings.steps, every_seconds=config.log_every_seconds)
    for done in range(1, settings.steps + 1):
        state, metrics = step(state, pool, None, candidates)
        if done % 20 == 0 or done == settings.steps:
            values = {key: float(value) for key, value in metrics.items()}
            if not np.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"extractor {name}: loss is {values['loss']} at step {done}; lower "
                    "config.extractor.learning_rate"
                )
            progress.update(done, **values)
        # It is made in one go, and is begun anew by the next process.
        end_if_preempted(f"what was made before extractor {name}")
    state = jax.device_get(state)
    with CheckpointStore(_folder(workdir, name), max_to_keep=1) as store:
        weights = {
            "params": {"backbone": state.params["backbone"]},
            "batch_stats": state.batch_stats,
        }
        weights = jax.tree.map(jnp.asarray, weights)
        store.save(1, weights, config=plain(config), iterator_state=None, force=True)
    logging.info("extractor %s: trained on %d people", name, len(np.unique(labels)))
