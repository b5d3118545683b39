"""What sets arms apart, and a run of arms that are not among the default ones."""

import json

import jax
import numpy as np
import pytest

from rlsyn_jax.config import ARMS, ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.data.synthetic_writer import load_synthetic, read_manifest
from rlsyn_jax.stages.arms import (
    ARM_SETTINGS,
    augmentation_of,
    mixture_of,
    others_per_batch,
    start_of,
)
from rlsyn_jax.stages.inputs import load_target, train_labels
from rlsyn_jax.stages.recognition_panel import ARM_TITLES
from rlsyn_jax.training.checkpoints import restore_params

STUDY = (
    "real",
    "real_affine",
    "real_scratch",
    "real_general",
    "real_joint",
    "real_joint_reinforced",
    "real_joint_reinforced_selected",
    "real_novel",
    "real_prior",
    "real_prior_reinforced",
    "real_best_of",
)


def test_every_arm_has_settings_and_a_title_of_its_own():
    assert tuple(ARM_SETTINGS) == ARMS
    assert set(ARM_TITLES) == set(ARMS)
    assert len(set(ARM_TITLES.values())) == len(ARMS)


def test_every_arm_trains_on_as_many_images():
    config = default_config()
    for arm in ARMS:
        mixture = mixture_of(config, arm)
        assert mixture.real + mixture.kept == config.recognize.images_per_identity
        assert (mixture.real == 0) == (arm == "synthetic_only")
        assert (mixture.kept < mixture.candidates) == arm.endswith("_selected")
        with_others = arm.startswith(("real_joint", "real_prior")) or arm == "real_novel"
        assert others_per_batch(config, arm) == (6 if with_others else 0)


def test_images_that_are_added_are_changed_as_the_config_says():
    config = default_config()
    assert not augmentation_of(config, "real_reinforced")
    config.recognize.augmentation = "affine"
    validate(config)
    for arm in ARMS:
        expected = {"real_erasing": "erasing", "real_rand_augment": "rand_augment"}.get(
            arm, "affine"
        )
        if arm in ("real", "real_scratch", "real_general"):
            expected = ""
        assert augmentation_of(config, arm) == expected


@pytest.mark.parametrize(
    ("ratio", "images", "synthetic"), [(0.5, 3, 1), (1, 2, 1), (2, 3, 2), (5, 6, 5), (10, 11, 10)]
)
def test_ratios_of_synthetic_to_real_images_in_batches_of_about_one_size(ratio, images, synthetic):
    config = default_config()
    config.recognize.images_per_identity = images
    config.recognize.synthetic_per_identity = synthetic
    config.recognize.candidates_per_identity = 2 * synthetic
    config.recognize.identities_per_batch, rest = divmod(66, images)
    validate(config)
    mixture = mixture_of(config, "real_reinforced_selected")
    assert rest == 0 and mixture.kept / mixture.real == ratio


def test_some_arms_begin_from_random_weights_beside_others_that_do_not():
    config = default_config()
    assert start_of(config, "real_scratch") == "random"
    assert start_of(config, "real") == "general"
    config.recognize.random_start = ("real_scratch", "real_reinforced")
    assert start_of(config, "real_reinforced") == "random"


@pytest.mark.parametrize(
    ("arm", "field", "value"),
    [
        ("real_scratch", "recognize.random_start", ()),
        ("real", "recognize.random_start", ("unreal",)),
        ("real_general", "recognize.start", "random"),
        ("real_general", "recognize.random_start", ("real_scratch", "real_general")),
        ("real_joint", "recognize.general_per_batch", 12),
        ("real_novel", "recognize.novel_per_batch", 12),
        ("real_novel", "synthesize.identities", "training"),
        ("real_prior", "recognize.prior_per_batch", 12),
        ("real_prior_reinforced", "synthesize.prior_identities", 0),
        ("real_prior", "general_data.source", "none"),
    ],
)
def test_what_an_arm_cannot_do_without_is_told(arm, field, value):
    config = default_config()
    config.synthesize.identities = "novel"
    config.synthesize.prior_identities = 3
    config.recognize.arms = (arm,)
    validate(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match="it must be"):
        validate(config)


def test_general_people_must_be_there_for_the_joint_arm():
    config = default_config()
    config.recognize.arms = ("real_joint",)
    config.general_data.source = "none"
    config.pretrain.source = "shipped"
    config.recognize.start = "random"
    with pytest.raises(ConfigError, match="config.general_data.source .* the arm real_joint"):
        validate(config)


@pytest.fixture(scope="module")
def workdir(program, tmp_path_factory):
    """A finished run of arms that are not among the default ones."""
    workdir = tmp_path_factory.mktemp("arms")
    fields = {
        "recognize.arms": STUDY,
        "recognize.seeds": 2,
        "recognize.steps": 3,
        "recognize.general_per_batch": 2,
        "recognize.novel_per_batch": 1,
        "recognize.prior_per_batch": 1,
        "synthesize.prior_identities": 4,
        "synthesize.identities": "novel",
        "synthesize.novel": "between",
        "synthesize.num_novel": 3,
        "synthesize.max_attempts": 5,
        "synthesize.candidates": 2,
        "synthesize.best_of": 5,
        "synthesize.strength": 0.8,
        "synthesize.pixel_copy_quantile": 0.3,
        # What is left judges each image by itself.
        "rewards.coverage.weight": 0.0,
        "rewards.richness.weight": 0.0,
        "pretrain.steps": 2,
        "adapt.steps": 2,
        "reinforce.iterations": 1,
        "privacy.attacks": (),
    }
    program.run(workdir, fields=fields)
    return workdir


