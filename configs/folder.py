"""Your own folder of identities: one folder of images for each person.

    python -m rlsyn_jax.main --config=configs/folder.py:PATH --workdir=DIR \
        --config.general_data.source=folder --config.general_data.path=GENERAL_FOLDER \
        --config.general_data.num_identities=0

The prior learns from the general data: many other people, few images of each are enough; 0 takes
all of them. Without these it learns from procedural faces, which suits no real face well but shows
how the method runs. Sizes and budgets follow the machine that is found.
"""

import jax

from rlsyn_jax.config import default_config


def get_config(path="data/identities"):
    config = default_config()
    config.name = "Identities of a folder"
    config.data.source = "folder"
    config.data.path = path
    config.data.num_identities = 0  # All there are.
    config.general_data.num_identities = 256
    config.general_data.images_per_identity = 24
    config.split.held_out_fraction = 0.3
    config.split.closed_images = 1
    config.split.train_images = 0
    config.pretrain.optimizer = "muon"
    # At the default rate a person's samples become alike on real faces (experiments/LOG.md).
    config.reinforce.learning_rate = 2e-3

    if jax.default_backend() == "cpu":
        config.image.size = 32
        config.pretrain.steps = 5000
        config.pretrain.batch_size = 16
        config.adapt.batch_size = 16
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
        config.adapt.batch_size = 32 * devices
        config.reinforce.iterations = 200
        config.reinforce.identities = 16 * devices
        config.reinforce.num_steps = 25
        config.reinforce.num_trained_steps = 4
        config.synthesize.num_steps = 50
        config.synthesize.batch_size = 256 * devices
        config.extractor.steps = 4000
        config.extractor.width = 64
        config.extractor.judge_width = 80
        config.recognize.width = 64
        config.recognize.steps = 2000
        config.recognize.identities_per_batch = 16
    return config
