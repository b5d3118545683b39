"""One reinforcement-learning iteration as one compiled program: rollout, rewards, policy update.

The Markov decision process is DDPO's (Black et al., 2305.13301): the state is (x_t, t, identity),
the action x_{t-1} is drawn from the sampler's Gaussian, the reward comes with the finished image.
Letters in comments: i identities, g samples an identity (group), b = i g, s denoising steps.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from rlsyn_jax.diffusion.samplers import (
    SamplingPlan,
    gaussian_log_prob,
    guided,
    sample_trajectories,
    transition,
)
from rlsyn_jax.rl.advantages import combine_rewards
from rlsyn_jax.rl.policy_gradient import (
    clipped_importance_loss,
    kl_to_reference,
    score_function_loss,
)


def make_iteration(
    apply: Callable,
    merge: Callable,
    embed: Callable,
    rewards: dict[str, Callable],
    weights: dict[str, float],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    plan: SamplingPlan,
    image_shape: tuple[int, int, int],
    num_classes: int,
    num_identities: int,
    samples_per_identity: int,
    trained_steps: int,
    inner_epochs: int,
    minibatches: int,
    algorithm: str,
    clip_range: float,
    kl_weight: float,
    guidance_scale: float,
    prediction_type: str,
    clip_denoised: bool,
    log_prob_reduce: str,
    normalise_over: str,
    squash: str,
    advantage_clip: float,
    ema_decay: float,
) -> Callable:
    """Builds the jitted iteration; its randomness is fold_in(state.key, state.step).

    Args:
        apply: (params, x, timesteps, labels) -> network output.
        merge: (trained, frozen) -> params.
        embed: images [b, h, w, c] in [-1, 1] -> unit embeddings [b, d].
        rewards: name -> function (embeddings [i, g, d], bank of i identities) -> [i, g].
        weights: name -> weight.
        optimizer: acts on the trained subtree.
        mesh: devices; the samples are split over both axes.
        plan: the denoising steps of the rollout.
        image_shape: (h, w, c).
        num_classes: the class table's size without the null row; identities are 0..num_classes-1.
        num_identities: i, at most num_classes.
        samples_per_identity: g.
        trained_steps: how many of the noisiest steps are updated; each must have noise.
        inner_epochs: passes over the batch; minibatches: updates a pass.
        algorithm: "ddpo_is" (clipped importance ratio) or "ddpo_sf" (score function).
        clip_range, kl_weight, guidance_scale, prediction_type, clip_denoised, log_prob_reduce,
            normalise_over, squash, advantage_clip, ema_decay: see config.reinforce.

    Returns:
        (state, frozen, reference, bank) -> (state, metrics): state is donated, reference is the
        trained subtree of the cold start (read where kl_weight > 0), bank holds all identities;
        metrics are float32 scalars.
    """
    batch_size = num_identities * samples_per_identity
    over_samples = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    over_states = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))

    def make_denoise(trained, frozen):
        params = merge(trained, frozen)
        return guided(
            lambda x, t, y: apply(params, x, t, y), num_classes, guidance_scale, image_shape[-1]
        )

    def rollout(state, frozen, key):
        identity_key, sample_key = jax.random.split(key)
        identities = jax.random.choice(identity_key, num_classes, (num_identities,), replace=False)
        labels = jnp.repeat(identities, samples_per_identity)  # [b]
        labels = jax.lax.with_sharding_constraint(labels, over_samples)
        sample_ids = jax.lax.with_sharding_constraint(jnp.arange(batch_size), over_samples)
        trajectory = sample_trajectories(
            make_denoise(state.params, frozen),
            sample_key,
            sample_ids,
            labels,
            plan,
            image_shape=image_shape,
            prediction_type=prediction_type,
            clip_denoised=clip_denoised,
            log_prob_reduce=log_prob_reduce,
        )
        return identities, labels, jax.lax.stop_gradient(trajectory)

    def score(images, bank, identities):
        embeddings = rearrange(
            embed(jnp.clip(images, -1, 1)), "(i g) d -> i g d", g=samples_per_identity
        )
        references = bank.take(identities)
        raw = {name: reward(embeddings, references) for name, reward in rewards.items()}
        advantages, diagnostics = combine_rewards(
            raw, weights, scope=normalise_over, squash=squash, clip=advantage_clip
        )
        centre = embeddings.mean(axis=1, keepdims=True)
        diagnostics["spread_within_identity"] = jnp.sum((embeddings - centre) ** 2, -1).mean()
        return advantages.reshape(-1), diagnostics

    def minibatch_loss(trained, frozen, reference, part, row):
        """The loss of one denoising step of one minibatch; row is that step of the plan."""
        options = {"prediction_type": prediction_type, "clip_denoised": clip_denoised}
        mean = transition(
            make_denoise(trained, frozen), part["states"], part["labels"], row, **options
        )
        log_prob = gaussian_log_prob(part["next_states"], mean, row.sigma, log_prob_reduce)
        if algorithm == "ddpo_is":
            loss, diagnostics = clipped_importance_loss(
                log_prob[None], part["log_probs"][None], part["advantages"], clip_range
            )
        else:
            loss, diagnostics = score_function_loss(log_prob[None], part["advantages"])
        ratio = jnp.exp(log_prob - part["log_probs"])
        diagnostics = {
            **diagnostics,
            "ratio": ratio.mean(),
            "ratio_deviation": jnp.abs(ratio - 1).max(),
        }
        if kl_weight > 0:
            other = transition(
                make_denoise(reference, frozen), part["states"], part["labels"], row, **options
            )
            divergence = kl_to_reference(mean, jax.lax.stop_gradient(other), row.sigma).mean()
            diagnostics["kl_to_reference"] = divergence
            loss = loss + kl_weight * divergence
        return loss, diagnostics

    def update(state, frozen, reference, batch):
        """One optimiser step on one minibatch; gradients are summed over the trained steps."""
        rows = jax.tree.map(lambda values: values[:trained_steps], plan)
        whole = {name: batch[name] for name in ("labels", "advantages")}

        def body(total, inputs):
            row, states, next_states, log_probs = inputs
            part = {
                **whole,
                "states": states,
                "next_states": next_states,
                "log_probs": log_probs,
            }
            (loss, diagnostics), gradients = jax.value_and_grad(minibatch_loss, has_aux=True)(
                state.params, frozen, reference, part, row
            )
            total = jax.tree.map(jnp.add, total, gradients)
            return total, {**diagnostics, "loss": loss}

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        steps = (rows, batch["states"], batch["next_states"], batch["log_probs"])
        gradients, diagnostics = jax.lax.scan(body, zeros, steps)
        gradients = jax.tree.map(lambda value: value / trained_steps, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        deviation = diagnostics.pop("ratio_deviation").max()
        diagnostics = jax.tree.map(jnp.mean, diagnostics)
        diagnostics["ratio_deviation"] = deviation
        diagnostics["gradient_norm"] = optax.global_norm(gradients)
        return state.replace(params=params, opt_state=opt_state), diagnostics

    def iteration(state, frozen, reference, bank):
        key = jax.random.fold_in(state.key, state.step)
        rollout_key, order_key = jax.random.split(key)
        identities, labels, trajectory = rollout(state, frozen, rollout_key)
        advantages, metrics = score(trajectory.images, bank, identities)

        def shuffled(epoch):
            order = jax.random.permutation(jax.random.fold_in(order_key, epoch), batch_size)
            return order.reshape(minibatches, -1)

        # One row of sample numbers for each update.
        orders = jnp.concatenate([shuffled(epoch) for epoch in range(inner_epochs)])

        def one_minibatch(state, order):
            def take(values):
                return jax.lax.with_sharding_constraint(
                    values[:trained_steps][:, order], over_states
                )

            batch = {
                "states": take(trajectory.states),
                "next_states": take(trajectory.next_states),
                "log_probs": trajectory.log_probs[:trained_steps][:, order],
                "labels": labels[order],
                "advantages": advantages[order],
            }
            return update(state, frozen, reference, batch)

        state, diagnostics = jax.lax.scan(one_minibatch, state, orders)
        metrics["first_ratio_deviation"] = diagnostics["ratio_deviation"][0]
        metrics |= {name: values.mean() for name, values in diagnostics.items()}
        ema_params = optax.incremental_update(state.params, state.ema_params, 1 - ema_decay)
        state = state.replace(step=state.step + 1, ema_params=ema_params)
        return state, jax.tree.map(jnp.float32, metrics)

    return jax.jit(iteration, donate_argnums=0)
