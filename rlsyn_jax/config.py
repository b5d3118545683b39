"""Every field of a run's configuration, its default, its meaning and its allowed values.

Config files under configs/ start from `default_config()` and change fields; config_checks.py
refuses a config that cannot work before any device is touched. Units and bounds stand beside each
field.
"""

from __future__ import annotations

from ml_collections import ConfigDict

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
    "pretrain.class_rows": "learnt",
    "pretrain.appearance_noise": 0.5,
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
    # Of a prior that is trained here: learnt (a row of each general person's own) | appearance
    # (told, by a linear map, from the embedding of another image of the person or, with flip, of
    # its mirror image, or the same where there is one; for adapt.class_rows = embedding, which then
    # tells those of new people in the same way) | shared (one row of all: the prior is not told who
    # is in an image).
    config.pretrain.class_rows = "learnt"
    config.pretrain.appearance_noise = 0.5  # Largest norm of noise on such a unit embedding.
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
    config.adapt.steps = 300  # 0 = none, with class_rows = embedding.
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
    # Of the first ratio, a dimension, which must be 1; in bfloat16 a hundred times as much.
    config.reinforce.ratio_tolerance = 1e-4
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
    # ddim | dpm_solver (second order, without noise): of few steps the latter makes the better
    # samples (experiments/LOG.md).
    config.synthesize.solver = "dpm_solver"
    config.synthesize.eta = 1.0  # Noise of ddim, 0 to 1.
    config.synthesize.guidance_scale = 1.5
    config.synthesize.guidance_channels = 0  # As in reinforce.
    config.synthesize.image_format = "png"  # png | jpg
    # training | novel: also people who do not exist, in a data set of their own.
    config.synthesize.identities = "training"
    # Class embeddings between two training people's | away from all of them.
    config.synthesize.novel = "away"
    config.synthesize.num_novel = 24  # People who do not exist.
    # People of the general data, those with the most images, whom the prior draws from noise, in a
    # data set of their own, each image the most alike to them of candidates; 0 = none.
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
    # exact (a virtual step, by passes with all digits of float32, at accelerators' cost) | jvp (its
    # first order, which needs fewer: with bfloat16 it must be this one).
    config.recognize.selection.method = "exact"
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
    # Learning rate of class rows, or of the map that tells them, over learning_rate.
    training.class_embedding_rate = 1.0
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
