"""The command: files in, a table and metrics.json out, the same figures as the functions'."""

import base64
import io
import json
import re

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from rlsyn_jax.evaluation.__main__ import main
from rlsyn_jax.evaluation.fairness import group_fairness
from rlsyn_jax.evaluation.ranking_lists import ranking_lists, spread_queries
from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking
from rlsyn_jax.evaluation.verification import ten_fold_accuracy, true_accept_rate
from rlsyn_jax.report.recognition_charts import ranking_strip


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


def pictures(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 4, 2, 3)).astype(np.uint8)


def images_of(html):
    return re.findall(r'<img[^>]* src="([^"]*)"', html)


def test_a_page_shows_what_the_queries_of_every_arm_find(files):
    folder, parts = files
    images = {"query": pictures(32), "gallery": pictures(60, 1)}
    for side, part in zip(images, parts["mixed"]):
        np.savez(folder / f"mixed_{side}.npz", **part, images=images[side])
    page, output = folder / "page.html", folder / "metrics.json"
    arguments = ["--output", output, "--resamples", 10]
    galleries = [folder / "real.safetensors", folder / "mixed_gallery.npz"]
    queries = [folder / "real.npz", folder / "mixed_query.npz"]
    run("ranking", "--query", *queries, "--gallery", *galleries, *arguments, "--report", page)
    html, metrics = page.read_text(), json.loads(output.read_text())
    result = evaluate_ranking(*parts["real"][0].values(), *parts["real"][1].values())
    chosen = spread_queries(result.average_precisions, result.valid_queries, 8)
    expected = [
        ranking_strip(
            images["query"][found.query], images["gallery"][[*found.gallery]], found.right
        )
        for each in zip(
            *(
                ranking_lists(*query.values(), *gallery.values(), chosen)
                for query, gallery in parts.values()
            )
        )
        for found in each
    ]
    # The curves, and then both arms' rankings query by query.
    assert images_of(html)[1:] == expected and len(expected) == 16
    change = metrics["differences"]["mixed_query"]["mAP"]["value"]
    assert f"{100 * change:+.2f}" in html and "mixed_query less real" in html
    # Without pictures of both sides there is a page that says so.
    run("ranking", "--query", queries[1], "--gallery", galleries[0], *arguments, "--report", page)
    assert len(images_of(page.read_text())) == 1 and "Not shown" in page.read_text()


def test_the_page_of_a_re_ranking_shows_the_ranking_that_was_measured(files):
    folder, parts = files
    query, gallery = parts["real"]
    images = pictures(60, 1)
    np.savez(folder / "query.npz", **query, images=pictures(32))
    np.savez(folder / "gallery.npz", **gallery, images=images)
    run(
        "ranking", "--query", folder / "query.npz", "--gallery", folder / "gallery.npz",
        "--re_ranking", "--output", folder / "metrics.json", "--resamples", 10,
        "--report", folder / "page.html",
    )  # fmt: skip
    kept = np.flatnonzero(gallery["ids"] != -1)
    distances = re_rank(query["embeddings"], gallery["embeddings"][kept])
    result = evaluate_distances(
        distances, query["ids"], query["cameras"], gallery["ids"][kept], gallery["cameras"][kept]
    )
    strips = images_of((folder / "page.html").read_text())[1:]
    chosen = spread_queries(result.average_precisions, result.valid_queries, 8)
    assert len(strips) == len(chosen) == 8
    # No camera is shared: the five nearest are shown as they are.
    for place, strip in zip(chosen, strips):
        found = kept[np.argsort(distances[place], kind="stable")[:5]]
        right = gallery["ids"][found] == query["ids"][place]
        assert strip == ranking_strip(pictures(32)[place], images[found], right)


