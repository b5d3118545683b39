"""Whether a configuration can work: every field's range, and the fields that must fit together.

All of it is checked before any device is touched; what a field means stands in config.py.
"""

from __future__ import annotations

import math
from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.config import (
    ARMS,
    EXPORTS,
    GUIDANCE_CHANNELS,
    HELD_OUT_MEASURES,
    LORA_TARGETS,
    PATH_SOURCES,
    PRIVACY_ATTACKS,
    ConfigError,
    default_config,
    field,
)
from rlsyn_jax.data.rand_augment import MAX_MAGNITUDE
from rlsyn_jax.models.dit import REMAT_POLICIES
from rlsyn_jax.recognition.networks import NETWORKS, has_pooling, network_settings
from rlsyn_jax.recognition.objective import LOSSES
from rlsyn_jax.training.device_kinds import NAMED_DEVICES, named_devices

# Of these everybody is read, from a path, whatever the section.
_UNDIVIDED_SOURCES = ("folder", "insightface", "webdataset", "parquet")
_POSITIVE_INTEGERS = (
    "fsdp image.size autoencoder.batch_size autoencoder.shard_images data.min_images "
    "general_data.min_images generator.patch_size generator.width "
    "generator.depth generator.num_heads pretrain.batch_size pretrain.checkpoint_every "
    "extractor.steps extractor.identities_per_batch "
    "extractor.images_per_identity adapt.batch_size adapt.lora_rank adapt.checkpoint_every "
    "reinforce.identities reinforce.samples reinforce.samples_per_start reinforce.num_steps "
    "reinforce.num_trained_steps "
    "reinforce.window_iterations reinforce.inner_epochs reinforce.minibatches "
    "reinforce.lora_rank reinforce.evaluate_every reinforce.checkpoint_every synthesize.images "
    "synthesize.num_steps synthesize.candidates synthesize.num_novel synthesize.batch_size "
    "synthesize.max_attempts recognize.seeds recognize.steps recognize.identities_per_batch "
    "recognize.images_per_identity recognize.synthetic_per_identity "
    "recognize.candidates_per_identity recognize.selection.every recognize.nearest.images "
    "recognize.rand_augment_operations recognize.split_classes "
    "recognize.general_per_batch recognize.novel_per_batch recognize.prior_per_batch "
    "recognize.checkpoint_every evaluate.num_neighbors "
    "evaluate.bootstrap_resamples privacy.images privacy.noise_levels privacy.step_error_timestep "
    "privacy.step_error_interval privacy.extraction_identities privacy.extraction_samples "
    "privacy.extraction_duplicates report.identities report.map_identities split.closed_images"
).split()

_NOT_NEGATIVE = (
    "log_every_seconds image.width autoencoder.tile_size data.num_identities "
    "general_data.num_identities data.identity_offset "
    "general_data.identity_offset split.train_images pretrain.steps pretrain.warmup_steps "
    "pretrain.weight_decay pretrain.appearance_noise pretrain.gradient_clip pretrain.rotation "
    "pretrain.translation "
    "adapt.steps adapt.warmup_steps adapt.weight_decay adapt.gradient_clip adapt.rotation "
    "adapt.translation reinforce.iterations reinforce.micro_batch reinforce.kl_weight "
    "reinforce.sigma_floor reinforce.deviation_floor reinforce.value_steps "
    "reinforce.hacking_tolerance reinforce.gradient_clip recognize.weight_decay "
    "recognize.warmup_steps recognize.selection.threshold recognize.selection.warmup_steps "
    "recognize.triplet_margin recognize.crop_padding "
    "recognize.cosface_margin recognize.arcface_margin recognize.circle_margin "
    "recognize.rand_augment_magnitude recognize.affine_rotation recognize.affine_translation "
    "reinforce.guidance_scale synthesize.guidance_scale "
    "extractor.width extractor.judge_width extractor.cosface_margin recognize.width "
    "recognize.embedding_dim recognize.image_size recognize.image_width recognize.gradient_clip "
    "reinforce.guidance_channels synthesize.guidance_channels synthesize.best_of "
    "synthesize.prior_identities"
).split()

