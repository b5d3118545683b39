"""A released set is measured by the measures themselves, on the right images of each file."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.nearest_real import averaged_pixels
from rlsyn_jax.evaluation.privacy.extraction import distance_within_people, extraction
from rlsyn_jax.evaluation.privacy.leakage_figures import leakage_figures
from rlsyn_jax.evaluation.privacy.memorisation import memorisation
from rlsyn_jax.evaluation.privacy.released_set import ImageSet, measure_released_set


def image_set(seed, ids):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (len(ids), 4, 4, 1)).astype(np.uint8)
    return ImageSet(random.normal(size=(len(ids), 6)), np.asarray(ids), images)


def make_sets():
    random = np.random.default_rng(0)
    # Known people and strangers come mixed.
    held_out = random.permutation(np.concatenate([np.arange(24) % 4, 10 + np.arange(40) % 8]))
    return image_set(1, np.arange(30) % 4), image_set(2, np.arange(12) % 4), image_set(3, held_out)


def figure(estimate):
    return dict(zip(("mean", "low", "high"), estimate))


def test_figures_are_those_of_each_measure():
    synthetic, train, held_out = make_sets()
    synthetic.images[[0, 4, 8]] = train.images[4]
    released = measure_released_set(
        synthetic,
        train,
        held_out,
        quantile=0.1,
        false_accept_rates=(0.1,),
        min_duplicates=3,
        num_resamples=30,
    )
    known = held_out.ids < 4
    for space in ("embeddings", "pixels"):
        features = [
            averaged_pixels(part.images) if space == "pixels" else part.embeddings
            for part in (synthetic, train, held_out)
        ]
        expected = memorisation(
            *features[:2],
            features[2][known],
            synthetic_ids=synthetic.ids,
            held_out_ids=held_out.ids[known],
            metric="euclidean" if space == "pixels" else "cosine",
            quantile=0.1,
            num_resamples=30,
        )
        found = released.metrics["memorisation"][space]["synthetic"]
        assert found["share"] == figure(expected.share)
        assert found["threshold"] == expected.threshold
        copies = [
            (one["synthetic_image"], one["train_image"], one["distance"])
            for one in found["closest"][: len(expected.near_copies)]
        ]
        assert copies == list(expected.near_copies)
    assert released.metrics["identity_leakage"] == leakage_figures(
        {
            "synthetic": (synthetic.embeddings, synthetic.ids),
            "held_out": (held_out.embeddings[known], held_out.ids[known]),
        },
        train.embeddings,
        train.ids,
        held_out.embeddings[~known],
        held_out.ids[~known],
        false_accept_rates=(0.1,),
        num_resamples=30,
    )
    max_distance = distance_within_people(
        np.concatenate([train.images, held_out.images[known]]),
        np.concatenate([train.ids, held_out.ids[known]]),
        0.1,
    )
    found = released.metrics["extraction"]["synthetic"]
    for key, real, ids in (
        ("share", train.images, train.ids),
        ("chance", held_out.images[known], held_out.ids[known]),
    ):
        expected = extraction(
            synthetic.images,
            synthetic.ids,
            real,
            ids,
            max_distance=max_distance,
            min_duplicates=3,
        )
        assert found[key] == figure(expected.share)
    assert found["max_distance"] == max_distance and found["extracted"][0]["real"] == 4


def test_what_one_person_or_single_images_cannot_show_is_said():
    synthetic, train, held_out = make_sets()
    one = image_set(4, [0, 0, 0])
    released = measure_released_set(one, one, held_out, num_resamples=5).metrics
    assert "no others" in released["identity_leakage"]["not_measured"]
    assert released["extraction"] == {
        "not_measured": "nobody has 4 synthetic images; the most are 3"
    }
    single = image_set(5, np.arange(4))
    strangers = held_out[held_out.ids >= 4]
    released = measure_released_set(synthetic, single, strangers, num_resamples=5).metrics
    assert "two different real images" in released["extraction"]["not_measured"]
    for space in ("embeddings", "pixels"):
        assert "of 0 held-out images" in released["memorisation"][space]["not_measured"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantile": 0}, "quantile is 0"),
        ({"quantile": 1}, "quantile is 1"),
        ({"min_duplicates": 1}, "min_duplicates is 1"),
        ({"false_accept_rates": (2,)}, "false accept rate is 2"),
    ],
)
def test_parameters_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        measure_released_set(*make_sets(), **{"num_resamples": 5, **change})


def test_an_empty_set_is_refused():
    synthetic, train, held_out = make_sets()
    with pytest.raises(ValueError, match="held_out is empty"):
        measure_released_set(synthetic, train, held_out[:0])
