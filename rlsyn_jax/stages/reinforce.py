"""Reinforcement learning of the generator over its denoising steps, from the cold start."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.rl.iteration import COMPARING, PolicyState
from rlsyn_jax.rl.monitoring import best_step, collapse_warning, hacking_warning, total_reward
from rlsyn_jax.stages.assembled_policy import Policy, compiled, make_policy
from rlsyn_jax.stages.fixed_noise import fixed_noise_measure
from rlsyn_jax.stages.generator import load_model, make_sampler, save_model, write_sample_grid
from rlsyn_jax.stages.inputs import TARGET_FIELDS, load_target
from rlsyn_jax.stages.latent_space import LATENT_FIELDS
from rlsyn_jax.stages.stage_record import StageRecord, plain
from rlsyn_jax.stages.training_starts import training_starts
from rlsyn_jax.training.atomic_files import write_json
from rlsyn_jax.training.checkpoints import CheckpointStore
from rlsyn_jax.training.meshes import make_mesh, on_this_process
from rlsyn_jax.training.metrics import Progress, create_metric_writer, read_metrics
from rlsyn_jax.training.preemption import end_if_preempted
from rlsyn_jax.training.processes import agreed
from rlsyn_jax.training.trainable import merge

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
                values,
                history[0] if history else values,
                policy.weights,
                in_deviations=reinforce.algorithm in COMPARING,
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
            problem = unsound(values, number, _ratio_tolerance(config))
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


def _ratio_tolerance(config: ConfigDict) -> float:
    """In bfloat16 the rollout's program and the update's round sums of another order apart."""
    coarse = config.generator.dtype == "bfloat16"
    return config.reinforce.ratio_tolerance * (100 if coarse else 1)


def unsound(values: dict[str, float], number: int, ratio_tolerance: float) -> str | None:
    """Returns what makes an iteration's update worthless, or None.

    Args:
        values: the iteration's metrics.
        number: of the iteration.
        ratio_tolerance: largest deviation of the first importance ratio from 1, a dimension.
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
            f"config.reinforce.ratio_tolerance allows ({ratio_tolerance:g}); rollout and update "
            "disagree, "
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
        "warning/hacking": hacking_warning(
            history, reinforce.held_out_measure, reinforce.hacking_tolerance
        ),
    }
    if "spread_within_identity" in values:  # Of a single sample there is none.
        warnings["warning/collapse"] = collapse_warning(
            values["spread_within_identity"], policy.real_spread, reinforce.collapse_share
        )
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
