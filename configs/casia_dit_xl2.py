"""The paper's recipe on CASIA-WebFace: DiT-XL/2 at 128 x 128, an IResNet-50 with CosFace.

    python -m rlsyn_jax.main --config=configs/casia_dit_xl2.py --workdir=DIR \
        --config.data.path=CASIA/train.rec --config.pretrain.source=DIT \
        --config.autoencoder.path=VAE \
        --config.evaluate.verification_sets="('CASIA/lfw.bin', 'CASIA/agedb_30.bin', 'rfw:RFW')"

CASIA is the folder of aligned faces that InsightFace publishes; weights as in
configs/market1501.py. `:arcface` has the margin in the angle instead.
`:ci` is the same, shrunken, on what `python experiments/stand_in.py stand_in` writes. LFW,
AgeDB-30, CFP-FP, CALFW, CPLFW and RFW are named by evaluate.verification_sets, as many as there
are; besides, the run measures people whom it holds out.
"""

from rlsyn_jax.config import default_config

IMAGES, EPOCHS = 490_623, 40


def get_config(variant="full"):
    if variant not in ("full", "arcface", "ci"):
        raise ValueError(
            f"configs/casia_dit_xl2.py:{variant} is not known; give nothing, :arcface or :ci"
        )
    config = default_config()
    config.name = "CASIA-WebFace"
    config.image.size = 128  # [paper] Positions follow from the formula: 64 tokens.
    config.data.source = "insightface"
    config.data.path = "data/casia/train.rec"
    # [paper] An unnamed subset of the 10,572 people; set a smaller number for one.
    config.data.num_identities = 10_572
    config.split.held_out_fraction = 0.02  # Open: people to watch the run by.
    config.split.train_images = 0
    config.split.closed_images = 1
    config.synthesize.images = 46  # Open: as many as there are real ones of a person.
    config.image.channels = 3
    config.image.resize = "stretch"  # Open: nothing of a person is cut away.

    # Weights as python -m rlsyn_jax.models.import_weights writes them.
    config.pretrain.source = "weights/dit"  # [paper] DiT-XL/2 of ImageNet.
    config.autoencoder.path = "weights/autoencoder"  # DiT's own: sd-vae-ft-ema or -mse.
    config.autoencoder.dtype = "bfloat16"
    config.general_data.source = "none"  # [paper] Target images alone.
    config.generator.patch_size = 2
    config.generator.width = 1152
    config.generator.depth = 28
    config.generator.num_heads = 16
    config.generator.learn_sigma = True
    config.generator.schedule = "linear"
    config.generator.prediction_type = "epsilon"
    config.generator.clip_denoised = False
    config.generator.scan_layers = True  # 28 blocks compile as fast as one.
    config.generator.dtype = "bfloat16"
    config.remat = "blocks"

    # Cold start.
    config.adapt.trainable = "class_embedding"  # [paper] The backbone is frozen.
    config.adapt.class_rows = "zero"  # [paper]
    config.adapt.class_embedding_rate = 1.0
    config.adapt.learning_rate = 1e-5  # [paper]
    # Open: Adam moves a row by at most the rate an update, and DiT's rows have a deviation of 0.02.
    config.adapt.steps = 30_000
    config.adapt.batch_size = 256  # Open: DiT's, as are the next six.
    config.adapt.decay = "constant"
    config.adapt.warmup_steps = 0
    config.adapt.gradient_clip = 0.0
    config.adapt.ema_decay = 0.9999
    config.adapt.class_dropout = 0.1
    config.adapt.weighting = "uniform"
    # Latents are encoded once: their only change is the mirror.
    config.adapt.flip = True
    config.adapt.rotation = 0.0
    config.adapt.scale = 0.0
    config.adapt.translation = 0.0
    config.pretrain.rotation = 0.0
    config.pretrain.scale = 0.0
    config.pretrain.translation = 0.0

    # Reinforcement.
    config.reinforce.algorithm = "dpok"  # [paper]
    config.reinforce.learning_rate = 1e-5  # [paper]
    config.reinforce.trainable = "lora"  # Open: DPOK's, rank 4.
    config.reinforce.lora_rank = 4
    config.reinforce.kl_weight = 0.01  # Open: DPOK's.
    config.reinforce.kl_space = "epsilon"
    config.reinforce.gradient_clip = 0.1  # Open: DPOK's.
    config.reinforce.clip_range = 1e-4  # Open: DPOK's, of mean log-probabilities.
    config.reinforce.decay = "constant"
    config.reinforce.normalise_over = "batch"  # [paper] Equation 10.
    config.reinforce.squash = "tanh"  # [paper] Equation 11.
    config.reinforce.iterations = 2000  # Open: each identity is drawn some 3 times.
    # Open: rewards of a set differ between identities alone, so a batch holds many.
    config.reinforce.identities = 16
    config.reinforce.samples = 8
    # Open: the fewest steps at which features can read a latent model's samples; of these the
    # noisiest train, which came to an equal reward by a third of the work on small models.
    config.reinforce.num_steps = 12
    config.reinforce.num_trained_steps = 3
    config.reinforce.micro_batch = 16
    config.reinforce.guidance_scale = 1.5  # Open: DPOK's 7.5 costs variety.
    config.reinforce.evaluate_every = 20
    config.reinforce.checkpoint_every = 10
    # [paper] Weights 1, 0.75 and 0.25 are the defaults; the kernel's width, its alpha and the
    # expansion are open, and are the defaults.

    config.synthesize.num_steps = 50  # Open: DDIM's usual number.
    config.synthesize.guidance_scale = 1.5
    config.synthesize.image_format = "jpg"

    config.recognize.width = 0
    config.extractor.width = 0
    config.extractor.judge_width = 0
    config.recognize.decay = "step"
    config.recognize.weight_decay = 5e-4  # [paper]
    config.recognize.seeds = 3  # [paper] One; a difference below a point needs more.
    config.recognize.checkpoint_every = 1000

    config.recognize.network = "iresnet50"  # [paper] ResNet-50; this is its form for faces.
    config.recognize.start = "random"
    config.recognize.loss = "cosface"  # [paper]
    # Open: IDiff-Face's, as are scale, margin, rate, clipping and dropout.
    config.recognize.embedding_dim = 512
    config.recognize.cosface_scale = 64.0
    config.recognize.cosface_margin = 0.35
    config.recognize.optimizer = "sgd"  # [paper] Momentum 0.9.
    config.recognize.learning_rate = 0.1 * 128 / 512
    config.recognize.gradient_clip = 5.0  # There of network and classifier apart.
    config.recognize.dropout_rate = 0.4
    # Open: as many and as strong as the strongest of IDiff-Face's, which draws from 1 to 16, with
    # other operations; for the arm real_rand_augment, which is not among the default ones.
    config.recognize.rand_augment_operations = 4
    config.recognize.rand_augment_magnitude = 16.0
    config.recognize.image_size = 112  # Open: what recognisers of aligned faces see.
    config.recognize.identities_per_batch = 64  # [paper] Batches of 128.
    config.recognize.images_per_identity = 2
    config.recognize.synthetic_per_identity = 1  # Open: as many as real ones.
    config.recognize.candidates_per_identity = 2  # Open: half of them are kept.
    config.recognize.steps = EPOCHS * IMAGES // 128
    config.recognize.warmup_steps = 0
    config.recognize.decay_at = (22 / 40, 30 / 40, 35 / 40)
    config.recognize.crop_padding = 0
    config.extractor.network = "iresnet50"
    config.extractor.judge_network = "iresnet18"
    config.extractor.identities_per_batch = 64
    config.extractor.images_per_identity = 2
    config.extractor.steps = 10 * IMAGES // 128
    config.extractor.learning_rate = 1e-3
    config.extractor.cosface_scale = 64.0
    config.extractor.cosface_margin = 0.35
    if variant == "arcface":
        config.recognize.loss = "arcface"
        config.recognize.arcface_scale = 64.0  # ArcFace's own scale and margin.
        config.recognize.arcface_margin = 0.5
    if variant == "ci":
        config.name += ", shrunken"
        config.image.size = 32
        config.pretrain.source = "stand_in/weights/dit"
        config.autoencoder.path = "stand_in/weights/autoencoder"
        config.autoencoder.dtype = "float32"
        config.generator.width = 32
        config.generator.depth = 2
        config.generator.num_heads = 2
        config.generator.dtype = "float32"
        config.data.num_identities = 0
        config.adapt.steps = 4
        config.adapt.batch_size = 8
        config.adapt.checkpoint_every = 2
        config.reinforce.iterations = 2
        config.reinforce.identities = 4
        config.reinforce.samples = 4
        config.reinforce.num_steps = 4
        config.reinforce.num_trained_steps = 2
        config.reinforce.evaluate_every = 1
        config.synthesize.images = 4
        config.synthesize.num_steps = 3
        config.synthesize.batch_size = 16
        config.extractor.steps = 4
        config.extractor.identities_per_batch = 4
        config.extractor.images_per_identity = 2
        config.recognize.arms = ("real", "real_reinforced_selected")
        config.recognize.seeds = 1
        config.recognize.steps = 6
        config.recognize.identities_per_batch = 4
        config.evaluate.verification_pairs = 20
        config.evaluate.num_neighbors = 2
        config.evaluate.bootstrap_resamples = 50
        config.data.path = "stand_in/casia/train.rec"
        config.evaluate.verification_sets = ("stand_in/casia/lfw.bin", "rfw:stand_in/rfw")
        config.split.held_out_fraction = 0.3
        config.recognize.image_size = 32
        config.recognize.network = config.extractor.network = "iresnet18"
        config.recognize.width = config.extractor.width = config.extractor.judge_width = 4
    return config
