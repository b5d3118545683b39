"""What the report says first: arms against a baseline that is trained as they are."""

import pytest

from rlsyn_jax.config import default_config
from rlsyn_jax.stages.report import _summary


def summary_of(augmentation, arms):
    config = default_config()
    config.recognize.augmentation = augmentation
    change = {"open_map": {"mean": 0.02, "low": -0.01, "high": 0.05}}
    differences = {arm: change for arm in arms if arm != arms[0]}
    results = {"arms": dict.fromkeys(arms), "differences": differences}
    return [(line["text"], line["warning"]) for line in _summary(config, results, {})]


def test_without_augmentation_arms_of_real_images_are_not_spoken_of():
    (text, warning), *rest = summary_of("", ["real", "real_rand_augment", "real_reinforced"])
    assert "RandAugment" not in text and not warning and not rest
    assert "after RL: +2.0 points (−1.0 to +5.0), no clear difference" in text


@pytest.mark.parametrize("ran", [True, False])
def test_what_augmentation_does_by_itself_is_told(ran):
    arms = ["real", *["real_rand_augment"] * ran, "real_erasing", "real_reinforced"]
    (text, _), (advice, warning) = summary_of("rand_augment", arms)
    assert ("RandAugment: +2.0 points" in text) == ran and "Erasing" not in text
    assert warning and "look at “real, RandAugment”" in advice
    assert ("config.recognize.arms can have real_rand_augment" in advice) != ran


def test_a_baseline_that_is_changed_alike_needs_no_advice():
    assert len(summary_of("rand_augment", ["real_rand_augment", "real_reinforced"])) == 1
    assert len(summary_of("rand_augment", ["real_joint", "real_joint_reinforced"])) == 1


def test_where_no_arm_adds_images_no_advice_is_needed():
    assert len(summary_of("rand_augment", ["real", "real_rand_augment"])) == 1


def test_a_baseline_that_alone_is_changed_needs_no_advice():
    assert len(summary_of("", ["real_rand_augment", "real_reinforced"])) == 1
