"""Attacks on the generator where there is too little to attack with."""

import numpy as np

from rlsyn_jax.config import default_config
from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.splits import split_dataset
from rlsyn_jax.stages.generator_attacks import attack_extraction


def test_people_with_one_image_each_do_not_tell_what_is_alike(tmp_path):
    random = np.random.default_rng(0)
    dataset = IdentityDataset(
        name="drawn",
        images=random.integers(0, 256, (6, 8, 8, 3), np.uint8),
        identities=np.arange(6),
        cameras=np.zeros(6, int),
        identity_names=tuple("abcdef"),
        file_names=tuple(f"{number}.png" for number in range(6)),
        has_cameras=False,
    )
    splits = split_dataset(
        dataset,
        held_out_fraction=0.0,
        train_images_per_identity=0,
        closed_images_per_identity=0,
        seed=0,
    )
    found = attack_extraction(default_config(), tmp_path, dataset, splits)
    assert found == {
        "not_measured": "nobody has two different real images, which tell what is alike"
    }
