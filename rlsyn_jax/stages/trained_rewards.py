"""The rewards that config.rewards names: found, weighted, and tried before anything is compiled."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.rewards.reference_bank import ReferenceBank, build_reference_bank
from rlsyn_jax.rewards.registry import check_reward_output, resolve_reward
from rlsyn_jax.rewards.richness import expression_richness
from rlsyn_jax.rl.advantages import combine_rewards, initial_statistics
from rlsyn_jax.rl.iteration import PolicySettings
from rlsyn_jax.stages.networks import feature_width
from rlsyn_jax.stages.stage_record import plain


def resolve_rewards(config: ConfigDict, *, whole_sets: bool = False) -> tuple[dict, dict]:
    """Returns the functions of config.rewards with their options bound, and their weights.

    Args:
        config: complete configuration.
        whole_sets: a set's reward is not shared out by what each sample adds, but each gets all of
            it: for what differentiates it, and to see how it fares. (The mean of what each adds is
            not a function of it: of coverage it does not depend on the references at all.)
    """
    rewards, weights = {}, {}
    for name in sorted(config.rewards.keys()):
        term = config.rewards[name]
        if term.weight == 0:
            continue
        function = resolve_reward(term.function)
        options = plain(term.options)
        if whole_sets and options.get("credit") == "leave_one_out":
            options["credit"] = "broadcast"
        rewards[name] = functools.partial(function, **options)
        weights[name] = float(term.weight)
    if not rewards:
        raise ConfigError("every reward of config.rewards has weight 0; give one a weight")
    return rewards, weights


def trained_rewards(config: ConfigDict) -> tuple[dict, dict]:
    """Returns functions and weights of config.rewards as config.reinforce.algorithm takes them."""
    return resolve_rewards(config, whole_sets=config.reinforce.algorithm == "pathwise")


def check_spread(config: ConfigDict, people: np.ndarray) -> None:
    """Checks that richness, where it has a weight, finds how images of a person vary.

    Args:
        config: complete configuration.
        people: int [n], who is in each training image.

    Raises:
        ConfigError: nobody has two of them.
    """
    if np.unique(people, return_counts=True)[1].max() > 1:
        return
    for name in sorted(config.rewards.keys()):
        term = config.rewards[name]
        if term.weight and resolve_reward(term.function) is expression_richness:
            raise ConfigError(
                f"config.rewards.{name} aims at how a person's training images vary, and nobody "
                f"has two; set config.rewards.{name}.weight to 0, or train on more images"
            )


def try_rewards(config: ConfigDict, people: np.ndarray, settings: PolicySettings) -> None:
    """Finds the rewards and tries them on features at random, before any network is trained.

    Args:
        config: complete configuration.
        people: int [n], who is in each training image, each of 0..number of people - 1.
        settings: of the policy.

    Raises:
        ConfigError: see `check_rewards`; also where a function is not found.
    """
    try:
        rewards, weights = trained_rewards(config)
    except ValueError as error:
        raise ConfigError(f"config.rewards: {error}") from error
    features = np.random.default_rng(0).normal(size=(len(people), feature_width(config)))
    bank = build_reference_bank(features, people, int(people.max()) + 1)
    check_rewards(config, rewards, weights, bank, settings)


def check_rewards(config, rewards, weights, bank, settings: PolicySettings) -> None:
    """Traces every reward and their combination on shapes alone, and tries gradients it needs.

    Rewards are called for as many samples an identity as the policy draws, and for as many as the
    data set will have, hours later, when each sample is scored by what it adds.

    Raises:
        ConfigError: a reward cannot be traced, returns another shape, or has no gradient where the
            algorithm is "pathwise"; names the reward and the field of the number of samples.
    """
    references = bank.take(jnp.arange(settings.num_identities))
    shape = (settings.num_identities, settings.samples_per_identity)
    scores, _ = resolve_rewards(config)
    for name in rewards:
        for field, samples, reward in (
            ("reinforce.samples", settings.samples_per_identity, rewards[name]),
            ("synthesize.images", config.synthesize.images, scores[name]),
        ):
            groups = (settings.num_identities, samples)
            probe = jax.ShapeDtypeStruct((*groups, references.features.shape[-1]), jnp.float32)
            try:
                check_reward_output(name, jax.eval_shape(reward, probe, references), groups)
                if settings.algorithm == "pathwise" and field == "reinforce.samples":
                    _check_gradient(reward, probe.shape, references)
            except Exception as error:  # A user's function may fail in any way.
                raise ConfigError(
                    f"config.rewards.{name} ({config.rewards[name].function}), for "
                    f"config.{field} = {samples}: {error}"
                ) from error
    raw = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in rewards}
    combine = functools.partial(
        combine_rewards,
        weights=weights,
        scope=settings.normalise_over,
        clip=settings.advantage_clip,
        baseline=settings.baseline,
        statistics=initial_statistics(list(rewards)),
    )
    try:
        jax.eval_shape(combine, raw)
    except ValueError as error:
        raise ConfigError(f"config.reinforce: {error}") from error


def _check_gradient(reward, shape: tuple, references: ReferenceBank) -> None:
    """Raises ValueError where a reward has no gradient, or a gradient of zero, at random."""
    embeddings = jax.random.normal(jax.random.key(0), shape)
    embeddings /= jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    gradient = jax.jit(jax.grad(lambda embeddings: reward(embeddings, references).mean()))
    if not jnp.any(gradient(embeddings)):
        raise ValueError(
            "its gradient is zero, and config.reinforce.algorithm is 'pathwise'; take one that "
            "compares samples"
        )
