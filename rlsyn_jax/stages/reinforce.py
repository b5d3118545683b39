"""Reinforcement learning of the generator over its denoising steps, from the cold start."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.diffusion.image_starts import ImageStarts
from rlsyn_jax.evaluation.fidelity import precision_recall_density_coverage
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.models.dit_flops import forward_flops
from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank
from rlsyn_jax.rewards.richness import reference_variance
from rlsyn_jax.rl.advantages import initial_statistics
from rlsyn_jax.rl.iteration import PolicySettings, PolicyState, make_iteration
from rlsyn_jax.rl.memory import available_bytes, memory_need
from rlsyn_jax.rl.monitoring import best_step, collapse_warning, hacking_warning, total_reward
from rlsyn_jax.rl.value_function import ValueNetwork, create_value_state, make_value_optimizer
from rlsyn_jax.stages.extractors import embed_images, load_extractor, make_embed
from rlsyn_jax.stages.generator import (
    build_generator,
    load_model,
    make_sampler,
    save_model,
    write_sample_grid,
)
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target, train_labels
from rlsyn_jax.stages.latent_space import (
    LATENT_FIELDS,
    decoding_flops,
    open_latent_space,
    shared_by_devices,
)
from rlsyn_jax.stages.policy import FIELDS_OF_MEMORY, policy_settings, policy_steps
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.stages.trained_rewards import check_rewards, trained_rewards
from rlsyn_jax.stages.training_starts import training_starts
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.checkpoints import CheckpointStore
from rlsyn_jax.training.meshes import (
    batch_sharding,
    make_mesh,
    on_this_process,
    own_device,
    parameter_shardings,
    place,
    replicated,
)
from rlsyn_jax.training.metrics import Progress, create_metric_writer, read_metrics
from rlsyn_jax.training.optimizers import make_optimizer
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import agreed
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split

FIELDS = (
    *TARGET_FIELDS,
    "generator",
    *LATENT_FIELDS,
    "autoencoder.reward_path",
    "extractor",
    "reinforce",
    "rewards",
    "synthesize.num_steps",
    "synthesize.strength",
    "synthesize.solver",
    "synthesize.eta",
    "synthesize.guidance_scale",
    "synthesize.guidance_channels",
    "evaluate.num_neighbors",
)
INPUTS = ("pretrain", "adapt")


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


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs, resumes or skips the stage."""
    record = StageRecord(workdir, "reinforce", config, FIELDS, INPUTS)
    if record.complete:
        return
    reinforce = config.reinforce
    # Before anything is made, so that an iteration that does not fit leaves the folder free.
    policy = compiled(make_policy(config, workdir, make_mesh(config.fsdp)))
    dataset, splits = load_target(config, workdir)
    num_classes = len(splits.train_identities)
    starts = training_starts(config, workdir, dataset, splits)
    sampler = make_sampler(config, num_classes, starts)
    measure = fixed_noise_measure(config, workdir, sampler)
    state, metrics_file = policy.state, record.directory / "metrics.jsonl"
    with CheckpointStore(record.directory / "checkpoints") as store:
        if store.latest_step() is not None:
            state, _, _ = store.restore(state)
        start = int(state.step)
        writer = create_metric_writer(
            record.directory, resume_step=start, tensorboard=config.tensorboard
        )
        history = [line for line in read_metrics(metrics_file) if "reward/total" in line]

        def evaluate(state: PolicyState, number: int) -> dict[str, float]:
            """Measures the averaged generator, writes its samples, keeps its weights."""
            params = on_this_process(merge(state.ema_params, policy.frozen))
            # What is decided by them must be decided alike.
            values = agreed(measure(params))
            values["reward/total"] = total_reward(
                values, history[0] if history else values, policy.weights
            )
            history.append({"step": number, **values})
            path = record.directory / f"samples_{number:04d}.png"
            write_sample_grid(sampler, params, num_classes, path, seed=config.seed)
            if reinforce.keep == "best":
                # Several processes agree about one write at a time.
                store.wait_until_finished()
                save_model(record, config, params, params, folder=_kept(number))
            return values

        if start == 0:
            writer.write_scalars(0, evaluate(state, 0))
        progress = Progress(
            "reinforce",
            reinforce.iterations,
            first_step=start,
            every_seconds=config.log_every_seconds,
        )
        stopped = bool(history) and _should_stop(config, history)
        for number in range(start + 1, reinforce.iterations + 1):
            if stopped:
                break
            state, metrics = policy.step(state)
            values = {name: float(value) for name, value in metrics.items()}
            problem = unsound(values, number, reinforce.ratio_tolerance)
            if problem:
                raise FloatingPointError(f"{problem} {_save_inputs(policy, record, store, number)}")
            if number % reinforce.evaluate_every == 0 or number == reinforce.iterations:
                values |= evaluate(state, number)
                stopped = _should_stop(config, history)
                _warn(config, policy, writer, number, values, history)
            writer.write_scalars(number, values)
            shown = {name: values[f"reward/{name}"] for name in policy.weights}
            progress.update(number, **shown)
            last = stopped or number == reinforce.iterations
            save = functools.partial(_save_iteration, config, record, store, writer, state)
            due = number % reinforce.checkpoint_every == 0 or last
            if due:
                save()
            end_if_preempted(f"reinforce, iteration {number},", None if due else save, store)
        writer.close()
    params, average = merge(state.params, policy.frozen), merge(state.ema_params, policy.frozen)
    if reinforce.keep == "best":
        best = best_step(history, reinforce.held_out_measure)
        logging.info("reinforce: iteration %d is the best by held-out measure and is kept", best)
        params = average = load_model(config, workdir, "reinforce", folder=_kept(best))
    save_model(record, config, params, average)
    record.finish()


