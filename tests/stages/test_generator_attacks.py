"""Attacks on the generator where there is too little to attack with."""

from rlsyn_jax.config import default_config
from rlsyn_jax.data.splits import split_dataset
from rlsyn_jax.stages.generator_attacks import attack_extraction


def test_people_with_one_image_each_do_not_tell_what_is_alike(drawn_dataset, tmp_path):
    dataset = drawn_dataset(1)
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
