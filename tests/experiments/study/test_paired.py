"""Paired differences over runs: values by hand, and how often intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats
from study.paired import difference_of_runs, paired_difference


def make_run(values, weights=None):
    """A run of two arms; values: arm -> person -> [seeds]."""
    people = next(iter(values.values()))
    weights = weights or dict.fromkeys(people, 1)
    return {
        "weights": {"map": weights},
        "arms": {arm: {"map": people} for arm, people in values.items()},
    }


def test_the_mean_is_that_of_runs_of_weighted_people_of_seeds():
    runs = [
        make_run(
            {
                "real": {"a": [0.5, 0.7], "b": [0.1, 0.3]},
                "more": {"a": [0.9, 0.9], "b": [0.2, 0.2]},
            },
            {"a": 3, "b": 1},
        ),
        make_run({"real": {"a": [0.5], "c": [0.5]}, "more": {"a": [0.4], "c": [0.6]}}),
    ]
    found = paired_difference(runs, "more", "real", "map")
    assert found.mean == pytest.approx(((0.3 * 3 + 0.0) / 4 + 0.0) / 2)
    assert found.runs == 2 and found.low <= found.mean <= found.high


def test_one_difference_everywhere_has_no_interval():
    run = make_run({"real": {"a": [0.2], "b": [0.5]}, "more": {"a": [0.3], "b": [0.6]}})
    found = paired_difference([run, run, run], "more", "real", "map")
    assert found[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_a_baseline_of_other_runs_is_paired_by_order():
    runs = [make_run({"more": {"a": [0.5]}}), make_run({"more": {"b": [0.9]}})]
    others = [make_run({"real": {"a": [0.4]}}), make_run({"real": {"b": [0.6]}})]
    found = paired_difference(runs, "more", "real", "map", baseline_runs=others)
    assert found.mean == pytest.approx(0.2)
    with pytest.raises(ValueError, match="run 0: more and real .* other people"):
        paired_difference(runs, "more", "real", "map", baseline_runs=others[::-1])
    with pytest.raises(ValueError, match="2 and 1 runs"):
        paired_difference(runs, "more", "real", "map", baseline_runs=others[:1])


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        runs = []
        for effect in random.normal(0.1, 0.03, 12):  # What a split and a start change.
            values = random.normal(effect, 0.2, 40)
            people = {str(i): [float(value)] for i, value in enumerate(values)}
            runs.append(make_run({"real": dict.fromkeys(people, [0.0]), "more": people}))
        found = paired_difference(
            runs, "more", "real", "map", num_resamples=400, confidence=0.9, seed=trial
        )
        held += found.low <= 0.1 <= found.high
    # Both levels are drawn, so that intervals are wider than needed, if anything.
    assert 0.87 * 200 <= held <= 200


def test_people_of_several_runs_are_not_new_people_there():
    random = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        effects = random.normal(0.1, 0.2, 60)
        runs = []
        for _ in range(5):
            shown = random.choice(60, 45, replace=False)
            people = {str(i): [effects[i] + random.normal(0, 0.05)] for i in shown}
            runs.append(make_run({"real": dict.fromkeys(people, [0.0]), "more": people}))
        found = paired_difference(
            runs, "more", "real", "map", num_resamples=400, confidence=0.9, seed=trial
        )
        held += found.low <= 0.1 <= found.high
    # Drawn in each run for itself they would be in 0.7 of the intervals.
    assert 0.85 * 200 <= held <= 0.97 * 200


@pytest.mark.parametrize(
    ("arm", "measure", "message"),
    [("less", "map", "no arm 'less'; the run has real, more"), ("more", "rank", "no 'rank'")],
)
def test_what_is_missing_is_named(arm, measure, message):
    run = make_run({"real": {"a": [0.2]}, "more": {"a": [0.3]}})
    with pytest.raises(ValueError, match=message):
        paired_difference([run], arm, "real", measure)


def test_figures_of_runs_have_the_interval_of_a_paired_t_test():
    values, baselines = np.random.default_rng(0).normal([[1.0], [0.5]], 0.3, size=(2, 5))
    found = difference_of_runs(values, baselines)
    expected = stats.ttest_rel(values, baselines).confidence_interval(0.95)
    assert found.mean == pytest.approx((values - baselines).mean()) and found.runs == 5
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    for too_few in (values[:1], values[:0]):
        with pytest.raises(ValueError, match="two runs or more"):
            difference_of_runs(too_few, baselines[: len(too_few)])
    with pytest.raises(ValueError, match="5 and 4 figures"):
        difference_of_runs(values, baselines[:4])
