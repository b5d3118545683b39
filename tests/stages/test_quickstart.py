"""The shrunken quickstart as a user runs it: one command, every output, and nothing done twice."""

import html.parser
import json
import math
import os
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from rlsyn_jax.config import PRIVACY_ATTACKS, default_config
from rlsyn_jax.data.synthetic_writer import read_manifest
from rlsyn_jax.main import STAGES
from rlsyn_jax.stages.stage_record import plain
from rlsyn_jax.training.checkpoints import restore_params

pytestmark = pytest.mark.slow

ARMS = default_config().recognize.arms
SETS = {"cold_start": "adapt", "reinforced": "reinforce"}
ONE_FIGURE = {"mean", "low", "high"}


@pytest.fixture(scope="module")
def workdir(program, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("quickstart") / "new" / "run"
    log = program.run(workdir)
    for stage in STAGES:
        assert f"{stage}: starting in {workdir / stage}" in log
        assert re.search(rf"{stage}: done in \d+ s", log)
    assert f"The report: {workdir / 'report' / 'report.html'}" in log
    return workdir


def written(workdir):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(workdir.rglob("*"))
        if path.is_file()
    }


def test_the_same_command_again_does_nothing(program, workdir):
    before = written(workdir)
    log = program.run(workdir)
    for stage in STAGES:
        assert f"{stage}: complete in {workdir / stage}, nothing to do" in log
    assert "starting" not in log and "resuming" not in log and "done in" not in log
    assert written(workdir) == before


def test_another_command_on_the_same_folder_is_refused_and_changes_nothing(program, workdir):
    before = written(workdir)
    process = program.start(workdir, fields={"adapt.steps": 7})
    log = program.log_of(process)
    assert process.returncode == 1 and "Traceback" not in log
    assert "config.adapt.steps: 6 there, 7 now" in log
    assert written(workdir) == before


