"""Near copies: planted ones are found, independent images give the share they must."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from rlsyn_jax.evaluation.privacy.memorisation import memorisation


def points(seed, number=400):
    return np.random.default_rng(seed).normal(size=(number, 5))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_share_and_list_are_those_of_scikit_learn(metric):
    synthetic, real, held_out = points(0, 60), points(1, 80), points(2, 100)
    result = memorisation(synthetic, real, held_out, metric=metric, quantile=0.2, num_resamples=9)
    search = NearestNeighbors(n_neighbors=1, metric=metric).fit(real)
    expected, nearest = search.kneighbors(synthetic)
    # Of 100 held-out images and the next one, which is as likely at each of 101 places.
    threshold = np.interp(
        0.2 * 101, np.arange(1, 101), np.sort(search.kneighbors(held_out)[0][:, 0])
    )
    np.testing.assert_allclose(result.distances, expected[:, 0], atol=1e-6)
    assert result.threshold == pytest.approx(threshold)
    copies = [place for place in np.argsort(expected[:, 0]) if expected[place, 0] < threshold]
    assert [copy.synthetic for copy in result.near_copies] == copies
    assert [copy.real for copy in result.near_copies] == nearest[copies, 0].tolist()
    assert result.share.value == len(copies) / 60 and len(copies) > 3


def test_copies_are_caught():
    real = points(1)
    synthetic = points(0, 200)
    synthetic[30:90] = real[:60] + 1e-3
    result = memorisation(synthetic, real, points(2), metric="euclidean", quantile=0.01)
    assert result.share.value >= 0.3 and result.share.low > 0.2
    found = {copy.synthetic: copy.real for copy in result.near_copies}
    assert all(found[place] == place - 30 for place in range(30, 90))


def test_an_independent_generator_is_at_the_expected_share():
    covered = 0
    for seed in range(20):
        result = memorisation(
            points(3 * seed, 150),
            points(3 * seed + 1, 150),
            points(3 * seed + 2, 150),
            quantile=0.2,
            num_resamples=60,
        )
        covered += result.share.low <= result.expected_share <= result.share.high
    assert covered >= 16  # Of 20 intervals of 95 %.


def test_new_images_fall_below_the_threshold_of_few_as_often_as_it_says():
    shares = [
        memorisation(
            points(3 * seed, 400), points(3 * seed + 1, 60), points(3 * seed + 2, 20),
            quantile=0.05, num_resamples=1,
        ).share.value
        for seed in range(120)
    ]  # fmt: skip
    # 0.093 by the quantile that lies between the first two of 20.
    assert abs(np.mean(shares) - 0.05) < 0.015


def test_a_threshold_from_few_held_out_images_is_uncertain():
    # Synthetic images without number leave the uncertainty of the threshold alone.
    arguments = {"quantile": 0.2, "num_resamples": 99}
    few = memorisation(points(0, 3000), points(1), points(2, 20), **arguments)
    many = memorisation(points(0, 3000), points(1), points(2, 3000), **arguments)
    assert few.share.high - few.share.low > 0.15 > 3 * (many.share.high - many.share.low)


def test_people_are_drawn_whole():
    # Ten copies of each image say no more than one.
    synthetic, held_out = points(0, 40), points(2, 60)
    one = memorisation(synthetic, points(1), held_out, quantile=0.3, num_resamples=99)
    copies = memorisation(
        np.repeat(synthetic, 10, axis=0),
        points(1),
        held_out,
        synthetic_ids=np.repeat(np.arange(40), 10),
        quantile=0.3,
        num_resamples=99,
    )
    assert copies.share == pytest.approx(one.share)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="0.01-quantile is not measurable with 40 held-out"):
        memorisation(points(0), points(1), points(2, 40), quantile=0.01)
    with pytest.raises(ValueError, match="quantile is 5"):
        memorisation(points(0), points(1), points(2), quantile=5)
    with pytest.raises(ValueError, match="at least one synthetic"):
        memorisation(points(0, 0), points(1), points(2))
    with pytest.raises(ValueError, match="person for each of 400 images"):
        memorisation(points(0), points(1), points(2), synthetic_ids=np.arange(3))
    with pytest.raises(ValueError, match="at least 1 resample"):
        memorisation(points(0), points(1), points(2), num_resamples=0)
