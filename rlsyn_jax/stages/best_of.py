"""The best of several samples by the run's rewards, and of how many to be fair to reinforcement.

Reinforcement spends passes through the generator on moving it; the same passes also buy more
samples of the cold start, of which the best are kept. Both look through the same rewards, and what
reinforcement makes can be sifted besides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rlsyn_jax.models.dit_flops import forward_flops
from rlsyn_jax.rl.advantages import combine_rewards, initial_statistics, update_statistics
from rlsyn_jax.stages.generator import build_generator
from rlsyn_jax.stages.plan import iteration_flops
from rlsyn_jax.stages.policy import policy_settings, policy_steps
from rlsyn_jax.stages.reinforce import read_curves
from rlsyn_jax.stages.sample_scores import SampleScores
from rlsyn_jax.stages.trained_rewards import resolve_rewards


def candidates_per_image(config: ConfigDict, workdir: Path, num_classes: int) -> int:
    """Returns how many samples are drawn for each one that is kept, after the run's reinforcement.

    Every iteration that was made counts; see `candidates_after`.

    Args:
        config: complete configuration.
        workdir: of the run, whose stage reinforce is complete.
        num_classes: training people.
    """
    iterations = max((record["step"] for record in read_curves(workdir)), default=0)
    return candidates_after(config, iterations, num_classes)


def candidates_after(config: ConfigDict, iterations: int, num_classes: int) -> int:
    """Returns how many samples are drawn for each one that is kept.

    That is config.synthesize.best_of or, where it is 0, as many as take the passes through the
    generator that reinforcement and the candidates of its data set (config.synthesize.candidates)
    take, to the nearest whole number. An iteration's backward passes count as one or two forward
    passes, as stages.plan.iteration_flops has it; measures and grids of samples meanwhile do not.

    Args:
        config: complete configuration.
        iterations: of reinforcement.
        num_classes: training people.
    """
    settings, reinforce = config.synthesize, config.reinforce
    if settings.best_of:
        return settings.best_of
    _, _, num_trained_steps, _ = policy_steps(config)
    policy = policy_settings(config, num_classes, num_trained_steps, num_devices=1)
    model = build_generator(config, num_classes).clone(remat="none")
    iteration = iteration_flops(
        policy, model, reinforce.trainable, num_trained_steps, reinforce.num_steps
    )
    branches = 1 if settings.guidance_scale == 1 else 2
    samples = num_classes * settings.images
    drawing = samples * settings.num_steps * branches * forward_flops(model, policy.image_shape)
    return max(1, round(settings.candidates + iterations * iteration / drawing))


def choose_best(scores: np.ndarray, near: np.ndarray, number: int) -> np.ndarray:
    """Returns the places of the best candidates, best first; near copies come after all others.

    Args:
        scores: float [i, m] of m candidates of each of i people.
        near: bool [i, m], near copies of real images.
        number: kept of each person, at most m.

    Returns:
        int [i, number].
    """
    return np.lexsort((-scores, near), axis=-1)[:, :number]


def combined_rewards(config: ConfigDict, raw: dict[str, np.ndarray]) -> np.ndarray:
    """Returns one score a candidate: normalised and weighed as an iteration of config.reinforce.

    Neither tanh nor clipping changes an order, but for making some equal, and so they are left out.

    Args:
        config: complete configuration.
        raw: name -> float [i, m], each person's candidates in one group.
    """
    reinforce = config.reinforce
    _, weights = resolve_rewards(config)
    statistics = update_statistics(
        initial_statistics(list(raw)), raw, reinforce.statistics_momentum
    )
    scores, _ = combine_rewards(
        raw,
        weights,
        scope=reinforce.normalise_over,
        squash="none",
        clip=np.inf,
        baseline=reinforce.baseline,
        deviation_floor=reinforce.deviation_floor,
        statistics=statistics,
    )
    return np.asarray(scores)


def make_best_of_draw(
    config: ConfigDict,
    sample: Callable[[np.ndarray, np.ndarray], np.ndarray],
    scores: SampleScores,
    num_classes: int,
    candidates: int,
) -> Callable:
    """Returns what draws the best samples of some people.

    The first candidates of a person are what a single draw would have made, from the same noise.

    Args:
        config: complete configuration.
        sample: (numbers [n], class_labels [n]) -> uint8 [n, h, w, c].
        scores: of the run.
        num_classes: training people.
        candidates: drawn for each image that is kept.

    Returns:
        identities [i] -> (images uint8 [i * images, h, w, c], best first; their numbers; their
        distances to real images; which are near copies, where nothing else is left).
    """
    images = config.synthesize.images
    logging.info("synthesize: the best of %d candidates for each image", candidates)

    def draw(identities):
        people = len(identities)
        # [people, candidates, images], flat.
        attempts = np.arange(candidates)[None, :, None]
        numbers = (attempts * num_classes + identities[:, None, None]) * images + np.arange(images)
        numbers = numbers.reshape(-1)
        classes = np.repeat(identities, candidates * images).astype(np.int32)
        drawn = sample(numbers, classes)
        distances, near = scores.nearest_real(drawn)
        score = combined_rewards(config, scores.rewards(drawn, identities))
        best = choose_best(score, near.reshape(people, -1), images)
        best = (best + np.arange(people)[:, None] * candidates * images).reshape(-1)
        return drawn[best], numbers[best], distances[best], near[best]

    return draw
