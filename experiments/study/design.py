"""What the study runs.

What counts as a claim stands in claims.py, and what is changed one at a time in variations.py,
before those runs begin. What of the method is compared is the target's config, which changes as
validation people teach; experiments/LOG.md says when, and which test people had been looked at by
then. Validation people are of the first seed's training side, on some of whom other seeds test.

A cell is one run of rlsyn_jax.main: a target, a seed (split, initialisation and generation), a
number of training images an identity, and what recognisers begin with. Cells of one seed and number
of images share the generator; all of a target share the prior.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from study.variations import (
    ARMS_OF_VARIATIONS,
    FIRST_SEEDS,
    IMAGES_OF_VARIATIONS,
    OF_DEFAULTS,
    OF_FACES_IN_THE_WILD,
    OF_HANDWRITING,
    OF_OTHER_PRIORS,
    VARIATIONS,
    VARIED_ARMS,
    VARIED_LONGER,
)

MEASURES = {"open_map": "mAP, unseen identities", "closed_rank1": "rank-1, enrolled identities"}
# Of an arm's synthetic images: column -> where evaluate/metrics.json has it, of a set. The judge
# looks at who is in them, in which no reward has a part; it passes over what it takes for near
# copies, so that pixels say more about those.
SET_MEASURES = {
    "right identity, %": ("synthetic", "{set}", "identity_accuracy"),
    "Frechet distance": ("synthetic", "{set}", "frechet_distance"),
    "recall, %": ("synthetic", "{set}", "recall"),
    "near copies by pixels, %": ("privacy", "memorisation", "pixels", "{set}", "share"),
    "near copies by the judge, %": ("privacy", "memorisation", "judge", "{set}", "share"),
}
# What one can do with real images alone, and what one can who has the prior's data, too.
AUGMENTATIONS = {
    "real": "",
    "real_erasing": "erasing",
    "real_rand_augment": "rand_augment",
    "real_affine": "affine",
}
REAL_ONLY = tuple(AUGMENTATIONS)
EQUAL_INFORMATION = (*REAL_ONLY, "real_general", "real_joint")
SYNTHETIC = (
    "real_cold_start",
    "real_best_of",
    "real_reinforced",
    "real_reinforced_selected",
    "real_reinforced_nearest",
    "synthetic_only",
)
JOINT = ("real_joint_reinforced", "real_joint_reinforced_selected")
# Recognisers begin from random weights, or from a network that knows the prior's identities.
STARTS = {
    "random": (*REAL_ONLY, *SYNTHETIC),
    "general": (*EQUAL_INFORMATION, *SYNTHETIC, *JOINT),
}

# Recognisers' settings of which one is chosen for each start before anything else runs: the one by
# which the best arm without synthetic images does best, at two images an identity, on validation
# people of the first seed (other seeds may test on some of them). All arms of the start then use
# it, which favours those that it was chosen for. Arms that add images have an augmentation besides:
# that of the best arm of real images alone, or the one that serves joint training best.
SETTINGS: dict[str, dict[str, Any]] = {
    "the default rate": {},
    # What begins from a network of many people forgets them at a high rate.
    "a fifth of the rate": {"recognize.learning_rate": 2e-4},
    "half the rate": {"recognize.learning_rate": 5e-4},
    "twice the rate": {"recognize.learning_rate": 2e-3},
    "four times the rate": {"recognize.learning_rate": 4e-3},
    "eight times the rate": {"recognize.learning_rate": 8e-3},
    "CosFace": {"recognize.loss": "cosface"},
    "CosFace, twice the rate": {"recognize.loss": "cosface", "recognize.learning_rate": 2e-3},
    "CosFace, four times the rate": {"recognize.loss": "cosface", "recognize.learning_rate": 4e-3},
    "CosFace, eight times the rate": {"recognize.loss": "cosface", "recognize.learning_rate": 8e-3},
}
# Low and high rates may need more updates, too; all arms of the start then make as many. Name of a
# setting -> times as many as the target's `updates`.
_MORE_UPDATES = {
    f"{name}, twice the updates": 2
    for name in (
        "a fifth of the rate",
        "four times the rate",
        "eight times the rate",
        "CosFace, four times the rate",
    )
} | {"eight times the rate, four times the updates": 4}
SETTINGS |= {name: SETTINGS[name.rpartition(", ")[0]] for name in _MORE_UPDATES}
# Two points or more behind the best there, from either start: faces, which cost more, leave them
# out.
_LOST_ON_HANDWRITING = ("CosFace", "CosFace, eight times the rate")
CHOOSERS = {
    "random": REAL_ONLY,
    "general": tuple(arm for arm in EQUAL_INFORMATION if arm != "real_general"),  # Not trained.
}
# Ends the names of cells whose recognisers make more updates than were chosen for real images.
_LONGER = ", longer training"
# The arm that tries the augmentations of a start one after the other.
AUGMENTED = {"general": "real_joint"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the recognisers of a start train.

    Attributes:
        setting: name in SETTINGS.
        augmentation: of arms that add images, as of config.recognize.augmentation.
    """

    setting: str
    augmentation: str

    @property
    def baseline(self) -> str:
        """The arm of real images alone that has the augmentation."""
        return next(arm for arm, name in AUGMENTATIONS.items() if name == self.augmentation)

    def fields(self, target: Target) -> dict[str, Any]:
        """Returns config fields and their values."""
        return setting_of(target, self.setting) | {"recognize.augmentation": self.augmentation}


