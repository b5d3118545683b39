"""People who do not exist: the threshold, and a run that draws some and goes on after a kill."""

import json

import numpy as np
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.data.synthetic_writer import load_synthetic, read_manifest
from rlsyn_jax.stages import pretrain
from rlsyn_jax.stages.novel_identities import match_threshold


def unseen(people, images):
    identities = np.repeat(np.arange(people), images)
    random = np.random.default_rng(0)
    points = random.normal(size=(people, 8))[identities] + random.normal(size=(len(identities), 8))
    return points / np.linalg.norm(points, axis=1, keepdims=True), identities


@pytest.mark.parametrize(("people", "rate"), [(60, 1e-3), (5, 1 / 40)])
def test_so_few_pairs_of_two_people_pass(people, rate):
    embeddings, identities = unseen(people, 2)
    threshold, reached = match_threshold(default_config(), embeddings, identities)
    assert reached == pytest.approx(rate)
    one, other = np.triu_indices(len(identities), k=1)
    passes = np.einsum("nd,nd->n", embeddings[one], embeddings[other]) >= threshold
    impostors = identities[one] != identities[other]
    assert passes[impostors].sum() == int(rate * impostors.sum() + 1e-9)


def test_a_threshold_needs_pairs_of_both_kinds():
    for people, images in ((0, 2), (1, 2), (3, 1)):
        with pytest.raises(ValueError, match="pairs of one person and of two"):
            match_threshold(default_config(), *unseen(people, images))


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.05, 1)])
def test_two_people_must_be_held_out(program, tmp_path, fraction, held_out):
    config = program.config(
        split={"held_out_fraction": fraction}, synthesize={"identities": "novel"}
    )
    # Before anything is made.
    with pytest.raises(ConfigError, match=f"{held_out} are held out: set .*held_out_fraction"):
        pretrain.run(config, tmp_path)
    assert not (tmp_path / "pretrain" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["between", "away"])
def test_a_run_draws_people_who_do_not_exist(program, tmp_path, way):
    fields = {
        "synthesize.identities": "novel",
        "synthesize.novel": way,
        "synthesize.num_novel": 4,
        "synthesize.max_attempts": 5,
        "pretrain.steps": 2,
        "adapt.steps": 2,
        "reinforce.iterations": 1,
    }
    stages = "--stages=pretrain,adapt,reinforce,synthesize"
    program.run(tmp_path, stages, fields=fields)
    folder = tmp_path / "synthesize" / "novel"
    gate = json.loads((tmp_path / "synthesize" / "gate.json").read_text())["novel"]
    novel, columns = load_synthetic(folder)
    assert gate["identities"] <= 4 <= gate["candidates"] <= 20
    assert len(novel.identity_names) == 5 + 4
    assert gate["images"] == len(columns.get("file", []))
    if gate["images"]:
        # Labels count on from the five people who were trained on.
        assert columns["label"] == novel.identities.tolist()
        assert set(columns["label"]) == set(range(5, 5 + gate["identities"]))
        assert min(columns["nearest_real_distance"]) > 1 - gate["threshold"]
        assert np.bincount(columns["label"])[5:].min() >= 2  # Of three images each.
    # As a kill leaves it: the last images and the manifest are not written yet.
    before = read_manifest(folder)
    journal = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(journal[: len(journal) // 2]))
    (folder / "manifest.parquet").unlink()
    record = json.loads((tmp_path / "synthesize" / "stage.json").read_text())
    (tmp_path / "synthesize" / "stage.json").write_text(json.dumps(record | {"complete": False}))
    program.run(tmp_path, stages, fields=fields)
    assert read_manifest(folder) == before
