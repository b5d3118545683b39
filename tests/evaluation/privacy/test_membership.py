"""Membership inference from scores: against scikit-learn, DeLong by definition, simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from rlsyn_jax.evaluation.privacy.membership import membership_inference


def delong(members, others):
    """Variance of the area by its definition, pair by pair."""
    kernel = (members[:, None] > others[None]) + 0.5 * (members[:, None] == others[None])
    above, below = kernel.mean(axis=1), kernel.mean(axis=0)
    return above.var(ddof=1) / len(members) + below.var(ddof=1) / len(others)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    m=st.integers(2, 40),
    n=st.integers(10, 40),
    levels=st.sampled_from([None, 1, 3]),
)
def test_area_and_interval_with_ties(seed, m, n, levels):
    random = np.random.default_rng(seed)
    members, others = random.normal(size=m) + 0.5, random.normal(size=n)
    if levels:
        members, others = np.round(members * levels) / levels, np.round(others * levels) / levels
    result = membership_inference(members, others, false_positive_rate=0.1, num_resamples=3)
    truth, scores = np.arange(m + n) < m, np.concatenate([members, others])
    assert result.auc.value == pytest.approx(metrics.roc_auc_score(truth, scores))
    reach = 1.959964 * np.sqrt(delong(members, others))
    assert result.auc.low == pytest.approx(max(result.auc.value - reach, 0))
    assert result.auc.high == pytest.approx(min(result.auc.value + reach, 1))
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert result.true_positive_rate.value == pytest.approx(true[false <= 0.1].max())


def test_images_of_one_person_count_once():
    random = np.random.default_rng(0)
    members, others = random.normal(size=30) + 1, random.normal(size=200)
    one = membership_inference(members, others, num_resamples=200)
    copies = membership_inference(
        np.repeat(members, 4),
        np.repeat(others, 4),
        member_ids=np.repeat(np.arange(30), 4),
        non_member_ids=np.repeat(np.arange(200), 4) + 30,
        num_resamples=200,
    )
    assert copies.auc == pytest.approx(one.auc)
    assert copies.true_positive_rate == pytest.approx(one.true_positive_rate)


def test_people_on_both_sides_cancel():
    # What a person adds to all own images says nothing about membership.
    random = np.random.default_rng(1)
    person, people = 3 * random.normal(size=120), np.arange(120)
    members, others = person + 0.1 * random.normal(size=(2, 120))
    options = {"false_positive_rate": 0.05, "num_resamples": 200}
    paired = membership_inference(
        members, others, member_ids=people, non_member_ids=people, **options
    )
    apart = membership_inference(members, others, **options)
    for measure, share in (("auc", 0.3), ("true_positive_rate", 0.6)):
        (_, low, high), (_, lowest, highest) = getattr(paired, measure), getattr(apart, measure)
        assert high - low < share * (highest - lowest), measure
    # Those of whom nothing is said are nobody of the other side.
    for names in ({"member_ids": people}, {"non_member_ids": people}):
        alone = membership_inference(members, others, **names, **options)
        assert alone.auc == pytest.approx(apart.auc)


def test_intervals_hold_the_truth_where_everybody_is_on_both_sides():
    # Person effects of variance 1 and noise of 0.5: TPR at 5 % of members 0.5 above is
    # Phi((0.5 - 1.645 sqrt 1.5) / sqrt 1.5).
    random = np.random.default_rng(3)
    truth = stats.norm.cdf(0.5 / np.sqrt(1.5) - 1.6449)
    people, held, width, rates = np.repeat(np.arange(80), 2), 0, [], []
    for _ in range(40):
        person = np.repeat(random.normal(size=80), 2)
        members = person + np.sqrt(0.5) * random.normal(size=160) + 0.5
        others = person + np.sqrt(0.5) * random.normal(size=160)
        found = membership_inference(
            members,
            others,
            member_ids=people,
            non_member_ids=people,
            false_positive_rate=0.05,
            num_resamples=100,
        ).true_positive_rate
        held += found.low <= truth <= found.high
        width.append(found.high - found.low)
        rates.append(found.value)
    assert held >= 33
    assert np.mean(width) == pytest.approx(2 * 1.96 * np.std(rates), rel=0.35)


def test_intervals_hold_the_truth():
    # Unit Gaussians that are 1 apart: area Phi(1 / sqrt 2), TPR at 5 % Phi(1 - 1.645).
    random = np.random.default_rng(2)
    area = rate = 0
    for _ in range(25):
        members = np.repeat(random.normal(size=60), 2) + 1
        others = np.repeat(random.normal(size=80), 2)
        result = membership_inference(
            members,
            others,
            member_ids=np.repeat(np.arange(60), 2),
            non_member_ids=np.repeat(np.arange(80), 2) + 60,
            false_positive_rate=0.05,
            num_resamples=100,
        )
        area += result.auc.low <= 0.7602 <= result.auc.high
        rate += result.true_positive_rate.low <= 0.2595 <= result.true_positive_rate.high
    assert area >= 21 and rate >= 20


def test_members_who_are_certain_to_be_found():
    result = membership_inference(np.arange(100.0) + 200, np.arange(200.0))
    assert result.auc == (1, 1, 1)
    assert result.true_positive_rate == (1, 1, 1)
    assert (result.threshold, result.false_positive_rate) == (198, 0.01)
    assert (result.num_members, result.num_non_members) == (100, 200)


def test_mistakes_are_told():
    with pytest.raises(
        ValueError,
        match="false positive rate of 0.01 is less than one of 99 non-members.*100 or more",
    ):
        membership_inference(np.arange(9.0), np.arange(99.0))
    with pytest.raises(ValueError, match="non_member_scores must be finite"):
        membership_inference(np.arange(9.0), np.full(200, np.nan))
    with pytest.raises(ValueError, match=r"member_ids \[n\], got \(9,\) and \(3,\)"):
        membership_inference(np.arange(9.0), np.arange(200.0), member_ids=np.ones(3))
    with pytest.raises(ValueError, match="member_scores: at least 2 people are needed, got 1"):
        membership_inference(np.arange(9.0), np.arange(200.0), member_ids=np.ones(9))
    with pytest.raises(ValueError, match="at least 1 resample"):
        membership_inference(np.arange(9.0), np.arange(200.0), num_resamples=0)
