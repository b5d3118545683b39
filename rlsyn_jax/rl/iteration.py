"""One reinforcement-learning iteration as one compiled program: rollout, rewards, policy update.

The Markov decision process is DDPO's (Black et al., 2305.13301): the state is (x_t, t, identity),
the action x_{t-1} is drawn from the sampler's Gaussian, the reward comes with the finished image.
The gradient of the expected reward is estimated from log-probabilities and advantages, which any
reward has, or, by the algorithm "pathwise", through the drawn steps and the rewards themselves, as
in DRaFT (Clark et al., 2309.17400): each step's draw is its mean plus sigma times fixed noise.
From log-probabilities it is the part of the gradient that goes through the trained steps: that the
others depend on the parameters, too, is left out, with few trained steps half of it or more.
Letters in comments: i identities, g samples an identity (group), b = i g, k trained steps; a
transition is one trained step of one sample, and m of them make a micro-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from rlsyn_jax.diffusion.image_starts import noised_images
from rlsyn_jax.diffusion.samplers import (
    SamplingPlan,
    gaussian_log_prob,
    guided,
    mean_of,
    predict,
    sample,
    sample_trajectories,
    stochastic_where,
)
from rlsyn_jax.rl.advantages import RunningStatistics, combine_rewards, update_statistics
from rlsyn_jax.rl.policy_gradient import (
    clamped_ratio_loss,
    clipped_importance_loss,
    epsilon_divergence,
    kl_to_reference,
    ratio_deviation,
    score_function_loss,
)
from rlsyn_jax.rl.value_function import ValueNetwork, ValueState, fit_value
from rlsyn_jax.training.meshes import parameter_shardings, replicated
from rlsyn_jax.training.train_state import TrainState

COMPARING = ("ddpo_is", "ddpo_sf", "dpok")  # Those that compare samples.
ALGORITHMS = (*COMPARING, "pathwise")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What one iteration does; what is not said to be of something else is of config.reinforce.

    Attributes:
        image_shape: (h, w, c) of a sample: of an image, or of its latents.
        num_classes: the class table's size without the null row; identities are below it.
        num_identities: i, at most num_classes. samples_per_identity: g.
        prediction_type, clip_denoised: of the generator.
        algorithm: "ddpo_is" (clipped importance ratio), "ddpo_sf" (score function, one update a
            batch), "dpok" (clamped ratio) or "pathwise" (the gradient of the weighted rewards
            themselves through all steps, one update of all samples; what follows on minibatches,
            importance ratios, divergences and advantages is not read).
        guidance_scale: classifier-free guidance, part of the policy; 1 = none.
        guidance_channels: the first so many channels are guided; 0 = all.
        unconditional: whether its unconditional branch is "trained" or "detached".
        deterministic_elsewhere: steps that do not train add no noise.
        samples_per_start: of an identity's samples so many begin alike, so that what sets them
            apart is what the policy did; 1 = none do.
        inner_epochs: passes over a batch of trajectories. minibatches: updates of one pass, each on
            its share of the samples and all trained steps.
        micro_batch: transitions of one forward and backward pass; gradients add up to the update's.
        clip_range, log_prob_reduce: of the importance ratio.
        kl_weight, kl_space: divergence from the cold start; space "x" or "epsilon".
        normalise_over, baseline, deviation_floor, squash, advantage_clip: see combine_rewards.
        statistics_momentum: of running statistics.
        value_steps: fitting steps of DPOK's value function in an iteration; 0 = no such function.
        ema_decay: of the average of the parameters over iterations.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_identities: int
    samples_per_identity: int
    samples_per_start: int
    prediction_type: str
    clip_denoised: bool
    algorithm: str
    guidance_scale: float
    guidance_channels: int
    unconditional: str
    deterministic_elsewhere: bool
    inner_epochs: int
    minibatches: int
    micro_batch: int
    clip_range: float
    log_prob_reduce: str
    kl_weight: float
    kl_space: str
    normalise_over: str
    statistics_momentum: float
    baseline: str
    deviation_floor: float
    squash: str
    advantage_clip: float
    value_steps: int
    ema_decay: float

    @property
    def batch_size(self) -> int:
        """Samples of an iteration, b."""
        return self.num_identities * self.samples_per_identity


@flax.struct.dataclass
class PolicyState(TrainState):
    """A training state with what reinforcement carries over iterations.

    Attributes:
        statistics: of the rewards.
        value: DPOK's value function, or None.
    """

    statistics: RunningStatistics
    value: ValueState | None


def make_iteration(
    apply: Callable,
    merge: Callable,
    embed: Callable,
    rewards: dict[str, Callable],
    weights: dict[str, float],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    settings: PolicySettings,
    *,
    plan: SamplingPlan,
    deterministic_plan: SamplingPlan,
    num_trained_steps: int,
    choose_steps: Callable,
    whole_sets: dict[str, Callable] | None = None,
    value_optimizer: optax.GradientTransformation | None = None,
) -> Callable:
    """Builds the jitted iteration; its randomness is fold_in(state.key, state.step).

    Args:
        apply: (params, x, timesteps, labels) -> network output.
        merge: (trained, frozen) -> params.
        embed: (embedding_params, samples [b, h, w, c]) -> unit embeddings [b, d].
        rewards: name -> function (embeddings [i, g, d], bank of i identities) -> [i, g].
        weights: name -> weight.
        optimizer: acts on the trained subtree.
        mesh: devices; the samples are split over both axes.
        settings: what the iteration does.
        plan: the denoising steps of the rollout; deterministic_plan: the same without noise.
        num_trained_steps, choose_steps: of trained_steps.make_step_choice, over steps with noise.
        whole_sets: of rewards that give each sample what it adds to its set, which trains, the same
            where each is given that of its whole set: their means are what "reward/NAME" tells,
            since what samples add does not add up to what the set has; None = there are none.
        value_optimizer: of DPOK's value function, where settings.value_steps > 0.

    Returns:
        (state, frozen, reference, bank, embedding_params, starts=None) -> (state, metrics): state
        is donated, reference is the trained subtree of the cold start (read where kl_weight > 0),
        bank holds all identities, embedding_params are embed's, starts are the images that
        rollouts begin with (None = with noise); metrics are float32 scalars.
    """
    over_samples = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    over_transitions = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    estimation = {
        "prediction_type": settings.prediction_type,
        "clip_denoised": settings.clip_denoised,
    }
    value_network = ValueNetwork(settings.num_classes)

    def make_denoise(trained, frozen):
        params = merge(trained, frozen)
        without_gradient = None
        if settings.unconditional == "detached":
            fixed = jax.lax.stop_gradient(params)

            def without_gradient(x, t, y):
                return apply(fixed, x, t, y)

        return guided(
            lambda x, t, y: apply(params, x, t, y),
            settings.num_classes,
            settings.guidance_scale,
            settings.image_shape[-1],
            guidance_channels=settings.guidance_channels,
            unconditional=without_gradient,
        )

    def draw(key, starts):
        """Returns identities [i], labels [b] and numbers [b] of samples, and how they begin."""
        identities = jax.random.choice(
            key, settings.num_classes, (settings.num_identities,), replace=False
        )
        labels = jnp.repeat(identities, settings.samples_per_identity)
        labels = jax.lax.with_sharding_constraint(labels, over_samples)
        sample_ids = jnp.arange(settings.batch_size)
        sample_ids = jax.lax.with_sharding_constraint(sample_ids, over_samples)
        beginning = {
            "image_shape": settings.image_shape,
            "start": starts and noised_images(starts, plan.alpha_bar[0]),
            "start_ids": sample_ids // settings.samples_per_start,
        }
        return identities, labels, sample_ids, beginning

    def rollout(state, frozen, key, starts):
        """Draws identities and their samples; keeps the transitions of the trained steps."""
        identity_key, sample_key, step_key = jax.random.split(key, 3)
        identities, labels, sample_ids, beginning = draw(identity_key, starts)
        kept = choose_steps(step_key, state.step)  # [k]
        steps = plan
        if settings.deterministic_elsewhere:
            chosen = jnp.isin(jnp.arange(plan.sigma.shape[0]), kept)
            steps = stochastic_where(chosen, plan, deterministic_plan)
        trajectory = sample_trajectories(
            make_denoise(state.params, frozen),
            sample_key,
            sample_ids,
            labels,
            steps,
            kept,
            log_prob_reduce=settings.log_prob_reduce,
            **beginning,
            **estimation,
        )
        rows = jax.tree.map(lambda values: values[kept], steps)
        return identities, labels, rows, jax.lax.stop_gradient(trajectory)

    def raw_rewards(samples, references, embedding_params):
        """Returns embeddings [i, g, d], and each reward of them [i, g]."""
        embeddings = rearrange(
            embed(embedding_params, samples), "(i g) d -> i g d", g=settings.samples_per_identity
        )
        return embeddings, {
            name: reward(embeddings, references) for name, reward in rewards.items()
        }

    def score(embeddings, raw, statistics):
        """Returns advantages [b], the new statistics and what is worth watching."""
        statistics = update_statistics(statistics, raw, settings.statistics_momentum)
        advantages, metrics = combine_rewards(
            raw,
            weights,
            scope=settings.normalise_over,
            squash=settings.squash,
            clip=settings.advantage_clip,
            baseline=settings.baseline,
            deviation_floor=settings.deviation_floor,
            statistics=statistics,
        )
        if settings.samples_per_identity > 1:
            centre = embeddings.mean(axis=1, keepdims=True)
            squares = jnp.sum((embeddings - centre) ** 2, -1).sum(axis=1)
            spread = squares.mean() / (settings.samples_per_identity - 1)
            metrics["spread_within_identity"] = spread
        finite = jnp.stack([jnp.isfinite(values).all() for values in raw.values()]).all()
        metrics["finite/reward"] = finite
        return advantages.reshape(-1), statistics, metrics

    one_update = settings.inner_epochs == settings.minibatches == 1

    def micro_loss(trained, frozen, reference, part):
        """The loss of m transitions, a mean over them."""
        x, labels, row = part["states"], part["labels"], part["rows"]
        estimates = predict(make_denoise(trained, frozen), x, labels, row, **estimation)
        mean = mean_of(estimates, x, row)
        log_prob = gaussian_log_prob(part["next_states"], mean, row.sigma, settings.log_prob_reduce)
        old, advantages = part["log_probs"], part["advantages"]
        # A batch that gets one update is the current policy's, with a ratio of 1. By the rollout's
        # log-probabilities it would differ by what two programs round differently, in bfloat16 on
        # accelerators by more than the clipping range.
        compared = jax.lax.stop_gradient(log_prob) if one_update else old
        if settings.algorithm == "ddpo_sf":
            loss, metrics = score_function_loss(log_prob, advantages)
        else:
            surrogate = {"ddpo_is": clipped_importance_loss, "dpok": clamped_ratio_loss}
            loss, metrics = surrogate[settings.algorithm](
                log_prob, compared, advantages, settings.clip_range
            )
        ratio = jnp.exp(log_prob - old)
        summed = x[0].size if settings.log_prob_reduce == "sum" else 1
        deviation = ratio_deviation(log_prob, old, summed)
        metrics |= {"ratio": ratio.mean(), "ratio_deviation": deviation.max()}
        if settings.kl_weight > 0:
            other = predict(make_denoise(reference, frozen), x, labels, row, **estimation)
            other = jax.lax.stop_gradient(other)
            if settings.kl_space == "x":
                divergence = kl_to_reference(mean, mean_of(other, x, row), row.sigma)
            else:
                divergence = epsilon_divergence(estimates[1], other[1])
            metrics["kl_to_reference"] = divergence.mean()
            loss = loss + settings.kl_weight * divergence.mean()
        return loss, {**metrics, "loss": loss}

    def update(state, frozen, reference, parts):
        """One optimiser step; parts hold [n, m, ...], and gradients add up over n."""

        def body(total, part):
            (_, metrics), gradients = jax.value_and_grad(micro_loss, has_aux=True)(
                state.params, frozen, reference, part
            )
            return jax.tree.map(jnp.add, total, gradients), metrics

        number = parts["log_probs"].shape[0]
        gradients, metrics = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, state.params), parts)
        gradients = jax.tree.map(lambda value: value / number, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        deviation = metrics.pop("ratio_deviation").max()
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics["ratio_deviation"] = deviation
        metrics["gradient_norm"] = optax.global_norm(gradients)
        return state.replace(params=params, opt_state=opt_state), metrics

    def estimate_values(state, transitions):
        """Takes DPOK's value function off the advantages, then fits it to the rewards."""
        flat = jax.tree.map(lambda v: rearrange(v, "k b ... -> (k b) ..."), transitions)
        inputs = (flat["states"], flat["rows"].timesteps, flat["labels"])
        estimates = value_network.apply({"params": state.value.params}, *inputs)
        shape = transitions["advantages"].shape
        value, error = fit_value(
            value_network,
            value_optimizer,
            state.value,
            inputs,
            flat["advantages"],
            settings.value_steps,
        )
        advantages = transitions["advantages"] - estimates.reshape(shape)
        transitions = {**transitions, "advantages": jax.lax.stop_gradient(advantages)}
        return state.replace(value=value), transitions, {"value_error": error}

    def as_placed(state):
        """Lays the state out as it came, or the next iteration would be another program."""
        like_params = {n: getattr(state, n) for n in ("params", "opt_state", "ema_params")}
        whole = {n: getattr(state, n) for n in ("step", "statistics", "value")}
        constrain = jax.lax.with_sharding_constraint
        return state.replace(
            **constrain(like_params, parameter_shardings(mesh, like_params)),
            **constrain(whole, replicated(mesh)),
        )

    def after_update(state, statistics, metrics):
        """Returns the state of the next iteration, and the metrics of this one."""
        state = state.replace(
            step=state.step + 1,
            ema_params=optax.incremental_update(
                state.params, state.ema_params, 1 - settings.ema_decay
            ),
            statistics=statistics,
        )
        return as_placed(state), jax.tree.map(jnp.float32, metrics)

    def iteration_through_steps(state, frozen, reference, bank, embedding_params, starts=None):
        """An iteration of the algorithm "pathwise"."""
        del reference  # No divergence.
        key = jax.random.fold_in(state.key, state.step)
        identity_key, sample_key = jax.random.split(key)
        identities, labels, sample_ids, beginning = draw(identity_key, starts)
        references = bank.take(identities)

        def negative_reward(trained):
            samples = sample(
                make_denoise(trained, frozen),
                sample_key,
                sample_ids,
                labels,
                plan,
                remat=True,
                **beginning,
                **estimation,
            )
            embeddings, raw = raw_rewards(samples, references, embedding_params)
            total = sum(weights[name] * values.mean() for name, values in raw.items())
            return -total, (embeddings, raw)

        (loss, scored), gradient = jax.value_and_grad(negative_reward, has_aux=True)(state.params)
        _, statistics, metrics = score(*scored, state.statistics)
        # There are no advantages.
        metrics = {
            name: value
            for name, value in metrics.items()
            if not name.startswith(("advantage/", "share/", "zero_spread/"))
        }
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        norm = optax.global_norm(gradient)
        metrics |= {"loss": loss, "gradient_norm": norm, "finite/gradient": jnp.isfinite(norm)}
        state = state.replace(
            params=optax.apply_updates(state.params, updates), opt_state=opt_state
        )
        return after_update(state, statistics, metrics)

    def iteration(state, frozen, reference, bank, embedding_params, starts=None):
        key = jax.random.fold_in(state.key, state.step)
        rollout_key, order_key = jax.random.split(key)
        identities, labels, rows, trajectory = rollout(state, frozen, rollout_key, starts)
        references = bank.take(identities)
        embeddings, raw = raw_rewards(trajectory.images, references, embedding_params)
        advantages, statistics, metrics = score(embeddings, raw, state.statistics)
        metrics |= {
            f"reward/{name}": reward(embeddings, references).mean()
            for name, reward in (whole_sets or {}).items()
        }
        metrics["finite/log_prob"] = jnp.isfinite(trajectory.log_probs).all()
        shape = (num_trained_steps, settings.batch_size)
        transitions = {
            "states": trajectory.states,
            "next_states": trajectory.next_states,
            "log_probs": trajectory.log_probs,
            "advantages": jnp.broadcast_to(advantages, shape),
            "labels": jnp.broadcast_to(labels, shape),
            "rows": jax.tree.map(lambda v: jnp.broadcast_to(v[:, None], shape), rows),
        }
        if settings.value_steps:
            state, transitions, value_metrics = estimate_values(state, transitions)
            metrics |= value_metrics

        def shuffled(epoch):
            order = jax.random.permutation(
                jax.random.fold_in(order_key, epoch), settings.batch_size
            )
            return order.reshape(settings.minibatches, -1)

        # One row of sample numbers for each update.
        orders = jnp.concatenate([shuffled(epoch) for epoch in range(settings.inner_epochs)])

        def one_minibatch(state, order):
            def cut(values):
                chosen = rearrange(values[:, order], "k b ... -> (k b) ...")
                parts = rearrange(chosen, "(n m) ... -> n m ...", m=settings.micro_batch)
                return jax.lax.with_sharding_constraint(parts, over_transitions)

            return update(state, frozen, reference, jax.tree.map(cut, transitions))

        state, updates = jax.lax.scan(one_minibatch, state, orders)
        metrics["first_ratio_deviation"] = updates["ratio_deviation"][0]
        metrics["finite/gradient"] = jnp.isfinite(updates["gradient_norm"]).all()
        metrics |= {name: values.mean() for name, values in updates.items()}
        return after_update(state, statistics, metrics)

    # Where XLA may keep bfloat16 values in float32 inside one pass and not inside the other, the
    # first importance ratio is not 1.
    options = {"xla_allow_excess_precision": False}
    chosen = iteration_through_steps if settings.algorithm == "pathwise" else iteration
    return jax.jit(chosen, donate_argnums=0, compiler_options=options)
