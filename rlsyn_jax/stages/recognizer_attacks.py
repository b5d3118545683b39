"""An attack on a recogniser by somebody who holds it with its classifier: who trained it?

The attack is the threshold on the loss (Yeom et al., Privacy Risk in Machine Learning, 2018), which
needs no other model. A run's seeds are no shadow models, since all of them train on the same
images; the stronger likelihood ratio with shadow models (`evaluation/privacy/likelihood_ratio.py`)
needs recognisers that were trained on other halves, so that what is found here is a lower bound.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import Splits
from rlsyn_jax.evaluation.privacy.likelihood_ratio import logit_confidence
from rlsyn_jax.recognition.embedding import class_logits
from rlsyn_jax.stages.arms import ARM_SETTINGS
from rlsyn_jax.stages.generator_attacks import describe_membership, members_and_others
from rlsyn_jax.stages.recognize import load_recognizer


def attack_recognizers(
    config: ConfigDict, workdir: Path, dataset: IdentityDataset, splits: Splits
) -> dict:
    """Can one tell an arm's real training images from other images of the same people?

    The score is the classifier's confidence in the person, log(p / (1 - p)), which falls as the
    loss rises. The arm "real" is what others compare with; "synthetic_only" has never seen a member
    itself, and what is found in it came through the generator.

    Args:
        config: complete configuration.
        workdir: of the run.
        dataset, splits: the target; members are its training images, non-members its closed set.

    Returns:
        {arm that trains: of describe_membership, of the first seed's recogniser, whose "auc" has
        "seeds" beside its interval, each seed's own area}.
    """
    images, people, num_members = members_and_others(config, dataset, splits)
    recognize, result = config.recognize, {}
    scales = {
        "cosface": recognize.cosface_scale,
        "arcface": recognize.arcface_scale,
        "circle": recognize.circle_scale,
        "circle_triplet": recognize.circle_scale,
    }
    for arm in recognize.arms:
        if not ARM_SETTINGS[arm].trains:
            continue  # It has no classifier of these people.
        found = []
        for seed in range(recognize.seeds):
            recognizer = load_recognizer(config, workdir, seed, arm)
            params = recognizer.variables["params"]
            # Of the target's people alone: some arms know others, too.
            classifier = params["classifier"][:, : len(splits.train_identities)]
            logits = class_logits(
                recognizer.model,
                {**recognizer.variables, "params": {**params, "classifier": classifier}},
                images,
                cosine_scale=scales.get(recognize.loss),
            )
            scores = logit_confidence(logits, people)
            found.append(
                describe_membership(config, scores[:num_members], scores[num_members:], people)
            )
        result[arm] = found[0]
        result[arm]["auc"]["seeds"] = [of_seed["auc"]["mean"] for of_seed in found]
    return result
