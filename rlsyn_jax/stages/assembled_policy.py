"""An iteration of reinforcement with all that it needs: networks, references, rewards, devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.diffusion.image_starts import ImageStarts
from rlsyn_jax.models.dit_flops import forward_flops
from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank
from rlsyn_jax.rl.advantages import initial_statistics
from rlsyn_jax.rl.iteration import PolicySettings, PolicyState, make_iteration
from rlsyn_jax.rl.memory import available_bytes, memory_need
from rlsyn_jax.rl.value_function import ValueNetwork, create_value_state, make_value_optimizer
from rlsyn_jax.stages.extractors import embed_images, load_extractor, make_embed
from rlsyn_jax.stages.generator import build_generator, load_model
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.latent_space import decoding_flops, open_latent_space, shared_by_devices
from rlsyn_jax.stages.policy import FIELDS_OF_MEMORY, policy_settings, policy_steps
from rlsyn_jax.stages.trained_rewards import (
    check_rewards,
    check_spread,
    resolve_rewards,
    trained_rewards,
)
from rlsyn_jax.stages.training_starts import training_starts
from rlsyn_jax.training.meshes import (
    batch_sharding,
    own_device,
    parameter_shardings,
    place,
    replicated,
)
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split


@dataclasses.dataclass(frozen=True)
class Policy:
    """Everything one iteration needs.

    Attributes:
        iteration: as of rl.iteration.make_iteration.
        state: of iteration 0.
        frozen: parameters that do not train. reference: trained parameters of the cold start, where
            the KL asks for them. bank: real features of all identities. embedding_params: what
            embeds samples.
        real_spread: mean total variance of an identity's real features; 0 where none has two.
        weights: name of each reward -> weight. starts: images that rollouts begin with; None =
            with noise.
    """

    iteration: Callable
    state: PolicyState
    frozen: dict
    reference: dict
    bank: ReferenceBank
    embedding_params: dict
    real_spread: float
    weights: dict[str, float]
    starts: ImageStarts | None = None

    @property
    def inputs(self) -> tuple:
        """What the iteration takes beside its state."""
        return self.frozen, self.reference, self.bank, self.embedding_params, self.starts

    def step(self, state: PolicyState) -> tuple[PolicyState, dict]:
        """Runs one iteration; the state is donated."""
        return self.iteration(state, *self.inputs)


def make_policy(config: ConfigDict, workdir: Path, mesh: Mesh) -> Policy:
    """Builds the iteration and its state of step 0 from the stages before.

    Raises:
        ConfigError: fields that cannot work together with the data or the devices, before anything
            is compiled.
    """
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
    check_spread(config, labels)
    extractor = load_extractor(config, workdir, "reward")
    bank = build_reference_bank(
        embed_images(extractor, images), labels, len(splits.train_identities)
    )
    space = open_latent_space(config, for_rewards=True)
    decode, embed_image = shared_by_devices(space, mesh), make_embed(extractor)

    def embed(params, samples):
        return embed_image(jnp.clip(decode(params, samples), -1, 1))

    if space.name:
        generator = forward_flops(build_generator(config, bank.features.shape[0]), space.shape)
        logging.info(
            "reinforce: rewards decode each sample, %.2f GFLOP beside %.2f of a forward pass of "
            "the generator; config.autoencoder.reward_path may name a cheaper decoder",
            decoding_flops(space) / 1e9,
            generator / 1e9,
        )
    cold_start = load_model(config, workdir, "adapt")
    starts = training_starts(config, workdir, dataset, splits)
    return assemble_policy(config, mesh, cold_start, embed, space.params, bank, starts)


def assemble_policy(
    config: ConfigDict,
    mesh: Mesh,
    cold_start: dict,
    embed: Callable,
    embedding_params: dict,
    bank: ReferenceBank,
    starts: ImageStarts | None = None,
) -> Policy:
    """Builds the iteration and its state of step 0 from a generator, features and references.

    Args:
        config: complete configuration.
        mesh: devices.
        cold_start: the generator's parameters, with a class row for each identity of the bank.
        embed: (embedding_params, samples [b, h, w, c]) -> unit embeddings [b, d].
        embedding_params: of `embed`; every device holds them whole.
        bank: real features [identities, r, d] of all identities.
        starts: images that rollouts begin with; None = with noise.

    Raises:
        ConfigError: fields that cannot work together with the bank or the devices.
    """
    reinforce, num_classes = config.reinforce, bank.features.shape[0]
    rewards, weights = trained_rewards(config)
    plan, deterministic_plan, num_trained_steps, choose_steps = policy_steps(config)
    settings = policy_settings(config, num_classes, num_trained_steps, mesh.size)
    check_rewards(config, rewards, weights, bank, settings)
    real_spread = float(jnp.nan_to_num(bank.total_variance).mean())
    trained, frozen = split(
        cold_start,
        reinforce.trainable,
        lora_rank=reinforce.lora_rank,
        lora_targets=tuple(reinforce.lora_targets),
        key=jax.random.key(config.seed + 3),
    )
    trained = place(trained, parameter_shardings(mesh, trained))
    frozen = place(frozen, parameter_shardings(mesh, frozen))
    bank = place(bank.padded_to(mesh.size), batch_sharding(mesh))
    reference = {}
    if reinforce.kl_weight > 0:
        # Buffers of its own, since the state's are donated. Without its low-rank pairs the adapted
        # network is the cold start, so these need no copy.
        reference = {"params": jax.tree.map(jnp.copy, trained["params"]), "lora": {}}
    optimizer = make_optimizer(
        learning_rate=reinforce.learning_rate,
        warmup_steps=0,
        total_steps=reinforce.iterations * reinforce.inner_epochs * reinforce.minibatches,
        decay=reinforce.decay,
        gradient_clip=reinforce.gradient_clip,
    )
    value_optimizer = make_value_optimizer(reinforce.value_learning_rate)
    state = create_policy_state(config, mesh, settings, trained, optimizer, value_optimizer)
    model = build_generator(config, num_classes)
    iteration = make_iteration(
        lambda params, x, t, y: model.apply({"params": params}, x, t, y),
        merge,
        embed,
        rewards,
        weights,
        optimizer,
        mesh,
        settings,
        plan=plan,
        deterministic_plan=deterministic_plan,
        num_trained_steps=num_trained_steps,
        choose_steps=choose_steps,
        # Others would be computed once more for nothing, on the host where they are from there.
        whole_sets={
            name: reward
            for name, reward in resolve_rewards(config, whole_sets=True)[0].items()
            if reward.keywords != rewards[name].keywords
        },
        value_optimizer=value_optimizer,
    )
    embedding_params = place(embedding_params, replicated(mesh))
    if starts is not None:
        starts = place(starts.padded_to(mesh.size), batch_sharding(mesh))
    inputs = frozen, reference, bank, embedding_params
    return Policy(iteration, state, *inputs, real_spread, weights, starts)


def compiled(policy: Policy) -> Policy:
    """Compiles the iteration for its state, tells the memory it needs and checks that it fits.

    Raises:
        ConfigError: a device has less free memory than one iteration has yet to allocate.
    """
    logging.info("reinforce: compiling the iteration")
    program = policy.iteration.lower(policy.state, *policy.inputs).compile()
    need, available = memory_need(program), available_bytes(own_device().device_set)
    free = "unknown" if available is None else f"{available / 2**20:.0f} MiB"
    logging.info(
        "reinforce: one iteration takes %.1f MiB of a device at its peak, %.1f of them not yet "
        "allocated; free: %s",
        need.peak / 2**20,
        need.to_allocate / 2**20,
        free,
    )
    if available is not None and need.to_allocate > available:
        raise ConfigError(
            f"one iteration of reinforce needs another {need.to_allocate / 2**20:.0f} MiB on each "
            f"device, and {free} are free; {FIELDS_OF_MEMORY}"
        )
    return dataclasses.replace(policy, iteration=program)


def create_policy_state(
    config: ConfigDict, mesh: Mesh, settings: PolicySettings, trained, optimizer, value_optimizer
) -> PolicyState:
    """Returns the state of iteration 0 on the mesh.

    Args:
        config: complete configuration.
        mesh: devices.
        settings: of the policy.
        trained: the part of the generator's parameters that learns.
        optimizer, value_optimizer: of that part, and of the value function if there is one.
    """
    whole = replicated(mesh)
    state = create_train_state(
        trained, optimizer, place(jax.random.key(config.seed + 4), whole), mesh
    )
    value = None
    if settings.value_steps:
        value = create_value_state(
            ValueNetwork(settings.num_classes),
            value_optimizer,
            jax.random.key(config.seed + 7),
            settings.image_shape,
        )
    names = [name for name, reward in config.rewards.items() if reward.weight != 0]
    extra = place({"statistics": initial_statistics(names), "value": value}, whole)
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return PolicyState(**parts, **extra)
