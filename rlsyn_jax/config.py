"""Every field of a run's configuration, its default, its meaning and its allowed values.

Config files under configs/ start from `default_config()` and change fields; `validate` refuses a
config that cannot work before any device is touched. Units and bounds stand beside each field.
"""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from rlsyn_jax.data.rand_augment import MAX_MAGNITUDE
from rlsyn_jax.models.dit import REMAT_POLICIES
from rlsyn_jax.recognition.networks import NETWORKS, has_pooling, network_settings
from rlsyn_jax.recognition.objective import LOSSES
from rlsyn_jax.training.device_kinds import NAMED_DEVICES, named_devices

LORA_TARGETS = ("qkv", "proj", "mlp_fc1", "mlp_fc2")  # Of a generator's blocks.

EXPORTS = ("market1501", "recordio", "webdataset")

PRIVACY_ATTACKS = (
    "memorisation",
    "identity_leakage",
    "membership",
    "recognizer_membership",
    "extraction",
)

# Fields that came after there were runs -> the value at which a run is what it was without them.
# Work folders of before are still accepted where they have it.
ADDED_LATER = {
    "reinforce.samples_per_start": 1,
    "synthesize.pixel_copy_quantile": 0.0,
    "synthesize.prior_identities": 0,
    "recognize.prior_per_batch": 6,
}