def _save_iteration(config, record, store, writer, state: PolicyState) -> None:
    """Puts everything that a later process needs to go on from this iteration on disk."""
    writer.flush()
    store.save(int(state.step), state, config=plain(config), iterator_state=None)
    record.note_time()


def make_policy(config: ConfigDict, workdir: Path, mesh: Mesh) -> Policy:
    """Builds the iteration and its state of step 0 from the stages before.

    Raises:
        ConfigError: fields that cannot work together with the data or the devices, before anything
            is compiled.
    """
    dataset, splits = load_target(config, workdir)
    images, labels = train_labels(dataset, splits)
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
    real_spread = float(reference_variance(bank).mean())
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


def fixed_noise_measure(
    config: ConfigDict, workdir: Path, sampler: Callable
) -> Callable[[dict], dict[str, float]]:
    """Returns a function params -> measures of samples of fixed people with fixed noise.

    The samples are the sampler's, drawn as the synthetic data set will be. "fixed/NAME" and
    "fixed_std/NAME" are the rewards' means and deviations; "held_out/..." compares the samples, by
    the judge, with real images of the same people that were never trained on, and no reward
    contains it.

    Args:
        config: complete configuration.
        workdir: of the run, whose extractors are read.
        sampler: as `make_sampler` returns it.
    """
    dataset, splits = load_target(config, workdir)
    train_images, labels = train_labels(dataset, splits)
    num_classes = len(splits.train_identities)
    judge, extractor = (load_extractor(config, workdir, name) for name in ("judge", "reward"))
    held_out = embed_images(judge, dataset.images[splits.closed_query])
    enrolled = embed_images(judge, train_images)
    bank = build_reference_bank(embed_images(extractor, train_images), labels, num_classes)
    identities = min(config.reinforce.identities, num_classes)
    group = config.reinforce.samples
    people = np.linspace(0, num_classes - 1, identities).astype(np.int32)
    classes = np.repeat(people, group)
    shown = np.isin(dataset.identities[splits.closed_query], splits.train_identities[people])
    # A person without other images is compared with everybody's.
    real = held_out[shown] if shown.sum() > config.evaluate.num_neighbors else held_out
    neighbors = min(config.evaluate.num_neighbors, len(real) - 1, len(classes) - 1)
    rewards, _ = trained_rewards(config)
    references = bank.take(jnp.asarray(people))
    score = jax.jit(lambda values: {n: reward(values, references) for n, reward in rewards.items()})

    def measure(params) -> dict[str, float]:
        key, ids = jax.random.key(config.seed + 5), np.arange(len(classes))
        samples = np.asarray(sampler(params, key, ids, classes))
        scores = score(jnp.asarray(embed_images(extractor, samples)).reshape(identities, group, -1))
        values = {f"fixed/{name}": float(score.mean()) for name, score in scores.items()}
        values |= {f"fixed_std/{name}": float(score.std()) for name, score in scores.items()}
        fake = embed_images(judge, samples)
        result = precision_recall_density_coverage(real, fake, num_neighbors=neighbors)
        accuracy, _ = nearest_centroid_accuracy(enrolled, labels, fake, classes)
        values["held_out/identity_accuracy"] = float(accuracy)
        for name in ("precision", "recall", "density", "coverage"):
            values[f"held_out/{name}"] = float(getattr(result, name))
        return values

    return measure


