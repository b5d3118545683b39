"""What every stage that touches the generator shares: its network, schedule, steps and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.data.identity_dataset import to_uint8
from rlsyn_jax.diffusion.dpm_solver import make_solver_plan, solve
from rlsyn_jax.diffusion.samplers import guided, make_sampling_plan, sample
from rlsyn_jax.diffusion.schedules import make_alpha_bars
from rlsyn_jax.models.dit import DiT
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.image_grids import make_grid, save_png
from rlsyn_jax.training.meshes import parameter_shardings, place, replicated
from rlsyn_jax.training.metrics import Progress, create_metric_writer
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import scale_class_rows


def build_generator(config: ConfigDict, num_classes: int) -> DiT:
    """Returns the DiT of config.generator for so many classes."""
    generator = config.generator
    return DiT(
        num_classes=num_classes,
        patch_size=generator.patch_size,
        width=generator.width,
        depth=generator.depth,
        num_heads=generator.num_heads,
        learn_sigma=generator.learn_sigma,
        dtype=jnp.dtype(generator.dtype),
        remat=config.remat,
    )


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the run's images."""
    return config.image.size, config.image.size, config.image.channels


def init_params(config: ConfigDict, num_classes: int, seed: int) -> dict:
    """Returns a freshly initialised generator's parameters."""
    model = build_generator(config, num_classes)
    x, label = jnp.zeros((1, *image_shape(config))), jnp.zeros(1, jnp.int32)
    return jax.jit(model.init)(jax.random.key(seed), x, label, label)["params"]


def make_sampler(config: ConfigDict, num_classes: int) -> Callable:
    """Returns config.synthesize's sampler, jitted.

    Returns:
        (params, key, sample_ids [b], class_labels [b]) -> uint8 [b, h, w, c].
    """
    model = build_generator(config, num_classes)
    shape, synthesize = image_shape(config), config.synthesize
    if synthesize.solver == "dpm_solver":
        draw = solve
        plan = make_solver_plan(alpha_bars(config), num_steps=synthesize.num_steps)
    else:
        draw = sample
        plan = make_sampling_plan(
            alpha_bars(config), num_steps=synthesize.num_steps, eta=synthesize.eta
        )

    @jax.jit
    def run(params, key, sample_ids, class_labels):
        denoise = guided(
            lambda x, t, y: model.apply({"params": params}, x, t, y),
            num_classes,
            synthesize.guidance_scale,
            shape[-1],
        )
        images = draw(
            denoise,
            key,
            sample_ids,
            class_labels,
            plan,
            image_shape=shape,
            prediction_type=config.generator.prediction_type,
            clip_denoised=config.generator.clip_denoised,
        )
        return to_uint8(images)

    return run


def alpha_bars(config: ConfigDict) -> np.ndarray:
    """Returns the run's noise schedule, float64 [T]."""
    return make_alpha_bars(config.generator.schedule, config.generator.num_timesteps)