def default_config() -> ConfigDict:
    """Returns the complete configuration; a config file changes fields and adds none."""
    config = ConfigDict()
    config.name = "run"  # Title of the report.
    config.seed = 0  # Every random number of the run comes from here; 0 to 2**32 - 1.
    config.fsdp = 1  # Devices over which parameters are split; divides the device count.
    # What generator blocks compute anew in the backward pass, which then keeps less of the forward
    # pass: none | products (all but products with weights) | blocks (all). XLA's CPU compiler saves
    # by it with generator.scan_layers alone. Changes no number but by rounding.
    config.remat = "none"
    # What --plan reckons with, as h100x8; "" = those found. Kinds: training/device_kinds.py.
    config.devices = ""
    config.tensorboard = False  # Also write TensorBoard files (needs the tensorflow extra).
    config.log_every_seconds = 5.0  # At most one progress line in this time.

    # All images of a run have one size.
    config.image = ConfigDict()
    config.image.size = 32  # Height in pixels.
    config.image.width = 0  # Pixels; 0 = as high.
    config.image.channels = 3  # 1 or 3.
    config.image.resize = "crop"  # stretch | pad | crop, where an image is not square.
    # Report and skip unreadable images instead of stopping; not of tfds:NAME and cuhk03:NAME.
    config.image.skip_damaged = False

    # The target: the small, privacy-sensitive identity data set.
    config.data = _data_source()
    # The general domain the prior is trained on; shares no person with the target.
    config.general_data = _data_source()
    config.general_data.identity_offset = 100_000
    config.general_data.num_identities = 256

    config.split = ConfigDict()
    # Share of identities never trained on (open set), 0..1; a published split has its own.
    config.split.held_out_fraction = 0.5
    config.split.train_images = 3  # Real training images an identity; 0 = all that are left.
    config.split.closed_images = 3  # Other images of the trained people, kept for testing.
    # test | validation: for choosing settings, who and what trains is divided once more, by the
    # same fields, and nobody looks at what this seed tests.
    config.split.measures = "test"

    # The latent space that the generator works in.
    config.autoencoder = ConfigDict()
    config.autoencoder.path = ""  # Checkpoint of models/import_weights.py; "" = pixels.
    # Checkpoint of a tiny autoencoder of the same latents, which decodes for rewards at a fraction
    # of the price; "" = the one above.
    config.autoencoder.reward_path = ""
    config.autoencoder.dtype = "float32"  # float32 | bfloat16, of its convolutions.
    config.autoencoder.batch_size = 16  # Images of a device that are encoded or decoded at once.
    config.autoencoder.tile_size = 0  # Latent places a side decoded at once; 0 = whole images.
    config.autoencoder.cache = ""  # Folder of encoded data sets; "" = inside the workdir.
    config.autoencoder.shard_images = 4096  # Images of a file of the cache.

    config.generator = ConfigDict()
    config.generator.patch_size = 4  # Pixels, or places of the latents.
    config.generator.width = 128
    config.generator.depth = 5
    config.generator.num_heads = 4
    # One compiled block runs depth times: deep generators compile as fast as shallow ones. With
    # remat "products" a step takes as long as without scanning, with "none" up to a third more.
    config.generator.scan_layers = False
    # What code computes besides its weights; an imported checkpoint's record tells both.
    config.generator.timestep_frequency_shift = 0  # 0 as published | 1 as diffusers
    config.generator.mlp_norm_epsilon = 1e-6  # 1e-6 as published | 1e-5 as diffusers by default
    config.generator.learn_sigma = False  # Variance channels, trained by the variational bound.
    config.generator.dtype = "float32"  # float32 | bfloat16, of matrix products.
    config.generator.schedule = "cosine"  # cosine | linear
    config.generator.num_timesteps = 1000
    config.generator.prediction_type = "v"  # v | epsilon
    # Clip the estimate of the clean image to [-1, 1]: for pixels, never for latents.
    config.generator.clip_denoised = True

    config.pretrain = _denoising_training()
    config.pretrain.source = "train"  # train | shipped | a folder with a generator checkpoint.
    # Folder where trained priors, and extractors of general people alone, are kept by config.
    config.pretrain.cache = ""  # "" = none.

    # Feature extractors, trained on the general domain: "reward" scores samples inside the RL loop,
    # "judge" measures (gate, FID, near copies) and never rewards, "start" starts the recognisers.
    config.extractor = ConfigDict()
    config.extractor.network = "small_resnet"  # As recognize.network, of "reward".
    config.extractor.width = 24  # As recognize.width.
    config.extractor.weights = (
        ""  # Checkpoint of models/import_weights.py to begin with; "" = none.
    )
    config.extractor.judge_network = "small_resnet"
    config.extractor.judge_width = 32  # Another size, so that the judge is another network.
    config.extractor.judge_weights = ""
    config.extractor.steps = 400
    config.extractor.identities_per_batch = 16
    config.extractor.images_per_identity = 4
    config.extractor.learning_rate = 2e-3
    config.extractor.cosface_scale = 16.0
    config.extractor.cosface_margin = 0.2
    # Reward and judge also learn the target's train images; otherwise they, like "start", are the
    # same for all seeds and targets.
    config.extractor.with_target = True

    config.adapt = _denoising_training()
    config.adapt.trainable = "all"  # class_embedding | adaln | lora | all
    config.adapt.lora_rank = 4
    config.adapt.lora_targets = LORA_TARGETS  # Any of them.
    # zero | normal | mean (of the prior's rows) | embedding (what the looks of the general people
    # say about their rows, of the looks of the target's).
    config.adapt.class_rows = "mean"
    config.adapt.class_embedding_rate = 20.0
    config.adapt.steps = 300
    config.adapt.learning_rate = 1e-3

    config.reinforce = ConfigDict()
    # ddpo_is (clipped importance ratio) | ddpo_sf (score function) | dpok (clamped ratio) |
    # pathwise (the gradient of the weighted rewards themselves, as they are, through all steps of a
    # rollout, for rewards that can be differentiated: no field on trained steps or importance
    # ratios is read, those on advantages by what sifts samples alone, and an iteration is one
    # update of all samples).
    config.reinforce.algorithm = "ddpo_is"
    config.reinforce.iterations = 20
    # So many of an identity's samples begin with the same noise; divides their number.
    config.reinforce.samples_per_start = 1
    config.reinforce.identities = 8  # Identities of one iteration.
    config.reinforce.samples = 8  # Samples an identity; leave-one-out credit needs 3.
    # The policy: the rollout's denoising steps, and which of them have noise and train. The
    # noisiest steps of a short rollout, guided as samples will be, reached the reward of 8 steps
    # that all train by less than half of their work (benchmarks/rl_sample_efficiency.py).
    config.reinforce.transition = "ddim"  # ddim | ancestral (the schedule's larger variance)
    config.reinforce.num_steps = 4  # Denoising steps of a rollout.
    config.reinforce.eta = 1.0  # Noise of ddim, (0, 1].
    config.reinforce.guidance_scale = 1.5  # Part of the policy; 1 = none.
    # The first so many channels are guided, 0 = all; DiT's published samples guide 3 of 4.
    config.reinforce.guidance_channels = 0
    config.reinforce.unconditional = "trained"  # trained | detached: guidance's other branch.
    config.reinforce.trained_steps = "noisiest"  # all | fraction | noisiest | random | window
    config.reinforce.num_trained_steps = 2  # Of noisiest, random and window.
    config.reinforce.trained_fraction = 1.0  # Of fraction, (0, 1].
    config.reinforce.window_iterations = 5  # Iterations before a window moves by one step.
    config.reinforce.deterministic_elsewhere = True  # No noise in steps that do not train.
    config.reinforce.sigma_floor = 0.01  # Steps with less noise never train; images are in [-1, 1].
    # The update.
    config.reinforce.inner_epochs = 1  # Passes over a batch of trajectories.
    config.reinforce.minibatches = 1  # Updates of one pass; divides identities * samples.
    config.reinforce.micro_batch = 0  # Transitions a pass; 0 = a minibatch's samples at one step.
    # On the importance ratio. Of mean log-probabilities it stands for clip_range * D on the joint
    # density of D latent dimensions: scale it with 1 / D, or with log_prob_reduce = "sum" do not.
    config.reinforce.clip_range = 1e-3
    config.reinforce.log_prob_reduce = "mean"  # mean | sum over latent dimensions.
    config.reinforce.ratio_tolerance = 1e-4  # Of the first ratio, which must be 1.
    config.reinforce.kl_weight = 0.0  # KL to the cold start.
    config.reinforce.kl_space = "x"  # x (closed form) | epsilon (DPOK's surrogate)
    config.reinforce.trainable = "class_embedding"  # class_embedding | adaln | lora | all
    config.reinforce.lora_rank = 4
    config.reinforce.lora_targets = LORA_TARGETS  # Any of them.
    config.reinforce.learning_rate = 1e-2  # Of class rows; the whole network needs 1e-5 to 1e-4.
    config.reinforce.decay = "cosine"  # constant | linear | cosine, of the learning rate.
    config.reinforce.gradient_clip = 1.0
    config.reinforce.ema_decay = 0.9
    # Advantages.
    config.reinforce.normalise_over = "identity"  # batch (equation 10) | identity | running
    config.reinforce.statistics_momentum = 0.9  # Of running statistics.
    config.reinforce.baseline = "mean"  # mean | leave_one_out
    config.reinforce.deviation_floor = 0.0  # An identity's deviation, as a share of the batch's.
    config.reinforce.squash = "tanh"  # tanh (equation 11) | none
    config.reinforce.advantage_clip = 5.0
    config.reinforce.value_steps = 0  # Fitting steps of dpok's value function; 0 = none.
    config.reinforce.value_learning_rate = 1e-4
    # Watching.
    config.reinforce.evaluate_every = 5  # Iterations between held-out measures and sample grids.
    config.reinforce.checkpoint_every = 1  # Iterations.
    config.reinforce.collapse_share = 0.3  # Of real images' spread; below it samples collapse.
    # identity_accuracy | precision | recall | density | coverage: what no reward contains.
    config.reinforce.held_out_measure = "coverage"
    config.reinforce.hacking_tolerance = 0.05  # Fall of that measure while the reward rises.
    # Both choose by images of the closed set: where its figures matter, choose with
    # split.measures = "validation" first.
    config.reinforce.stop_when_hacked = False
    config.reinforce.keep = "last"  # last | best (by the held-out measure)

    # Named reward functions; `function` is any importable "package.module:function". Weights are of
    # normalised rewards; with algorithm pathwise of the rewards as they are.
    config.rewards = ConfigDict()
    config.rewards.semantic = ConfigDict()
    config.rewards.semantic.function = "rlsyn_jax.rewards.semantic_consistency:semantic_consistency"
    config.rewards.semantic.weight = 1.0
    config.rewards.semantic.options = ConfigDict()
    config.rewards.coverage = ConfigDict()
    config.rewards.coverage.function = "rlsyn_jax.rewards.coverage:distributional_coverage"
    config.rewards.coverage.weight = 0.75
    config.rewards.coverage.options = ConfigDict(
        {"sigma": 0.7, "alpha": 0.5, "credit": "leave_one_out"}
    )
    config.rewards.richness = ConfigDict()
    config.rewards.richness.function = "rlsyn_jax.rewards.richness:expression_richness"
    config.rewards.richness.weight = 0.25
    config.rewards.richness.options = ConfigDict(
        {"expansion": 0.1, "tau": 1.0, "credit": "leave_one_out"}
    )

    config.synthesize = ConfigDict()
    config.synthesize.images = 12  # Images written an identity, for each generator.
    config.synthesize.num_steps = 20
    # Share of the way to noise at which samples of training people begin, with one of the person's
    # real images noised so far, here and in reinforce; 1 = with noise alone, as the samples of a
    # person who does not exist always do.
    config.synthesize.strength = 1.0
    config.synthesize.solver = "ddim"  # ddim | dpm_solver (second order, without noise)
    config.synthesize.eta = 1.0  # Noise of ddim, 0 to 1.
    config.synthesize.guidance_scale = 1.5
    config.synthesize.guidance_channels = 0  # As in reinforce.
    config.synthesize.image_format = "png"  # png | jpg
    # training | novel: also people who do not exist, in a data set of their own.
    config.synthesize.identities = "training"
    # Class embeddings between two training people's | away from all of them.
    config.synthesize.novel = "away"
    config.synthesize.num_novel = 24  # People who do not exist.
    # People of the general data whom the prior draws from noise, in a data set of their own, each
    # image the most alike to them of candidates; 0 = none.
    config.synthesize.prior_identities = 0
    # Also as any of market1501 | recordio (.rec and .idx of InsightFace) | webdataset (.tar).
    config.synthesize.exports = ()
    config.synthesize.batch_size = 64
    # Of held-out images' distances to training images, by the judge: what is nearer is a near copy.
    config.synthesize.near_copy_quantile = 0.01
    # The same by averaged pixels, for samples of training people; 0 = pixels are not looked at.
    config.synthesize.pixel_copy_quantile = 0.0
    # Draws an image before a near copy is given up, where there is one candidate for it; also
    # people who are drawn for one who does not exist.
    config.synthesize.max_attempts = 2
    # Samples drawn for each one that is kept, by the rewards, in every data set of training people.
    config.synthesize.candidates = 1
    # The same for the arm real_best_of, of the cold start; 0 = as many as cost the passes through
    # the generator that reinforcement and its candidates took.
    config.synthesize.best_of = 0
    config.synthesize.gate_share = 0.75  # Usable where identity accuracy >= this share of real's.

    config.recognize = ConfigDict()
    config.recognize.arms = (
        "real",
        "real_erasing",
        "real_cold_start",
        "real_reinforced",
        "real_reinforced_selected",
        "synthetic_only",
    )
    config.recognize.seeds = 2
    # Arms that begin from random weights, whatever start says; real_scratch is one of them.
    config.recognize.random_start = ("real_scratch",)
    # general (the "start" extractor) | random | a checkpoint of models/import_weights.py.
    config.recognize.start = "general"
    # small_resnet (24 to 64 pixels) | resnet50 | resnet50_ibn | osnet | osnet_x0_25 | vit_base_16 |
    # iresnet18 | iresnet50 | iresnet100
    config.recognize.network = "small_resnet"
    config.recognize.width = 24  # First stage's channels, of residual networks; 0 = as published.
    # What follows up to dtype holds for the extractors, too.
    config.recognize.embedding_dim = 128  # 0 = as published, which for resnet50 is no such layer.
    config.recognize.pooling = "mean"  # mean | gem, of small_resnet and ResNet-50.
    config.recognize.image_size = 0  # Height in pixels that networks see; 0 = config.image's.
    config.recognize.image_width = 0  # 0 = as high, or with image_size 0 config.image's.
    config.recognize.normalisation = "none"  # none | imagenet (means and deviations of colours)
    config.recognize.dtype = "float32"  # float32 | bfloat16, of the networks' computation.
    config.recognize.dropout_rate = 0.0  # Of iresnet and vit_base_16, in recognisers alone.
    # cross_entropy_triplet | cosface | arcface | circle | circle_triplet
    config.recognize.loss = "cross_entropy_triplet"
    config.recognize.label_smoothing = 0.1
    config.recognize.triplet_margin = 0.3
    config.recognize.cosface_scale = 16.0
    config.recognize.cosface_margin = 0.2
    config.recognize.arcface_scale = 64.0
    config.recognize.arcface_margin = 0.5  # Radians, at most pi.
    config.recognize.arcface_easy_margin = False  # No margin for angles above a right one.
    config.recognize.circle_scale = 64.0
    config.recognize.circle_margin = 0.35
    # From so many people on, recognisers' class weights are split over all devices, whose number
    # must divide 1,024: each holds its share of them and computes their logits alone.
    config.recognize.split_classes = 100_000
    config.recognize.ema_decay = 0.0  # Of running averages, which are then measured; 0 = none.
    config.recognize.steps = 200
    config.recognize.identities_per_batch = 12
    config.recognize.images_per_identity = 4  # Real + synthetic of the batch that is trained on.
    config.recognize.synthetic_per_identity = 2  # Of those; mixed arms only.
    config.recognize.candidates_per_identity = 4  # Synthetic, before dynamic selection.
    # Of identities_per_batch: general people in batches of the arms real_joint*, people who do not
    # exist in those of real_novel, and general people by the prior's samples in those of
    # real_prior*; they are classes beside the target's.
    config.recognize.general_per_batch = 6
    config.recognize.novel_per_batch = 6
    config.recognize.prior_per_batch = 6
    # Dynamic selection (selection/dynamic_selection.py) of the arms *_selected.
    config.recognize.selection = ConfigDict()
    config.recognize.selection.method = "exact"  # exact (a virtual step) | jvp (its first order)
    # What the virtual step moves: classifier | all. The classifier costs one forward pass of the
    # candidates; all parameters cost as much as two steps more.
    config.recognize.selection.parameters = "all"
    config.recognize.selection.scope = "identity"  # identity | global (ranks the whole batch)
    # number | threshold | adaptive: synthetic_per_identity of each, or of those only the ones whose
    # loss falls by more than the threshold, or at least as much as the average real image's.
    config.recognize.selection.rule = "number"
    config.recognize.selection.threshold = 0.0  # Fall of a loss by one step.
    config.recognize.selection.keep_real = True  # False: real images compete with synthetic ones.
    config.recognize.selection.warmup_steps = 0  # First steps, which draw at random.
    config.recognize.selection.every = 1  # Steps from one selection to the next.
    # The nearest-embedding selector (selection/nearest_embedding.py) of the arm
    # real_reinforced_nearest, by the embeddings of the extractor "reward".
    config.recognize.nearest = ConfigDict()
    config.recognize.nearest.images = 6  # Synthetic images kept an identity, before training.
    config.recognize.nearest.trade_off = 0.5  # 1 = closest to real | 0 = farthest from the kept.
    config.recognize.optimizer = "adamw"  # adamw | adam (decay in the gradient) | sgd
    config.recognize.learning_rate = 1e-3
    config.recognize.weight_decay = 5e-4
    config.recognize.gradient_clip = 5.0  # Global norm; 0 = none.
    config.recognize.warmup_steps = 20
    config.recognize.decay = "cosine"  # constant | linear | cosine | step
    config.recognize.decay_at = (1 / 3, 7 / 12)  # Of step: shares of the steps, each a tenth.
    # Of all arms, and of the extractors.
    config.recognize.crop_padding = 2  # Pixels.
    config.recognize.flip = True
    # Of arms with synthetic or others' images, after flip and crop: erasing | rand_augment |
    # affine; "" = none. Set as the best arm of real images has it, arms differ by images alone.
    config.recognize.augmentation = ""
    config.recognize.erasing_probability = 0.5  # Of Random Erasing.
    # Of RandAugment (arXiv 1909.13719).
    config.recognize.rand_augment_operations = 2  # Of each image, drawn from fourteen.
    config.recognize.rand_augment_magnitude = 9.0  # 0 to 30.
    # Of affine changes, as config.adapt's.
    config.recognize.affine_rotation = 5.0  # Degrees, at most.
    config.recognize.affine_scale = 0.05  # At most this share larger or smaller.
    config.recognize.affine_translation = 0.04  # At most this share of the side.
    config.recognize.checkpoint_every = 100  # Steps.

    config.evaluate = ConfigDict()
    config.evaluate.verification_pairs = 600  # Divisible by 20.
    config.evaluate.num_neighbors = 5  # Of precision, recall, density, coverage.
    config.evaluate.bootstrap_resamples = 1000
    config.evaluate.re_ranking = False  # Also mAP after k-reciprocal re-ranking.
    # Published sets that recognisers are measured on besides: "FILE.bin" of InsightFace,
    # "pairs:PAIRS.txt:FOLDER" in LFW's form, "rfw:FOLDER" (data/verification_sources.py).
    config.evaluate.verification_sets = ()

    # What the synthetic sets and generators give away about the training people.
    config.privacy = ConfigDict()
    config.privacy.attacks = PRIVACY_ATTACKS  # Any of them, or none.
    # Of held-out images' distances to training images: nearer ones are near copies.
    config.privacy.quantile = 0.05
    config.privacy.images = 500  # Members, and non-members, of membership inference, at most.
    config.privacy.noise_levels = 8  # Timesteps at which the generator's error is taken.
    config.privacy.step_error_timestep = 100  # A multiple of the interval.
    config.privacy.step_error_interval = 10  # Timesteps.
    config.privacy.extraction_identities = 8
    config.privacy.extraction_samples = 16  # An identity.
    config.privacy.extraction_duplicates = 4  # Samples that must be alike, at least 2.

    config.report = ConfigDict()
    config.report.identities = 6  # Rows of the sample grids.
    config.report.map_identities = 10  # People of the embedding map.
    # A misspelt field is an error in a config file too; rewards may be added.
    config.lock()
    config.rewards.unlock()
    return config


