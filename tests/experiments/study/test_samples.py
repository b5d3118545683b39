"""Compared sets of samples: which side of 0 is better, and what is left out."""

import json
from pathlib import Path

from study.claims import SEEDS_OF_A_CLAIM
from study.design import SET_MEASURES
from study.samples import COMPARED_SETS, compare_sets, is_better, samples_table

ROOT = Path(__file__).parents[3]
COLD, REINFORCED = [0.50, 0.52, 0.54], [0.80, 0.80, 0.80]
AGAINST_COLD = next(iter(COMPARED_SETS))


def run_of(figures):
    """A run whose metrics have, of each set, the same figure of all measures."""
    metrics = {"synthetic": {}, "privacy": {"memorisation": {"pixels": {}, "judge": {}}}}
    names = ("identity_accuracy", "frechet_distance", "recall")
    for kind, figure in figures.items():
        metrics["synthetic"][kind] = dict.fromkeys(names, {"mean": figure})
        for space in metrics["privacy"]["memorisation"].values():
            space[kind] = {"share": {"mean": figure}}
    return {"metrics": metrics}


RUNS = [run_of({"cold_start": c, "reinforced": r}) for c, r in zip(COLD, REINFORCED)]


def test_more_of_a_distance_or_of_copies_is_worse():
    found = {each["measure"]: each for each in compare_sets(RUNS)}
    # Of best of N there is no set.
    assert {each["name"] for each in found.values()} == {AGAINST_COLD}
    right, distance = found["right identity, %"], found["Frechet distance"]
    # By Student's t of two degrees of freedom, 4.303 times 2 over the root of three.
    assert (right["difference"], right["low"], right["high"]) == (28.0, 23.03, 32.97)
    assert (distance["difference"], distance["low"], distance["high"]) == (0.28, 0.2303, 0.3297)
    assert right["arm"] == "real_reinforced" and right["baseline"] == "real_cold_start"
    assert {measure: each["holds"] for measure, each in found.items()} == {
        "right identity, %": True,
        "Frechet distance": False,
        "recall, %": True,
        "near copies by pixels, %": False,
        "near copies by the judge, %": False,
    }
    fewer = {"measure": "Frechet distance", "low": -0.2, "high": -0.1}
    assert is_better(fewer) and not is_better(fewer | {"high": 0.0})


def test_one_run_has_no_interval():
    assert [*compare_sets(RUNS[:1])] == []


def test_rows_are_by_images_and_what_was_not_measured_is_empty():
    found = [
        {"data": "lfw", "images": images, **each}
        for images in ("all", 2)
        for each in compare_sets(RUNS)
        if images == 2 or "copies" not in each["measure"]
    ]
    of_recognisers = {"data": "lfw", "name": "reinforced against cold start", "seeds": 5}
    heads, _, *rows = samples_table([*found, of_recognisers])
    assert heads == f"| data, images | compared | seeds | {' | '.join(SET_MEASURES)} |"
    share, distance = "+28 (23 to 33)", "+0.28 (0.23 to 0.33)"
    first = f"reinforced against cold start | 3 | {share} | {distance} | {share}"
    assert rows == [
        f"| lfw, 2 | {first} | {share} | {share} |",
        f"| lfw, all | {first} |  |  |",
    ]
    assert [*samples_table(found, least_seeds=4)] == [*samples_table([])] == []


def test_the_readme_has_what_is_on_record():
    comparisons = json.loads((ROOT / "experiments" / "results.json").read_text())
    table = "\n".join(samples_table(comparisons, SEEDS_OF_A_CLAIM))
    assert f"\n\n{table}\n\n" in (ROOT / "README.md").read_text()
    results = (ROOT / "experiments" / "RESULTS.md").read_text()
    assert "\n".join(samples_table(comparisons)) in results
    assert not any(each["claimed"] for each in comparisons if each["name"] in COMPARED_SETS)