class Page(html.parser.HTMLParser):
    """What a page shows and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.images, self.links, self.headings, self.fetched = [], [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            self.images.append(attributes["src"])
            assert attributes["alt"]
        if tag == "a":
            self.links.append(attributes["href"])
        if tag in ("script", "link", "iframe", "object", "source", "video", "audio"):
            self.fetched.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())


def test_the_report_is_one_whole_page_with_every_section(workdir):
    text = (workdir / "report" / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and page.fetched == []
    assert "url(" not in text and "@import" not in text
    assert [i for i in page.ids if i] == ["arms", "samples", "learning", "privacy", "map", "run"]
    assert page.headings[0] == "Quickstart, shrunken" and len(page.headings) == 7
    assert all(src.startswith("data:image/") and len(src) > 100 for src in page.images)
    # Charts of four metrics, three strips for each of three people, curves, distances, pairs, map.
    assert len(page.images) >= 4 + 9 + 3 + 1 + 2 + 1
    for link in page.links:
        inside = link.startswith("#") and link[1:] in page.ids
        assert inside or (workdir / "report" / link).exists(), link
    for part in (
        "real only",
        "synthetic only, after RL",
        "&#34;num_identities&#34;: 8",
        "together",
    ):
        assert part in text
    assert not re.search(r"\bnan\b|\binf\b|undefined|None</td>", text.partition("<details>")[0])


def require_figure(figure):
    assert ONE_FIGURE <= set(figure)
    assert all(math.isfinite(figure[part]) for part in ONE_FIGURE), figure
    assert figure["low"] <= figure["mean"] <= figure["high"], figure


def test_metrics_hold_every_arm_and_set_with_ordered_intervals(workdir, program):
    metrics = json.loads((workdir / "evaluate" / "metrics.json").read_text())
    assert list(metrics["arms"]) == list(ARMS)
    assert list(metrics["differences"]) == [arm for arm in ARMS if arm != "real"]
    names = {
        "open_map", "open_minp", "open_rank1", "open_rank5", "open_rank10",
        "closed_rank1", "verification", "equal_error_rate", "tar_at_far_1e-2",
    }  # fmt: skip
    # 3 unseen people have 108 pairs of two.
    assert set(metrics["not_measured"]) == {"tar_at_far_1e-3"}
    assert "108 impostor pairs" in metrics["not_measured"]["tar_at_far_1e-3"]
    for arm in ARMS:
        assert set(metrics["arms"][arm]) == names
        for figure in metrics["arms"][arm].values():
            require_figure(figure)
            assert 0 <= figure["low"] and figure["high"] <= 1
            assert len(figure["seeds"]) == 1
            np.testing.assert_allclose(figure["seeds"][0], figure["mean"])
    for arm, figures in metrics["differences"].items():
        for name, figure in figures.items():
            require_figure(figure)
            change = metrics["arms"][arm][name]["mean"] - metrics["arms"]["real"][name]["mean"]
            np.testing.assert_allclose(figure["mean"], change, atol=1e-9)
    assert list(metrics["synthetic"]) == ["real_train", *SETS]
    for figures in metrics["synthetic"].values():
        near_copies = figures.pop("near_copies")
        assert figures.pop("num_images") > 0
        assert near_copies is None or near_copies >= 0
        for name, figure in figures.items():
            require_figure(figure)
            if name in ("precision", "recall", "coverage", "vendi_share", "identity_error"):
                assert 0 <= figure["low"] and figure["high"] <= 1
    curves = json.loads((workdir / "evaluate" / "curves.json").read_text())
    assert list(curves["cmc"]) == list(curves["roc"]["arms"]) == list(ARMS)
    for arm in ARMS:
        assert curves["cmc"][arm][0] == pytest.approx(metrics["arms"][arm]["open_rank1"]["mean"])
        assert curves["roc"]["arms"][arm][-1] == 1
    for found in curves["rankings"]["lists"]:
        assert found["query"] not in found["gallery"] and len(found["gallery"]) == 5
    protocol = metrics["protocol"]
    assert protocol["train_identities"] == 5 and protocol["held_out_identities"] == 3
    assert protocol["train_images"] == 15 and protocol["closed_queries"] == 10


def test_privacy_is_measured_with_chance_and_pictures(workdir):
    privacy = json.loads((workdir / "evaluate" / "metrics.json").read_text())["privacy"]
    assert list(privacy) == list(PRIVACY_ATTACKS)
    # 10 held-out images have no 5 % quantile.
    assert all("10 held-out" in part["not_measured"] for part in privacy["memorisation"].values())
    assert "108 pairs" in privacy["identity_leakage"]["0.001"]["not_measured"]
    for attacks in privacy["membership"].values():
        for found in attacks.values():
            require_figure(found["auc"])
            assert (found["num_members"], found["num_non_members"]) == (15, 10)
            assert found["true_positive_rate"] is None and "10 non-members" in found["not_measured"]
    assert list(privacy["recognizer_membership"]) == list(ARMS)
    for found in privacy["recognizer_membership"].values():
        require_figure(found["auc"])
        assert found["auc"]["seeds"] == [found["auc"]["mean"]]
        assert (found["num_members"], found["num_non_members"]) == (15, 10)
    for name in SETS:
        require_figure(privacy["extraction"][name]["share"])
        require_figure(privacy["extraction"][name]["chance"])
        assert privacy["extraction"][name]["num_samples"] == 4 * 8


@pytest.mark.parametrize("name", SETS)
def test_the_synthetic_data_set_keeps_its_contract(workdir, name):
    directory = workdir / "synthesize" / name
    manifest = read_manifest(directory)
    assert list(manifest) == [
        "identity", "file", "seed", "checkpoint", "nearest_real_distance",
        "reward_coverage", "reward_richness", "reward_semantic",
    ]  # fmt: skip
    gate = json.loads((workdir / "synthesize" / "gate.json").read_text())
    count = gate[name]["images"]
    assert count + gate[name]["near_copies_left_out"] == 5 * 3 and count > 0
    assert all(len(column) == count for column in manifest.values())
    assert set(manifest["checkpoint"]) == {SETS[name]}
    numbers = [column for key, column in manifest.items() if key.startswith(("reward", "nearest"))]
    assert np.isfinite(numbers).all()
    assert min(manifest["nearest_real_distance"]) >= gate["near_copy_threshold"]
    assert len(set(zip(manifest["identity"], manifest["seed"]))) == count

    # As ImageFolder-style tools walk: a folder is a class, every image in it an example.
    walked = [
        (folder.name, f"{folder.name}/{file.name}")
        for folder in sorted(directory.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
    ]
    assert sorted(walked) == sorted(zip(manifest["identity"], manifest["file"]))
    for _, file in walked:
        image = Image.open(directory / file)
        assert image.size == (16, 16) and image.mode == "RGB" and image.format == "PNG"
    card = (directory / "README.md").read_text()
    for part in ("# Synthetic identity data set: Quickstart", f"{count} images", "## Privacy"):
        assert part in card


def test_both_sets_are_drawn_from_the_same_noise(workdir):
    one, other = (read_manifest(workdir / "synthesize" / name) for name in SETS)
    assert set(one["seed"]) & set(other["seed"])
    folders = [workdir / "synthesize" / name for name in SETS]
    shared = sorted(set(one["file"]) & set(other["file"]))
    pairs = [[(folder / file).read_bytes() for folder in folders] for file in shared]
    assert any(first != second for first, second in pairs)  # The policy has moved.


@pytest.mark.parametrize(
    "stage", ["pretrain", "adapt", "reinforce", *(f"recognize/seed_0/{arm}" for arm in ARMS)]
)
def test_every_stage_loads_in_two_lines(workdir, program, stage):
    params = restore_params(workdir / stage)
    leaves = jax.tree.leaves(params)
    assert leaves and all(np.isfinite(leaf).all() for leaf in leaves)
    if "recognize" in stage:
        assert set(params) == {"backbone", "classifier"}
        return
    last = restore_params(workdir / stage, ema=False)
    assert jax.tree.structure(last) == jax.tree.structure(params)
    rows = params["y_embedder"]["embedding_table"].shape[0]
    assert rows == {"pretrain": 6, "adapt": 5, "reinforce": 5}[stage] + 1


def test_every_checkpoint_carries_its_config(workdir, program):
    expected = plain(program.config())
    steps = [path.parent for path in workdir.glob("**/meta") if path.parent.name.isdigit()]
    assert len(steps) >= 6 + 3 + 6
    for step in steps:
        with ocp.CheckpointManager(step.parent) as manager:
            arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
            assert manager.restore(int(step.name), args=arguments).meta["config"] == expected


def test_every_line_of_metrics_is_json_in_order(workdir):
    files = sorted(workdir.glob("**/metrics.jsonl"))
    assert len(files) == 3 + len(ARMS)
    for file in files:
        records = [json.loads(line) for line in file.read_text().splitlines()]
        steps = [record["step"] for record in records]
        assert steps == sorted(set(steps)), file
        assert all(math.isfinite(v) for r in records for v in r.values() if not isinstance(v, str))
    reinforce = (workdir / "reinforce" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in reinforce] == [0, 1, 2]
    for name in ("semantic", "coverage", "richness"):
        assert f"reward/{name}" in json.loads(reinforce[-1])


def test_rewards_of_sets_are_told_as_whole_sets_have_them(workdir):
    """The mean of what samples add to a set's richness is never below 0; the set's never above."""
    lines = (workdir / "reinforce" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for name in ("reward/richness", "fixed/richness"):
        told = [record[name] for record in records if name in record]
        assert len(told) >= 2 and max(told) < 0, (name, told)


def test_nothing_is_left_lying_about(workdir):
    leftovers = [
        path
        for path in workdir.rglob("*")
        if path.name.startswith(".") or "orbax-checkpoint-tmp" in path.name
    ]
    assert leftovers == []
    assert set(os.listdir(workdir)) == set(STAGES)