def _data_source() -> ConfigDict:
    source = ConfigDict()
    # procedural | folder | tfds:NAME[:SPLIT] | insightface (.rec) | webdataset (.tar) |
    # parquet (of Hugging Face), and with a published split, whose query and gallery are the open
    # set: market1501 (and its layout) | cuhk03_np:detected | cuhk03_np:labeled (folders) |
    # cuhk03:detected | cuhk03:labeled (.mat files, needs the extra cuhk03) | msmt17 | veri776.
    # general_data may be none: the prior is a checkpoint, and extractors learn from the target.
    source.source = "procedural"
    source.path = ""  # Of the data set's folder or file, or of TFDS's data_dir.
    source.cache = ""  # Folder for the decoded array_record copy; "" = inside the workdir.
    source.num_identities = 40  # Procedural; elsewhere 0 = all, n = the first n.
    source.images_per_identity = 12  # Procedural only.
    # Identities with fewer images are left out; with a published split, of those that train.
    source.min_images = 1
    source.identity_offset = 0  # Procedural: which people of the endless procedural world.
    return source


def _denoising_training() -> ConfigDict:
    training = ConfigDict()
    training.steps = 4000
    training.batch_size = 32
    training.optimizer = "adamw"  # adamw | muon (matrices inside blocks; AdamW for the rest)
    training.learning_rate = 1e-3
    training.matrix_learning_rate = 0.02  # Of muon's matrices.
    training.class_embedding_rate = 1.0  # Learning rate of class rows, over learning_rate.
    training.warmup_steps = 100
    training.decay = "cosine"  # constant | linear | cosine
    training.weight_decay = 0.0
    training.gradient_clip = 1.0  # Global norm; 0 = none.
    training.ema_decay = 0.999
    training.class_dropout = 0.1  # Share of labels replaced by the null class.
    training.weighting = "min_snr"  # min_snr | uniform
    training.min_snr_gamma = 5.0
    training.flip = True
    training.rotation = 5.0  # Degrees, at most.
    training.scale = 0.05  # At most this share larger or smaller.
    training.translation = 0.04  # At most this share of the side.
    training.checkpoint_every = 500  # Steps.
    return training


