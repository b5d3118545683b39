"""The page of results and what stands in it, from written values."""

import json
import shlex
import shutil

import ablation
import pytest
from study.design import (
    MEASURES,
    TARGETS,
    headroom_title,
    title,
)
from study.samples import COMPARED_SETS


def test_claims_hold_where_mean_and_interval_say_so(written, workdir):
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    results = json.loads((workdir / "results.json").read_text())
    # One number of images is complete, and nothing that trained longer.
    of_samples = [result for result in results if result["name"] in COMPARED_SETS]
    assert len(results) == len(written.compared) * len(MEASURES) + len(of_samples)
    assert [(each["measure"], each["difference"], each["holds"]) for each in of_samples] == [
        ("right identity, %", 37.5, True),
        ("Frechet distance", -0.0766, True),
        ("recall, %", 0.0, False),
    ]
    found = {result["name"]: result for result in results if result["measure"] == "open_map"}
    scratch = found["the method against real images, from scratch"]
    assert scratch["baseline"] == "real_affine" and scratch["holds"]
    assert scratch["difference"] == scratch["low"] == scratch["high"] == pytest.approx(6.0)
    # Three seeds are too few for a claim.
    assert (scratch["seeds"], scratch["images"], scratch["claimed"]) == (3, 1, False)
    assert not found["the method against equal information"]["holds"]
    assert found["reinforced against best of N"]["difference"] == pytest.approx(5.0)
    page = (workdir / "RESULTS.md").read_text()
    assert "### 1 images, random start: 3 seeds" in page and "2 images" not in page
    first = "| lfw, 1 | reinforced against cold start | 3 | +38 (38 to 38) | -0.08 (-0.08 to -0.08)"
    assert f"\n{first} | +0 (0 to 0) |  |  |\n" in page
    assert "| 1 | random | 1 | 30.9 (real) | 30.9 (real) |\n" in page
    assert "| all | random | 1 | 61.0 (real_erasing) | 61.0 (real_erasing) |\n" in page
    assert "| 2 | random |" not in page
    # Three seeds of a table, two runs with more images; what was tried, and augmentations.
    command = "python experiments/ablation.py --workdir=DIR --data=FOLDER --targets=lfw"
    only = f"--only={shlex.quote(title(1, 'random'))}"
    assert f"\n`{command} --seeds=3 {only}`: 3.0 hours\n" in page
    assert scratch["command"] == f"{command} --seeds=3 {only}"
    assert {each["command"] for each in of_samples} == {scratch["command"]}
    assert {(each["data"], each["images"], each["claimed"]) for each in of_samples} == {
        ("lfw", 1, False)
    }
    more = [
        shlex.quote(headroom_title(images, "random", "CosFace, twice the rate"))
        for images in (1, 0)
    ]
    shown = f"{command} --seeds=1 --only={more[0]} --only={more[1]}"
    assert f"\n`{shown}`: 2.0 hours\n" in page
    assert (
        f"\n{2 * len(TARGETS['lfw'].settings) + 3}.0 hours, by the first of the commands below.\n"
        in page
    )
    assert "| arm, and change to real_affine |" in page and "| real_affine | 33.0 | " in page
    assert "| real_reinforced_selected | 38.9  +6.0 (6.0 to 6.0) |" in page
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines()}
    for arm in ("real_reinforced_selected", "synthetic_only"):
        assert rows[arm].endswith(" | 88 | 0.123 | 50 | 31 | 2 |")
    # Not of the nearest: they are some of a set, and it was measured whole.
    for arm in ("real", "real_best_of", "real_joint", "real_reinforced_nearest"):
        assert rows[arm].endswith(" |  |  |  |  |  |")
    assert "- random start: **CosFace, twice the rate**, affine, of the default rate 30.9; " in page
    general = "- general start: **twice the rate**, rand_augment, of the default rate 30.9; "
    (line,) = (line for line in page.splitlines() if line.startswith(general))
    assert "; twice the rate 41.0; " in line


def test_more_real_images_alone_have_their_table(workdir):
    shutil.rmtree(workdir / "lfw")
    ablation.main([f"--workdir={workdir}", "--targets=lfw", "--gather"])
    page = (workdir / "RESULTS.md").read_text()
    assert "### Headroom" in page and "seeds\n" not in page
    assert json.loads((workdir / "results.json").read_text()) == []
