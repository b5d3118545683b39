"""Extraction: planted duplicates come out, and nothing else; groups against networks of all."""

import itertools

import numpy as np
import pytest

from rlsyn_jax.evaluation.privacy.extraction import _cliques, distance_within_people, extraction

SHAPE = (4, 4, 3)


def images(seed, number):
    return np.random.default_rng(seed).uniform(size=(number, *SHAPE))


def near(image, number, seed=0, by=0.02):
    noise = np.random.default_rng(seed).normal(size=(number, *SHAPE))
    return np.clip(image + by * noise, 0, 1)


def generator_with_memory():
    """60 samples of 2 people; the first repeats training image 3 in 12 of 30, nothing else."""
    real, real_ids = images(0, 10), np.repeat([0, 1], 5)
    samples, sample_ids = images(1, 60), np.repeat([0, 1], 30)
    samples[4:28:2] = near(real[3], 12)
    return samples, sample_ids, real, real_ids


def test_a_training_image_that_is_repeated_comes_out():
    samples, sample_ids, real, real_ids = generator_with_memory()
    result = extraction(samples, sample_ids, real, real_ids, max_distance=0.1)
    (found,) = result.extracted
    assert (found.identity, found.real, found.num_duplicates) == (0, 3, 12)
    gaps = np.sqrt(((samples[4:28:2] - real[3]) ** 2).mean(axis=(1, 2, 3)))
    assert found.sample == 4 + 2 * gaps.argmin()
    assert found.distance == pytest.approx(gaps.min(), rel=1e-4)
    assert result.num_groups == 1
    assert result.share.value == 0.1 and result.share.low < 0.1 < result.share.high


def test_bytes_are_the_same_as_shares():
    samples, sample_ids, real, real_ids = generator_with_memory()
    as_bytes = [np.round(255 * part).astype(np.uint8) for part in (samples, real)]
    result = extraction(as_bytes[0], sample_ids, as_bytes[1], real_ids, max_distance=0.1)
    assert [found.real for found in result.extracted] == [3]


def test_held_out_images_and_independent_samples_do_not():
    samples, sample_ids, _, real_ids = generator_with_memory()
    held_out = extraction(samples, sample_ids, images(2, 10), real_ids, max_distance=0.1)
    assert held_out.extracted == () and held_out.num_groups == 1
    other = extraction(images(3, 60), sample_ids, images(0, 10), real_ids, max_distance=0.1)
    assert other.extracted == () and other.num_groups == 0 and other.share.value == 0


def test_copies_that_do_not_repeat_or_of_another_person_do_not_count():
    samples, sample_ids, real, real_ids = generator_with_memory()
    few = extraction(samples, sample_ids, real, real_ids, max_distance=0.1, min_duplicates=13)
    assert few.extracted == ()
    swapped = extraction(samples, sample_ids, real, 1 - real_ids, max_distance=0.1)
    assert swapped.extracted == () and swapped.num_groups == 1


def test_every_training_image_beside_a_group_comes_out_and_others_by_chance_as_often():
    # A generator that draws nothing but a person's mean: training images are as near as others.
    random = np.random.default_rng(0)
    means = images(1, 40)

    def photographs(number):
        ids = np.repeat(np.arange(40), number)
        # Some lie beside the mean, others do not.
        spread = np.where(random.uniform(size=len(ids)) < 0.5, 0.02, 0.3)[:, None, None, None]
        return np.clip(means[ids] + spread * random.normal(size=(len(ids), *SHAPE)), 0, 1), ids

    samples = np.repeat(means, 4, axis=0)
    shares = [
        extraction(
            samples, np.repeat(np.arange(40), 4), *photographs(number),
            max_distance=0.1, min_duplicates=4,
        ).share.value
        for number in (2, 6)
    ]  # fmt: skip
    assert 0.35 < min(shares) and max(shares) < 0.65


