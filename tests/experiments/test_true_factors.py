"""What of drawn people samples get right: the figures, and the network that reads factors."""

import numpy as np
import pytest
import true_factors
from true_factors import figures, standardised, train_reader

from rlsyn_jax.data.procedural import IDENTITY_RANGES, IMAGE_RANGES, make_procedural_dataset

PEOPLE, IMAGES, OF_IMAGES = 30, 8, 5


@pytest.fixture
def drawn():
    """Truth of people [30, 4], and factors of 8 images of each as a network might read them."""
    random = np.random.default_rng(0)
    people = random.normal(size=(PEOPLE, 4))
    labels = np.repeat(np.arange(PEOPLE), IMAGES)
    read = people[labels] + random.normal(size=(len(labels), 4)) * 0.1
    return people, np.hstack([read, random.normal(size=(len(labels), OF_IMAGES))]), labels


def test_real_images_are_the_measure_of_all(drawn):
    people, factors, labels = drawn
    found = figures(factors, labels, people, (factors, labels))
    assert found["image"] == found["drift"] == 1 and 0.99 < found["person"] < 1


def test_samples_that_are_alike_of_others_or_of_several_people_are_told(drawn):
    people, factors, labels = drawn
    real = factors, labels
    alike = factors.copy()
    for person in range(PEOPLE):
        own = labels == person
        alike[own, 4:] = factors[own, 4:].mean(axis=0) + 0.5 * (
            factors[own, 4:] - factors[own, 4:].mean(axis=0)
        )
    found = figures(alike, labels, people, real)
    assert found["image"] == pytest.approx(0.5) and found["drift"] == 1
    found = figures(factors, (labels + 1) % PEOPLE, people, real)
    assert found["person"] < -0.5 and found["drift"] == pytest.approx(1)
    mixed = figures(factors, np.random.default_rng(1).permutation(labels), people, real)
    assert mixed["drift"] > 5 and mixed["person"] < 0.3


def test_people_without_an_image_are_left_out(drawn):
    people, factors, labels = drawn
    few = labels < 20
    found = figures(factors[few], labels[few], people, (factors, labels))
    assert 0.99 < found["person"] < 1


def test_the_network_reads_factors_in_units_of_their_ranges(monkeypatch):
    monkeypatch.setattr(true_factors, "_PEOPLE", 24)
    monkeypatch.setattr(true_factors, "_FIRST_PERSON", 0)
    read = train_reader(16, steps=60)
    dataset, factors = make_procedural_dataset(
        num_identities=24, images_per_identity=4, image_size=16
    )
    truth = standardised(factors, {**IDENTITY_RANGES, **IMAGE_RANGES})
    assert abs(truth.mean()) < 0.1 and abs(truth.std() - 1) < 0.1
    error = np.square(read(dataset.images) - truth).mean(axis=0)
    assert read(dataset.images).shape == truth.shape and error.mean() < 0.5


def test_a_folder_that_is_no_run_is_told(tmp_path):
    with pytest.raises(SystemExit, match="adapt is not a folder; give a stage's folder"):
        true_factors.main([str(tmp_path)])
