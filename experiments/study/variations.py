"""What the study changes, one at a time, to tell what each part of the method does."""

from __future__ import annotations

from typing import Any

# What samples that begin alike tell log-probabilities: starts do not set them apart.
_BY_LOG_PROBABILITIES: dict[str, Any] = {
    "reinforce.algorithm": "ddpo_is",
    "reinforce.samples_per_start": 4,
}
TOLD_NOBODY = "a prior that is told nobody"
# As a prior of general images knows nobody: what tells people apart are the cold start's rows, of
# few images, and rewards. Samples begin with noise, by the solver that serves the cold start best;
# richness keeps them as different as a person's images are, on which validation people say that
# recognisers depend.
_TOLD_NOBODY: dict[str, Any] = {
    "pretrain.class_rows": "shared",
    "pretrain.batch_size": 16,
    "adapt.class_rows": "mean",
    "adapt.steps": 500,
    "reinforce.iterations": 120,
    "reinforce.learning_rate": 4e-3,
    "rewards.richness.weight": 2.0,
    "synthesize.strength": 1.0,
    "synthesize.candidates": 1,
    "synthesize.solver": "dpm_solver",
}
TOLD_NOBODY_120 = f"{TOLD_NOBODY}, 120 samples"
# Seeds 0 to 4 left it open whether reinforcement is ahead of sifting by an interval that just
# reached 0. More seeds added to them would be more tries, so that others answer by themselves.
TOLD_NOBODY_120_FURTHER = f"{TOLD_NOBODY_120}, further seeds"
# One change each, at two images an identity and a random start, for these arms; credit is of what
# goes by log-probabilities.
IMAGES_OF_VARIATIONS = 2
VARIED_ARMS = ("real", "real_reinforced", "real_reinforced_selected")
VARIATIONS: dict[str, dict[str, Any]] = {
    # Of rewards and credit: what trains, and where samples are sifted, what sifts.
    **{
        f"only {name}": {
            f"rewards.{other}.weight": 0.0
            for other in ("semantic", "coverage", "richness")
            if other != name
        }
        for name in ("semantic", "coverage", "richness")
    },
    **{
        f"without {name}": {f"rewards.{name}.weight": 0.0}
        for name in ("semantic", "coverage", "richness")
    },
    "by log-probabilities": _BY_LOG_PROBABILITIES,
    "through the steps": {"reinforce.algorithm": "pathwise", "reinforce.micro_batch": 0},
    # A reward that all samples of an identity share is told apart over the batch alone.
    "leave-one-out credit, over the batch": {
        **_BY_LOG_PROBABILITIES,
        "reinforce.normalise_over": "batch",
    },
    "the whole set's credit, over the batch": {
        **_BY_LOG_PROBABILITIES,
        "reinforce.normalise_over": "batch",
        "rewards.coverage.options.credit": "broadcast",
        "rewards.richness.options.credit": "broadcast",
    },
    "dynamic selection by jvp": {"recognize.selection.method": "jvp"},
    # What each gives away is in the same table. A target runs those that its config does not have.
    **{f"strength {share}": {"synthesize.strength": share} for share in (0.5, 0.7, 0.85, 1.0)},
    **{f"the best of {n}": {"synthesize.candidates": n} for n in (1, 4)},
    "strength 0.7, the best of 4": {"synthesize.strength": 0.7, "synthesize.candidates": 4},
    "without near copies by pixels": {"synthesize.pixel_copy_quantile": 0.05},
    **{
        f"{synthetic} synthetic to {real} real": {
            "recognize.images_per_identity": real + synthetic,
            "recognize.synthetic_per_identity": synthetic,
            "recognize.candidates_per_identity": 2 * synthetic,
            # Batches of about 64 images, of which candidates are not the same ones twice.
            "recognize.identities_per_batch": 64 // (real + synthetic),
        }
        for real, synthetic in ((2, 1), (1, 2), (1, 5), (1, 10))
    },
    "people who do not exist, as classes": {
        "synthesize.identities": "novel",
        "synthesize.novel": "between",
        "synthesize.num_novel": 120,
    },
    "the prior's people, as classes": {"synthesize.prior_identities": 100},
    # What that prior knows, it draws: of characters twice as many rightly (experiments/LOG.md).
    "a longer prior's people, as classes": {
        "pretrain.batch_size": 32,
        "pretrain.steps": 20_000,
        "synthesize.prior_identities": 100,
    },
    TOLD_NOBODY: _TOLD_NOBODY,
    # Reinforcement is paid for once, however many samples are drawn, sifting for each of them: of
    # faces as many passes are the best of three samples then, and of seven above.
    **dict.fromkeys(
        (TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER), {**_TOLD_NOBODY, "synthesize.images": 120}
    ),
    # What looks do not tell of a person is left to vary, which updates on few images undo.
    "rows told by looks, no cold start": {
        "pretrain.class_rows": "appearance",
        "adapt.class_rows": "embedding",
        "adapt.steps": 0,
    },
}
# Arms of a variation, where they are not those above.
ARMS_OF_VARIATIONS = {
    "people who do not exist, as classes": ("real", "real_novel"),
    "the prior's people, as classes": (
        "real",
        "real_prior",
        "real_prior_reinforced",
        "real_prior_reinforced_selected",
    ),
    **dict.fromkeys(
        (TOLD_NOBODY, TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER),
        ("real_cold_start", "real_best_of", "real_reinforced"),
    ),
    "a longer prior's people, as classes": (
        "real",
        "real_reinforced",
        "real_reinforced_selected",
        "real_prior",
        "real_prior_reinforced",
        "real_prior_reinforced_selected",
    ),
}

# What recognisers learn more from than from real images, they also learn from for longer.
VARIED_LONGER = (
    "the prior's people, as classes",
    TOLD_NOBODY,
    TOLD_NOBODY_120,
    TOLD_NOBODY_120_FURTHER,
)
# The first of a variation's seeds, where it is not 0.
FIRST_SEEDS = {TOLD_NOBODY_120_FURTHER: 5}

# What the configs of handwriting, of faces in the wild and of the others have already.
OF_HANDWRITING = ("through the steps", "strength 0.85")
OF_FACES_IN_THE_WILD = (
    "through the steps",
    "strength 1.0",
    "the best of 1",
    "rows told by looks, no cold start",
)
OF_DEFAULTS = ("by log-probabilities", "strength 1.0", "the best of 1")
# These train a prior of their own; ORL and the procedural set, of which nothing is claimed, do
# without.
OF_OTHER_PRIORS = (
    "a longer prior's people, as classes",
    "rows told by looks, no cold start",
    TOLD_NOBODY,
    TOLD_NOBODY_120,
    TOLD_NOBODY_120_FURTHER,
)
