"""What every stage that touches the generator shares: its network, schedule, steps and pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlsyn_jax.data.augmentation import augment
from rlsyn_jax.data.batches import BatchIterator
from rlsyn_jax.data.identity_dataset import to_uint8
from rlsyn_jax.data.latent_cache import draw_latents
from rlsyn_jax.diffusion.dpm_solver import make_solver_plan, solve
from rlsyn_jax.diffusion.image_starts import ImageStarts, noised_images
from rlsyn_jax.diffusion.samplers import guided, make_sampling_plan, sample
from rlsyn_jax.diffusion.schedules import make_alpha_bars
from rlsyn_jax.models.dit import DiT, stack_blocks, unstack_blocks
from rlsyn_jax.stages.latent_space import (
    encoded_images,
    open_latent_space,
    sample_shape,
    shared_by_devices,
)
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.image_grids import make_grid, save_png
from rlsyn_jax.training.meshes import (
    batch_sharding,
    make_mesh,
    parameter_shardings,
    place,
    replicated,
)
from rlsyn_jax.training.metrics import Progress, create_metric_writer
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.train_state import TrainState, create_train_state
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
        scan_layers=generator.scan_layers,
        timestep_frequency_shift=generator.timestep_frequency_shift,
        mlp_norm_epsilon=generator.mlp_norm_epsilon,
    )


def init_params(config: ConfigDict, num_classes: int, seed: int) -> dict:
    """Returns a freshly initialised generator's parameters."""
    model = build_generator(config, num_classes)
    x, label = jnp.zeros((1, *sample_shape(config))), jnp.zeros(1, jnp.int32)
    return jax.jit(model.init)(jax.random.key(seed), x, label, label)["params"]