def test_the_page_of_pairs_has_curve_and_groups(tmp_path):
    arrays = pairs(groups=np.repeat(["<Asian>", "Indian"], 200))
    np.savez(tmp_path / "pairs.npz", **arrays)
    command = ["verification", "--pairs", tmp_path / "pairs.npz", "--output", tmp_path / "m.json"]
    run(*command)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "pairs.npz"]
    run(*command, "--report", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert len(images_of(html)) == 2 and "&lt;Asian&gt;" in html
    assert f"{100 * metrics['fairness']['own_threshold']['mean']:.2f}" in html
    assert "not measured" in html
    np.savez(tmp_path / "pairs.npz", **pairs())
    run(*command, "--report", tmp_path / "page.html")
    assert len(images_of((tmp_path / "page.html").read_text())) == 1


@pytest.fixture
def released(tmp_path):
    """Four copies of training image 3, of person 1; some held-out images are of strangers."""
    people = {"train": np.repeat([0, 1, 2], 3), "synthetic": np.repeat([0, 1, 2], 8)}
    people["held_out"] = np.concatenate([np.repeat([0, 1, 2], 8), np.repeat(np.arange(10, 20), 5)])
    arrays = {
        name: {
            "embeddings": embeddings_of(ids, 0.5, seed),
            "ids": ids,
            "images": pictures(len(ids), seed),
        }
        for seed, (name, ids) in enumerate(people.items())
    }
    for name in ("embeddings", "images"):
        arrays["synthetic"][name][8:12] = arrays["train"][name][3]
    return tmp_path, arrays


def privacy(folder, arrays, *more):
    for name, part in arrays.items():
        np.savez(folder / f"{name}.npz", **part)
    files = [word for name in arrays for word in (f"--{name}", folder / f"{name}.npz")]
    output = folder / "metrics.json"
    run("privacy", *files, "--output", output, "--resamples", 20, *more)
    return json.loads(output.read_text())


def test_copies_are_found_counted_and_shown(released, capsys):
    folder, arrays = released
    metrics = privacy(folder, arrays, "--report", folder / "page.html")
    for space in ("embeddings", "pixels"):
        found = metrics["memorisation"][space]["synthetic"]
        copies = {(one["synthetic_image"], one["train_image"]) for one in found["closest"][:4]}
        assert copies == {(place, 3) for place in range(8, 12)}
        assert found["num_near_copies"] >= 4 and found["expected_share"] == 0.05
    extracted, *_ = metrics["extraction"]["synthetic"]["extracted"]  # Others lie further away.
    assert (extracted["identity"], extracted["real"], extracted["num_duplicates"]) == (1, 3, 4)
    assert metrics["extraction"]["synthetic"]["chance"]["mean"] == 0
    at_rate = metrics["identity_leakage"]["0.001"]
    assert at_rate["num_impostors"] == 10 * 9 // 2 * 25
    assert set(at_rate) == {"threshold", "num_impostors", "synthetic", "held_out"}
    rare = "0.0001 is less than one of 1125 pairs of unseen people"
    assert metrics["identity_leakage"]["0.0001"] == {"not_measured": rare}
    html, table = (folder / "page.html").read_text(), capsys.readouterr().out
    assert rare in html and rare in table
    copied = arrays["train"]["images"][3]
    pair = Image.open(io.BytesIO(base64.b64decode(images_of(html)[1].split(",")[1])))
    np.testing.assert_array_equal(np.asarray(pair), np.concatenate([copied, copied]))
    # Distances, ten pairs in each space, and what was extracted.
    found = len(metrics["extraction"]["synthetic"]["extracted"])
    assert len(images_of(html)) == 1 + 2 * 10 + found
    assert html.count('<figure class="near">') >= 9


def test_what_files_do_not_tell_is_named_and_not_guessed(released, capsys):
    folder, arrays = released
    for name in ("train", "synthetic", "held_out"):
        del arrays[name]["images"]
        pixels = privacy(folder, arrays)["memorisation"]["pixels"]["not_measured"]
        assert pixels.startswith("no images were given of ") and name in pixels
    capsys.readouterr()
    # Too few of the training people, and one stranger.
    arrays["held_out"] = {name: part[5:29] for name, part in arrays["held_out"].items()}
    metrics = privacy(folder, arrays, "--report", folder / "page.html")
    for found, reason in (
        (metrics["memorisation"]["embeddings"], "0.05 quantile of 19 held-out images"),
        (metrics["memorisation"]["pixels"], "0.05 quantile of 19 held-out images"),
        (metrics["identity_leakage"], "1 unseen people"),
        (metrics["extraction"], "no images were given of synthetic, train"),
    ):
        assert list(found) == ["not_measured"] and reason in found["not_measured"]
        assert reason in (folder / "page.html").read_text()
    assert capsys.readouterr().out.count("not measured: ") == 4
    assert images_of((folder / "page.html").read_text()) == []


@pytest.mark.parametrize(
    ("name", "array", "change", "message"),
    [
        ("train", "ids", lambda ids: ids[:-1], "train.npz: ids: expected one of each of 9"),
        ("synthetic", "ids", lambda ids: ids + 1, r"synthetic people [3] are none of"),
        ("held_out", "ids", lambda ids: ids - 1, "held_out.npz: ids must be 0 or more"),
        ("train", "embeddings", lambda each: each * np.nan, "row 0 is not"),
        ("train", "embeddings", lambda each: each[:, :3], "must come from one network"),
        ("synthetic", "embeddings", lambda each: each * 0, "24 of 24 rows are zeros"),
        ("synthetic", "embeddings", lambda each: each * 1e20, "so that lengths are finite"),
        ("synthetic", "images", lambda each: each[1:], "23 images do not fit 24 embeddings"),
        ("train", "images", lambda each: each[:, :2], "must be of one size"),
        ("train", "images", lambda each: each / 255, "expected uint8"),
    ],
)
def test_bad_images_end_before_anything_is_written(released, capsys, name, array, change, message):
    folder, arrays = released
    arrays[name][array] = change(arrays[name][array])
    with pytest.raises(SystemExit) as error:
        privacy(folder, arrays, "--report", folder / "page.html")
    assert error.value.code == 2 and message in capsys.readouterr().err
    assert not (folder / "metrics.json").exists() and not (folder / "page.html").exists()


def test_held_out_images_that_were_trained_on_are_refused(released, capsys):
    folder, arrays = released
    for name in arrays["held_out"]:
        arrays["held_out"][name][:2] = arrays["train"][name][[3, 4]]
    with pytest.raises(SystemExit) as error:
        privacy(folder, arrays)
    assert error.value.code == 2
    assert "2 of 74 held-out images have the embedding of a training" in capsys.readouterr().err


def test_what_is_read_is_not_written_over(files, capsys):
    folder, _ = files
    given = (folder / "real.npz").read_bytes()
    ranking = ["ranking", "--query", folder / "real.npz", "--gallery", folder / "mixed.npz"]
    for option, other in (("--output", "metrics.json"), ("--report", "page.html")):
        with pytest.raises(SystemExit):
            run(*ranking, option, folder / "." / "real.npz")
        assert f"{option} is" in (told := capsys.readouterr().err) and "--query reads" in told
        assert not (folder / other).exists()
    assert (folder / "real.npz").read_bytes() == given


def test_bad_input_ends_with_one_sentence(files, capsys):
    folder, parts = files
    np.savez(folder / "short.npz", **pairs(is_same=np.ones(3)))
    np.savez(folder / "maybe.npz", **pairs(is_same=np.full(400, np.nan)))
    for name, shape in (("few", (31, 4, 2, 3)), ("tall", (32, 5, 2, 3))):
        images = np.zeros(shape, np.uint8)
        np.savez(folder / f"{name}.npz", **parts["real"][0], images=images)
    np.savez(folder / "seen.npz", **parts["real"][1], images=pictures(60))
    other = {**parts["mixed"][0], "ids": parts["mixed"][0]["ids"][::-1]}
    np.savez(folder / "other.npz", **other)
    report = ["--report", folder / "page.html", "--output", folder / "metrics.json"]
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
        (["verification", "--pairs", folder / "maybe.npz"], "must be true or false"),
        (
            ["ranking", "--query", folder / "few.npz", "--gallery", folder / "seen.npz", *report],
            "31 images do not fit 32 embeddings",
        ),
        (
            ["ranking", "--query", folder / "tall.npz", "--gallery", folder / "seen.npz", *report],
            "cannot be shown side by side",
        ),
        (
            [*ranking, "--gallery", folder / "real.safetensors"]
            + ["--report", folder / "metrics.json"],
            "choose two names",
        ),
        (
            [*ranking, "--gallery", folder / "real.safetensors", "--output", folder],
            "it is a folder; name a file",
        ),
        (
            [*ranking, "--gallery", folder / "real.safetensors"]
            + ["--report", folder / "real.npz" / "page.html"],
            "a part of the path is a file; choose another folder",
        ),
        (
            [*ranking, folder / "other.npz", "--gallery", *[folder / "real.safetensors"] * 2],
            "are not those of real",
        ),
    ):
        with pytest.raises(SystemExit) as error:
            run(*arguments)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not (folder / "metrics.json").exists() and not (folder / "page.html").exists()
