"""Nearer to training than to other images: all choices by hand, copies caught, blur is not one."""

import itertools

import numpy as np
import pytest

from rlsyn_jax.evaluation.privacy.nearer_to_training import nearer_to_training


def people(seed, number, images, dim=6, noise=0.5):
    """Images of people whose centres are the same for all seeds."""
    random = np.random.default_rng(seed)
    ids = np.repeat(np.arange(number), images)
    centres = np.random.default_rng(1000).normal(size=(number, dim))
    return centres[ids] + noise * random.normal(size=(len(ids), dim)), ids


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("trained", "others"), [(2, 2), (1, 4), (2, 5), (4, 1), (5, 3)])
def test_the_share_is_that_of_all_choices_of_as_many_images(metric, trained, others):
    samples, ids = people(0, 4, 3)
    real, real_ids = people(1, 4, trained)
    held_out, held_out_ids = people(2, 4, others)
    found = nearer_to_training(
        samples, ids, real, real_ids, held_out, held_out_ids, metric=metric, num_resamples=9
    )

    def gaps(sample, images):
        if metric == "euclidean":
            return np.linalg.norm(images - sample, axis=1)
        return 1 - images @ sample / np.linalg.norm(images, axis=1) / np.linalg.norm(sample)

    shares = []
    for sample, person in zip(samples, ids):
        one = gaps(sample, real[real_ids == person])
        two = gaps(sample, held_out[held_out_ids == person])
        number = min(trained, others)
        choices = itertools.product(
            itertools.combinations(one, number), itertools.combinations(two, number)
        )
        shares.append(np.mean([min(left) < min(right) for left, right in choices]))
    assert 0 < np.mean(shares) < 1
    assert found.value == pytest.approx(np.mean(shares))


def test_copies_are_nearer_and_new_images_are_not_however_flat_they_are():
    inside, arguments = 0, {"metric": "euclidean", "num_resamples": 200}
    for seed in range(10):
        real, real_ids = people(4 * seed, 40, 2)
        others = people(4 * seed + 1, 40, 5)
        copies = real + 0.05 * np.random.default_rng(0).normal(size=real.shape)
        found = nearer_to_training(copies, real_ids, real, real_ids, *others, **arguments)
        assert found.value > 0.95 and found.low > 0.9
        for noise in (0.5, 0.1):
            samples = people(4 * seed + 2, 40, 20, noise=noise)
            found = nearer_to_training(*samples, real, real_ids, *others, **arguments)
            inside += found.low < 0.5 < found.high
    assert inside >= 17  # Of 20 intervals of 95 %.


def test_equal_images_are_half_nearer():
    images, ids = people(0, 3, 2)
    found = nearer_to_training(images, ids, images, ids, images, ids, num_resamples=9)
    assert found.value == 0.5


def test_many_images_of_a_person_are_no_overflow():
    sets = [people(seed, 2, 1500) for seed in range(3)]
    found = nearer_to_training(*(part for each in sets for part in each), num_resamples=9)
    fewer = nearer_to_training(*sets[0], *sets[1], *people(2, 2, 3000), num_resamples=9)
    assert 0.4 < found.value < 0.6 and 0.4 < fewer.value < 0.6


def test_people_without_images_of_both_kinds_are_left_out():
    samples, ids = people(0, 3, 2)
    real, real_ids = people(1, 2, 2)
    arguments = {"num_resamples": 9}
    held_out, held_out_ids = people(2, 3, 1)
    some = nearer_to_training(samples, ids, real, real_ids, held_out, held_out_ids, **arguments)
    first = ids < 2
    same = nearer_to_training(
        samples[first], ids[first], real, real_ids, held_out, held_out_ids, **arguments
    )
    assert some == same
    assert nearer_to_training(samples, ids, real, real_ids, held_out, held_out_ids + 9) is None


def test_mistakes_are_told():
    images, ids = people(0, 3, 2)
    with pytest.raises(ValueError, match="metric is 'city'"):
        nearer_to_training(images, ids, images, ids, images, ids, metric="city")
    with pytest.raises(ValueError, match=r"real: expected features \[n, dim\]"):
        nearer_to_training(images, ids, images, ids[:2], images, ids)