_POSITIVE = (
    "generator.mlp_norm_epsilon pretrain.learning_rate pretrain.matrix_learning_rate "
    "pretrain.class_embedding_rate "
    "pretrain.min_snr_gamma adapt.learning_rate adapt.matrix_learning_rate "
    "adapt.class_embedding_rate adapt.min_snr_gamma "
    "extractor.learning_rate reinforce.learning_rate reinforce.clip_range "
    "reinforce.advantage_clip reinforce.ratio_tolerance reinforce.value_learning_rate "
    "extractor.cosface_scale recognize.learning_rate recognize.cosface_scale "
    "recognize.arcface_scale recognize.circle_scale synthesize.strength"
).split()

_SHARES = (
    "split.held_out_fraction pretrain.ema_decay pretrain.class_dropout pretrain.scale "
    "adapt.ema_decay adapt.class_dropout adapt.scale reinforce.ema_decay "
    "reinforce.trained_fraction reinforce.statistics_momentum reinforce.collapse_share "
    "synthesize.eta synthesize.near_copy_quantile synthesize.pixel_copy_quantile "
    "synthesize.gate_share recognize.label_smoothing "
    "recognize.erasing_probability recognize.dropout_rate recognize.nearest.trade_off "
    "recognize.ema_decay recognize.affine_scale"
).split()

_CHOICES = {
    "image.channels": (1, 3),
    "remat": tuple(REMAT_POLICIES),
    "image.resize": ("stretch", "pad", "crop"),
    "split.measures": ("test", "validation"),
    "autoencoder.dtype": ("float32", "bfloat16"),
    "generator.timestep_frequency_shift": (0, 1),
    "generator.dtype": ("float32", "bfloat16"),
    "generator.schedule": ("cosine", "linear"),
    "generator.prediction_type": ("v", "epsilon"),
    "pretrain.optimizer": ("adamw", "muon"),
    "adapt.optimizer": ("adamw", "muon"),
    "pretrain.class_rows": ("learnt", "appearance", "shared"),
    "pretrain.decay": ("constant", "linear", "cosine"),
    "pretrain.weighting": ("min_snr", "uniform"),
    "adapt.decay": ("constant", "linear", "cosine"),
    "adapt.weighting": ("min_snr", "uniform"),
    "adapt.trainable": ("class_embedding", "adaln", "lora", "all"),
    "adapt.class_rows": ("zero", "normal", "mean", "embedding"),
    "reinforce.decay": ("constant", "linear", "cosine"),
    "reinforce.algorithm": ("ddpo_is", "ddpo_sf", "dpok", "pathwise"),
    "reinforce.transition": ("ddim", "ancestral"),
    "reinforce.unconditional": ("trained", "detached"),
    "reinforce.trained_steps": ("all", "fraction", "noisiest", "random", "window"),
    "reinforce.kl_space": ("x", "epsilon"),
    "reinforce.baseline": ("mean", "leave_one_out"),
    "reinforce.held_out_measure": HELD_OUT_MEASURES,
    "reinforce.keep": ("last", "best"),
    "reinforce.trainable": ("class_embedding", "adaln", "lora", "all"),
    "reinforce.log_prob_reduce": ("mean", "sum"),
    "reinforce.normalise_over": ("batch", "identity", "running"),
    "reinforce.squash": ("tanh", "none"),
    "synthesize.identities": ("training", "novel"),
    "synthesize.novel": ("between", "away"),
    "synthesize.solver": ("ddim", "dpm_solver"),
    "synthesize.image_format": ("png", "jpg"),
    "recognize.augmentation": ("", "erasing", "rand_augment", "affine"),
    "recognize.pooling": ("mean", "gem"),
    "recognize.normalisation": ("none", "imagenet"),
    "recognize.dtype": ("float32", "bfloat16"),
    "recognize.optimizer": ("adamw", "adam", "sgd"),
    "recognize.decay": ("constant", "linear", "cosine", "step"),
    "recognize.loss": LOSSES,
    "recognize.selection.method": ("exact", "jvp"),
    "recognize.selection.parameters": ("classifier", "all"),
    "recognize.selection.scope": ("identity", "global"),
    "recognize.selection.rule": ("number", "threshold", "adaptive"),
}


