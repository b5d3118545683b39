"""Every cell of the study is a valid run, with what was chosen, and has what is compared."""

import numpy as np
import pytest
from study.claims import CLAIMED, COMPARISONS, SEEDS_OF_A_CLAIM
from study.design import (
    CHOOSERS,
    REAL_ONLY,
    STARTS,
    TARGETS,
    TINY,
    Choice,
    cells,
    choosing_cells,
    headroom_cells,
    names_of_cells,
    title,
    variation_title,
    variations_of,
)
from study.variations import (
    ARMS_OF_VARIATIONS,
    OF_OTHER_PRIORS,
    TOLD_NOBODY,
    TOLD_NOBODY_120,
    TOLD_NOBODY_120_FURTHER,
    VARIATIONS,
)
from sweeping.cells import cell_names, changed_config
from sweeping.python_files import load_base

from rlsyn_jax import config as configuration
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import split_dataset
from rlsyn_jax.stages.best_of import candidates_after


@pytest.mark.parametrize("name", [*TARGETS, "tiny"])
def test_every_cell_is_valid(name):
    target = {**TARGETS, "tiny": TINY}[name]
    _, base = load_base(target.base)
    choices = dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    changes = choosing_cells(target, "data", "priors")
    changes += headroom_cells(target, "data", "priors", 1, choices)
    changes += cells(target, "data", "priors", 1, choices)
    for cell, changed in zip(cell_names(changes), changes):
        changed_config(base, changed, cell)


def test_what_is_compared_is_measured():
    assert set(CLAIMED) <= set(TARGETS)
    for comparison in COMPARISONS:
        arms = ARMS_OF_VARIATIONS.get(comparison.variation, STARTS[comparison.start])
        assert comparison.arm in arms
        if comparison.within:
            # Of real images alone, each variation has those that are augmented as the others.
            assert set(comparison.baselines) <= {*arms, *REAL_ONLY}
        else:
            assert set(comparison.baselines) <= set(STARTS[comparison.baseline_start])
        varied = comparison.variation
        assert not varied or any(varied in variations_of(TARGETS[name]) for name in CLAIMED)
    assert set(CHOOSERS) == set(STARTS)
    assert all(set(arms) <= set(STARTS[start]) for start, arms in CHOOSERS.items())
    assert not any(
        "synthetic" in arm or "reinforced" in arm for a in CHOOSERS.values() for arm in a
    )


@pytest.mark.parametrize("name", TARGETS)
def test_so_few_identities_train(name):
    target = TARGETS[name]
    _, base = load_base(target.base)
    assert base.data.num_identities in (0, target.identities)  # 0 = all of the files.
    people = np.repeat(np.arange(target.identities), 4)
    dataset = IdentityDataset(
        name="drawn",
        images=np.zeros((len(people), 1, 1, 1), np.uint8),
        identities=people,
        cameras=np.arange(len(people)),
        identity_names=tuple(map(str, range(target.identities))),
        file_names=tuple(map(str, range(len(people)))),
        has_cameras=False,
    )
    for number in target.few_identities:
        splits = split_dataset(
            dataset,
            held_out_fraction=variations_of(target)[f"{number} identities"][
                "split.held_out_fraction"
            ],
            train_images_per_identity=2,
            closed_images_per_identity=1,
            seed=3,
        )
        assert len(splits.train_identities) == number


def test_variations_have_the_arms_that_show_them():
    made = cells(
        TARGETS["omniglot"], "data", "", 1, dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    )
    arms = {cell["name"]: cell["recognize.arms"] for cell in made}
    assert arms["people who do not exist, as classes"] == ("real", "real_novel", "real_affine")
    assert arms["the prior's people, as classes"][1:3] == ("real_prior", "real_prior_reinforced")
    assert arms["10 identities"] == (
        "real",
        "real_reinforced",
        "real_reinforced_selected",
        "real_affine",
    )


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_runs_the_variations_that_change_its_config(name):
    target = TARGETS[name]
    _, config = load_base(target.base)
    assert target.samples == config.synthesize.images
    for variation, changes in VARIATIONS.items():
        changed = any(
            configuration.field(config, path) != value
            for path, value in changes.items()
            # What goes along with another algorithm.
            if path not in ("reinforce.micro_batch", "reinforce.samples_per_start")
        )
        if variation in OF_OTHER_PRIORS and name in ("orl", "procedural"):
            assert variation not in target.variations
        else:
            assert changed == (variation in target.variations), variation


def test_more_real_images_are_measured_with_what_was_chosen():
    target, choices = TARGETS["omniglot"], dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    for cell in headroom_cells(target, "data", "", 1, choices):
        assert cell["recognize.loss"] == "cosface" and cell["recognize.augmentation"] == "affine"


@pytest.mark.parametrize(("name", "updates"), [("omniglot", 1600), ("lfw", 800)])
def test_updates_are_so_many_times_the_configured_ones(name, updates):
    choice = Choice("eight times the rate, four times the updates", "")
    assert choice.fields(TARGETS[name])["recognize.steps"] == updates


def test_longer_training_makes_so_many_times_the_chosen_updates():
    choices = dict.fromkeys(STARTS, Choice("four times the rate, twice the updates", ""))
    made = cells(TARGETS["lfw"], "data", "", 1, choices)
    updates = {cell["name"]: cell["recognize.steps"] for cell in made}
    for start in STARTS:
        assert updates[title(1, start)] == 400
        assert updates[title(1, start, longer=True)] == 1600
    assert title(1, "random", longer=True) in names_of_cells(TARGETS["lfw"])
    assert title(1, "random", longer=True) not in names_of_cells(TARGETS["orl"])


def test_further_seeds_are_the_same_runs_by_seeds_that_the_first_do_not_have():
    choices = dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    made = cells(TARGETS["lfw"], "data", "", SEEDS_OF_A_CLAIM, choices)
    first, further = (
        [
            {field: value for field, value in cell.items() if field != "name"}
            for cell in made
            if cell["name"] == variation_title(variation, longer=True)
        ]
        for variation in (TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER)
    )
    assert [cell.pop("seed") for cell in first] == [0, 1, 2, 3, 4]
    assert [cell.pop("seed") for cell in further] == [5, 6, 7, 8, 9]
    assert first == further


@pytest.mark.parametrize(
    ("variation", "best_of"),
    [(TOLD_NOBODY, 7), (TOLD_NOBODY_120, 3), (TOLD_NOBODY_120_FURTHER, 3)],
)
def test_what_is_sifted_costs_as_many_passes_as_reinforcement(variation, best_of):
    target = TARGETS["lfw"]
    _, base = load_base(target.base)
    choices = dict.fromkeys(STARTS, Choice("CosFace", "affine"))
    named = variation_title(variation, longer=True)
    (changes,) = (c for c in cells(target, "data", "", 1, choices) if c["name"] == named)
    config = changed_config(base, changes, named)
    people = round(target.identities * (1 - config.split.held_out_fraction))
    assert candidates_after(config, config.reinforce.iterations, people) == best_of