# Sources that config.data.path leads to.
PATH_SOURCES = (
    "folder",
    "insightface",
    "webdataset",
    "parquet",
    "market1501",
    "cuhk03_np:detected",
    "cuhk03_np:labeled",
    "cuhk03:detected",
    "cuhk03:labeled",
    "msmt17",
    "veri776",
)

# At most the channels of what the generator makes.
GUIDANCE_CHANNELS = ("reinforce.guidance_channels", "synthesize.guidance_channels")

HELD_OUT_MEASURES = ("identity_accuracy", "precision", "recall", "density", "coverage")

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
    "pretrain.weight_decay pretrain.gradient_clip pretrain.rotation pretrain.translation "
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

# What each is: stages/arms.py.
ARMS = (
    "real",
    "real_erasing",
    "real_rand_augment",
    "real_affine",
    "real_scratch",
    "real_general",
    "real_joint",
    "real_joint_reinforced",
    "real_joint_reinforced_selected",
    "real_novel",
    "real_prior",
    "real_prior_reinforced",
    "real_prior_reinforced_selected",
    "real_cold_start",
    "real_best_of",
    "real_reinforced",
    "real_reinforced_selected",
    "real_reinforced_nearest",
    "synthetic_only",
)


class ConfigError(ValueError):
    """A config field holds a value with which the run cannot work."""