def test_two_groups_of_one_training_image_count_once():
    real = images(0, 2)
    samples = np.concatenate([near(real[0], 5, by=0.001), near(real[0] * 0.9, 4, by=0.001)])
    result = extraction(
        samples, np.zeros(9), real, np.zeros(2), max_distance=0.05, min_duplicates=3
    )
    # The samples of the second group are darker by less than the limit only from the real image.
    assert [found.real for found in result.extracted] == [0]
    assert result.extracted[0].num_duplicates >= 5 and result.share.value == 0.5


def test_the_most_different_tile_counts():
    # One background, another face in a quarter of the image.
    real = np.full((1, *SHAPE), 0.5)
    samples = np.repeat(real, 4, axis=0)
    samples[:, :2, :2] = 0.8
    arguments = samples, np.zeros(4), real, np.zeros(1)
    whole = extraction(*arguments, max_distance=0.2, min_duplicates=4)
    assert whole.extracted[0].distance == pytest.approx(0.15, abs=1e-6)
    assert extraction(*arguments, max_distance=0.2, min_duplicates=4, tiles=2).extracted == ()
    far = extraction(*arguments, max_distance=0.4, min_duplicates=4, tiles=2)
    assert far.extracted[0].distance == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_cliques_that_nothing_could_be_added_to(seed):
    random = np.random.default_rng(seed)
    alike = random.uniform(size=(9, 9)) < 0.6
    alike = alike & alike.T | np.eye(9, dtype=bool)
    groups = _cliques(alike, 3)
    members = [member for group in groups for member in group]
    assert len(set(members)) == len(members)
    for group in groups:
        assert len(group) >= 3 and alike[np.ix_(group, group)].all()
    exists = any(alike[np.ix_(trio, trio)].all() for trio in itertools.combinations(range(9), 3))
    if groups:
        assert exists
        left = np.setdiff1d(np.arange(9), members)
        assert not any(alike[np.ix_([one], groups[-1])].all() for one in left)


def test_mistakes_are_told():
    samples, sample_ids, real, real_ids = generator_with_memory()
    with pytest.raises(ValueError, match="max_distance is 0"):
        extraction(samples, sample_ids, real, real_ids, max_distance=0)
    with pytest.raises(ValueError, match="min_duplicates is 1"):
        extraction(samples, sample_ids, real, real_ids, max_distance=0.1, min_duplicates=1)
    with pytest.raises(ValueError, match="tiles is 3; it must divide the sides of 4 x 4"):
        extraction(samples, sample_ids, real, real_ids, max_distance=0.1, tiles=3)
    with pytest.raises(ValueError, match="real: images must be uint8, or numbers in 0..1"):
        extraction(samples, sample_ids, 2 * real, real_ids, max_distance=0.1)
    with pytest.raises(ValueError, match=r"samples: expected images \[n, h, w, c\]"):
        extraction(samples, sample_ids[:3], real, real_ids, max_distance=0.1)
    with pytest.raises(ValueError, match="60 and 0 images"):
        extraction(samples, sample_ids, real[:0], real_ids[:0], max_distance=0.1)


def test_distances_within_people_are_those_of_all_pairs_but_of_equal_files():
    real = np.random.default_rng(0).integers(0, 256, (9, *SHAPE)).astype(np.uint8)
    people = np.array([0, 1, 0, 1, 0, 2, 1, 0, 1])
    real[8] = real[1]
    expected = [
        np.sqrt(np.square(real[a] / 255 - real[b] / 255).mean())
        for a, b in itertools.combinations(range(9), 2)
        if people[a] == people[b] and (a, b) != (1, 8)
    ]
    for quantile in (0, 0.3, 1):
        found = distance_within_people(real, people, quantile)
        assert found == pytest.approx(np.quantile(expected, quantile), rel=1e-5)
    assert distance_within_people(real[:3], np.arange(3), 0.5) == 0
    assert distance_within_people(real[[1, 8]], np.zeros(2), 0.5) == 0
