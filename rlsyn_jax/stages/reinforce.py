"""Reinforcement learning of the generator over its denoising steps, from the cold start."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.diffusion.samplers import make_sampling_plan
from rlsyn_jax.evaluation.fidelity import precision_recall_density_coverage
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rewards.registry import check_reward_output, resolve_reward
from rlsyn_jax.rl.iteration import make_iteration
from rlsyn_jax.stages.extractors import embed_images, load_extractor, make_embed
from rlsyn_jax.stages.generator import (
    alpha_bars,
    build_generator,
    image_shape,
    load_model,
    make_sampler,
    save_model,
    write_sample_grid,
)
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.training.checkpoints import CheckpointStore
from rlsyn_jax.training.meshes import make_mesh, parameter_shardings, replicated
from rlsyn_jax.training.metrics import Progress, create_metric_writer
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split

FIELDS = (
    *TARGET_FIELDS,
    "generator",
    "extractor",
    "reinforce",
    "rewards",
    "evaluate.num_neighbors",
)


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "reinforce", config, FIELDS, inputs=("pretrain", "adapt"))
    if record.complete:
        return
    reinforce = config.reinforce
    mesh = make_mesh(config.fsdp)
    rewards, weights = resolve_rewards(config)
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    num_classes = len(splits.train_identities)
    identities = min(reinforce.identities, num_classes)
    batch_size = identities * reinforce.samples
    if batch_size % mesh.size or batch_size % reinforce.minibatches:
        raise ConfigError(
            f"one iteration has {identities} identities x {reinforce.samples} samples = "
            f"{batch_size}, which must be divisible by the {mesh.size} devices and by "
            f"config.reinforce.minibatches ({reinforce.minibatches})"
        )

    extractor = load_extractor(config, workdir, "reward")
    bank = build_reference_bank(embed_images(extractor, images), labels, num_classes)
    embed = make_embed(extractor)
    for name, reward in rewards.items():
        references = bank.take(jnp.arange(identities))
        probe = jax.ShapeDtypeStruct(
            (identities, reinforce.samples, references.features.shape[-1]), jnp.float32
        )
        check_reward_output(
            name, jax.eval_shape(reward, probe, references), (identities, reinforce.samples)
        )

    cold_start = load_model(workdir, "adapt")
    trained, frozen = split(
        cold_start,
        reinforce.trainable,
        lora_rank=reinforce.lora_rank,
        key=jax.random.key(config.seed + 3),
    )
    trained = jax.device_put(trained, parameter_shardings(mesh, trained))
    frozen = jax.device_put(frozen, parameter_shardings(mesh, frozen))
    bank = jax.device_put(bank, replicated(mesh))
    optimizer = make_optimizer(
        learning_rate=reinforce.learning_rate,
        warmup_steps=0,
        total_steps=reinforce.iterations * reinforce.inner_epochs * reinforce.minibatches,
        decay="constant",
        gradient_clip=reinforce.gradient_clip,
    )
    # The reference keeps its own buffers: the state's are donated.
    reference = jax.tree.map(jnp.copy, trained) if reinforce.kl_weight > 0 else {}
    key = jax.device_put(jax.random.key(config.seed + 4), replicated(mesh))
    state = create_train_state(trained, optimizer, key, mesh)
    plan = make_sampling_plan(alpha_bars(config), num_steps=reinforce.num_steps, eta=reinforce.eta)
    model = build_generator(config, num_classes)
    iteration = make_iteration(
        lambda params, x, t, y: model.apply({"params": params}, x, t, y),
        merge,
        embed,
        rewards,
        weights,
        optimizer,
        mesh,
        plan=plan,
        image_shape=image_shape(config),
        num_classes=num_classes,
        num_identities=identities,
        samples_per_identity=reinforce.samples,
        trained_steps=reinforce.trained_steps or reinforce.num_steps - 1,
        inner_epochs=reinforce.inner_epochs,
        minibatches=reinforce.minibatches,
        algorithm=reinforce.algorithm,
        clip_range=reinforce.clip_range,
        kl_weight=reinforce.kl_weight,
        guidance_scale=reinforce.guidance_scale,
        prediction_type=config.generator.prediction_type,
        clip_denoised=config.generator.clip_denoised,
        log_prob_reduce=reinforce.log_prob_reduce,
        normalise_over=reinforce.normalise_over,
        squash=reinforce.squash,
        advantage_clip=reinforce.advantage_clip,
        ema_decay=reinforce.ema_decay,
    )
    measure = held_out_measure(config, workdir, record, dataset, splits)
    grid = functools.partial(write_sample_grid, config, num_classes=num_classes)

    with CheckpointStore(record.directory / "checkpoints") as store:
        if store.latest_step() is not None:
            state, _, _ = store.restore(state)
        start = int(state.step)
        writer = create_metric_writer(
            record.directory, resume_step=start, tensorboard=config.tensorboard
        )
        if start == 0:
            params = merge(state.ema_params, frozen)
            writer.write_scalars(0, measure(params))
            grid(params, path=record.directory / "samples_0000.png")
        progress = Progress(
            "reinforce",
            reinforce.iterations,
            first_step=start,
            every_seconds=config.log_every_seconds,
        )
        for number in range(start + 1, reinforce.iterations + 1):
            state, metrics = iteration(state, frozen, reference, bank)
            values = {name: float(value) for name, value in metrics.items()}
            require_sound(values, number)
            if number % reinforce.evaluate_every == 0 or number == reinforce.iterations:
                params = merge(state.ema_params, frozen)
                values |= measure(params)
                grid(params, path=record.directory / f"samples_{number:04d}.png")
            writer.write_scalars(number, values)
            progress.update(
                number, **{name: values[name] for name in values if name.startswith("reward/")}
            )
            if number % reinforce.checkpoint_every == 0 or number == reinforce.iterations:
                writer.flush()
                store.save(number, state, config=plain(config), iterator_state=None)
                record.note_time()
        writer.close()
    save_model(record, config, merge(state.params, frozen), merge(state.ema_params, frozen))
    record.finish()


def resolve_rewards(config: ConfigDict) -> tuple[dict, dict]:
    """Returns the functions of config.rewards with their options bound, and their weights."""
    rewards, weights = {}, {}
    for name in sorted(config.rewards.keys()):
        term = config.rewards[name]
        if term.weight == 0:
            continue
        function = resolve_reward(term.function)
        rewards[name] = functools.partial(function, **plain(term.options))
        weights[name] = float(term.weight)
    if not rewards:
        raise ConfigError("every reward of config.rewards has weight 0; give one a weight")
    return rewards, weights


def held_out_measure(config, workdir, record, dataset, splits):
    """Returns a function params -> measures by the judge, which no reward contains.

    Samples with fixed noise are compared with real images of the same people that were never
    trained on: precision, recall, density, coverage and identity accuracy.
    """
    judge = load_extractor(config, workdir, "judge")
    real = embed_images(judge, dataset.images[splits.closed_query])
    train_images, labels = train_labels(dataset, splits)
    enrolled = embed_images(judge, train_images)
    num_classes = len(splits.train_identities)
    sampler = make_sampler(
        config,
        num_classes,
        num_steps=config.reinforce.num_steps,
        eta=config.reinforce.eta,
        guidance_scale=config.reinforce.guidance_scale,
    )
    count = config.reinforce.identities * config.reinforce.samples
    classes = np.arange(count, dtype=np.int32) % num_classes
    neighbors = min(config.evaluate.num_neighbors, len(real) - 1, count - 1)

    def measure(params) -> dict[str, float]:
        samples = sampler(params, jax.random.key(config.seed + 5), jnp.arange(count), classes)
        fake = embed_images(judge, np.asarray(samples))
        result = precision_recall_density_coverage(real, fake, num_neighbors=neighbors)
        accuracy, _ = nearest_centroid_accuracy(enrolled, labels, fake, classes)
        values = {"held_out/identity_accuracy": float(accuracy)}
        for name in ("precision", "recall", "density", "coverage"):
            values[f"held_out/{name}"] = float(getattr(result, name))
        return values

    return measure


def require_sound(values: dict[str, float], number: int) -> None:
    """Stops on values that are not finite, and on a first ratio that is not one.

    Raises:
        FloatingPointError: names the measure and the iteration.
    """
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    if broken:
        raise FloatingPointError(
            f"reinforce: {', '.join(broken)} not finite in iteration {number}; lower "
            "config.reinforce.learning_rate or look at the reward functions"
        )
    if values["first_ratio_deviation"] > 1e-2:
        raise FloatingPointError(
            f"reinforce: the importance ratio before any update differs from 1 by "
            f"{values['first_ratio_deviation']:.2e} in iteration {number}; rollout and update "
            "disagree, so the gradient would be wrong"
        )


def read_curves(workdir: Path) -> list[dict]:
    """Returns the stage's metrics.jsonl as a list of records."""
    path = Path(workdir) / "reinforce" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