def denoising_optimizer(training: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """Returns the optimiser of config.pretrain or config.adapt, for so many updates."""
    optimizer = make_optimizer(
        name=training.optimizer,
        learning_rate=training.learning_rate,
        matrix_learning_rate=training.matrix_learning_rate,
        warmup_steps=training.warmup_steps,
        total_steps=total_steps,
        decay=training.decay,
        weight_decay=training.weight_decay,
        gradient_clip=training.gradient_clip,
    )
    if training.class_embedding_rate == 1:
        return optimizer
    return optax.chain(optimizer, scale_class_rows(training.class_embedding_rate))


def train_denoising(
    config: ConfigDict,
    section: str,
    record: StageRecord,
    mesh: Mesh,
    *,
    trained: dict,
    frozen: dict,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    seed: int,
) -> tuple[dict, dict]:
    """Runs or resumes the denoising training of config[section] to its last step.

    Args:
        config: complete configuration.
        section: "pretrain" or "adapt".
        record: the stage's record; checkpoints and metrics go to its folder.
        mesh: devices.
        trained, frozen: parts of the parameters (training.trainable.split).
        images: uint8 [n, h, w, c].
        labels: int32 [n] in 0..num_classes - 1.
        num_classes: class rows of the generator.
        seed: of the order of the batches and of the noise.

    Returns:
        (trained parameters, their running average), on the mesh.
    """
    training = config[section]
    model = build_generator(config, num_classes)
    optimizer = denoising_optimizer(training, training.steps)
    trained = place(trained, parameter_shardings(mesh, trained))
    frozen = place(frozen, parameter_shardings(mesh, frozen))
    key = place(jax.random.key(seed + 1), replicated(mesh))
    state = create_train_state(trained, optimizer, key, mesh)
    step = make_denoising_step(
        lambda params, x, t, y: model.apply({"params": params}, x, t, y),
        optimizer,
        alpha_bars=jnp.asarray(alpha_bars(config), jnp.float32),
        num_classes=num_classes,
        prediction_type=config.generator.prediction_type,
        learn_sigma=config.generator.learn_sigma,
        class_dropout=training.class_dropout,
        weighting=training.weighting,
        min_snr_gamma=training.min_snr_gamma,
        ema_decay=training.ema_decay,
        flip=training.flip,
        rotation=training.rotation,
        scale=training.scale,
        translation=training.translation,
    )
    batches = BatchIterator(images, labels, batch_size=training.batch_size, seed=seed, mesh=mesh)
    with CheckpointStore(record.directory / "checkpoints") as store:
        start = store.latest_step()
        if start is not None:
            state, position, _ = store.restore(state)
            batches.set_state(position)
            start = int(state.step)
        writer = create_metric_writer(
            record.directory, resume_step=start or 0, tensorboard=config.tensorboard
        )
        progress = Progress(
            record.stage,
            training.steps,
            first_step=start or 0,
            every_seconds=config.log_every_seconds,
        )
        metrics = None
        for number in range((start or 0) + 1, training.steps + 1):
            batch = next(batches)
            previous = metrics
            state, metrics = step(state, frozen, batch["image"], batch["identity"])
            # The metrics of the step before are read while this one runs.
            if previous is not None and (number - 1) % 20 == 0:
                values = {name: float(value) for name, value in previous.items()}
                _require_finite(values, section, number - 1)
                writer.write_scalars(number - 1, values)
                progress.update(number - 1, **values)
            if number % training.checkpoint_every == 0 or number == training.steps:
                writer.flush()
                store.save(number, state, config=plain(config), iterator_state=batches.get_state())
                record.note_time()
        writer.close()
    return state.params, state.ema_params


def _require_finite(values: dict, section: str, number: int) -> None:
    for name, value in values.items():
        if not np.isfinite(value):
            raise FloatingPointError(
                f"{section}: {name} is {value} at step {number}; lower "
                f"config.{section}.learning_rate, or set config.{section}.gradient_clip"
            )


def save_model(
    record: StageRecord,
    config: ConfigDict,
    params: dict,
    ema_params: dict,
    *,
    folder: str = "model",
) -> None:
    """Writes a whole generator as an Orbax checkpoint; the stage's finished one is model/."""
    with CheckpointStore(record.directory / folder, max_to_keep=1) as store:
        state = {"params": params, "ema_params": ema_params}
        store.save(1, state, config=plain(config), iterator_state=None, force=True)


def load_model(workdir: Path, stage: str, *, folder: str = "model") -> dict:
    """Returns the averaged parameters of a generator that `save_model` wrote."""
    return restore_params(Path(workdir) / stage / folder)


def write_sample_grid(
    config: ConfigDict,
    params: dict,
    num_classes: int,
    path: Path,
    *,
    rows: int = 8,
    columns: int = 8,
) -> None:
    """Writes a PNG with one class a row, fixed noise a column."""
    run = make_sampler(config, num_classes)
    rows = min(rows, num_classes)
    labels = np.repeat(np.linspace(0, num_classes - 1, rows).astype(np.int32), columns)
    images = run(params, jax.random.key(config.seed), jnp.arange(rows * columns), labels)
    save_png(path, make_grid(np.asarray(images), columns))