def make_sampler(
    config: ConfigDict, num_classes: int, starts: ImageStarts | None = None
) -> Callable:
    """Returns config.synthesize's sampler: jitted, the samples shared by this process's devices.

    Args:
        config: complete configuration.
        num_classes: class rows of the generator.
        starts: images of each class that samples begin with, as far as config.synthesize.strength
            noises them; None = from noise, whatever it is.

    Returns:
        (params, key, sample_ids [b], class_labels [b]) -> uint8 [b, height, width, channels]; what
        a sample is like depends on its number and label, not on the others of its batch.

    Raises:
        ConfigError: config.autoencoder cannot be used.
    """
    model, space = build_generator(config, num_classes), open_latent_space(config)
    synthesize, mesh = config.synthesize, make_mesh(devices=jax.local_devices())
    strength = 1.0 if starts is None else synthesize.strength
    starts = jax.device_put(starts, replicated(mesh))
    decode, decoder = shared_by_devices(space, mesh), jax.device_put(space.params, replicated(mesh))
    if synthesize.solver == "dpm_solver":
        draw = solve
        plan = make_solver_plan(
            alpha_bars(config), num_steps=synthesize.num_steps, strength=strength
        )
    else:
        draw = sample
        plan = make_sampling_plan(
            alpha_bars(config),
            num_steps=synthesize.num_steps,
            eta=synthesize.eta,
            strength=strength,
        )

    @jax.jit
    def run(params, decoder, starts, key, sample_ids, class_labels):
        denoise = guided(
            lambda x, t, y: model.apply({"params": params}, x, t, y),
            num_classes,
            synthesize.guidance_scale,
            space.shape[-1],
            guidance_channels=synthesize.guidance_channels,
        )
        samples = draw(
            denoise,
            key,
            sample_ids,
            class_labels,
            plan,
            image_shape=space.shape,
            prediction_type=config.generator.prediction_type,
            clip_denoised=config.generator.clip_denoised,
            start=starts and noised_images(starts, plan.alpha_bar[0]),
        )
        return to_uint8(decode(decoder, samples))

    def sampler(params, key, sample_ids, class_labels):
        count = len(sample_ids)
        # Every device gets as many.
        spread = np.minimum(np.arange(-(-count // mesh.size) * mesh.size), count - 1)
        ids, labels = (np.asarray(values)[spread] for values in (sample_ids, class_labels))
        ids, labels = jax.device_put((ids, labels), batch_sharding(mesh))
        params, key = jax.device_put((params, key), replicated(mesh))
        return run(params, decoder, starts, key, ids, labels)[:count]

    return sampler


def in_batches(sampler: Callable, params: dict, key: jax.Array, size: int) -> Callable:
    """Returns a sampler that draws so many at a time, and any number in all.

    Args:
        sampler: of `make_sampler`.
        params: the generator's.
        key: typed random key.
        size: of a batch.

    Returns:
        (sample_ids [n], class_labels [n]) -> uint8 [n, height, width, channels], on the host.
    """
    # Here once, and not for each batch.
    params, key = jax.device_put((params, key), replicated(make_mesh(devices=jax.local_devices())))

    def sample(sample_ids, class_labels):
        # The last batch is filled up, so that all are one program.
        places = np.arange(-(-len(sample_ids) // size) * size) % len(sample_ids)
        parts = [
            np.asarray(sampler(params, key, sample_ids[part], class_labels[part]))
            for part in places.reshape(-1, size)
        ]
        return np.concatenate(parts)[: len(sample_ids)]

    return sample


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


def make_training(
    config: ConfigDict,
    section: str,
    mesh: Mesh,
    *,
    trained: dict,
    frozen: dict,
    num_classes: int,
    seed: int,
    tell: Callable | None = None,
) -> tuple[TrainState, dict, Callable]:
    """Puts the denoising training of config[section] on a mesh.

    Args: see `train_denoising`.

    Returns:
        (state of step 0, frozen parameters, step): both split as config.fsdp says, and the step of
        training.denoising.make_denoising_step.
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
        prepare=make_preparation(config, section),
        tell=tell,
        state_shardings=jax.tree.map(lambda value: value.sharding, state),
    )
    return state, frozen, step


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
    data_name: str,
    num_classes: int,
    seed: int,
    tell: Callable | None = None,
) -> tuple[dict, dict]:
    """Runs or resumes the denoising training of config[section] to its last step.

    Args:
        config: complete configuration.
        section: "pretrain" or "adapt".
        record: the stage's record; checkpoints and metrics go to its folder.
        mesh: devices.
        trained, frozen: parts of the parameters (training.trainable.split).
        images: uint8 [n, h, w, c].
        labels: int32 [n] in 0..num_classes - 1, or as `tell` takes them.
        data_name: of the data set, for the folder of its latents.
        num_classes: class rows of the generator.
        tell: where labels do not stand for rows, what tells them, as of make_denoising_step.
        seed: of the order of the batches and of the noise.

    Returns:
        (trained parameters, their running average), on the mesh.
    """
    training = config[section]
    state, frozen, step = make_training(
        config,
        section,
        mesh,
        trained=trained,
        frozen=frozen,
        num_classes=num_classes,
        seed=seed,
        tell=tell,
    )
    images = encoded_images(
        config, record.directory.parent, data_name, images, mirrored=training.flip
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
        untold: list[tuple[int, dict]] = []

        def write_untold():
            for at, metrics in untold:
                values = {name: float(value) for name, value in metrics.items()}
                _require_finite(values, section, at)
                writer.write_scalars(at, values)
                progress.update(at, **values)
            untold.clear()

        def save():
            # What is kept is finite, and nothing that was measured before it is told after it.
            write_untold()
            _save_training(config, record, store, writer, state, batches)

        for number in range((start or 0) + 1, training.steps + 1):
            batch = next(batches)
            state, metrics = step(state, frozen, batch["image"], batch["identity"])
            # The metrics of the step before are read while this one runs.
            write_untold()
            due = number % training.checkpoint_every == 0 or number == training.steps
            if due or number % 20 == 0:
                untold.append((number, metrics))
            if due:
                save()
            end_if_preempted(f"{section}, step {number},", None if due else save, store)
        writer.close()
    return state.params, state.ema_params


def _save_training(config, record, store, writer, state, batches) -> None:
    """Puts everything that a later process needs to go on from this step on disk."""
    writer.flush()
    store.save(int(state.step), state, config=plain(config), iterator_state=batches.get_state())
    record.note_time()


def make_preparation(config: ConfigDict, section: str) -> Callable:
    """Returns how the denoising training of config[section] makes clean samples of a batch.

    Returns:
        (keys [2], batch) -> float32 [b, h, w, c]: augmented pixels of uint8 images, or latents
        drawn from what the cache holds of them.
    """
    training = config[section]
    if config.autoencoder.path:
        return lambda keys, records: draw_latents(keys[0], records)
    return functools.partial(
        augment,
        flip=training.flip,
        max_rotation_degrees=training.rotation,
        max_scale=training.scale,
        max_translation=training.translation,
    )


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
    others: dict | None = None,
) -> None:
    """Writes a whole generator as an Orbax checkpoint; the stage's finished one is model/.

    Blocks are kept one by one, whether the run scans over them or not.

    Args:
        record: of the stage.
        config: complete configuration.
        params, ema_params: the generator's parameters and their running average.
        folder: of the stage's folder.
        others: further collections of the checkpoint, by name.
    """
    params, ema_params = (
        unstack_blocks(tree) if "blocks" in tree else tree for tree in (params, ema_params)
    )
    with CheckpointStore(record.directory / folder, max_to_keep=1) as store:
        state = {"params": params, "ema_params": ema_params, **(others or {})}
        store.save(1, state, config=plain(config), iterator_state=None, force=True)


def load_model(config: ConfigDict, workdir: Path, stage: str, *, folder: str = "model") -> dict:
    """Returns the averaged parameters of a generator that `save_model` wrote, for this config."""
    return in_layout(config, restore_params(Path(workdir) / stage / folder))


def in_layout(config: ConfigDict, params: dict) -> dict:
    """Returns a generator's parameters as config.generator.scan_layers wants its blocks."""
    if config.generator.scan_layers == ("blocks" in params):
        return params
    return stack_blocks(params) if config.generator.scan_layers else unstack_blocks(params)


def write_sample_grid(
    sampler: Callable,
    params: dict,
    num_classes: int,
    path: Path,
    *,
    seed: int,
    rows: int = 8,
    columns: int = 8,
) -> None:
    """Writes a PNG with one class a row; each place has its own noise, the same at every call.

    Args:
        sampler: of `make_sampler`.
        params: the generator's, of so many classes.
        path: of the file.
        seed: of the noise.
        rows, columns: of the grid.
    """
    rows = min(rows, num_classes)
    labels = np.repeat(np.linspace(0, num_classes - 1, rows).astype(np.int32), columns)
    images = sampler(params, jax.random.key(seed), np.arange(rows * columns), labels)
    save_png(path, make_grid(np.asarray(images), columns))
