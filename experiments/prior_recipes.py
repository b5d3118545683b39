"""Which parts of the prior's training recipe pay: every variant gets the same processor time.

    python experiments/prior_recipes.py configs/faces.py:orl WORKDIR --core_seconds=280 \
        --general=GENERAL_FOLDER --target=TARGET_FOLDER

Each variant changes one thing of the config's recipe. All are measured alike, on people whom no
variant saw: the error of the estimated noise and of the estimated image, both as means over
timesteps, by the null class; and the Frechet distance of samples of the trained classes to the
unseen people, in the features of the run's judge. And on those that were trained on: how often the
judge takes a sample, drawn without guidance, for the person it was asked for. Strokes and skin come
long before who it is. Samples of each variant go to WORKDIR/NAME.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from sweeping.python_files import load_base

from rlsyn_jax.config_checks import validate
from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.diffusion.training_loss import to_image_and_noise
from rlsyn_jax.evaluation.fidelity import frechet_distance
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.stages.extractors import embed_images, load_extractor, train_extractors
from rlsyn_jax.stages.generator import (
    alpha_bars,
    build_generator,
    denoising_optimizer,
    init_params,
    make_preparation,
    make_sampler,
)
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.stage_record import StageRecord
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.image_grids import make_grid, save_png
from rlsyn_jax.training.meshes import make_mesh, replicated
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split

VARIANTS = {
    "recipe": {},
    "no_geometric_augmentation": {
        "pretrain.rotation": 0.0,
        "pretrain.scale": 0.0,
        "pretrain.translation": 0.0,
    },
    "uniform_weighting": {"pretrain.weighting": "uniform"},
    "epsilon_prediction": {"generator.prediction_type": "epsilon"},
    "linear_schedule": {"generator.schedule": "linear"},
    "batch_64": {"pretrain.batch_size": 64},
    "learning_rate_3e-4": {"pretrain.learning_rate": 3e-4},
    "muon": {"pretrain.optimizer": "muon"},
    "muon_fast_class_rows": {"pretrain.optimizer": "muon", "pretrain.class_embedding_rate": 10.0},
    "muon_batch_32": {"pretrain.optimizer": "muon", "pretrain.batch_size": 32},
    "muon_batch_64": {"pretrain.optimizer": "muon", "pretrain.batch_size": 64},
    "patch_8": {"generator.patch_size": 8},
    "muon_patch_8": {"pretrain.optimizer": "muon", "generator.patch_size": 8},
    "width_192_depth_6": {"generator.width": 192, "generator.depth": 6},
    "patch_8_width_192_depth_6": {
        "generator.patch_size": 8,
        "generator.width": 192,
        "generator.depth": 6,
    },
}
SAMPLES, SHOWN = 512, 48


def denoising_errors(config, params, images: np.ndarray, num_classes: int) -> tuple[float, float]:
    """Returns mean squared errors of noise and image over evenly spaced timesteps.

    Args:
        config: its generator section says what the network predicts.
        params: generator.
        images: uint8 [n, h, w, c], shown under the null class.
        num_classes: the null class.
    """
    model, levels = build_generator(config, num_classes), alpha_bars(config)
    clean = to_device_range(jnp.asarray(images))
    key = jax.random.key(0)
    # Evenly in the level of noise itself, so that schedules are compared at the same places.
    wanted = np.cos(np.linspace(0.05, 0.95, 10) * np.pi / 2) ** 2
    timesteps = [int(np.abs(levels - level).argmin()) for level in wanted]

    @jax.jit
    def errors(timestep, number):
        noise = jax.random.normal(jax.random.fold_in(key, number), clean.shape)
        alpha_bar = jnp.asarray(levels, jnp.float32)[timestep]
        noisy = jnp.sqrt(alpha_bar) * clean + jnp.sqrt(1 - alpha_bar) * noise
        steps = jnp.full(len(clean), timestep)
        output = model.apply(
            {"params": params}, noisy, steps, jnp.full(len(clean), num_classes, jnp.int32)
        )
        output = output[..., : clean.shape[-1]]
        image, epsilon = to_image_and_noise(
            output, noisy, alpha_bar, config.generator.prediction_type
        )
        return jnp.mean((epsilon - noise) ** 2), jnp.mean((image - clean) ** 2)

    values = np.array([errors(t, number) for number, t in enumerate(timesteps)])
    return tuple(values.mean(axis=0))


def train(config, seen, core_seconds: float) -> tuple[dict, int]:
    """Trains a prior until the process has used so many seconds of processor time.

    Returns:
        The averaged parameters and the number of updates.
    """
    training, mesh = config.pretrain, make_mesh()
    classes = seen.num_identities
    model = build_generator(config, classes)
    optimizer = denoising_optimizer(training, total_steps=1)
    trained, frozen = split(init_params(config, classes, seed=0), "all")
    key = jax.device_put(jax.random.key(1), replicated(mesh))
    trained = jax.device_put(trained, replicated(mesh))
    state = create_train_state(trained, optimizer, key, mesh)
    step = make_denoising_step(
        lambda params, x, t, y: model.apply({"params": params}, x, t, y),
        optimizer,
        alpha_bars=jnp.asarray(alpha_bars(config), jnp.float32),
        num_classes=classes,
        prediction_type=config.generator.prediction_type,
        learn_sigma=config.generator.learn_sigma,
        class_dropout=training.class_dropout,
        weighting=training.weighting,
        min_snr_gamma=training.min_snr_gamma,
        ema_decay=0.99,
        prepare=make_preparation(config, "pretrain"),
    )
    batches = BatchIterator(
        seen.images, seen.identities, batch_size=training.batch_size, seed=0, mesh=mesh
    )
    batch = next(batches)
    step.lower(state, frozen, batch["image"], batch["identity"]).compile()
    started = None
    while started is None or time.process_time() - started < core_seconds:
        batch = next(batches)
        state, metrics = step(state, frozen, batch["image"], batch["identity"])
        jax.block_until_ready(metrics)
        # Compilation is not training.
        started = time.process_time() if started is None else started
    return merge(state.ema_params, frozen), int(state.step)


def main() -> None:
    """Trains and measures every variant, and prints a line and a row of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--general", default="")
    parser.add_argument("--target", default="")
    parser.add_argument("--core_seconds", type=float, default=280)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names, by comma")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    _, base = load_base(arguments.config)
    # How many updates there will be is not known beforehand.
    base.pretrain.decay = "constant"
    base.general_data.path = arguments.general or base.general_data.path
    base.data.path = arguments.target or base.data.path
    validate(base)
    workdir = arguments.workdir.absolute()
    record = StageRecord(workdir, "pretrain", base, ("general_data", "data", "image", "extractor"))
    general = load_general(base, workdir)
    train_extractors(base, workdir, record, general)
    judge = load_extractor(base, workdir, "judge")
    people = np.arange(general.num_identities)
    unseen = np.flatnonzero(np.isin(general.identities, people[people % 8 == 0]))
    seen = general.subset(
        np.setdiff1d(np.arange(len(general.images)), unseen, assume_unique=True), relabel=True
    )
    images = general.images[unseen]
    real, known = embed_images(judge, images), embed_images(judge, seen.images)
    rows = []
    for name in arguments.variants.split(","):
        changes = VARIANTS[name]
        config = base.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        params, updates = train(config, seen, arguments.core_seconds)
        noise_error, image_error = denoising_errors(
            config, params, images[:256], seen.num_identities
        )
        sampler = make_sampler(config, seen.num_identities)
        classes = np.linspace(0, seen.num_identities - 1, SAMPLES).astype(np.int32)
        samples = np.asarray(sampler(params, jax.random.key(2), jnp.arange(SAMPLES), classes))
        save_png(workdir / f"{name}.png", make_grid(samples[:SHOWN], 12))
        config.synthesize.guidance_scale = 1.0
        sampler = make_sampler(config, seen.num_identities)
        unguided = np.asarray(sampler(params, jax.random.key(3), jnp.arange(SAMPLES), classes))
        right, _ = nearest_centroid_accuracy(
            known, seen.identities, embed_images(judge, unguided), classes
        )
        rows.append(
            {
                "variant": name,
                "updates": updates,
                "noise_error": round(float(noise_error), 4),
                "image_error": round(float(image_error), 4),
                "identity_accuracy": round(float(right), 3),
                "frechet_distance": round(frechet_distance(real, embed_images(judge, samples)), 4),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    (workdir / "prior_recipes.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
