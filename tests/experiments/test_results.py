"""The table and the page of a sweep, from metrics as runs write them."""

import json
import re

import pyarrow.parquet
import pytest
from sweeping.jobs import Job
from sweeping.plan import Plan
from sweeping.results import figures_of, write_results

COMPLETE = '{"complete": true, "fingerprint": "now"}'


def plan_of(title, cells):
    jobs = [Job(name, f"cells/{name}", {}, {"report": "now"}, {}, (), (name,)) for name in cells]
    return Plan("base.py", title, cells, jobs)


def figure(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def metrics(map_of_arm):
    return {
        "arms": {
            arm: {"open_map": {**figure(mean), "seeds": [mean]}, "verification": figure(0.5)}
            for arm, mean in map_of_arm.items()
        },
        "differences": {
            arm: {"open_map": figure(mean - map_of_arm["real"])}
            for arm, mean in map_of_arm.items()
            if arm != "real"
        },
        "synthetic": {"cold_start": {"recall": figure(0.6), "near_copies": None}},
        "privacy": {
            "memorisation": {"judge": {"reinforced": {"share": figure(0.2), "threshold": 0.4}}},
            "identity_leakage": {"0.001": {"held_out": {"own": {"rate": figure(0.3)}}}},
        },
    }


def test_every_figure_is_a_row_of_its_arm_measure_and_split():
    rows = list(figures_of(metrics({"real": 0.7, "real_reinforced": 0.8})))
    names = ("arm", "measure", "split", "mean", "difference")
    shown = [tuple(row[name] for name in names) for row in rows]
    assert shown == [
        ("real", "map", "open", 0.7, None),
        ("real", "verification", "open", 0.5, None),
        ("real_reinforced", "map", "open", 0.8, pytest.approx(0.1)),
        ("real_reinforced", "verification", "open", 0.5, None),
        ("cold_start", "recall", "synthetic", 0.6, None),
        ("reinforced", "memorisation/judge/share", "privacy", 0.2, None),
        ("", "identity_leakage/0.001/held_out/own/rate", "privacy", 0.3, None),
    ]
    assert rows[2]["difference_low"] == pytest.approx(0.0)
    assert rows[2]["low"] == pytest.approx(0.7) and rows[2]["high"] == pytest.approx(0.9)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a sweep of which one cell is complete, one failed and one was not begun."""
    folder = tmp_path_factory.mktemp("sweep")
    cells = {
        f"eta={eta}": {"reinforce.eta": eta, "recognize.arms": ("real", "real_reinforced")}
        for eta in (0.5, 0.7, 0.9)
    }
    workdir = folder / "cells" / "eta=0.5"
    for stage in ("evaluate", "report"):
        (workdir / stage).mkdir(parents=True)
        (workdir / stage / "stage.json").write_text(COMPLETE)
    content = metrics({"real": 0.7, "real_reinforced": 0.8})
    (workdir / "evaluate" / "metrics.json").write_text(json.dumps(content))
    # Complete, as something else.
    (folder / "cells" / "eta=0.9" / "report").mkdir(parents=True)
    other = COMPLETE.replace("now", "before")
    (folder / "cells" / "eta=0.9" / "report" / "stage.json").write_text(other)
    plan = plan_of("My <run>", cells)
    page = write_results(plan, folder, {"eta=0.7": "error: <b>"})
    return folder, page.read_text()


def test_the_table_holds_what_complete_cells_measured_beside_their_fields(results):
    rows = pyarrow.parquet.read_table(results[0] / "results.parquet").to_pylist()
    assert len(rows) == 7 and {row["cell"] for row in rows} == {"eta=0.5"}
    assert rows[2]["reinforce.eta"] == 0.5 and rows[2]["recognize.arms"] == "real+real_reinforced"
    assert rows[2]["arm"] == "real_reinforced" and rows[2]["mean"] == 0.8


def test_the_page_shows_cells_failures_and_charts_and_fetches_nothing(results):
    page = results[1]
    assert "1 of 3 cells are complete, 1 failed." in page
    assert "failed: error: &lt;b&gt;" in page and "My &lt;run&gt;" in page
    assert 'href="cells/eta%3D0.5/report/report.html"' in page and "not complete" in page
    assert "recognize.arms" not in page  # The same in all cells.
    # Two measures, by cell and by field.
    assert len(re.findall(r'<img src="data:image/svg', page)) == 2 * 2
    assert not re.findall(r'(?:src|href)="http', page)


@pytest.mark.filterwarnings("error")
def test_cells_may_have_other_arms(tmp_path):
    arms = {0.5: ("real", "real_reinforced"), 0.7: ("real",)}
    plan = plan_of("title", {f"eta={eta}": {"reinforce.eta": eta} for eta in arms})
    for eta, names in arms.items():
        workdir = tmp_path / "cells" / f"eta={eta}"
        for stage in ("evaluate", "report"):
            (workdir / stage).mkdir(parents=True)
            (workdir / stage / "stage.json").write_text(COMPLETE)
        content = json.dumps(metrics(dict.fromkeys(names, 0.7)))
        (workdir / "evaluate" / "metrics.json").write_text(content)
    page = write_results(plan, tmp_path, {}).read_text()
    assert "2 of 2 cells are complete." in page


@pytest.mark.filterwarnings("error")
def test_many_cells_of_long_names_have_charts_that_can_be_read(tmp_path):
    names = [
        f"name={number}-images-random-start,arms={'real+' * 10}{number:02}" for number in range(30)
    ]
    plan = plan_of(
        "title", {name: {"name": name, "seed": number} for number, name in enumerate(names)}
    )
    for name in names:
        workdir = tmp_path / "cells" / name
        for stage in ("evaluate", "report"):
            (workdir / stage).mkdir(parents=True)
            (workdir / stage / "stage.json").write_text(COMPLETE)
        (workdir / "evaluate" / "metrics.json").write_text(json.dumps(metrics({"real": 0.7})))
    page = write_results(plan, tmp_path, {}).read_text()
    assert "30 of 30 cells are complete." in page
    # By cell alone: thirty names have no room below an axis.
    assert len(re.findall(r'<img src="data:image/svg', page)) == 2


def test_a_sweep_that_has_nothing_yet_has_a_page(tmp_path):
    plan = plan_of("title", {"seed=0": {"seed": 0}, "seed=1": {"seed": 1}})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "seed=0.log").write_text("$ command\nstep 7\n\n")
    page = write_results(plan, tmp_path, {}).read_text()
    assert "0 of 2 cells are complete." in page and "not complete: step 7" in page
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert table.num_rows == 0 and table.schema.field("seed").type == "int64"
