"""What a policy draws for fixed people with fixed noise, measured from iteration to iteration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.evaluation.fidelity import precision_recall_density_coverage
from rlsyn_jax.evaluation.identification import nearest_centroid_accuracy
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.trained_rewards import resolve_rewards, trained_rewards


def fixed_noise_measure(
    config: ConfigDict, workdir: Path, sampler: Callable
) -> Callable[[dict], dict[str, float]]:
    """Returns a function params -> measures of samples of fixed people with fixed noise.

    The samples are the sampler's, drawn as the synthetic data set will be. "fixed/NAME" is the
    mean of a reward, of whole sets where it belongs to a set; "fixed_std/NAME" the deviation of
    what trains, which may be what each sample adds to its set. "held_out/..." compares the samples,
    by the judge, with real images of the same people that were never trained on, and no reward
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
    of_sets, _ = resolve_rewards(config, whole_sets=True)
    trained, _ = trained_rewards(config)
    references = bank.take(people)

    @jax.jit
    def score(embeddings):
        means = {
            f"fixed/{n}": reward(embeddings, references).mean() for n, reward in of_sets.items()
        }
        return means | {
            f"fixed_std/{n}": reward(embeddings, references).std() for n, reward in trained.items()
        }

    def measure(params) -> dict[str, float]:
        key, ids = jax.random.key(config.seed + 5), np.arange(len(classes))
        samples = np.asarray(sampler(params, key, ids, classes))
        embeddings = jnp.asarray(embed_images(extractor, samples))
        scores = score(embeddings.reshape(identities, group, -1))
        values = {name: float(value) for name, value in scores.items()}
        fake = embed_images(judge, samples)
        result = precision_recall_density_coverage(real, fake, num_neighbors=neighbors)
        accuracy, _ = nearest_centroid_accuracy(enrolled, labels, fake, classes)
        values["held_out/identity_accuracy"] = float(accuracy)
        for name in ("precision", "recall", "density", "coverage"):
            values[f"held_out/{name}"] = float(getattr(result, name))
        return values

    return measure
