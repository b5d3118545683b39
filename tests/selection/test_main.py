"""The command: manifest and embeddings in, a manifest of the kept rows out, as by brute force."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter, load_synthetic, read_manifest
from rlsyn_jax.selection.__main__ import main

PEOPLE = ("anna", "bo", "cy")
COUNTS = (7, 5, 2)
WIDTH = 6


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A data set of three people, embeddings of its images and of real ones, in both formats."""
    folder = tmp_path_factory.mktemp("selection")
    random = np.random.default_rng(0)
    writer = SyntheticDatasetWriter(folder / "set", identity_names=PEOPLE)
    identities = np.repeat(PEOPLE, COUNTS)
    for number, name in enumerate(identities):
        image = random.integers(0, 256, (4, 4, 3), np.uint8)
        writer.write_image(name, number, image, {"seed": number})
    writer.finish(card="", metadata={"config": "test"})
    synthetic = random.normal(size=(len(identities), WIDTH)).astype(np.float32)
    real = random.normal(size=(9, WIDTH)).astype(np.float32)
    ids = np.array([2, 0, 1, 1, 0, 2, 0, 1, 2])
    files = np.array(read_manifest(folder / "set")["file"])
    np.savez(folder / "synthetic.npz", embeddings=synthetic, files=files)
    np.savez(folder / "real.npz", embeddings=real, identities=np.array(PEOPLE)[ids])
    safetensors.numpy.save_file(
        {"embeddings": real, "ids": ids.astype(np.int64)}, folder / "real.safetensors"
    )
    return folder, identities, unit(synthetic), unit(real), np.array(PEOPLE)[ids]


def run(folder, *arguments, manifest="set", synthetic="synthetic.npz", real="real.npz"):
    options = [folder / manifest, "--synthetic", folder / synthetic, "--real", folder / real]
    main([str(argument) for argument in (*options, *arguments)])


def ranks_of(path):
    """{number of the image: rank}."""
    table = pq.read_table(path)
    return dict(zip(table["seed"].to_pylist(), table["pick_rank"].to_pylist()))


def nearest_first(synthetic, real, number):
    return np.argsort(-(synthetic @ real.T).max(axis=1))[:number].tolist()


def farthest_first(synthetic, real, number):
    picked = nearest_first(synthetic, real, 1)
    while len(picked) < min(number, len(synthetic)):
        apart = [
            min(np.linalg.norm(row - synthetic[other]) for other in picked) for row in synthetic
        ]
        apart = [-1 if row in picked else value for row, value in enumerate(apart)]
        picked.append(int(np.argmax(apart)))
    return picked


@pytest.mark.parametrize(("trade_off", "order"), [(1, nearest_first), (0, farthest_first)])
@pytest.mark.parametrize("real", ["real.npz", "real.safetensors"])
def test_both_limits_are_those_of_brute_force_in_each_identity(problem, trade_off, order, real):
    folder, identities, synthetic, references, people = problem
    output = folder / "out" / "kept.parquet"
    run(folder, "--images", 4, "--trade_off", trade_off, "--output", output, real=real)
    expected = {}
    for name in PEOPLE:
        rows = np.flatnonzero(identities == name)
        picked = order(synthetic[rows], references[people == name], 4)
        expected |= {int(rows[place]): rank for rank, place in enumerate(picked, 1)}
    assert ranks_of(output) == expected and len(expected) == 4 + 4 + 2


@pytest.mark.parametrize(("trade_off", "order"), [(1, nearest_first), (0, farthest_first)])
def test_both_limits_are_those_of_brute_force_among_all(problem, trade_off, order):
    folder, _, synthetic, references, _ = problem
    output = folder / "total.parquet"
    run(folder, "--images", 6, "--total", "--trade_off", trade_off, "--output", output)
    expected = order(synthetic, references, 6)
    assert ranks_of(output) == {place: rank for rank, place in enumerate(expected, 1)}


def test_rows_keep_their_columns_and_order_and_the_table_says_what_was_kept(problem, capsys):
    folder, identities, synthetic, references, people = problem
    run(
        folder, "--images", 3, "--per_identity", "--trade_off", 0.5, manifest="set/manifest.parquet"
    )
    output = folder / "set" / "selected.parquet"
    table, whole = pq.read_table(output), read_manifest(folder / "set")
    assert table.column_names == [*whole, "nearest_real_similarity", "pick_rank"]
    kept = table["seed"].to_pylist()
    assert kept == sorted(kept) and len(kept) == 3 + 3 + 2
    for name, column in whole.items():
        assert table[name].to_pylist() == [column[row] for row in kept]
    own = np.where(identities[:, None] == people, synthetic @ references.T, -2).max(axis=1)
    np.testing.assert_allclose(table["nearest_real_similarity"], own[kept], atol=1e-6)
    similarity = synthetic[kept] @ synthetic[kept].T
    similarity[identities[kept][:, None] != identities[kept]] = -2
    np.fill_diagonal(similarity, -2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[2].strip() for line in lines[:-1]] == [
        "8 of 14",
        "3",
        "2 / 2.7",
        f"{own.mean():.4f}",
        f"{own[kept].mean():.4f}",
        f"{(1 - similarity.max(axis=1)).mean():.4f}",
    ]
    assert lines[-1] == str(output)
    # What was kept is a data set again, and a second selection replaces the columns of the first.
    dataset, columns = load_synthetic(output)
    assert len(dataset.images) == 8 and dataset.identity_names == PEOPLE
    second = synthetic[kept]
    np.savez(folder / "kept.npz", embeddings=second)
    run(
        folder, "--images", 1, "--output", folder / "second.parquet",
        manifest="set/selected.parquet", synthetic="kept.npz",
    )  # fmt: skip
    again = pq.read_table(folder / "second.parquet")
    assert again.column_names == table.column_names
    assert again["pick_rank"].to_pylist() == [1, 1, 1]
    assert "no other is kept" in capsys.readouterr().out


