"""Your own folder of identities: one folder of images for each person.

    python -m rlsyn_jax.main --config=configs/folder.py:PATH --workdir=DIR \
        --config.general_data.path=GENERAL_FOLDER

The prior learns from the general folder: many other people, two or three images of some and one of
most are enough. The recipe was chosen on validation people of grey faces in the wild at 32 pixels
(experiments/LOG.md); of larger images, as on accelerators, nothing was measured. Sizes and budgets
follow the machine that is found. With one training image a person also give
--config.rewards.richness.weight=0.
"""

import jax

from rlsyn_jax.config import default_config


def get_config(path="data/identities"):
    config = default_config()
    config.name = "Identities of a folder"
    config.data.source = "folder"
    config.data.path = path
    config.data.num_identities = 0  # All there are.
    config.general_data.source = "folder"
    config.general_data.path = "data/general"
    config.general_data.num_identities = 0
    config.split.held_out_fraction = 0.3
    config.split.closed_images = 1
    config.split.train_images = 0

    # Rows are told by looks, since rows of their own memorise people of one image, and new people's
    # are told in the same way: a cold start would learn their few images by heart.
    config.pretrain.class_rows = "appearance"
    config.pretrain.optimizer = "muon"
    config.pretrain.warmup_steps = 200
    config.adapt.class_rows = "embedding"
    config.adapt.steps = 0
    # Rewards and judge that have learnt the few images themselves take copies for likeness.
    config.extractor.with_target = False
    config.extractor.steps = 4000
    config.reinforce.algorithm = "pathwise"
    config.reinforce.iterations = 30
    config.reinforce.evaluate_every = 10
    config.reinforce.samples = 4
    config.reinforce.num_steps = 8
    config.reinforce.eta = 0.1  # Samples are drawn without any noise.
    config.reinforce.trainable = "lora"
    config.reinforce.learning_rate = 1e-3
    # Guidance makes samples of a person alike; that they show the right one, reinforcement sees to.
    config.reinforce.guidance_scale = 1.0
    config.synthesize.guidance_scale = 1.0
    config.synthesize.num_steps = 16
    config.synthesize.images = 40
    config.recognize.start = "random"
    config.recognize.learning_rate = 4e-3
    config.recognize.synthetic_per_identity = 3
    config.recognize.candidates_per_identity = 6
    config.recognize.augmentation = "rand_augment"
    config.recognize.arms = (
        "real_rand_augment",
        "real_cold_start",
        "real_reinforced",
        "real_reinforced_selected",
        "synthetic_only",
    )

    if jax.default_backend() == "cpu":
        config.image.size = 32
        config.pretrain.steps = 7000
        config.pretrain.batch_size = 32
        config.reinforce.identities = 16
        config.recognize.steps = 1600
    else:
        # One accelerator, or several: the batch grows with them.
        devices = jax.device_count()
        config.image.size = 64
        config.generator.width = 384
        config.generator.depth = 12
        config.generator.num_heads = 6
        config.generator.dtype = "bfloat16"
        config.pretrain.steps = 100_000
        config.pretrain.batch_size = 128 * devices
        config.pretrain.learning_rate = 4e-4
        config.pretrain.warmup_steps = 2000
        config.pretrain.ema_decay = 0.9999
        config.reinforce.iterations = 100
        config.reinforce.identities = 16 * devices
        config.synthesize.batch_size = 256 * devices
        config.extractor.width = 64
        config.extractor.judge_width = 80
        config.recognize.width = 64
        config.recognize.steps = 2000
        config.recognize.identities_per_batch = 16
    return config
