"""What is compared with what, and when a difference is a claim."""

import json
import shlex

import ablation
import pytest
from study.chosen_settings import keep_choices
from study.claims import COMPARISONS, GOAL
from study.comparing import compare
from study.design import (
    STARTS,
    title,
    variation_title,
)
from study.gathering import Runs, decide
from study.samples import COMPARED_SETS
from study.variations import (
    ARMS_OF_VARIATIONS,
    FIRST_SEEDS,
    TOLD_NOBODY,
    TOLD_NOBODY_120,
    TOLD_NOBODY_120_FURTHER,
)
from sweeping.plan import read_plan, write_plan


def test_five_seeds_are_a_claim(written, tmp_path):
    plan = {}
    for seed in range(5):
        for start, arms in STARTS.items():
            plan[f"cell {seed} {start}"] = {"name": title(2, start), "seed": seed}
            folder = tmp_path / "lfw" / "cells" / f"cell {seed} {start}" / "evaluate"
            written.run(folder, arms, written.gain)
    write_plan(written.plan(plan), tmp_path / "lfw")
    keep_choices(tmp_path, "lfw", written.choices)
    ablation.main([f"--workdir={tmp_path}", "--targets=lfw", "--gather"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(result["seeds"] == 5 for result in results)
    # What was asked of samples when runs of them were known never is.
    assert {r["name"] for r in results if r["claimed"]} == {c.name for c in written.compared}


def test_a_gain_below_the_goal_is_no_claim(workdir):
    runs = [*Runs(workdir / "lfw").named(title(1, "random")).values()]
    below = COMPARISONS[0].__class__("x", "real_affine", "random", ("real",), "random", 3.2)
    assert not decide(below, runs, {"": runs}, "open_map")["holds"]
    above = COMPARISONS[0].__class__("x", "real_affine", "random", ("real",), "random", 1.9)
    assert decide(above, runs, {"": runs}, "open_map")["holds"]


def test_baselines_that_were_not_run_are_passed_over_within_a_variation_alone(workdir):
    runs = [*Runs(workdir / "lfw").named(title(1, "random")).values()]
    for within in (True, False):
        asked = COMPARISONS[0].__class__(
            "x", "real_affine", "random", ("real", "not run"), "random", within=within
        )
        if within:
            assert decide(asked, runs, {"": runs}, "open_map")["baseline"] == "real"
        else:
            with pytest.raises(ValueError, match="there is no arm 'not run'"):
                decide(asked, runs, {"": runs}, "open_map")
    alone = COMPARISONS[0].__class__("x", "real", "random", ("not run",), "random", within=True)
    with pytest.raises(LookupError, match="has a baseline of 'x'"):
        decide(alone, runs, {"": runs}, "open_map")


def test_a_variation_is_compared_with_the_cells_of_its_seeds(written, tmp_path):
    compared = [comparison for comparison in COMPARISONS if comparison.variation]
    assert compared and all(comparison.cells(1) is None for comparison in compared)
    plan, folder = {}, tmp_path / "omniglot"
    for name, seeds, gain in (
        (title(2, "random"), range(3), {"real_affine": 0.02, "real_reinforced_selected": 0.03}),
        *((c.variation, (1, 2), {c.arm: 0.09}) for c in compared[:1]),
    ):
        arms = STARTS["random"] if name == title(2, "random") else ARMS_OF_VARIATIONS[name]
        for seed in seeds:
            plan[f"{name} {seed}"] = {"name": name, "seed": seed}
            written.run(folder / "cells" / f"{name} {seed}" / "evaluate", arms, gain)
    write_plan(written.plan(plan), folder)
    found = {
        (result["name"], result["measure"]): result for result in compare("omniglot", Runs(folder))
    }
    for comparison, baseline, difference in zip(
        compared, ("real_affine", "real_reinforced_selected"), (7.0, 6.0)
    ):
        result = found[comparison.name, "open_map"]
        assert (result["baseline"], result["seeds"], result["images"]) == (baseline, 2, 2)
        assert result["difference"] == pytest.approx(difference)
        of_arm, of_baselines = comparison.cells(2)
        for name in (of_arm, *of_baselines):
            assert shlex.quote(name) in result["command"]


@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("variation", [TOLD_NOBODY, TOLD_NOBODY_120, TOLD_NOBODY_120_FURTHER])
def test_within_a_variation_arms_are_compared_with_each_other(written, workdir, variation, longer):
    plan = read_plan(workdir / "lfw").cells
    for seed in range(2):
        name = f"nobody {seed}"
        numbered = FIRST_SEEDS.get(variation, 0) + seed
        plan[name] = {"name": variation_title(variation, longer=longer), "seed": numbered}
        arms = (*ARMS_OF_VARIATIONS[variation], "real_affine")
        gain = {"real_reinforced": 0.09, "real_best_of": 0.04}
        written.run(workdir / "lfw" / "cells" / name / "evaluate", arms, gain)
    write_plan(written.plan(plan), workdir / "lfw")
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    results = json.loads((workdir / "results.json").read_text())
    found = {
        each["name"]: each
        for each in results
        if TOLD_NOBODY in each["name"] and each["measure"] == "closed_rank1"
    }
    training = "; longer training" if longer else ""
    assert [*found] == [
        f"reinforced against {other}, by {variation}{training}"
        for other in (
            "real images augmented alike",
            "cold start",
            "best of N",
            "the better of both",
        )
    ]
    assert [each["difference"] for each in found.values()] == pytest.approx([9.0, 9.0, 5.0, 5.0])
    assert {each["images"] for each in found.values()} == {2}
    at_least = [each.at_least for each in COMPARISONS if each.name in found]
    assert at_least == [GOAL, 0.0, 0.0, 0.0]
    # Of real images alone, those that were run with it.
    assert [*found.values()][0]["baseline"] == "real_affine"
    of_samples = [each for each in results if each["name"] in COMPARED_SETS]
    assert {each["name"].partition(", by ")[2] for each in of_samples} == {"", variation}
    told = [each for each in of_samples if TOLD_NOBODY in each["name"]]
    assert {(each["seeds"], each["images"]) for each in told} == {(2, 2)}
    assert {each["baseline_cell"] for each in found.values()} == {plan["nobody 0"]["name"]}
    assert {each["seeds"] for each in found.values()} == {2}
    # The command names as many seeds as there are, whichever is the first.
    named = f"--seeds=2 --only={shlex.quote(plan['nobody 0']['name'])}"
    assert all(each["command"].endswith(named) for each in found.values())
    assert named in (workdir / "RESULTS.md").read_text()


@pytest.mark.parametrize(("gain", "of_best"), [(0.03, False), (0.05, True)])
def test_who_trains_longer_is_compared_with_the_best_of_either_training(
    written, tmp_path, gain, of_best
):
    plan, folder = {}, tmp_path / "lfw"
    for longer, gains, seeds in (
        (False, {"real_affine": 0.04}, range(3)),
        (True, {"real_erasing": gain, "real_reinforced_selected": 0.09}, (0, 2)),
    ):
        for seed in seeds:
            name = title(2, "random", longer=longer)
            plan[f"{name} {seed}"] = {"name": name, "seed": seed}
            written.run(folder / "cells" / f"{name} {seed}" / "evaluate", STARTS["random"], gains)
    write_plan(written.plan(plan), folder)
    found = {
        result["name"]: result
        for result in compare("lfw", Runs(folder))
        if result["measure"] == "open_map"
    }
    scratch = found["the method against real images, from scratch; longer training"]
    best = ("real_affine", "real_erasing")[of_best]
    assert (scratch["baseline"], scratch["seeds"]) == (best, 2)
    assert scratch["baseline_cell"] == title(2, "random", longer=of_best)
    assert scratch["difference"] == pytest.approx(4.0 if of_best else 5.0)
    for longer in (False, True):
        assert shlex.quote(f"{title(2, 'random', longer=longer)}") in scratch["command"]