@pytest.fixture
def refused(problem, tmp_path, capsys):
    folder = problem[0]

    def refuse(*arguments, **files):
        output = tmp_path / "refused.parquet"
        with pytest.raises(SystemExit) as error:
            run(folder, *arguments, "--output", output, **files)
        assert error.value.code == 2 and not output.exists()
        return capsys.readouterr().err

    return refuse


def test_what_is_wrong_is_told(problem, tmp_path, refused):
    _, identities, synthetic, references, people = problem
    images = ("--images", 2)
    files = np.array(read_manifest(problem[0] / "set")["file"])

    def saved(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    not_numbers = references.copy()
    not_numbers[3, 1] = np.nan
    for arguments, changed, message in (
        ((), {}, "--images is missing"),
        ((*images, "--trade_off", 1.5), {}, "trade_off is 1.5"),
        (("--images", 0), {}, "num_selected is 0"),
        (("--images", 15, "--total"), {}, "there are 14 synthetic embeddings"),
        ((*images, "--workdir", tmp_path), {}, "leave --synthetic and --real out"),
        (images, {"manifest": "absent.parquet"}, "absent.parquet is not a file"),
        (images, {"manifest": "real.npz"}, "no intact Parquet file"),
        (images, {"synthetic": saved("few.npz", embeddings=synthetic[:5])}, r"14 rows of the"),
        (images, {"synthetic": saved("flat.npz", embeddings=synthetic[:, 0])}, "shape (14,)"),
        (
            images,
            {"synthetic": saved("order.npz", embeddings=synthetic, files=files[::-1])},
            "the first difference is at row 0",
        ),
        (
            images,
            {"real": saved("gap.npz", embeddings=references[:1], identities=people[:1])},
            "2 of 3 identities of the manifest have no real embedding, the first being 'anna'",
        ),
        (
            images,
            {"real": saved("nan.npz", embeddings=not_numbers, identities=people)},
            "zero or not finite",
        ),
        (
            images,
            {"real": saved("names.npz", embeddings=references, identities=people[:4])},
            "4 real identities",
        ),
        (images, {"real": saved("nobody.npz", embeddings=references)}, "either identities"),
        (
            images,
            {"real": saved("ids.npz", embeddings=references, ids=np.arange(9))},
            "integers of 0 to 2",
        ),
        (
            images,
            {"real": saved("wide.npz", embeddings=np.ones((9, 4)), identities=people)},
            "width 6, real ones 4",
        ),
    ):
        assert message in refused(*arguments, **changed), message


def test_manifests_of_others_are_taken_and_bad_ones_refused(problem, tmp_path, refused):
    folder, identities = problem[:2]
    own = {"identity": identities.tolist(), "file": read_manifest(folder / "set")["file"]}
    for columns, message in (
        ({"file": own["file"]}, "lacks the columns ['identity']"),
        ({name: column[:0] for name, column in own.items()}, "lists no image"),
        ({**own, "identity": [None, *own["identity"][1:]]}, "1 rows without identity"),
    ):
        table = pa.table(columns)
        pq.write_table(table, tmp_path / "bad.parquet")
        said = refused("--images", 2, manifest=tmp_path / "bad.parquet")
        assert message in said
    pq.write_table(pa.table({**own, "seed": list(range(14))}), tmp_path / "other.parquet")
    said = refused("--images", 2, manifest=tmp_path / "other.parquet", real="real.safetensors")
    assert "give identities instead" in said
    run(folder, "--images", 2, manifest=tmp_path / "other.parquet")
    run(folder, "--images", 2, "--output", tmp_path / "of_set.parquet")
    assert ranks_of(tmp_path / "selected.parquet") == ranks_of(tmp_path / "of_set.parquet")


def test_embeddings_are_not_written_over(problem, capsys):
    folder = problem[0]
    given = (folder / "real.npz").read_bytes()
    with pytest.raises(SystemExit):
        run(folder, "--images", 2, "--output", folder / "real.npz")
    assert "which --real reads" in capsys.readouterr().err
    assert (folder / "real.npz").read_bytes() == given


def test_the_manifest_itself_is_not_written_over(problem, capsys):
    folder = problem[0]
    with pytest.raises(SystemExit):
        run(folder, "--images", 1, "--output", folder / "set" / "manifest.parquet")
    assert "which is the manifest itself" in capsys.readouterr().err
    assert len(read_manifest(folder / "set")["file"]) == 14
