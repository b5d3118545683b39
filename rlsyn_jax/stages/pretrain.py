"""The prior: a generator of the general domain, trained here or by somebody else.

A trained prior depends on the general data and its own settings alone, never on the run's seed or
target, so it is kept in a cache under the hash of what made it and later runs start from it.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

import flax
import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from safetensors import safe_open

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.stages.dataset_exports import check_exports
from rlsyn_jax.stages.extractors import (
    extractor_fingerprint,
    load_extractor,
    looks_fingerprint,
    people_in_memory,
    train_extractors,
)
from rlsyn_jax.stages.generator import (
    build_generator,
    in_layout,
    init_params,
    load_model,
    make_sampler,
    save_model,
    train_denoising,
    write_sample_grid,
)
from rlsyn_jax.stages.inputs import GENERAL_FIELDS, TARGET_FIELDS, load_general, load_target
from rlsyn_jax.stages.kept_folders import fetch, keep
from rlsyn_jax.stages.latent_space import LATENT_FIELDS, latent_space_name, sample_shape
from rlsyn_jax.stages.networks import SHARED_FIELDS, check_starting_weights
from rlsyn_jax.stages.novel_identities import check_unseen_people
from rlsyn_jax.stages.prior_appearance import train_by_appearance
from rlsyn_jax.stages.prior_classes import (
    check_knows_general,
    check_prior_identities,
    num_classes,
    num_prior_classes,
)
from rlsyn_jax.stages.stage_record import (
    StageRecord,
    files_fingerprint,
    fingerprint,
    plain,
    shaping,
)
from rlsyn_jax.stages.trained_rewards import check_spread
from rlsyn_jax.stages.verification_sets import check_verification_sets
from rlsyn_jax.training.checkpoints import restore_config, restore_params
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.trainable import merge, split

FIELDS = (
    *GENERAL_FIELDS,
    *TARGET_FIELDS,
    "generator",
    *LATENT_FIELDS,
    "pretrain",
    "extractor",
    *SHARED_FIELDS,
    "recognize.network",
    "recognize.width",
    "recognize.crop_padding",
    "recognize.flip",
)
INPUTS = ()
SHIPPED = "priors/procedural.safetensors"
# Fields of the generator with which any parameters work.
_HOW_IT_IS_COMPUTED = ("dtype", "scan_layers", "clip_denoised")
# The prior's own seed: priors do not differ between the seeds of an experiment.
_SEED = 0


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "pretrain", config, FIELDS, INPUTS)
    if record.complete:
        return
    check_source(config)
    # What is wrong with the data is told before anything is made, so that the corrected command
    # finds a folder that it may use.
    dataset, splits = load_target(config, workdir)
    check_spread(config, dataset.identities[splits.train])
    check_exports(config, len(splits.train_identities))
    if config.synthesize.identities == "novel":
        check_unseen_people(config, dataset, splits)
    general = load_general(config, workdir)
    if general is not None:
        check_prior_identities(config, general.num_identities)
    check_starting_weights(config)
    check_verification_sets(config)
    if not (record.directory / "samples.png").exists():
        source = config.pretrain.source
        if source == "train":
            _train_or_fetch(config, workdir, record, general)
        elif source == "shipped":
            params = read_shipped_prior(config)
            save_model(record, config, params, params)
        else:
            name = f"the checkpoint of config.pretrain.source {source!r}"
            params = in_layout(config, restore_params(source))
            check_fits(config, params, name)
            save_model(record, config, params, params)
        params = load_model(config, workdir, "pretrain")
        classes = num_classes(params)
        if config.synthesize.prior_identities:
            check_knows_general(classes, general, "synthesize.prior_identities")
        write_sample_grid(
            make_sampler(config, classes),
            params,
            classes,
            record.directory / "samples.png",
            seed=config.seed,
        )
        record.note_time()
    train_extractors(config, workdir, record, general)
    record.finish()


def prior_fingerprint(config: ConfigDict) -> str:
    """Returns the hash of everything a trained prior depends on, but the data set's files."""
    data, training = shaping(config, "general_data"), shaping(config, "pretrain")
    data.pop("cache"), training.pop("cache")
    if config.pretrain.class_rows != "appearance":
        training.pop("appearance_noise", None)  # Nobody reads it.
    generator = shaping(config, "generator")
    generator.pop("scan_layers")  # Only how it is computed.
    space = latent_space_name(config)
    if config.autoencoder.path and config.autoencoder.dtype != "float32":
        space += f", {config.autoencoder.dtype}"
    parts = [data, shaping(config, "image"), generator, space, training, _SEED]
    if config.pretrain.class_rows == "appearance":
        parts.append(looks_fingerprint(config))
    return fingerprint(parts)


def kept_as(config: ConfigDict, people: int) -> str:
    """Returns the name of the folder where the prior of a configuration is kept.

    Args:
        config: complete configuration.
        people: whom extractors learn, as many as memory has room for: what they see may tell rows.
    """
    parts, files = [prior_fingerprint(config)], files_fingerprint(config, "general_data")
    if files:
        parts.append(files)
    if config.pretrain.class_rows == "appearance":
        parts.append(extractor_fingerprint(config, "start", people))
    return fingerprint(parts) if len(parts) > 1 else parts[0]


