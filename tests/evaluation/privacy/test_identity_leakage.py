"""Identity leakage: thresholds and rates by brute force, copies caught, strangers at chance."""

import numpy as np
import pytest

from rlsyn_jax.evaluation.privacy import identity_leakage as module
from rlsyn_jax.evaluation.privacy.identity_leakage import identity_leakage


def faces(seed, people, images, first=0, dim=6, noise=0.3):
    random = np.random.default_rng(seed)
    identities = np.repeat(np.arange(first, first + people), images)
    centres = np.random.default_rng(seed + 1000).normal(size=(people, dim))
    return centres[identities - first] + noise * random.normal(
        size=(people * images, dim)
    ), identities


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_thresholds_and_rates_are_those_of_a_walk_over_pairs(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    synthetic, synthetic_ids = faces(0, 5, 6)
    train, train_ids = faces(1, 5, 4)
    unseen, unseen_ids = faces(2, 8, 5, first=50)
    mixed = np.random.default_rng(0).permutation(40)
    unseen, unseen_ids = unseen[mixed], unseen_ids[mixed]
    arguments = synthetic, synthetic_ids, train, train_ids, unseen, unseen_ids
    result = identity_leakage(*arguments, false_accept_rates=(0.1, 0.01), num_resamples=50)
    one, other = np.triu_indices(40, k=1)
    cosine = unit(unseen) @ unit(unseen).T
    is_same = unseen_ids[one] == unseen_ids[other]
    for rate, leakage in result.items():
        impostors = np.sort(cosine[one, other][~is_same])[::-1]
        # Just above the first that is too many, as verification has it.
        assert leakage.threshold == pytest.approx(impostors[int(700 * rate)], abs=1e-6)
        assert leakage.threshold > np.float32(impostors[int(700 * rate)]) - 1e-7
        assert leakage.false_accept_rate == pytest.approx(rate)
        assert leakage.num_impostors == (~is_same).sum()
        matches = unit(synthetic) @ unit(train).T >= leakage.threshold
        same = synthetic_ids[:, None] == train_ids[None]
        assert leakage.own.rate.value == pytest.approx((matches & same).any(axis=1).mean())
        assert leakage.other.rate.value == pytest.approx((matches & ~same).any(axis=1).mean())
        strangers = unit(unseen) @ unit(train).T >= leakage.threshold
        by_person = np.stack([strangers[:, train_ids == p].any(axis=1) for p in range(5)], axis=1)
        assert leakage.own.chance.value == pytest.approx(by_person.mean())
        others = [np.delete(by_person, p, axis=1).any(axis=1).mean() for p in range(5)]
        assert leakage.other.chance.value == pytest.approx(np.mean(others))
        for part in (leakage.own, leakage.other):
            chance = part.chance.value
            assert part.corrected.value == pytest.approx((part.rate.value - chance) / (1 - chance))
            assert part.corrected.low <= part.corrected.value <= part.corrected.high
    assert 0 < result[0.01].other.rate.value < result[0.1].other.rate.value < 1


def test_images_of_the_training_people_leak_and_strangers_do_not():
    train, train_ids = faces(1, 30, 5, dim=12)
    unseen, unseen_ids = faces(2, 60, 5, first=100, dim=12)
    copies = train + 0.05 * np.random.default_rng(0).normal(size=train.shape)
    leakage = identity_leakage(
        copies, train_ids, train, train_ids, unseen, unseen_ids, false_accept_rates=[1e-3]
    )[1e-3]
    assert leakage.own.rate.value > 0.99 and leakage.own.corrected.low > 0.95
    inside = 0
    for seed in range(12):
        strangers, _ = faces(10 + seed, 30, 5, dim=12)
        leakage = identity_leakage(
            strangers, train_ids, train, train_ids, unseen, unseen_ids, false_accept_rates=[0.01]
        )[0.01]
        inside += leakage.other.corrected.low <= 0 <= leakage.other.corrected.high
        assert leakage.own.rate.value < 0.1
    assert inside >= 10


def test_intervals_know_that_the_threshold_is_an_estimate():
    # Of normal people and images the rate is known: at a threshold of 4,000 people's pairs.
    def drawn(random, people, images, noise=0.6, centres=None):
        centres = random.normal(size=(people, 12)) if centres is None else centres
        identities = np.repeat(np.arange(people), images)
        noise = noise * random.normal(size=(people * images, 12))
        return centres, centres[identities] + noise, identities

    random = np.random.default_rng(99)
    one, other = (unit(drawn(random, 2000, 1)[1]) for _ in range(2))
    threshold = np.quantile(one @ other.T, 1 - 1e-3)
    centres, train, _ = drawn(random, 4000, 3)
    _, images, _ = drawn(random, 4000, 1, 1.0, centres)
    nearest = np.einsum("pnd,pd->pn", unit(train).reshape(4000, 3, 12), unit(images)).max(axis=1)
    true_rate = (nearest >= threshold).mean()
    inside, values = 0, []
    for seed in range(40):
        random = np.random.default_rng(seed)
        centres, train, train_ids = drawn(random, 60, 3)
        _, images, ids = drawn(random, 60, 10, 1.0, centres)
        _, unseen, unseen_ids = drawn(random, 20, 3)
        rate = (
            identity_leakage(
                images, ids, train, train_ids, unseen, unseen_ids + 1000,
                false_accept_rates=[1e-3], num_resamples=60, seed=seed,
            )[1e-3].own.rate
        )  # fmt: skip
        inside += rate.low <= true_rate <= rate.high
        values.append(rate.value)
    assert inside >= 28  # A quarter of them, where the threshold passes for known.
    assert abs(np.mean(values) - true_rate) < 0.05


def test_tied_impostors_stay_below_the_rate():
    # Every image of the unseen people is alike: no threshold accepts some of the pairs only.
    train, train_ids = faces(1, 4, 3, dim=3)
    unseen_ids = np.repeat([50, 51], 20)
    result = identity_leakage(
        train,
        train_ids,
        train,
        train_ids,
        np.tile([[0, 0, 1.0]], (40, 1)),
        unseen_ids,
        false_accept_rates=[0.1],
    )[0.1]
    assert result.false_accept_rate == 0 and result.threshold > 1


def test_mistakes_are_told():
    train, train_ids = faces(1, 4, 3)
    unseen, unseen_ids = faces(2, 4, 3, first=50)
    good = [train, train_ids, train, train_ids, unseen, unseen_ids]

    def broken(place, value):
        return [*good[:place], value, *good[place + 1 :]]

    with pytest.raises(ValueError, match="not measurable with 54 impostor pairs"):
        identity_leakage(*good)
    with pytest.raises(ValueError, match=r"people \[0, 1, 2, 3\] are both"):
        identity_leakage(*broken(5, train_ids))
    with pytest.raises(ValueError, match=r"synthetic people \[9\] are none"):
        identity_leakage(*broken(1, np.where(train_ids == 3, 9, train_ids)))
    with pytest.raises(ValueError, match="train: at least 2 people are needed, got 1"):
        identity_leakage(*broken(3, np.zeros(12)))
    with pytest.raises(ValueError, match="unseen: at least one embedding"):
        identity_leakage(*broken(4, unseen * np.nan))
    with pytest.raises(ValueError, match="one network"):
        identity_leakage(*broken(0, np.ones((12, 2))))
    with pytest.raises(ValueError, match=r"train: expected embeddings \[n, dim\]"):
        identity_leakage(*broken(3, train_ids[:4]))
    with pytest.raises(ValueError, match="a false accept rate is 2"):
        identity_leakage(*good, false_accept_rates=[2])
    with pytest.raises(ValueError, match="at least one false accept rate"):
        identity_leakage(*good, false_accept_rates=[])
