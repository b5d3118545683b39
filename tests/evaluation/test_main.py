"""The command: files in, a table and metrics.json out, the same figures as the functions'."""

import json

import numpy as np
import pytest
import safetensors.numpy

from rlsyn_jax.evaluation.__main__ import main
from rlsyn_jax.evaluation.fairness import group_fairness
from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking
from rlsyn_jax.evaluation.verification import ten_fold_accuracy, true_accept_rate


def embeddings_of(ids, noise, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(20, 6))
    return (centres[ids] + noise * random.normal(size=(len(ids), 6))).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    ids, gallery_ids = np.repeat(np.arange(1, 9), 4), np.tile(np.arange(-1, 9), 6)
    cameras, gallery_cameras = random.integers(0, 3, 32), random.integers(3, 5, 60)
    parts = {}
    for arm, noise in (("real", 1.0), ("mixed", 0.6)):
        parts[arm] = [
            {"embeddings": embeddings_of(own, noise, 1), "ids": own, "cameras": views}
            for own, views in ((ids, cameras), (gallery_ids, gallery_cameras))
        ]
        np.savez(tmp_path / f"{arm}.npz", **parts[arm][0])
        safetensors.numpy.save_file(parts[arm][1], tmp_path / f"{arm}.safetensors")
    return tmp_path, parts


def run(*arguments):
    main([str(argument) for argument in arguments])


def test_arms_are_ranked_and_compared(files, capsys):
    folder, parts = files
    output = folder / "out" / "metrics.json"
    run(
        "ranking", "--query", folder / "real.npz", folder / "mixed.npz",
        "--gallery", folder / "real.safetensors", folder / "mixed.safetensors",
        "--output", output, "--resamples", 100,
    )  # fmt: skip
    content = json.loads(output.read_text())
    results = {}
    for arm, (query, gallery) in parts.items():
        result = results[arm] = evaluate_ranking(*query.values(), *gallery.values())
        figures = content[arm]
        assert figures["mAP"]["value"] == pytest.approx(result.mean_average_precision)
        assert figures["mINP"]["value"] == pytest.approx(result.mean_inverse_negative_penalty)
        for rank in (1, 5, 10):
            assert figures[f"rank-{rank}"]["value"] == pytest.approx(result.cmc[rank - 1])
        assert figures["mAP"]["low"] < figures["mAP"]["value"] < figures["mAP"]["high"]
    change = content["differences"]["mixed"]["mAP"]
    gap = results["mixed"].mean_average_precision - results["real"].mean_average_precision
    assert change["value"] == pytest.approx(gap) and change["low"] > 0
    assert list(content["differences"]) == ["mixed"]
    table = capsys.readouterr().out
    assert f"{100 * results['real'].mean_average_precision:.2f} (" in table
    assert table.splitlines()[0].split() == ["queries", "with", "a", "match", "32"]


def test_re_ranking_leaves_junk_out(files):
    folder, parts = files
    run(
        "ranking", "--query", folder / "real.npz", "--gallery", folder / "real.safetensors",
        "--re_ranking", "--output", folder / "metrics.json", "--resamples", 10,
    )  # fmt: skip
    query, gallery = parts["real"]
    kept = gallery["ids"] != -1
    distances = re_rank(query["embeddings"], gallery["embeddings"][kept])
    expected = evaluate_distances(
        distances, query["ids"], query["cameras"], gallery["ids"][kept], gallery["cameras"][kept]
    )
    content = json.loads((folder / "metrics.json").read_text())
    assert content["real"]["mAP"]["value"] == pytest.approx(expected.mean_average_precision)


def pairs(**more):
    random = np.random.default_rng(2)
    first = random.normal(size=(400, 5))
    is_same = np.arange(400) % 2 == 0
    second = np.where(is_same[:, None], first, 0) + random.normal(size=(400, 5))
    return {"first": first, "second": second, "is_same": is_same, **more}


def test_pairs_are_verified_and_groups_compared(tmp_path, capsys):
    groups = np.repeat(["Asian", "Indian"], 200)
    arrays = pairs(groups=groups)
    np.savez(tmp_path / "pairs.npz", **arrays)
    output = tmp_path / "metrics.json"
    run("verification", "--pairs", tmp_path / "pairs.npz", "--output", output)
    content = json.loads(output.read_text())
    three = arrays["first"], arrays["second"], arrays["is_same"]
    folds = ten_fold_accuracy(*three)
    assert content["accuracy"]["value"] == pytest.approx(folds.accuracy_mean)
    assert content["accuracy"]["std"] == pytest.approx(folds.accuracy_std)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in three[:2]]
    expected = true_accept_rate((unit[0] * unit[1]).sum(axis=1), three[2], 0.01)
    rates = content["true_accept_rates"]
    assert rates["0.01"]["value"] == expected.true_accept_rate.value
    assert rates["0.001"] is None and content["num_impostors"] == 200
    fairness = group_fairness(*three, groups, group_names=("Asian", "Indian"))
    shared = content["fairness"]["shared_threshold"]
    assert shared["accuracies"] == pytest.approx(fairness.shared_threshold.accuracies)
    table = capsys.readouterr().out
    assert "not measurable: less than one of 200 impostor pairs" in table
    assert "Gini of errors" in table


def test_bad_input_ends_with_one_sentence(files, capsys):
    folder, parts = files
    np.savez(folder / "short.npz", **pairs(is_same=np.ones(3)))
    other = {**parts["mixed"][0], "ids": parts["mixed"][0]["ids"][::-1]}
    np.savez(folder / "other.npz", **other)
    ranking = ["ranking", "--output", folder / "metrics.json", "--query", folder / "real.npz"]
    for arguments, message in (
        (["verification", "--pairs", folder / "short.npz"], "expected first [n, dim]"),
        (["verification", "--pairs", folder / "real.npz"], "lacks the arrays ['first'"),
        ([*ranking, folder / "mixed.npz", "--gallery", folder / "real.npz"], "needs its gallery"),
        (
            [*ranking, folder / "real.npz", "--gallery", folder / "a.npz", folder / "b.npz"],
            "different names",
        ),
        ([*ranking, "--gallery", folder / "missing.npz"], "missing.npz"),
        (
            [*ranking, folder / "other.npz", "--gallery", *[folder / "real.safetensors"] * 2],
            "are not those of real",
        ),
    ):
        with pytest.raises(SystemExit) as error:
            run(*arguments)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not (folder / "metrics.json").exists()
