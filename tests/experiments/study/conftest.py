"""Runs of the study with written values, and what is gathered from them."""

import json
from types import SimpleNamespace

import ablation
import pytest
from study.claims import COMPARISONS
from study.design import (
    ALL_TARGETS,
    CHOOSERS,
    MEASURES,
    STARTS,
    TARGETS,
    Choice,
    augmenter,
    chooser,
    headroom_title,
    title,
)
from sweeping.jobs import Job
from sweeping.plan import Plan, read_plan, write_plan

# Of what metrics.json has; the set "best_of" was not measured, and copies of one were not counted.
SETS = {
    "synthetic": {
        "cold_start": {
            "identity_accuracy": {"mean": 0.5},
            "frechet_distance": {"mean": 0.2},
            "recall": {"mean": 0.5},
        },
        "reinforced": {
            "identity_accuracy": {"mean": 0.875},
            "frechet_distance": {"mean": 0.1234},
            "recall": {"mean": 0.5},
        },
    },
    "privacy": {
        "memorisation": {
            "judge": {"reinforced": {"share": {"mean": 0.02}}},
            "pixels": {"reinforced": {"share": {"mean": 0.31}}},
        }
    },
}
# By the runs of write_settings_runs.
CHOICES = {
    "random": Choice("CosFace, twice the rate", "affine"),
    "general": Choice("twice the rate", "rand_augment"),
}
GAIN = {"real_affine": 0.02, "real_reinforced_selected": 0.08, "real_reinforced": 0.05}


def write_run(folder, arms, gain, people=20):
    """Writes what a run measures: each arm so much above the first, and noise of people."""
    names = [f"person {number}" for number in range(people)]
    arms = {
        arm: {
            measure: {name: [0.3 + gain.get(arm, 0.0) + 0.001 * i] for i, name in enumerate(names)}
            for measure in MEASURES
        }
        for arm in arms
    }
    content = {"weights": {m: dict.fromkeys(names, 3) for m in MEASURES}, "arms": arms}
    folder.mkdir(parents=True)
    (folder / "per_person.json").write_text(json.dumps(content))
    (folder / "metrics.json").write_text(json.dumps(SETS))
    record = {"seconds": 3600.0, "complete": True, "fingerprint": folder.parent.name}
    (folder / "stage.json").write_text(json.dumps(record))


def plan_of(cells):
    """Returns a plan of cells whose runs measure what `write_run` writes, by CHOICES."""
    cells = {
        name: {"recognize.start": start, **CHOICES[start].fields(TARGETS["lfw"]), **fields}
        for name, fields in cells.items()
        for start in ["general" if "general start" in fields["name"] else "random"]
    }
    fingerprints = {name: {"evaluate": name} for name in cells}
    jobs = [
        Job(name, f"cells/{name}", {}, fingerprints[name], links={}, after=(), cells=(name,))
        for name in cells
    ]
    return Plan("base.py", "Faces", cells, jobs)


def write_settings_runs(folder):
    """CosFace serves random starts, twice the rate the joint training of others."""
    helped = {
        ("random", "CosFace, twice the rate"): "real_affine",
        ("general", "twice the rate"): "real_joint",
    }
    plan = {}
    for start, arms in CHOOSERS.items():
        for setting in TARGETS["lfw"].settings:
            name = chooser(start, setting)
            plan[name] = {"name": name, "seed": 0}
            gain = {helped[start, setting]: 0.1} if (start, setting) in helped else {}
            write_run(folder / "cells" / name / "evaluate", arms, gain)
    for augmentation, gain in (("erasing", -0.1), ("rand_augment", 0.2), ("affine", 0.1)):
        name = augmenter("general", augmentation)
        plan[name] = {"name": name, "seed": 0}
        write_run(folder / "cells" / name / "evaluate", ["real_joint"], {"real_joint": gain})
    write_plan(plan_of(plan), folder)


@pytest.fixture
def data_here(tmp_path_factory, monkeypatch):
    """The folders of all targets' data sets where the command looks for them, without an image."""
    folder = tmp_path_factory.mktemp("here")
    for target in ALL_TARGETS.values():
        for name in filter(None, (target.data, target.general)):
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)


@pytest.fixture
def written():
    """What writes runs, what they say, and the comparisons of cells that nothing varies."""
    return SimpleNamespace(
        run=write_run,
        plan=plan_of,
        gain=GAIN,
        choices=CHOICES,
        compared=[each for each in COMPARISONS if not each.variation and not each.longer],
    )


@pytest.fixture(name="workdir")
def written_study(tmp_path):
    plan = {}
    for seed in range(3):
        for start, arms in STARTS.items():
            name = f"cell {seed} {start}"
            plan[name] = {"name": title(1, start), "seed": seed}
            gain = GAIN if start == "random" else {}
            write_run(tmp_path / "lfw" / "cells" / name / "evaluate", arms, gain)
    plan["not complete"] = {"name": title(2, "random"), "seed": 0}
    write_plan(plan_of(plan), tmp_path / "lfw")
    more = {}
    # Settings that were not chosen are not shown.
    for images, gain, setting in (
        (1, 0.0, "CosFace, twice the rate"),
        (0, 0.3, "CosFace, twice the rate"),
        (2, 0.2, "twice the rate"),
    ):
        named = headroom_title(images, "random", setting)
        more[f"more {images}"] = {"name": named, "seed": 0}
        folder = tmp_path / "lfw_headroom" / "cells" / f"more {images}" / "evaluate"
        write_run(folder, CHOOSERS["random"], {"real_erasing": gain})
    write_plan(plan_of(more), tmp_path / "lfw_headroom")
    write_settings_runs(tmp_path / "lfw_settings")
    return tmp_path


@pytest.fixture(name="gathered")
def gathered_study(workdir, tmp_path_factory, data_here):
    """A study that has been gathered elsewhere, one seed of two images in it: flags, folder."""
    results = tmp_path_factory.mktemp("results")
    plan = read_plan(workdir / "lfw").cells | {"two": {"name": title(2, "random"), "seed": 0}}
    write_run(workdir / "lfw" / "cells" / "two" / "evaluate", STARTS["random"], GAIN)
    write_plan(plan_of(plan), workdir / "lfw")
    flags = [f"--workdir={workdir}", f"--results={results}", "--targets=lfw", "--gather"]
    ablation.main(flags)
    return flags, results


@pytest.fixture
def asked_for(monkeypatch, data_here):
    """Lets nothing run; has which folders and cells would have."""
    asked = {}

    def sweep(folder, target, changes, cells, parallel):
        asked[folder.name] = cells
        if not (folder / "sweep.json").exists():
            write_plan(plan_of({}), folder)
        return True

    monkeypatch.setattr(ablation, "sweep", sweep)
    return asked
