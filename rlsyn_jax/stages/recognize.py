"""Trains the recognisers: the arms of a seed from the same weights, by as many updates.

What sets an arm apart is in stages/arms.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.data.augmentation import random_affine, random_crop, random_erasing, random_flip
from rlsyn_jax.data.rand_augment import rand_augment
from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Objective,
    RecognizerState,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
    place_pool,
    place_recognizer_state,
)
from rlsyn_jax.selection.dynamic_selection import DynamicSelection
from rlsyn_jax.selection.nearest_embedding import select_per_identity
from rlsyn_jax.stages.arms import (
    ARM_SETTINGS,
    augmentation_of,
    mixture_of,
    others_per_batch,
    start_of,
)
from rlsyn_jax.stages.extractors import Extractor, embed_images, load_extractor
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.latent_space import image_shape
from rlsyn_jax.stages.networks import read_weights, recognizer_network
from rlsyn_jax.stages.other_people import load_other_people, people_to_draw
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import make_mesh, place, replicated
from rlsyn_jax.training.metrics import Progress, create_metric_writer
from rlsyn_jax.training.optimizers import make_optimizer, make_schedule
from rlsyn_jax.training.preemption import end_if_preempted

FIELDS = (*TARGET_FIELDS, "recognize")
INPUTS = ("pretrain", "synthesize")


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "recognize", config, FIELDS, INPUTS)
    if record.complete:
        return
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    num_identities = len(splits.train_identities)
    mesh = make_mesh()
    pools = {"real": _pool(images, labels, num_identities)}
    arms = {arm: ARM_SETTINGS[arm] for arm in config.recognize.arms}
    others = {"": np.zeros(0, np.int32)}
    other_people: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for arm in arms:
        kind = arms[arm].others
        if not kind or kind in other_people:
            continue
        pictures, people = load_other_people(config, workdir, kind, num_identities)
        other_people[kind] = pictures, people
        num_classes = int(people.max()) + 1
        pools[kind] = _pool(
            np.concatenate([images, pictures]), np.concatenate([labels, people]), num_classes
        )
        others[kind] = people_to_draw(people, others_per_batch(config, arm))
    for source in sorted({settings.synthetic for settings in arms.values()} - {""}):
        folder = "reinforced" if source == "nearest" else source
        synthetic, _ = load_synthetic(workdir / "synthesize" / folder)
        pictures, people = synthetic.images, synthetic.identities
        if source == "nearest" and len(pictures):
            kept = _nearest(config, workdir, mesh, pictures, people, images, labels)
            pictures, people = pictures[kept], people[kept]
        places = _places_of_lacking(people, labels)
        if len(places):
            pools[f"{source} alone"] = _pool(pictures, people, num_identities)
            pictures = np.concatenate([pictures, images[places]])
            people = np.concatenate([people, labels[places]])
        pools[source] = _pool(pictures, people, num_identities)
        for kind in {arm.others for arm in arms.values() if arm.synthetic == source} - {""}:
            images_of_others, who = other_people[kind]
            pools[f"{source}, {kind}"] = _pool(
                np.concatenate([pictures, images_of_others]),
                np.concatenate([people, who]),
                int(who.max()) + 1,
            )
    pools = {name: place_pool(pool, mesh) for name, pool in pools.items()}
    others = place(others, replicated(mesh))
    steps = {arm: _make_step(config, mesh, arm, pools) for arm in config.recognize.arms}
    for seed in range(config.recognize.seeds):
        for arm in config.recognize.arms:
            _train(config, workdir, record, seed, arm, steps[arm], pools, others, mesh)
            record.note_time()
    record.finish()


def load_recognizer(config: ConfigDict, workdir: Path, seed: int, arm: str) -> Extractor:
    """Returns the finished recogniser of one arm and seed."""
    # The running averages, where there are any.
    params, batch_stats = (
        restore_params(_folder(workdir, seed, arm), collection=part)
        for part in ("params", "batch_stats")
    )
    return Extractor(recognizer_network(config), {"params": params, "batch_stats": batch_stats})


def dynamic_selection(config: ConfigDict) -> DynamicSelection:
    """Returns how the arms that select do it."""
    selection = config.recognize.selection
    return DynamicSelection(
        method=selection.method,
        parameters=selection.parameters,
        scope=selection.scope,
        rule=selection.rule,
        threshold=selection.threshold,
        keep_real=selection.keep_real,
        warmup_steps=selection.warmup_steps,
        every=selection.every,
    )


def _nearest(
    config: ConfigDict,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    synthetic: np.ndarray,
    synthetic_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
) -> np.ndarray:
    """Places of the synthetic images that the nearest-embedding selector keeps, ascending."""
    settings = config.recognize.nearest
    extractor = load_extractor(config, workdir, "reward")
    kept = select_per_identity(
        embed_images(extractor, synthetic),
        synthetic_labels,
        embed_images(extractor, real),
        real_labels,
        settings.images,
        trade_off=settings.trade_off,
        mesh=mesh,
    )
    logging.info(
        "recognize: the nearest-embedding selector keeps %d of %d synthetic images",
        len(kept),
        len(synthetic),
    )
    return np.sort(kept)


def _pool(images: np.ndarray, labels: np.ndarray, num_identities: int) -> ImagePool:
    return ImagePool(images, make_identity_table(labels, num_identities))


def _places_of_lacking(synthetic_labels: np.ndarray, real_labels: np.ndarray) -> np.ndarray:
    """Places of the real images of people without a synthetic one, whom arms with both forgot."""
    if not len(synthetic_labels):
        return np.zeros(0, int)
    places = np.flatnonzero(~np.isin(real_labels, synthetic_labels))
    if len(places):
        logging.warning(
            "recognize: %d of %d people have no synthetic image; where arms have both, their real "
            "images stand in",
            len(np.unique(real_labels[places])),
            len(np.unique(real_labels)),
        )
    return places


def _folder(workdir: Path, seed: int, arm: str) -> Path:
    return Path(workdir) / "recognize" / f"seed_{seed}" / arm / "checkpoints"


def _rate(config: ConfigDict) -> dict:
    recognize = config.recognize
    return {
        "learning_rate": recognize.learning_rate,
        "warmup_steps": recognize.warmup_steps,
        "total_steps": recognize.steps,
        "decay": recognize.decay,
        "decay_at": recognize.decay_at,
    }


def _optimizer(config: ConfigDict):
    recognize = config.recognize
    return make_optimizer(
        **_rate(config),
        name=recognize.optimizer,
        weight_decay=recognize.weight_decay,
        gradient_clip=recognize.gradient_clip,
    )


def _initial_state(
    config: ConfigDict,
    workdir: Path,
    seed: int,
    arm: str,
    num_identities: int,
    num_classes: int,
    mesh: jax.sharding.Mesh,
) -> RecognizerState:
    """The start that the arms of a seed share: weights, classifier and random key, on the mesh.

    Classes beside the target's `num_identities` are drawn by a key of their own, where each device
    holds the whole classifier.
    """
    key = jax.random.fold_in(jax.random.key(config.seed + 20), seed)
    init_key, train_key = jax.random.split(key)
    model = recognizer_network(config)
    split = num_classes >= config.recognize.split_classes
    variables = init_recognizer(
        model,
        init_key,
        image_shape(config),
        num_classes if split else num_identities,
        split_over=mesh if split else None,
    )
    if num_classes > num_identities and not split:
        own = variables["params"]["classifier"]
        shape = len(own), num_classes - num_identities
        # 0 and 1 are the keys that init_recognizer splits off, for the network and for its own.
        others = jax.random.normal(jax.random.fold_in(init_key, 2), shape) * len(own) ** -0.5
        variables["params"]["classifier"] = jnp.concatenate([own, others], axis=1)
    start = start_of(config, arm)
    if start == "general":
        general = load_extractor(config, workdir, "start").variables
        variables["params"]["backbone"] = general["params"]["backbone"]
        variables["batch_stats"] = general["batch_stats"]
    elif start != "random":
        variables["params"]["backbone"], variables["batch_stats"] = read_weights(
            config, model, start, "recognize.start"
        )
    ema = config.recognize.ema_decay > 0
    state = create_recognizer_state(variables, _optimizer(config), train_key, ema)
    return place_recognizer_state(state, mesh, split)


def _augment(config: ConfigDict, arm: str) -> Callable:
    recognize, network = config.recognize, recognizer_network(config)
    augmentation = augmentation_of(config, arm)

    def augment(key, images):
        # Before the changes, whose pixels are those that the network sees.
        images = network.resize(images)
        flip_key, crop_key, arm_key = jax.random.split(key, 3)
        if recognize.flip:
            images = random_flip(flip_key, images)
        if recognize.crop_padding:
            images = random_crop(crop_key, images, padding=recognize.crop_padding)
        if augmentation == "erasing":
            images = random_erasing(arm_key, images, recognize.erasing_probability)
        if augmentation == "affine":
            images = random_affine(
                arm_key,
                images,
                max_rotation_degrees=recognize.affine_rotation,
                max_scale=recognize.affine_scale,
                max_translation=recognize.affine_translation,
            )
        if augmentation == "rand_augment":
            images = rand_augment(
                arm_key,
                images,
                recognize.rand_augment_operations,
                recognize.rand_augment_magnitude,
            )
        return images

    return augment


def _make_step(config: ConfigDict, mesh: jax.sharding.Mesh, arm: str, pools: dict) -> Callable:
    recognize, num_classes = config.recognize, _num_classes(pools, arm)
    return make_train_step(
        recognizer_network(config),
        _optimizer(config),
        mesh,
        objective=Objective(
            loss=recognize.loss,
            label_smoothing=recognize.label_smoothing,
            triplet_margin=recognize.triplet_margin,
            cosface_scale=recognize.cosface_scale,
            cosface_margin=recognize.cosface_margin,
            arcface_scale=recognize.arcface_scale,
            arcface_margin=recognize.arcface_margin,
            arcface_easy_margin=recognize.arcface_easy_margin,
            circle_scale=recognize.circle_scale,
            circle_margin=recognize.circle_margin,
        ),
        mixture=mixture_of(config, arm),
        identities_per_batch=recognize.identities_per_batch,
        augment=_augment(config, arm),
        schedule=make_schedule(**_rate(config)),
        selection=dynamic_selection(config),
        ema_decay=recognize.ema_decay,
        split_classes=num_classes if num_classes >= recognize.split_classes else 0,
        others_per_batch=others_per_batch(config, arm),
    )


def _real_pool(pools: dict, arm: str) -> ImagePool:
    """The real images that an arm draws from, those of other people among them."""
    return pools[ARM_SETTINGS[arm].others or "real"]


def _synthetic_pool(pools: dict, arm: str) -> ImagePool | None:
    """The synthetic images that an arm draws, and others' own images beside them."""
    settings = ARM_SETTINGS[arm]
    if not settings.synthetic:
        return None
    if not settings.real:
        return pools.get(f"{settings.synthetic} alone", pools[settings.synthetic])
    others = f", {settings.others}" if settings.others else ""
    return pools[settings.synthetic + others]


