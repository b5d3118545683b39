"""The prior that ships with the package, and how it was made.

    python -m rlsyn_jax.main --config=configs/procedural_prior.py --workdir=DIR --stages=pretrain
    python experiments/export_prior.py DIR rlsyn_jax/priors/procedural.safetensors

About 40 minutes on two CPU cores.
"""

from rlsyn_jax.config import default_config


def get_config():
    config = default_config()
    config.name = "The procedural prior"
    config.pretrain.source = "train"
    config.pretrain.steps = 9000
    config.pretrain.batch_size = 16
    config.pretrain.optimizer = "muon"
    config.pretrain.learning_rate = 1e-3
    config.pretrain.warmup_steps = 200
    # 256 procedural people, none of them in the targets of other configs.
    config.general_data.num_identities = 256
    config.general_data.images_per_identity = 24
    return config