def _names_without(left_out: tuple[str, ...], names: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


@dataclasses.dataclass(frozen=True)
class Target:
    """A data set that leaves room, and the general data that its prior learns from.

    Attributes:
        base: config file, as of --config.
        data, general: folders below the one that --data names; "" = drawn by the package.
        images: training images an identity, in the order in which they are tried; 0 = all.
        headroom: numbers of them at which real images alone are measured.
        variations: names of those that it runs.
        identities: of the data set that its config reads.
        few_identities: numbers of them that train in variations, the others being held out.
        settings: names of those among which it chooses.
        updates: of a recogniser, of which settings are multiples.
        samples: an identity, as its config has them.
        longer: how many times as many updates as were chosen recognisers make in further cells; 0 =
            there are none. Updates are chosen without samples, which can teach for longer
            (experiments/LOG.md).
    """

    base: str
    data: str = ""
    general: str = ""
    images: tuple[int, ...] = (2, 1, 3, 5, 0)
    headroom: tuple[int, ...] = (1, 2, 3, 5, 0)
    variations: tuple[str, ...] = _names_without((*OF_DEFAULTS, *OF_OTHER_PRIORS), VARIATIONS)
    identities: int = 156
    few_identities: tuple[int, ...] = (10, 50)
    settings: tuple[str, ...] = tuple(SETTINGS)
    updates: int = 400
    samples: int = 10
    longer: int = 0

    @property
    def trainings(self) -> dict[bool, int]:
        """Whether recognisers train longer -> how many times the chosen updates they make."""
        return {False: 1} | ({True: self.longer} if self.longer else {})


TARGETS = {
    "lfw": Target(
        "configs/faces.py:lfw",
        "lfw_target",
        "lfw_general",
        (2, 1, 3, 0),
        (1, 2, 3, 0),
        variations=_names_without(OF_FACES_IN_THE_WILD, VARIATIONS),
        identities=120,
        settings=_names_without(_LOST_ON_HANDWRITING, SETTINGS),
        updates=200,
        samples=40,
        longer=4,
    ),
    "omniglot": Target(
        "configs/omniglot.py:small2",
        "omniglot/small2",
        "omniglot/small1",
        variations=_names_without(OF_HANDWRITING, VARIATIONS),
        # From random weights the highest rate and the most updates that were tried were chosen.
        longer=2,
    ),
    "omniglot_reverse": Target(
        "configs/omniglot.py:small1",
        "omniglot/small1",
        "omniglot/small2",
        variations=_names_without(OF_HANDWRITING, VARIATIONS),
        identities=136,
    ),
    "orl": Target(
        "configs/faces.py:orl",
        "orl_faces",
        "lfw_general",
        identities=40,
        few_identities=(10,),
        updates=200,
        samples=12,
    ),
    "procedural": Target(
        "configs/quickstart.py", identities=40, few_identities=(10,), updates=100, samples=8
    ),
}
# Shows in minutes that the study runs; nothing is to be learnt from its figures.
TINY = Target(
    "configs/quickstart.py:ci",
    images=(2,),
    headroom=(2, 0),
    variations=("only coverage",),
    identities=12,
    few_identities=(),
    settings=("the default rate", "CosFace"),
    updates=20,
    samples=4,
    longer=2,
)
ALL_TARGETS = {**TARGETS, "tiny": TINY}
# Where arms without synthetic images are tried, nobody looks at what is generated: little is, and
# the same whatever a config says in these fields, so that choices outlive changes of them. Rewards
# compare several samples.
_HARDLY_GENERATED: dict[str, Any] = {
    "pretrain.steps": 1,
    "pretrain.batch_size": 16,
    "pretrain.class_rows": "learnt",
    "adapt.class_rows": "mean",
    "adapt.steps": 1,
    "adapt.learning_rate": 1e-3,
    "reinforce.algorithm": "ddpo_is",
    "reinforce.iterations": 1,
    "reinforce.evaluate_every": 1,
    "reinforce.identities": 4,
    "reinforce.samples": 4,
    "reinforce.samples_per_start": 1,
    "reinforce.num_steps": 4,
    "reinforce.num_trained_steps": 2,
    "reinforce.trainable": "class_embedding",
    "reinforce.learning_rate": 1e-3,
    "reinforce.guidance_scale": 1.0,
    "synthesize.images": 4,
    "synthesize.candidates": 1,
    "synthesize.num_steps": 2,
    "synthesize.solver": "ddim",
    "synthesize.strength": 1.0,
    "synthesize.guidance_scale": 1.0,
    "recognize.synthetic_per_identity": 2,
    "recognize.candidates_per_identity": 4,
}


def choosing_cells(target: Target, data: str, cache: str) -> list[dict[str, Any]]:
    """Returns the changes of each cell by which a target's settings are chosen.

    Args:
        target: the target.
        data: folder that holds its data sets.
        cache: folder where priors are kept.
    """
    fields = dict(_HARDLY_GENERATED)
    fields |= {"privacy.attacks": (), "split.measures": "validation", "split.train_images": 2}
    fields |= {"recognize.random_start": (), "seed": 0, **_common(target, data, cache)}
    fields["recognize.augmentation"] = ""
    made = []
    for start, arms in CHOOSERS.items():
        fields |= {"recognize.start": start, "recognize.arms": arms}
        made += [
            {"name": chooser(start, name), **fields, **setting_of(target, name)}
            for name in target.settings
        ]
    for start, arm in AUGMENTED.items():
        fields |= {"recognize.start": start, "recognize.arms": (arm,)}
        made += [
            {
                "name": augmenter(start, name),
                **fields,
                **setting_of(target, target.settings[0]),
                "recognize.augmentation": name,
            }
            for name in AUGMENTATIONS.values()
            if name
        ]
    return made


# Of the names of those cells, as headroom_title gives them.
HEADROOM = "* real images, *"


def headroom_cells(
    target: Target, data: str, cache: str, seeds: int, choices: Mapping[str, Choice]
) -> list[dict[str, Any]]:
    """Returns the changes of each cell that shows what more real images give.

    By mAP, that is what synthetic ones could give at most, if they were as good as real ones. By
    rank-1 it is more, since all real images that train are enrolled, too, and no synthetic one is.

    Args: see `cells`.
    """
    fields = _HARDLY_GENERATED | {"privacy.attacks": (), "recognize.random_start": ()}
    fields |= _common(target, data, cache)
    return [
        {
            "name": headroom_title(images, start, choices[start].setting),
            "seed": seed,
            **fields,
            **choices[start].fields(target),
            **_training_images(images),
            "recognize.start": start,
            "recognize.arms": arms,
        }
        for start, arms in CHOOSERS.items()
        for seed in range(seeds)
        for images in target.headroom
    ]


def cells(
    target: Target, data: str, cache: str, seeds: int, choices: Mapping[str, Choice]
) -> list[dict[str, Any]]:
    """Returns the changes of each cell of a target.

    Args:
        target: the target.
        data: folder that holds its data sets.
        cache: folder where priors are kept.
        seeds: number of seeds, from the first one of each name.
        choices: how the recognisers of each start train.
    """
    common, made = _common(target, data, cache), []
    # All seeds of a number of images, so that a claim is decided before the next is looked at.
    for images, (longer, times), seed in itertools.product(
        target.images, target.trainings.items(), range(seeds)
    ):
        for start, arms in STARTS.items():
            fields = {**_training_images(images), "recognize.start": start}
            fields |= {"recognize.arms": arms, "recognize.random_start": ()}
            fields |= choices[start].fields(target)
            fields["recognize.steps"] *= times
            name = title(images, start, longer=longer)
            made.append({"name": name, "seed": seed, **common, **fields})
    # Claims come first: what explains them is of no use before they are decided.
    for seed in range(seeds):
        for (name, longer), changes in trained_variations(target).items():
            fields = {"split.train_images": IMAGES_OF_VARIATIONS, "recognize.start": "random"}
            arms = (*ARMS_OF_VARIATIONS.get(name, VARIED_ARMS), choices["random"].baseline)
            fields |= {"recognize.arms": tuple(dict.fromkeys(arms)), "recognize.random_start": ()}
            fields |= choices["random"].fields(target)
            fields["recognize.steps"] *= target.trainings[longer]
            name = variation_title(name, longer=longer)
            numbered = first_seed(name) + seed
            made.append({"name": name, "seed": numbered, **common, **fields, **changes})
    return made


def trained_variations(target: Target) -> dict[tuple[str, bool], dict[str, Any]]:
    """Returns a target's variations by name and whether recognisers train longer."""
    return {
        (name, longer): changes
        for name, changes in variations_of(target).items()
        for longer in target.trainings
        if not longer or name in VARIED_LONGER
    }


def variations_of(target: Target) -> dict[str, dict[str, Any]]:
    """Returns a target's variations by name: those of the list, and few identities.

    Where more samples of an identity are looked at than its config has, there are as many.
    """
    few = {
        f"{number} identities": {"split.held_out_fraction": 1 - number / target.identities}
        for number in target.few_identities
    }
    made = {name: VARIATIONS[name] for name in target.variations} | few
    for name, changes in made.items():
        candidates = changes.get("recognize.candidates_per_identity", 0)
        if candidates > target.samples:
            made[name] = changes | {"synthesize.images": candidates}
    return made


def _training_images(images: int) -> dict[str, Any]:
    """So many of each identity; of a single one richness has no spread to aim at."""
    return {"split.train_images": images} | (
        {"rewards.richness.weight": 0.0} if images == 1 else {}
    )


def _common(target: Target, data: str, cache: str) -> dict[str, Any]:
    common: dict[str, Any] = {"recognize.seeds": 1, "pretrain.cache": cache}
    if target.data:
        common["data.path"] = f"{data}/{target.data}"
        common["general_data.path"] = f"{data}/{target.general}"
        # What rewards and judges knows the prior's people alone, so that all cells share it.
        common["extractor.with_target"] = False
    return common


def setting_of(target: Target, name: str) -> dict[str, Any]:
    """Returns the config fields of a setting, rate and updates among them, and their values."""
    updates = _MORE_UPDATES.get(name, 1) * target.updates
    return {"recognize.learning_rate": 1e-3, "recognize.steps": updates} | SETTINGS[name]


def chooser(start: str, setting: str) -> str:
    """Returns the name of the cell that tries a setting."""
    return f"{start} start, {setting}"


def augmenter(start: str, augmentation: str) -> str:
    """Returns the name of the cell that tries an augmentation of an arm that adds images."""
    return f"{start} start, {AUGMENTED[start]}, {augmentation}"


def names_of_cells(target: Target) -> set[str]:
    """Returns the names of all cells of a target, whatever is chosen, but of the choosing ones."""
    names = {
        title(images, start, longer=longer)
        for images in target.images
        for start in STARTS
        for longer in target.trainings
    }
    names |= {
        headroom_title(images, start, setting)
        for images in target.headroom
        for start in CHOOSERS
        for setting in target.settings
    }
    varied = {variation_title(name, longer=longer) for name, longer in trained_variations(target)}
    return names | varied


def headroom_title(images: int, start: str, setting: str) -> str:
    """Returns the name of the cells of so many real images an identity alone, by a setting."""
    return f"{images or 'all'} real images, {start} start, {setting}"


def title(images: int, start: str, *, longer: bool = False) -> str:
    """Returns the name of the cells with so many images an identity (0 = all) and this start.

    Args:
        images, start: of the cells.
        longer: whether recognisers make more updates than were chosen for real images.
    """
    return variation_title(f"{images or 'all'} images, {start} start", longer=longer)


def variation_title(name: str, *, longer: bool = False) -> str:
    """Returns the name of the cells of a variation, by either training."""
    return name + (_LONGER if longer else "")


def first_seed(cell: str) -> int:
    """Returns the seed of the first of the cells of a name."""
    return FIRST_SEEDS.get(cell.removesuffix(_LONGER), 0)