def unsound(values: dict[str, float], number: int, ratio_tolerance: float) -> str | None:
    """Returns what makes an iteration's update worthless, or None.

    Args:
        values: the iteration's metrics.
        number: of the iteration.
        ratio_tolerance: largest deviation of the first importance ratio from 1.
    """
    kinds = ("reward", "log_prob", "gradient")
    broken = [name for name in kinds if not values.get(f"finite/{name}", True)]
    broken = broken or [name for name, value in values.items() if not np.isfinite(value)]
    if broken:
        return (
            f"reinforce: {', '.join(broken)} not finite in iteration {number}; look at the reward "
            "functions, or lower config.reinforce.learning_rate."
        )
    if values.get("first_ratio_deviation", 0.0) > ratio_tolerance:
        return (
            f"reinforce: the importance ratio before any update differs from 1 by "
            f"{values['first_ratio_deviation']:.2e} in iteration {number}, more than "
            f"config.reinforce.ratio_tolerance ({ratio_tolerance}); rollout and update disagree, "
            "so the gradient would be wrong. Raise config.reinforce.sigma_floor, or use "
            "config.generator.dtype='float32'."
        )
    return None


def read_curves(workdir: Path) -> list[dict]:
    """Returns the stage's metrics.jsonl as a list of records."""
    path = Path(workdir) / "reinforce" / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def _kept(number: int) -> str:
    return f"evaluated/{number:04d}"


def _should_stop(config: ConfigDict, history: list[dict]) -> bool:
    reinforce = config.reinforce
    return reinforce.stop_when_hacked and bool(
        hacking_warning(history, reinforce.held_out_measure, reinforce.hacking_tolerance)
    )


def _warn(config, policy: Policy, writer, number: int, values: dict, history: list[dict]) -> None:
    """Tells of collapse and reward hacking, in the log and in metrics.jsonl for the report."""
    reinforce = config.reinforce
    warnings = {
        "warning/collapse": collapse_warning(
            values["spread_within_identity"], policy.real_spread, reinforce.collapse_share
        ),
        "warning/hacking": hacking_warning(
            history, reinforce.held_out_measure, reinforce.hacking_tolerance
        ),
    }
    told = {name: text for name, text in warnings.items() if text}
    for text in told.values():
        logging.warning("reinforce: iteration %d: %s", number, text)
    if told:
        writer.write_texts(number, told)


def _save_inputs(policy: Policy, record: StageRecord, store: CheckpointStore, number: int) -> str:
    """Saves the state that iteration `number` began with; returns where, in words.

    Iterations are exact functions of their state, so it is computed again from the last checkpoint
    instead of being kept on the devices during every iteration.
    """
    if store.latest_step() is None:
        return "It is the first since the start of the stage: the same command runs it again."
    state, _, config = store.restore(policy.state)
    while int(state.step) < number - 1:
        state, _ = policy.step(state)
    folder = record.directory / "replay"
    with CheckpointStore(folder, max_to_keep=1) as replay:
        replay.save(number - 1, state, config=config, iterator_state=None, force=True)
    write_json(folder / "iteration.json", {"iteration": number})
    return f"Its inputs are in {folder}; the same command comes to it again."
