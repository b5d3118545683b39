"""What config.reinforce means for a run's identities and devices: its steps and its sizes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.diffusion.samplers import make_sampling_plan
from rlsyn_jax.models.dit import DiT
from rlsyn_jax.rl.iteration import PolicySettings
from rlsyn_jax.rl.memory import predict_iteration_memory
from rlsyn_jax.rl.trained_steps import make_step_choice, steps_with_noise
from rlsyn_jax.rl.value_function import ValueNetwork
from rlsyn_jax.stages.denoising_memory import split_shapes
from rlsyn_jax.stages.generator import alpha_bars, build_generator
from rlsyn_jax.stages.latent_space import reward_decoder_memory, sample_shape
from rlsyn_jax.training.memory import MemoryParts, bytes_on_a_device

# What makes an iteration smaller, for whoever is told that one does not fit.
FIELDS_OF_MEMORY = (
    "lower config.reinforce.micro_batch (activations; of algorithm 'pathwise' identities or "
    "samples), samples, num_trained_steps or num_steps (trajectories) or "
    "config.autoencoder.batch_size (decoding), set config.remat=blocks, or split the parameters by "
    "config.fsdp"
)


def policy_steps(config: ConfigDict) -> tuple:
    """Returns the rollout's plan, the same without noise, and which steps train.

    Returns:
        (plan, deterministic plan, number of trained steps, function that chooses them); of
        algorithm "pathwise", which differentiates all of them, 1 and None.

    Raises:
        ConfigError: the choice asks for more steps than have noise.
    """
    reinforce = config.reinforce
    plan = make_sampling_plan(
        alpha_bars(config),
        num_steps=reinforce.num_steps,
        eta=reinforce.eta,
        kind=reinforce.transition,
        strength=config.synthesize.strength,
    )
    deterministic_plan = make_sampling_plan(
        alpha_bars(config),
        num_steps=reinforce.num_steps,
        eta=0.0,
        strength=config.synthesize.strength,
    )
    if reinforce.algorithm == "pathwise":
        return plan, deterministic_plan, 1, None  # One update, of all of them.
    candidates = steps_with_noise(np.asarray(plan.sigma), reinforce.sigma_floor)
    try:
        number, choose = make_step_choice(
            reinforce.trained_steps,
            candidates,
            count=reinforce.num_trained_steps,
            fraction=reinforce.trained_fraction,
            window_iterations=reinforce.window_iterations,
        )
    except ValueError as error:
        raise ConfigError(
            f"{error} (config.reinforce.trained_steps is {reinforce.trained_steps!r}, "
            f"num_trained_steps {reinforce.num_trained_steps}, num_steps {reinforce.num_steps}, "
            f"sigma_floor {reinforce.sigma_floor})"
        ) from error
    return plan, deterministic_plan, number, choose


def policy_settings(
    config: ConfigDict, num_classes: int, num_trained_steps: int, num_devices: int
) -> PolicySettings:
    """Returns the settings of config.reinforce for so many identities and devices.

    Raises:
        ConfigError: batch, minibatches, micro-batch and devices do not divide.
    """
    reinforce = config.reinforce
    identities = min(reinforce.identities, num_classes)
    batch_size = identities * reinforce.samples
    told = f"{identities} identities x {reinforce.samples} samples = {batch_size}"
    if batch_size % num_devices or batch_size % reinforce.minibatches:
        raise ConfigError(
            f"one iteration has {told}, which must be divisible by the {num_devices} devices and "
            f"by config.reinforce.minibatches ({reinforce.minibatches})"
        )
    samples = batch_size // reinforce.minibatches
    transitions = samples * num_trained_steps
    micro_batch = reinforce.micro_batch or samples
    if micro_batch > transitions or transitions % micro_batch or micro_batch % num_devices:
        raise ConfigError(
            f"config.reinforce.micro_batch is {micro_batch} transitions; one update has {told} "
            f"samples / {reinforce.minibatches} minibatches x {num_trained_steps} trained steps = "
            f"{transitions} of them, which it must divide, and it must be divisible by the "
            f"{num_devices} devices"
        )
    own = {field.name for field in dataclasses.fields(PolicySettings)}
    shared = {name: reinforce[name] for name in own & set(reinforce.keys())}
    return PolicySettings(
        **{
            **shared,
            "image_shape": sample_shape(config),
            "num_classes": num_classes,
            "num_identities": identities,
            "samples_per_identity": reinforce.samples,
            "prediction_type": config.generator.prediction_type,
            "clip_denoised": config.generator.clip_denoised,
            "micro_batch": micro_batch,
        }
    )


def predicted_memory(
    config: ConfigDict, num_classes: int, bank_shape: tuple[int, int], mesh: Mesh
) -> MemoryParts:
    """Returns what an iteration of config.reinforce will need on each device of the mesh.

    Args:
        config: complete configuration.
        num_classes: people who are trained on.
        bank_shape: most real images of one person, and width of their features.
        mesh: devices.
    """
    _, _, num_trained_steps, _ = policy_steps(config)
    settings = policy_settings(config, num_classes, num_trained_steps, mesh.size)
    predict = iteration_memory(config, num_classes, bank_shape, mesh, num_trained_steps)
    return predict(settings, build_generator(config, num_classes))


def iteration_memory(
    config: ConfigDict,
    num_classes: int,
    bank_shape: tuple[int, int],
    mesh: Mesh | AbstractMesh,
    num_trained_steps: int,
    *,
    on_cpu: bool = True,
) -> Callable[[PolicySettings, DiT], MemoryParts]:
    """Returns the prediction of an iteration's memory on each device, for settings and a model.

    Args:
        config: complete configuration.
        num_classes: people who are trained on.
        bank_shape: most real images of one person, and width of their features.
        mesh: devices.
        num_trained_steps: steps of a rollout that train.
        on_cpu: compiled by XLA's CPU compiler; else an estimate.
    """
    reinforce, shape = config.reinforce, sample_shape(config)
    trained, frozen = split_shapes(config, num_classes, "reinforce")
    value_bytes = 0
    if reinforce.value_steps:
        key, label = jax.random.key(0), jnp.zeros(1, jnp.int32)
        network = functools.partial(ValueNetwork(num_classes).init, key)
        value = jax.eval_shape(network, jnp.zeros((1, *shape)), label, label)
        value_bytes = sum(leaf.size * 4 for leaf in jax.tree.leaves(value))
    settings = policy_settings(config, num_classes, num_trained_steps, mesh.size)
    samples = settings.batch_size // mesh.size
    decoder_bytes, decoding_bytes = reward_decoder_memory(config, samples, on_cpu=on_cpu)
    images, features = bank_shape
    starts = math.prod(shape) if config.synthesize.strength < 1 else 0
    return functools.partial(
        predict_iteration_memory,
        num_trained_steps=num_trained_steps,
        num_steps=reinforce.num_steps,
        trained_bytes=bytes_on_a_device(mesh, trained),
        frozen_bytes=bytes_on_a_device(mesh, frozen),
        bank_bytes=num_classes * images * (features + starts) * 4 // mesh.size,
        value_bytes=value_bytes,
        decoder_bytes=decoder_bytes,
        decoding_bytes=decoding_bytes,
        blocks_train=reinforce.trainable in ("lora", "all"),
        num_devices=mesh.size,
        on_cpu=on_cpu,
    )