def of_arm(workdir, arm, seed=0):
    return restore_params(workdir / "recognize" / f"seed_{seed}" / arm)


@pytest.mark.slow
def test_arms_begin_and_train_as_they_say(workdir):
    start = restore_params(workdir / "pretrain" / "extractors" / "start")["backbone"]
    untrained = of_arm(workdir, "real_general")
    jax.tree.map(np.testing.assert_array_equal, untrained["backbone"], start)
    kernels = {arm: jax.tree.leaves(of_arm(workdir, arm)["backbone"]) for arm in STUDY}

    def moved(arm):
        return sum(np.abs(a - b).sum() for a, b in zip(kernels[arm], jax.tree.leaves(start)))

    assert all(moved(arm) > 0 for arm in STUDY if arm != "real_general")
    assert moved("real_scratch") > 10 * moved("real")
    classes = {arm: of_arm(workdir, arm)["classifier"].shape[1] for arm in STUDY}
    for arm in ("real_joint", "real_joint_reinforced", "real_joint_reinforced_selected"):
        assert classes.pop(arm) == 5 + 6
    assert 5 < classes.pop("real_novel") <= 5 + 3
    assert classes.pop("real_prior") == classes.pop("real_prior_reinforced") == 5 + 4
    assert set(classes.values()) == {5}


@pytest.mark.slow
def test_the_threshold_by_pixels_is_that_of_held_out_images_and_is_told(program, workdir):
    config = program.config()
    dataset, splits = load_target(config, workdir)
    train, _ = train_labels(dataset, splits)
    distances = nearest_rms(dataset.images[splits.closed_query], train)
    gate = json.loads((workdir / "synthesize" / "gate.json").read_text())
    threshold = np.quantile(distances, 0.3)
    assert gate["pixel_copy_threshold"] == pytest.approx(threshold, rel=1e-5)
    for name in ("cold_start", "reinforced", "best_of"):
        synthetic, _ = load_synthetic(workdir / "synthesize" / name)
        assert nearest_rms(synthetic.images, train).min() >= threshold
        card = (workdir / "synthesize" / name / "README.md").read_text()
        assert f"or {threshold:.4f} (root mean squared difference of pixels)" in card


def nearest_rms(images, others):
    """Root mean squared differences of small images, whose pixels are not averaged."""
    images, others = (np.asarray(each, np.float64) / 255 for each in (images, others[:]))
    return np.array([np.sqrt(((image - others) ** 2).mean((1, 2, 3)).min()) for image in images])


@pytest.mark.slow
def test_the_best_of_many_are_better_than_the_first(workdir):
    gate = json.loads((workdir / "synthesize" / "gate.json").read_text())
    numbers = {"cold_start": 2, "reinforced": 2, "best_of": 5}
    for name, number in numbers.items():
        assert gate[name]["candidates_per_image"] == number
        card = (workdir / "synthesize" / name / "README.md").read_text()
        assert f"best of {number} times" in card and "images, noised 80% of the way" in card
    cold, best = (read_manifest(workdir / "synthesize" / n) for n in ("cold_start", "best_of"))
    assert list(best) == list(cold) and set(best["checkpoint"]) == {"adapt"}
    assert min(best["nearest_real_distance"]) >= gate["near_copy_threshold"]
    # Five people's three images, drawn five times, the first two of them as the cold start's.
    assert max(cold["seed"]) < 2 * 5 * 3 <= max(best["seed"]) < 5 * 5 * 3

    def of_person(manifest, person, column):
        return [v for v, who in zip(manifest[column], manifest["identity"]) if who == person]

    for person in set(best["identity"]):
        assert len({seed // 3 % 5 for seed in of_person(best, person, "seed")}) == 1
        rewards = of_person(best, person, "reward_semantic")
        assert all(a >= b - 1e-5 for a, b in zip(rewards, rewards[1:]))
        first = of_person(cold, person, "reward_semantic")
        assert all(a >= b - 1e-5 for a, b in zip(rewards, first))
    assert np.mean(best["reward_semantic"]) > np.mean(cold["reward_semantic"])


@pytest.mark.slow
def test_every_arm_is_measured_by_person_and_in_the_report(workdir):
    metrics = json.loads((workdir / "evaluate" / "metrics.json").read_text())
    assert list(metrics["arms"]) == list(STUDY) and "best_of" in metrics["synthetic"]
    assert metrics["protocol"]["random_start"] == ["real_scratch"]
    people = json.loads((workdir / "evaluate" / "per_person.json").read_text())
    for arm, measures in people["arms"].items():
        assert set(measures) == set(metrics["arms"][arm]) - {"equal_error_rate"}
        for measure, of_people in measures.items():
            assert len(of_people) == (5 if measure == "closed_rank1" else 3)
            weights = [people["weights"][measure][person] for person in of_people]
            means = np.average(np.array(list(of_people.values())), axis=0, weights=weights)
            np.testing.assert_allclose(means, metrics["arms"][arm][measure]["seeds"], atol=1e-9)
    page = (workdir / "report" / "report.html").read_text()
    assert all(ARM_TITLES[arm] in page for arm in STUDY)