def field(config: ConfigDict, path: str):
    """Returns the value at a dotted path, such as "reinforce.eta".

    Below a tuple, it is whether the tuple holds that name: "recognize.arms.real".
    """
    value = config
    for part in path.split("."):
        value = part in value if isinstance(value, tuple) else value[part]
    return value


def validate(config: ConfigDict) -> None:
    """Checks every field's range and the fields that must fit together.

    Args:
        config: complete configuration.

    Raises:
        ConfigError: names the field, its value and what would be right.
    """

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
    _validate_without_general_data(config, require)
    _validate_images(config, require, procedural)
    require(config.split.held_out_fraction < 1, "split.held_out_fraction", "below 1")
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
        known = isinstance(targets, tuple) and targets and not set(targets) - set(LORA_TARGETS)
        require(bool(known), f"{section}.lora_targets", f"a selection of {LORA_TARGETS}")
    _validate_reinforce(config, require)
    _validate_privacy(config, require)
    exports = config.synthesize.exports
    known = isinstance(exports, tuple) and not set(exports) - set(EXPORTS)
    require(known, "synthesize.exports", f"a selection of {EXPORTS}, or ()")
    recognize = config.recognize
    require(
        recognize.normalisation == "none" or config.image.channels == 3,
        "recognize.normalisation",
        "'none' for grey images: ImageNet's are in colour",
    )
    shares = recognize.decay_at
    known = isinstance(shares, tuple) and all(
        recognize.warmup_steps / recognize.steps < share < 1 for share in shares
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
    unknown = set(recognize.arms) - set(ARMS)
    require(not unknown and len(recognize.arms) > 0, "recognize.arms", f"a selection of {ARMS}")
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


def _validate_arms(config: ConfigDict, require) -> None:
    """Checks what some arms ask of other fields."""
    recognize = config.recognize
    arms, random_start = recognize.arms, recognize.random_start
    known = isinstance(random_start, tuple) and not set(random_start) - set(ARMS)
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
    known = isinstance(privacy.attacks, tuple) and not set(privacy.attacks) - set(PRIVACY_ATTACKS)
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
    require(len(config.rewards) > 0, "rewards", "at least one named reward")
    for name, reward in config.rewards.items():
        require(
            reward.options.get("credit") != "broadcast" or reinforce.normalise_over != "identity",
            f"rewards.{name}.options.credit",
            "'leave_one_out' with normalise_over='identity': a reward that all samples of an "
            "identity share has no spread there (algorithm 'pathwise' takes the whole set's reward "
            "by itself)",
        )