def _num_classes(pools: dict, arm: str) -> int:
    return len(_real_pool(pools, arm).table.counts)


def _train(config, workdir, record, seed, arm, step, pools, others, mesh) -> None:
    """Runs or resumes one arm of one seed to its last step."""
    recognize, settings = config.recognize, ARM_SETTINGS[arm]
    real, synthetic = _real_pool(pools, arm), _synthetic_pool(pools, arm)
    num_identities = len(pools["real"].table.counts)
    steps = recognize.steps if settings.trains else 0
    with CheckpointStore(_folder(workdir, seed, arm), max_to_keep=1) as store:
        if store.latest_step() == steps:
            return
        state = _initial_state(
            config, workdir, seed, arm, num_identities, _num_classes(pools, arm), mesh
        )
        if not steps:
            store.save(0, state, config=plain(config), iterator_state=None)
            return
        if store.latest_step() is not None:
            state, _, _ = store.restore(state)
        start = int(state.step)
        drawn = real if synthetic is None else synthetic
        candidates = _drawable(drawn, num_identities)
        if len(candidates) < num_identities:
            logging.warning(
                "recognize %s: %d of %d people have no synthetic image and are left out",
                arm,
                num_identities - len(candidates),
                num_identities,
            )
        candidates = place(jnp.asarray(candidates), replicated(mesh))
        writer = create_metric_writer(
            _folder(workdir, seed, arm).parent, resume_step=start, tensorboard=config.tensorboard
        )
        progress = Progress(
            f"recognize seed {seed} {arm}",
            steps,
            first_step=start,
            every_seconds=config.log_every_seconds,
        )
        for number in range(start + 1, steps + 1):
            state, metrics = step(state, real, synthetic, candidates, others[settings.others])
            if number % 20 == 0 or number == steps:
                values = {name: float(value) for name, value in metrics.items()}
                if not np.isfinite(values["loss"]):
                    raise FloatingPointError(
                        f"recognize {arm}: loss is {values['loss']} at step {number}; lower "
                        "config.recognize.learning_rate"
                    )
                writer.write_scalars(number, values)
                progress.update(number, **values)
            save = functools.partial(_save, config, record, store, writer, state)
            due = number % recognize.checkpoint_every == 0 or number == steps
            if due:
                save()
            place_reached = f"recognize seed {seed} {arm}, step {number},"
            end_if_preempted(place_reached, None if due else save, store)
        writer.close()


def _save(config, record, store, writer, state: RecognizerState) -> None:
    """Puts everything that a later process needs to go on from this step on disk."""
    writer.flush()
    store.save(int(state.step), state, config=plain(config), iterator_state=None)
    record.note_time()


def _drawable(pool: ImagePool, num_identities: int) -> np.ndarray:
    """The target's identities of which the pool has an image."""
    present = np.flatnonzero(np.asarray(pool.table.counts)[:num_identities])
    if not len(present):
        raise ValueError(
            "recognize: the synthetic data set is empty, since every image was a near copy; lower "
            "config.synthesize.near_copy_quantile or pixel_copy_quantile, draw more candidates, or "
            "leave the synthetic arms out"
        )
    return present.astype(np.int32)
