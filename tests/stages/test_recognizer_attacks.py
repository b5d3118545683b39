"""The attack on recognisers finds who trained one that knows its images by heart, and only then."""

import numpy as np
import pytest

from rlsyn_jax.data.procedural import make_procedural_dataset
from rlsyn_jax.data.splits import split_dataset
from rlsyn_jax.stages import recognizer_attacks
from rlsyn_jax.stages.inputs import train_labels


@pytest.fixture
def target():
    dataset, _ = make_procedural_dataset(
        num_identities=8, images_per_identity=8, image_size=16, seed=0, identity_offset=0, name="p"
    )
    splits = split_dataset(
        dataset,
        held_out_fraction=0.5,
        train_images_per_identity=4,
        closed_images_per_identity=4,
        seed=0,
    )
    return dataset, splits


@pytest.mark.parametrize("loss", ["cross_entropy_triplet", "cosface"])
def test_only_a_recogniser_that_is_surer_of_its_training_images_gives_them_away(
    program, tmp_path, monkeypatch, target, loss
):
    dataset, splits = target
    config = program.config()
    config.recognize.seeds, config.recognize.arms = 2, ("real", "real_general", "synthetic_only")
    config.recognize.loss = loss
    trained, labels = train_labels(dataset, splits)
    asked = []

    class Recognizer:
        def __init__(self, arm, seed):
            self.model = arm, seed
            self.variables = {"params": {"classifier": np.zeros((2, 6))}}

    def load(config, workdir, seed, arm):
        return Recognizer(arm, seed)

    def logits(model, variables, images, *, cosine_scale):
        assert variables["params"]["classifier"].shape == (2, 4)  # Others' classes are cut off.
        asked.append(cosine_scale)
        arm, seed = model
        random = np.random.default_rng(seed)
        found = random.normal(size=(len(images), 4))
        own = np.array([(trained == image).all(axis=(1, 2, 3)).any() for image in images])
        if arm == "real" and seed == 0:
            found[np.arange(len(labels)), labels] += 20 * own[: len(labels)]
        return found

    monkeypatch.setattr(recognizer_attacks, "load_recognizer", load)
    monkeypatch.setattr(recognizer_attacks, "class_logits", logits)
    result = recognizer_attacks.attack_recognizers(config, tmp_path, dataset, splits)
    assert list(result) == ["real", "synthetic_only"]
    assert result["real"]["auc"]["mean"] > 0.99 > 0.8 > result["real"]["auc"]["seeds"][1]
    assert result["synthetic_only"]["auc"]["low"] < 0.5 < result["synthetic_only"]["auc"]["high"]
    assert (result["real"]["num_members"], result["real"]["num_non_members"]) == (16, 16)
    assert result["real"]["true_positive_rate"] is None  # 16 others have no 1 %.
    scale = config.recognize.cosface_scale if loss == "cosface" else None
    assert asked == [scale] * 4
