"""Real faces: the prior learns from many people with few images, the target is a small set.

    python -m rlsyn_jax.main --config=configs/faces.py:orl --workdir=DIR \
        --config.data.path=ORL_FOLDER --config.general_data.path=GENERAL_FOLDER

Targets: orl (40 people x 10 grey images) and lfw (people in the wild with 6 to 20 images). Some 80
minutes of processor time for orl, 50 of them for prior and extractors; lfw's prior alone takes 50
of one core, and its recognisers about as much. Priors and extractors are kept and shared where
config.pretrain.cache names a folder.

lfw_latents is the same people at 64 pixels a side, made in the latents of a published tiny
autoencoder; --config.autoencoder.path names it as models/import_weights.py wrote it. Recognisers,
extractors and measures see 32 pixels, as in lfw; the generator is trained as for orl.
"""

from rlsyn_jax.config import default_config


def get_config(target="orl"):
    names = {
        "orl": "Faces of ORL",
        "lfw": "Faces in the wild",
        "lfw_latents": "Faces in the wild, made in latents",
    }
    if target not in names:
        raise ValueError(f"configs/faces.py:{target} is not known; targets are {', '.join(names)}")
    latents = target == "lfw_latents"
    target = target.removesuffix("_latents")
    config = default_config()
    config.name = names[f"{target}_latents" if latents else target]
    config.image.size = 32
    config.image.channels = 1
    config.image.resize = "crop"

    config.general_data.source = "folder"
    config.general_data.path = "data/lfw_general"
    config.general_data.num_identities = 0
    config.pretrain.optimizer = "muon"
    config.pretrain.steps = 7000
    config.pretrain.batch_size = 16
    config.pretrain.warmup_steps = 200
    # Unseen people: mAP 14 after 1,000 updates, 24 after 4,000 (experiments/LOG.md).
    config.extractor.steps = 4000
    # Rewards and judge know the general people alone, as in the study.
    config.extractor.with_target = False
    config.data.source = "folder"
    config.data.path = {"orl": "data/orl_faces", "lfw": "data/lfw_target"}[target]
    config.data.min_images = {"orl": 1, "lfw": 6}[target]
    config.data.num_identities = {"orl": 0, "lfw": 120}[target]
    config.adapt.steps = 500
    config.adapt.batch_size = 16
    config.adapt.warmup_steps = 20
    config.adapt.ema_decay = 0.98
    config.reinforce.iterations = 40
    config.reinforce.evaluate_every = 8
    # At 1e-2 samples of a person become alike (experiments/LOG.md).
    config.reinforce.learning_rate = 2e-3
    config.synthesize.num_steps = 40
    config.recognize.seeds = 3
    config.split.train_images = 2
    config.split.closed_images = {"orl": 5, "lfw": 3}[target]

    if target == "lfw" and not latents:
        # Four of five general people have one image, which rows of their own learn as that picture:
        # rows are told by looks, and no cold start undoes what they leave to vary
        # (experiments/LOG.md).
        config.pretrain.class_rows = "appearance"
        config.pretrain.batch_size = 32
        config.adapt.class_rows = "embedding"
        config.adapt.steps = 0
        # As on handwriting, by the rewards' own gradient; but nothing is sifted or begins with
        # training images, since samples are nearer to those than other photographs of the person
        # are without that.
        config.reinforce.algorithm = "pathwise"
        config.reinforce.iterations = 60
        config.reinforce.evaluate_every = 20
        config.reinforce.identities = 16
        config.reinforce.samples = 4
        config.reinforce.num_steps = 8
        config.reinforce.trainable = "lora"
        config.reinforce.learning_rate = 1e-3
        # Guidance makes samples of a person alike, and costs as much again; reinforcement sees to
        # it that they show the right one.
        config.reinforce.guidance_scale = 1.0
        config.synthesize.guidance_scale = 1.0
        config.synthesize.num_steps = 16
        # By which the tables of experiments/RESULTS.md were made. By the default samples are nearer
        # to real images and half as many are near copies; recognisers of 400 updates did not tell
        # (experiments/LOG.md).
        config.synthesize.solver = "ddim"
        config.synthesize.images = 40
        # Of a person with one image, two copies of it in a batch teach less than one and another
        # sample; of two images mAP rises by it and rank-1 falls (experiments/LOG.md).
        config.recognize.synthetic_per_identity = 3
        config.recognize.candidates_per_identity = 6
        # What served real images best on validation people, and four times the updates: samples
        # take longer to learn from (experiments/LOG.md).
        config.recognize.start = "random"
        config.recognize.learning_rate = 4e-3
        config.recognize.steps = 1600
        config.recognize.augmentation = "rand_augment"
        config.recognize.arms = (
            "real_rand_augment",
            "real_cold_start",
            "real_reinforced",
            "real_reinforced_selected",
            "synthetic_only",
        )

    if latents:
        config.image.size = 64  # 8 x 8 latents: as many tokens as 32 pixels in patches of 4.
        config.recognize.image_size = 32
        config.autoencoder.batch_size = 32
        config.generator.patch_size = 1
        config.generator.clip_denoised = False
        config.general_data.num_identities = 2500  # Encoding is half of the price.
        config.pretrain.steps = 4500
        # Latents are kept as they are and mirrored; they cannot be turned or moved.
        for training in (config.pretrain, config.adapt):
            training.rotation, training.scale, training.translation = 0.0, 0.0, 0.0
    return config