# What a field may hold, by the kind of its default.
_KINDS = (
    (bool, "True or False"),
    (int | float, "a number"),
    (str, "a text"),
    (tuple | list, "a tuple"),
    (ConfigDict, "a ConfigDict of fields"),
)


def validate(config: ConfigDict) -> None:
    """Checks every field's range and the fields that must fit together.

    Args:
        config: complete configuration.

    Raises:
        ConfigError: names the field, its value and what would be right.
    """

    _check_kinds(config, default_config())

    def require(condition: bool, path: str, rule: str) -> None:
        if not condition:
            raise ConfigError(f"config.{path} is {field(config, path)!r}; it must be {rule}")

    def whole(value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    for path in _POSITIVE_INTEGERS:
        value = field(config, path)
        require(whole(value) and value >= 1, path, "a whole number of at least 1")
    for path in _NOT_NEGATIVE:
        require(0 <= field(config, path) < math.inf, path, "0 or more, and finite")
    require(0 <= config.seed < 2**32, "seed", "0 to 4294967295")
    for path in _POSITIVE:
        require(0 < field(config, path) < math.inf, path, "above 0, and finite")
    for path in _SHARES:
        require(0 <= field(config, path) <= 1, path, "in [0, 1]")
    for path, choices in _CHOICES.items():
        require(field(config, path) in choices, path, "one of " + ", ".join(map(repr, choices)))
    try:
        known = not config.devices or bool(named_devices(config.devices))
    except ValueError:
        known = False
    require(known, "devices", f"'' for those found, or {NAMED_DEVICES}")
    for name in ("data", "general_data"):
        source = config[name].source
        if source == "none" and name == "general_data":
            continue
        known = source in ("procedural", *PATH_SOURCES) or source.startswith("tfds:")
        choices = ", ".join(map(repr, ("procedural", *PATH_SOURCES)))
        require(known, f"{name}.source", f"{choices} or 'tfds:NAME'")
        if source in PATH_SOURCES:
            require(bool(config[name].path), f"{name}.path", "the path of the data set")
        if source == "procedural":
            minimum = config.split.closed_images + 1 if name == "data" else 1
            require(config[name].num_identities >= 2, f"{name}.num_identities", "at least 2")
            require(
                config[name].images_per_identity >= minimum,
                f"{name}.images_per_identity",
                f"at least {minimum}, so that images are left to train on",
            )
    procedural = [config[n] for n in ("data", "general_data") if config[n].source == "procedural"]
    if len(procedural) == 2:
        target, general = procedural
        apart = (
            target.identity_offset + target.num_identities <= general.identity_offset
            or general.identity_offset + general.num_identities <= target.identity_offset
        )
        require(apart, "general_data.identity_offset", "such that the people are not the target's")
    _validate_general_data(config, require)
    _validate_without_general_data(config, require)
    _validate_images(config, require, procedural)
    require(config.split.held_out_fraction < 1, "split.held_out_fraction", "below 1")
    require(
        config.pretrain.class_rows == "learnt" or config.pretrain.source == "train",
        "pretrain.class_rows",
        "'learnt' where pretrain.source is not 'train': a checkpoint has rows, and not how looks "
        "tell them; pretrain.cache shares a prior with all it learnt",
    )
    if config.pretrain.class_rows == "shared":
        rule = "with pretrain.class_rows 'shared', by which the prior knows nobody"
        apart = config.adapt.class_rows != "embedding"
        require(apart, "adapt.class_rows", f"'mean' or another {rule}")
        none = config.synthesize.prior_identities == 0
        require(none, "synthesize.prior_identities", f"0 {rule}")
    width, heads = config.generator.width, config.generator.num_heads
    require(width % 4 == 0, "generator.width", "divisible by 4")
    require(width % heads == 0, "generator.width", f"divisible by generator.num_heads ({heads})")
    require(config.generator.num_timesteps >= 2, "generator.num_timesteps", "at least 2")
    require(config.synthesize.strength <= 1, "synthesize.strength", "at most 1")
    for path in ("reinforce.num_steps", "synthesize.num_steps"):
        # As diffusion.samplers.num_timesteps has it.
        limit = max(1, round(config.synthesize.strength * config.generator.num_timesteps))
        require(
            field(config, path) <= limit,
            path,
            f"at most {limit}: synthesize.strength times generator.num_timesteps",
        )
    for section in ("adapt", "reinforce"):
        targets = config[section].lora_targets
        known = _is_selection(targets, LORA_TARGETS) and bool(targets)
        require(known, f"{section}.lora_targets", f"a selection of {LORA_TARGETS}")
    require(
        config.adapt.steps > 0 or config.adapt.class_rows == "embedding",
        "adapt.steps",
        "above 0 where adapt.class_rows is not 'embedding': nothing else tells people apart",
    )
    _validate_rewards(config)
    _validate_reinforce(config, require)
    _validate_privacy(config, require)
    exports = config.synthesize.exports
    require(
        _is_selection(exports, EXPORTS), "synthesize.exports", f"a selection of {EXPORTS}, or ()"
    )
    recognize = config.recognize
    require(
        recognize.normalisation == "none" or config.image.channels == 3,
        "recognize.normalisation",
        "'none' for grey images: ImageNet's are in colour",
    )
    shares = recognize.decay_at
    known = isinstance(shares, tuple) and all(
        isinstance(share, int | float) and recognize.warmup_steps / recognize.steps < share < 1
        for share in shares
    )
    require(
        known or recognize.decay != "step",
        "recognize.decay_at",
        "shares of recognize.steps in (0, 1), after the warm-up",
    )
    require(
        recognize.image_size > 0 or recognize.image_width == 0,
        "recognize.image_width",
        "0 where recognize.image_size is 0, which takes both from config.image",
    )
    for path, name, width in (
        ("recognize.network", recognize.network, recognize.width),
        ("extractor.network", config.extractor.network, config.extractor.width),
        ("extractor.judge_network", config.extractor.judge_network, config.extractor.judge_width),
    ):
        require(name in NETWORKS, path, "one of " + ", ".join(map(repr, NETWORKS)))
        try:
            network_settings(
                name,
                width=width,
                embedding_dim=recognize.embedding_dim,
                # Extractors pool alike as far as their networks can.
                pooling=recognize.pooling
                if path == "recognize.network" or has_pooling(name)
                else "mean",
                dropout_rate=recognize.dropout_rate if path == "recognize.network" else 0.0,
            )
        except ValueError as error:
            require(False, path, f"another network, or its fields others: {error}")
    require(recognize.arcface_margin <= math.pi, "recognize.arcface_margin", "at most pi")
    require(
        recognize.rand_augment_magnitude <= MAX_MAGNITUDE,
        "recognize.rand_augment_magnitude",
        f"at most {MAX_MAGNITUDE}",
    )
    known = _is_selection(recognize.arms, ARMS) and len(recognize.arms) > 0
    require(known, "recognize.arms", f"a selection of {ARMS}")
    require(
        len(set(recognize.arms)) == len(recognize.arms), "recognize.arms", "without repetitions"
    )
    _validate_arms(config, require)
    require(
        recognize.synthetic_per_identity < recognize.images_per_identity,
        "recognize.synthetic_per_identity",
        f"below recognize.images_per_identity ({recognize.images_per_identity})",
    )
    require(
        recognize.candidates_per_identity >= recognize.synthetic_per_identity,
        "recognize.candidates_per_identity",
        f"at least recognize.synthetic_per_identity ({recognize.synthetic_per_identity})",
    )
    selection = recognize.selection
    require(
        selection.method == "jvp"
        or recognize.dtype == "float32"
        or recognize.candidates_per_identity == recognize.synthetic_per_identity
        or not any(arm.endswith("_selected") for arm in recognize.arms),
        "recognize.selection.method",
        "'jvp' where recognize.dtype is 'bfloat16': what a small step changes of a loss is lost in "
        "its rounding",
    )
    require(
        selection.keep_real or selection.rule == "number",
        "recognize.selection.keep_real",
        "True unless recognize.selection.rule is 'number': the other rules are for synthetic "
        "images beside the real ones",
    )
    require(
        selection.threshold == 0 or selection.rule == "threshold",
        "recognize.selection.threshold",
        "0 unless recognize.selection.rule is 'threshold', which alone looks at it",
    )
    require(
        selection.warmup_steps < recognize.steps,
        "recognize.selection.warmup_steps",
        f"below recognize.steps ({recognize.steps}), or nothing would be selected",
    )
    require(
        "real_reinforced_nearest" not in recognize.arms
        or recognize.nearest.images < config.synthesize.images,
        "recognize.nearest.images",
        f"below synthesize.images ({config.synthesize.images}) with the arm "
        "real_reinforced_nearest, or nothing would be selected",
    )
    require(
        config.evaluate.verification_pairs > 0 and config.evaluate.verification_pairs % 20 == 0,
        "evaluate.verification_pairs",
        "a positive multiple of 20: ten folds of equally many same and different pairs",
    )
    sets = config.evaluate.verification_sets
    known = isinstance(sets, tuple) and all(isinstance(each, str) for each in sets)
    require(known, "evaluate.verification_sets", "a tuple such as ('lfw.bin', 'rfw:RFW')")


def _check_kinds(config: ConfigDict, default: ConfigDict, prefix: str = "config.") -> None:
    """Checks that every field is there, and is of its default's kind."""
    for name, usual in default.items():
        path = prefix + name
        if name not in config:
            raise ConfigError(
                f"{path} is missing; a config file starts from rlsyn_jax.config.default_config() "
                "and changes fields"
            )
        value = config[name]
        kind, called = next((kind, called) for kind, called in _KINDS if isinstance(usual, kind))
        # True and False are whole numbers to Python.
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(usual, bool):
            raise ConfigError(f"{path} is {value!r}; it must be {called}")
        # Rewards are the user's to add and to leave out.
        if isinstance(usual, ConfigDict) and path != "config.rewards":
            _check_kinds(value, usual, f"{path}.")


def _is_selection(names: object, choices: tuple[str, ...]) -> bool:
    """Whether this is a tuple of some of the choices."""
    return isinstance(names, tuple) and all(name in choices for name in names)


def _validate_arms(config: ConfigDict, require) -> None:
    """Checks what some arms ask of other fields."""
    recognize = config.recognize
    arms, random_start = recognize.arms, recognize.random_start
    known = _is_selection(random_start, ARMS)
    require(known, "recognize.random_start", f"a selection of {ARMS}, or ()")
    require(
        "real_scratch" in random_start or "real_scratch" not in arms,
        "recognize.random_start",
        "such that it names real_scratch, which is an arm of this run",
    )
    if "real_general" in arms:
        require(
            recognize.start != "random" and "real_general" not in random_start,
            "recognize.arms",
            "without real_general where that would begin from random weights: it measures the "
            "start as it is",
        )
    joint = [arm for arm in arms if arm.startswith("real_joint")]
    of_prior = [arm for arm in arms if arm.startswith("real_prior")]
    others = [(arm, "general_per_batch") for arm in joint] + [("real_novel", "novel_per_batch")]
    others += [(arm, "prior_per_batch") for arm in of_prior]
    for arm, name in others:
        require(
            arm not in arms or recognize[name] < recognize.identities_per_batch,
            f"recognize.{name}",
            f"below recognize.identities_per_batch ({recognize.identities_per_batch}) with the arm "
            f"{arm}",
        )
    require(
        "real_novel" not in arms or config.synthesize.identities == "novel",
        "synthesize.identities",
        "'novel' with the arm real_novel",
    )
    require(
        not of_prior or config.synthesize.prior_identities > 0,
        "synthesize.prior_identities",
        f"above 0 with the arm {''.join(of_prior[:1])}",
    )
    require(
        not config.synthesize.prior_identities or config.general_data.source != "none",
        "general_data.source",
        "the data that the prior learnt, with synthesize.prior_identities",
    )
    require(
        not joint or config.general_data.source != "none",
        "general_data.source",
        f"the general people's data with the arm {''.join(joint[:1])}",
    )


def _validate_rewards(config: ConfigDict) -> None:
    """Checks names and fields of rewards, which config files may add, and so can misspell."""
    for name, reward in config.rewards.items():
        # Metrics are called reward/NAME, and reward/total is all of them.
        if name == "total" or "/" in name or "." in name:
            raise ConfigError(f"config.rewards.{name} needs another name; 'total' is taken")
        fields = sorted(reward) if isinstance(reward, ConfigDict) else reward
        if fields != ["function", "options", "weight"]:
            raise ConfigError(
                f"config.rewards.{name} has {fields}; it must have function, options and weight"
            )
        rules = (
            ("function", isinstance(reward.function, str), "MODULE:FUNCTION"),
            ("options", isinstance(reward.options, ConfigDict), "a ConfigDict"),
            (
                "weight",
                isinstance(reward.weight, int | float) and math.isfinite(reward.weight),
                "a finite number",
            ),
        )
        for part, holds, right in rules:
            if not holds:
                raise ConfigError(
                    f"config.rewards.{name}.{part} is {reward[part]!r}; it must be {right}"
                )
    if not any(reward.weight for reward in config.rewards.values()):
        raise ConfigError("config.rewards has no reward with a weight; give one a weight")


def _validate_general_data(config: ConfigDict, require) -> None:
    """Checks that the prior's people are not those of the target, as far as paths tell."""
    data, general = config.data, config.general_data
    same = data.path and Path(data.path).resolve() == Path(general.path).resolve()
    require(
        not same or data.source != general.source or data.source not in _UNDIVIDED_SOURCES,
        "general_data.path",
        "another one than data.path: the prior would see whom the run tests",
    )


def _validate_without_general_data(config: ConfigDict, require) -> None:
    """Checks that nothing is asked of general data that are not there."""
    if config.general_data.source != "none":
        return
    rule = "with general_data.source 'none'"
    require(config.pretrain.source != "train", "pretrain.source", f"a checkpoint {rule}")
    require(config.recognize.start != "general", "recognize.start", f"'random' or a path {rule}")
    require(config.extractor.with_target, "extractor.with_target", f"True {rule}")
    require(config.adapt.class_rows != "embedding", "adapt.class_rows", f"'mean' or another {rule}")


def _validate_privacy(config: ConfigDict, require) -> None:
    """Checks the fields of config.privacy that must fit together."""
    privacy, limit = config.privacy, config.generator.num_timesteps
    known = _is_selection(privacy.attacks, PRIVACY_ATTACKS)
    require(known, "privacy.attacks", f"a selection of {PRIVACY_ATTACKS}")
    require(0 < privacy.quantile < 1, "privacy.quantile", "between 0 and 1")
    if "membership" in privacy.attacks:
        require(
            privacy.noise_levels <= limit - 2,
            "privacy.noise_levels",
            f"at most generator.num_timesteps - 2 ({limit - 2})",
        )
        fits = privacy.step_error_timestep + privacy.step_error_interval < limit
        require(
            fits and privacy.step_error_timestep % privacy.step_error_interval == 0,
            "privacy.step_error_timestep",
            f"a multiple of privacy.step_error_interval ({privacy.step_error_interval}), and with "
            f"it below generator.num_timesteps ({limit})",
        )
    require(
        2 <= privacy.extraction_duplicates <= privacy.extraction_samples,
        "privacy.extraction_duplicates",
        f"2 to privacy.extraction_samples ({privacy.extraction_samples})",
    )


def _validate_images(config: ConfigDict, require, procedural: list) -> None:
    """Checks the sizes of images, and what a latent space asks of the other fields."""
    image = config.image
    require(
        image.channels == 3 or not procedural,
        "image.channels",
        "3 for procedural images, which are in colour",
    )
    require(
        image.width in (0, image.size) or not procedural,
        "image.width",
        "0 for procedural images, which are square",
    )
    if not config.autoencoder.path:
        for path in GUIDANCE_CHANNELS:
            require(
                field(config, path) <= image.channels, path, f"at most {image.channels} channels"
            )
        for path in ("image.size", "image.width"):
            require(
                field(config, path) % config.generator.patch_size == 0,
                path,
                f"divisible by generator.patch_size ({config.generator.patch_size})",
            )
        require(
            not config.autoencoder.reward_path,
            "autoencoder.reward_path",
            "empty without autoencoder.path: pixels need no decoder",
        )
        return
    require(
        not config.generator.clip_denoised,
        "generator.clip_denoised",
        "False with autoencoder.path: latents are not bounded",
    )
    require(
        config.pretrain.source != "shipped",
        "pretrain.source",
        "'train' or a checkpoint with autoencoder.path: the shipped prior makes pixels",
    )
    for section in ("pretrain", "adapt"):
        for name in ("rotation", "scale", "translation"):
            require(
                config[section][name] == 0,
                f"{section}.{name}",
                "0 with autoencoder.path: images are encoded once, as they are and mirrored",
            )


def _validate_reinforce(config: ConfigDict, require) -> None:
    """Checks the fields of config.reinforce that must fit together."""
    reinforce = config.reinforce
    pathwise = reinforce.algorithm == "pathwise"
    if pathwise or reinforce.transition == "ancestral":  # The latter does not read it.
        require(0 <= reinforce.eta <= 1, "reinforce.eta", "in [0, 1]")
    else:
        require(0 < reinforce.eta <= 1, "reinforce.eta", "in (0, 1]: the policy needs its noise")
    if not pathwise:
        require(
            reinforce.num_steps >= 2, "reinforce.num_steps", "at least 2: the last has no noise"
        )
    counted = reinforce.trained_steps in ("noisiest", "random", "window") and not pathwise
    require(
        not counted or reinforce.num_trained_steps < reinforce.num_steps,
        "reinforce.num_trained_steps",
        f"below reinforce.num_steps ({reinforce.num_steps}): the last step has no noise",
    )
    require(reinforce.trained_fraction > 0, "reinforce.trained_fraction", "in (0, 1]")
    require(reinforce.statistics_momentum < 1, "reinforce.statistics_momentum", "below 1")
    require(
        reinforce.samples % reinforce.samples_per_start == 0,
        "reinforce.samples_per_start",
        f"a divisor of reinforce.samples ({reinforce.samples})",
    )
    batch = reinforce.identities * reinforce.samples
    require(
        batch % reinforce.minibatches == 0,
        "reinforce.minibatches",
        f"a divisor of identities * samples = {batch}",
    )
    require(
        reinforce.algorithm != "ddpo_sf" or reinforce.inner_epochs == reinforce.minibatches == 1,
        "reinforce.algorithm",
        "ddpo_is or dpok where a batch is updated more than once: the score function is right on "
        "samples of the current policy alone; or set inner_epochs and minibatches to 1",
    )
    one_pass = reinforce.inner_epochs == reinforce.minibatches == 1 and not reinforce.micro_batch
    require(
        not pathwise or (one_pass and reinforce.kl_weight == 0),
        "reinforce.algorithm",
        "another where inner_epochs, minibatches, micro_batch or kl_weight are set: pathwise makes "
        "one update of all samples at once, without a divergence",
    )
    require(
        reinforce.value_steps == 0 or reinforce.algorithm == "dpok",
        "reinforce.value_steps",
        "0 unless reinforce.algorithm is 'dpok', which has a value function",
    )
    require(
        reinforce.baseline == "mean" or reinforce.normalise_over != "running",
        "reinforce.baseline",
        "'mean' with normalise_over='running', whose mean holds other iterations' samples",
    )
    require(
        reinforce.deviation_floor == 0 or reinforce.normalise_over == "identity",
        "reinforce.deviation_floor",
        "0 unless reinforce.normalise_over is 'identity'",
    )
    require(
        reinforce.normalise_over != "identity" or reinforce.samples >= 2,
        "reinforce.samples",
        "at least 2 with normalise_over='identity', which compares samples of one identity",
    )
    require(
        reinforce.samples_per_start == 1
        or (reinforce.algorithm, reinforce.transition) != ("pathwise", "ddim")
        or reinforce.eta > 0,
        "reinforce.samples_per_start",
        "1 with algorithm 'pathwise' and eta 0, where nothing else sets samples apart",
    )
    for name, reward in config.rewards.items():
        require(
            reward.options.get("credit") != "broadcast" or reinforce.normalise_over != "identity",
            f"rewards.{name}.options.credit",
            "'leave_one_out' with normalise_over='identity': a reward that all samples of an "
            "identity share has no spread there (algorithm 'pathwise' takes the whole set's reward "
            "by itself)",
        )
