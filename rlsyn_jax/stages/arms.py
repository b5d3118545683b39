"""What each arm of the recognisers is: its images, its changes of them, and whether it trains.

Arms differ by what is said here alone: the network, the number of updates, the size of a batch and
the protocol are the same, and so are the weights they begin with, but for those that
config.recognize.random_start names.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from rlsyn_jax.recognition.recognizer import Mixture


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm does with a batch.

    Attributes:
        synthetic: data set of stage synthesize that it draws from, "nearest" for what the
            nearest-embedding selector keeps of "reinforced"; "" = none.
        real: whether it trains on the target's real images.
        others: whose images it draws besides, as classes beside the target's: "general" people,
            those by samples of the "prior", or "novel" ones, who do not exist; "" = nobody's. Their
            own images stand where synthetic ones of the target's people do.
        augmentation: beside flip and crop: "erasing", "rand_augment" or "affine"; "" = that of
            config.recognize.augmentation for arms with others' or synthetic images, else none.
        selects: synthetic images by dynamic selection.
        trains: False = the start is measured as it is.
    """

    synthetic: str = ""
    real: bool = True
    others: str = ""
    augmentation: str = ""
    selects: bool = False
    trains: bool = True


ARM_SETTINGS = {
    "real": Arm(),
    "real_erasing": Arm(augmentation="erasing"),
    "real_rand_augment": Arm(augmentation="rand_augment"),
    "real_affine": Arm(augmentation="affine"),
    "real_scratch": Arm(),
    "real_general": Arm(trains=False),
    "real_joint": Arm(others="general"),
    "real_joint_reinforced": Arm(synthetic="reinforced", others="general"),
    "real_joint_reinforced_selected": Arm(synthetic="reinforced", others="general", selects=True),
    "real_novel": Arm(others="novel"),
    "real_prior": Arm(others="prior"),
    "real_prior_reinforced": Arm(synthetic="reinforced", others="prior"),
    "real_prior_reinforced_selected": Arm(synthetic="reinforced", others="prior", selects=True),
    "real_cold_start": Arm(synthetic="cold_start"),
    "real_best_of": Arm(synthetic="best_of"),
    "real_reinforced": Arm(synthetic="reinforced"),
    "real_reinforced_selected": Arm(synthetic="reinforced", selects=True),
    "real_reinforced_nearest": Arm(synthetic="nearest"),
    "synthetic_only": Arm(synthetic="reinforced", real=False),
}


def mixture_of(config: ConfigDict, arm: str) -> Mixture:
    """Returns what an arm's batches hold of each identity."""
    recognize, settings = config.recognize, ARM_SETTINGS[arm]
    total, synthetic = recognize.images_per_identity, recognize.synthetic_per_identity
    if not settings.synthetic:
        return Mixture(real=total)
    if not settings.real:
        return Mixture(real=0, candidates=total, kept=total)
    drawn = recognize.candidates_per_identity if settings.selects else synthetic
    return Mixture(total - synthetic, drawn, synthetic)


def augmentation_of(config: ConfigDict, arm: str) -> str:
    """Returns what an arm does with images beside flip and crop; "" = nothing."""
    settings = ARM_SETTINGS[arm]
    adds_images = settings.synthetic or settings.others
    return settings.augmentation or (config.recognize.augmentation if adds_images else "")


def others_per_batch(config: ConfigDict, arm: str) -> int:
    """Returns how many identities of an arm's batches are not the target's."""
    recognize = config.recognize
    numbers = {
        "": 0,
        "general": recognize.general_per_batch,
        "prior": recognize.prior_per_batch,
        "novel": recognize.novel_per_batch,
    }
    return numbers[ARM_SETTINGS[arm].others]


def start_of(config: ConfigDict, arm: str) -> str:
    """Returns what an arm begins with, as config.recognize.start says it."""
    recognize = config.recognize
    return "random" if arm in recognize.random_start else recognize.start