def _train_or_fetch(
    config: ConfigDict, workdir: Path, record: StageRecord, dataset: IdentityDataset
) -> None:
    model = record.directory / "model"
    kept = Path(config.pretrain.cache) / kept_as(config, people_in_memory(dataset)) / "model"
    if config.pretrain.cache and fetch(kept, model):
        logging.info("pretrain: the prior of this config was trained before, in %s", kept)
        return
    labels, classes = dataset.identities, num_prior_classes(config, dataset.num_identities)
    if config.pretrain.class_rows == "shared":
        labels = np.zeros_like(labels)
    logging.info(
        "pretrain: %d images of %d identities", len(dataset.images), dataset.num_identities
    )
    train = functools.partial(
        train_denoising,
        config,
        "pretrain",
        record,
        make_mesh(config.fsdp),
        images=dataset.images,
        data_name="general",
        seed=_SEED,
    )
    others = None
    if config.pretrain.class_rows == "appearance":
        train_extractors(config, workdir, record, dataset)
        extractor = load_extractor(config, workdir, "start")
        last, average, others = train_by_appearance(config, extractor, dataset, train, seed=_SEED)
    else:
        trained, frozen = split(init_params(config, classes, seed=_SEED), "all")
        last, average = train(trained=trained, frozen=frozen, labels=labels, num_classes=classes)
        last, average = merge(last, frozen), merge(average, frozen)
    save_model(record, config, last, average, others=others)
    if config.pretrain.cache:
        keep(model, kept)


def read_shipped_prior(config: ConfigDict) -> dict:
    """Returns the parameters of the procedural prior that ships with the package.

    Raises:
        ConfigError: config.generator or config.image is not what it was made with.
    """
    path = resources.files("rlsyn_jax") / SHIPPED
    with safe_open(str(path), framework="numpy") as file:
        made_with = json.loads(file.metadata()["config"])
        flat = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
    for section in ("generator", "image"):
        for name, value in made_with[section].items():
            now = plain(config[section])[name]
            if now != value and name not in ("dtype", "resize", "skip_damaged", "scan_layers"):
                raise ConfigError(
                    f"config.{section}.{name} is {now!r}, but the prior that ships with the package"
                    f" was made with {value!r}; set it so, or set config.pretrain.source='train'"
                )
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    params = in_layout(config, params)
    check_fits(config, params, f"the shipped prior {SHIPPED}")
    return params


def check_source(config: ConfigDict) -> None:
    """Checks that config.pretrain.source, where it is a checkpoint, is there and fits.

    Raises:
        ConfigError: names what is wrong.
    """
    source = config.pretrain.source
    if source in ("train", "shipped"):
        return
    try:
        record = restore_config(source)
    except FileNotFoundError as error:
        raise ConfigError(
            f"config.pretrain.source is {source!r}; it must be 'train', 'shipped' or a folder with "
            f"a generator's checkpoint: {error}"
        ) from error
    check_record(config, record, f"the checkpoint of config.pretrain.source {source!r}")


def check_record(config: ConfigDict, record: dict, name: str) -> None:
    """Checks that a generator's record agrees with config.generator about what it tells.

    Numbers of heads, normalisations and schedules do not show in the parameters.

    Args:
        config: complete configuration.
        record: as restore_config gives it: a run's configuration, or an imported checkpoint's.
        name: of the checkpoint, for the message.

    Raises:
        ConfigError: names each field that differs.
    """
    differences = []
    for field, value in (record.get("generator") or {}).items():
        now = plain(config.generator).get(field, value)
        if now != value and field not in _HOW_IT_IS_COMPUTED:
            differences.append(
                f"config.generator.{field} is {now!r}, but {name} was made with {value!r}"
            )
    if differences:
        raise ConfigError("; ".join([*differences, "set it so"]))


def check_fits(config: ConfigDict, params: dict, name: str) -> None:
    """Checks that parameters are those of config.generator.

    Raises:
        ConfigError: names the first array that is missing, unknown or of another shape.
    """
    table = params.get("y_embedder", {}).get("embedding_table")
    if table is None:
        raise ConfigError(f"{name} has no y_embedder/embedding_table; it is not a generator's")
    model = build_generator(config, table.shape[0] - 1)
    x = jax.ShapeDtypeStruct((1, *sample_shape(config)), np.float32)
    label = jax.ShapeDtypeStruct((1,), np.int32)
    expected = jax.eval_shape(model.init, jax.random.key(0), x, label, label)["params"]

    def shapes(tree):
        flat = flax.traverse_util.flatten_dict(tree, sep="/")
        return {name: tuple(value.shape) for name, value in flat.items()}

    found, wanted = shapes(params), shapes(expected)
    for part in sorted(set(found) | set(wanted)):
        if found.get(part) != wanted.get(part):
            raise ConfigError(
                f"{name} has {part} of shape {found.get(part)}, and config.generator makes it "
                f"{wanted.get(part)}; set config.generator and config.image as it was trained"
            )
