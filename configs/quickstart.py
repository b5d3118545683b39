"""The whole method in minutes on a laptop, on people that the package draws itself.

    python -m rlsyn_jax.main --config=configs/quickstart.py --workdir=DIR

Starts from the small prior of the procedural world that ships with the package
(configs/procedural_prior.py made it). `configs/quickstart.py:ci` is the same, shrunken.
"""

from rlsyn_jax.config import default_config


def get_config(size="full"):
    if size not in ("full", "ci"):
        raise ValueError(f"configs/quickstart.py:{size} is not known; give nothing or :ci")
    config = default_config()
    config.name = "Quickstart"
    config.pretrain.source = "shipped"
    config.general_data.num_identities = 256
    config.general_data.images_per_identity = 24

    # 24 people to train on, with 3 images each, and 16 others to search for.
    config.data.num_identities = 40
    config.data.images_per_identity = 12
    config.split.held_out_fraction = 0.4
    config.split.train_images = 3
    config.split.closed_images = 6

    config.extractor.steps = 240
    config.adapt.steps = 400
    config.adapt.batch_size = 16
    config.adapt.warmup_steps = 20
    config.adapt.ema_decay = 0.98

    config.reinforce.iterations = 15
    # The cold start is close to the best reward, where large steps are mostly noise.
    config.reinforce.learning_rate = 1e-3
    config.reinforce.evaluate_every = 5
    config.synthesize.images = 8
    # Ten steps of the second order give what 25 of DDIM give, and sharper.
    config.synthesize.num_steps = 10
    config.recognize.steps = 100

    if size == "ci":
        config.name = "Quickstart, shrunken"
        config.general_data.num_identities = 32
        config.general_data.images_per_identity = 6
        config.data.num_identities = 12
        config.extractor.steps = 60
        config.adapt.steps = 40
        config.reinforce.iterations = 2
        config.reinforce.identities = 4
        config.reinforce.samples = 4
        config.reinforce.num_steps = 6
        config.reinforce.num_trained_steps = 3
        config.reinforce.evaluate_every = 1
        config.synthesize.images = 4
        config.synthesize.num_steps = 8
        config.synthesize.batch_size = 32
        config.recognize.steps = 20
        config.recognize.identities_per_batch = 6
        config.recognize.general_per_batch = 2
        config.recognize.nearest.images = 2
        config.recognize.warmup_steps = 5
        config.evaluate.verification_pairs = 60
        config.evaluate.num_neighbors = 3
        config.evaluate.bootstrap_resamples = 200
        config.privacy.noise_levels = 4
        config.privacy.step_error_timestep = 50
        config.privacy.extraction_identities = 4
        config.privacy.extraction_samples = 8
        config.privacy.extraction_duplicates = 3
    return config
