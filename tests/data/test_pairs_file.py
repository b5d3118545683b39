"""LFW's and RFW's folders and lists of pairs, read as published; bad lists are named by line."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.data.face_alignment import ARCFACE_TEMPLATE
from rlsyn_jax.data.pairs_file import read_pairs, read_rfw

LFW = """2\t2
Abel_Pacheco\t1\t4
Zach Safrin\t1\t2
Abel_Pacheco\t1\tZach Safrin\t1
Zach Safrin\t2\tAbel_Pacheco\t4
Abel_Pacheco\t4\t12
Zach Safrin\t2\t1
Zach Safrin\t1\tAbel_Pacheco\t12
Abel_Pacheco\t4\tZach Safrin\t2
"""
VALUES = {
    ("Abel_Pacheco", 1): 10,
    ("Abel_Pacheco", 4): 40,
    ("Abel_Pacheco", 12): 120,
    ("Zach Safrin", 1): 100,
    ("Zach Safrin", 2): 200,
}


def write(root, extension="jpg", text=LFW, name="pairs.txt"):
    for (person, number), value in VALUES.items():
        (root / person).mkdir(parents=True, exist_ok=True)
        file = root / person / f"{person}_{number:04d}.{extension}"
        Image.new("L", (4, 4), value).save(file)
    (root / name).write_text(text)
    return root


def read(root, name="pairs.txt", **options):
    return read_pairs(root / name, root, **{"image_size": 4, "channels": 1} | options)


def values_of(result, places):
    return np.round(result.images[places, 0, 0, 0].astype(float), -1).tolist()


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_pairs_are_in_the_lists_order(tmp_path, extension):
    result = read(write(tmp_path, extension))
    assert result.num_folds == 2 and result.name == "pairs"
    assert len(result.images) == 5
    assert values_of(result, result.first) == [10, 100, 10, 200, 40, 200, 100, 40]
    assert values_of(result, result.second) == [40, 200, 100, 40, 120, 100, 120, 200]
    np.testing.assert_array_equal(result.is_same, [1, 1, 0, 0, 1, 1, 0, 0])


def test_lists_of_one_fold_and_lists_without_a_first_line(tmp_path, caplog):
    lines = LFW.splitlines(keepends=True)
    result = read(write(tmp_path, text="".join(["2\n", *lines[1:5]])))
    assert result.num_folds == 1 and len(result.is_same) == 4
    result = read(write(tmp_path, text="\n" + "".join(lines[1:])))
    assert result.num_folds == 10 and len(result.is_same) == 8
    assert "8 pairs, which make no equal folds" in caplog.text
    spaces = "Abel_Pacheco 1 4\nAbel_Pacheco 12 4\n"
    with pytest.raises(ValueError, match="all 2 pairs are of one person"):
        read(write(tmp_path, text=spaces))


def test_rfw_is_read_by_race(tmp_path):
    write(tmp_path / "data" / "Asian", text="", name="unused.txt")
    folder = tmp_path / "txts" / "Asian"
    folder.mkdir(parents=True)
    (folder / "Asian_pairs.txt").write_text(LFW.partition("\n")[2])
    result = read_rfw(tmp_path, "Asian", image_size=4, channels=3)
    assert result.name == "RFW Asian" and result.is_same.sum() == 4
    with pytest.raises(ValueError, match="race is 'asian'; expected one of African, Asian"):
        read_rfw(tmp_path, "asian", image_size=4, channels=3)
    with pytest.raises(ValueError, match="Indian_pairs.txt cannot be read"):
        read_rfw(tmp_path, "Indian", image_size=4, channels=3)


PAIR = "Abel_Pacheco\t1\t4\n"


def loose_rfw(root, race="Asian"):
    """Faces drawn as five spots, turned, scaled and moved; returns the same faces as aligned."""
    random = np.random.default_rng(0)
    spots = ARCFACE_TEMPLATE.round()
    lines, aligned = [], []
    for number in (1, 2):
        angle, scale, shift = random.uniform(-0.4, 0.4), random.uniform(0.8, 1.6), (90, 70)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rows, columns = np.mgrid[:400, :400]
        places = np.stack([columns, rows], -1) - shift
        drawn = _spots(places @ np.linalg.inv(turn).T, spots)
        folder = root / "data" / race / "m.1"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(folder / f"m.1_{number:04d}.jpg", quality=98)
        points = (spots @ turn.T + shift).ravel()
        numbers = "\t".join(f"{value:.4f}" for value in points)
        lines.append(f"/somewhere/{race}/m.1/m.1_{number:04d}.jpg\t0\t{numbers}")
        rows, columns = np.mgrid[:112, :112]
        aligned.append(_spots(np.stack([columns, rows], -1).astype(float), spots))
    (root / "txts" / race).mkdir(parents=True)
    (root / "txts" / race / f"{race}_pairs.txt").write_text("1\t1\nm.1\t1\t2\nm.1\t1\tm.2\t1\n")
    (root / "data" / race / "m.2").mkdir()
    Image.fromarray(drawn).save(root / "data" / race / "m.2" / "m.2_0001.jpg", quality=98)
    lines.append(f"/somewhere/{race}/m.2/m.2_0001.jpg\t1\t{numbers}")
    (root / "txts" / race / f"{race}_lmk.txt").write_text("\n".join(lines) + "\n")
    return aligned


def _spots(places, spots):
    distances = np.square(places[..., None, :] - spots).sum(-1)
    shades = np.array([60, 110, 160, 210, 250]) * np.exp(-distances / 50)
    return shades.max(-1).astype(np.uint8)


@pytest.mark.parametrize(("size", "side"), [(112, 112), ((56, 56), 56), ((56, 28), 56)])
def test_rfw_is_aligned_by_its_landmarks(tmp_path, size, side):
    aligned = loose_rfw(tmp_path)
    found = read_rfw(tmp_path, "Asian", image_size=size, channels=1)
    assert found.is_same.tolist() == [True, False]
    for image, wanted in zip(found.images, aligned):
        wanted = np.asarray(Image.fromarray(wanted).resize((side, side)).resize(image.shape[1::-1]))
        assert np.abs(image[..., 0].astype(int) - wanted).mean() < 3
    loose = read_pairs(
        tmp_path / "txts/Asian/Asian_pairs.txt", tmp_path / "data/Asian", image_size=112, channels=1
    )
    assert np.abs(loose.images[0, ..., 0].astype(int) - aligned[0]).mean() > 10


def test_landmarks_that_are_missing_or_no_numbers_are_named(tmp_path, caplog):
    loose_rfw(tmp_path)
    file = tmp_path / "txts" / "Asian" / "Asian_lmk.txt"
    lines = file.read_text().splitlines()
    for text, said in (
        ("\n".join(lines[:2]), "Line 3 of .*names m.2/m.2_0001.jpg, of which .*no landmarks"),
        ("\n".join([lines[0], lines[1] + "\t7"]), "Line 2 of .*five pairs of coordinates"),
        (lines[0].replace("0\t", "a\tb\t", 1), "Line 1 of .*five pairs"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_rfw(tmp_path, "Asian", image_size=112, channels=1)
    file.unlink()
    read_rfw(tmp_path, "Asian", image_size=112, channels=1)
    assert "without Asian_lmk.txt, images are taken to be aligned" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no pairs"),
        ("10\t300\n" + PAIR, "has 1 pairs; its first line says 10 folds of 300 pairs"),
        ("ten\t300\n" + PAIR, "Line 1 of .*'ten 300'; expected the number of folds"),
        ("0\t0\n" + PAIR, "Line 1 of .*'0 0'"),
        ("1\t1\n" + PAIR * 2, "Fold 1 of .* has 2 pairs of one person and 0 of two; expected 1"),
        (PAIR + "Abel_Pacheco\t1\n", "Line 2 of .*expected a name and two numbers"),
        (PAIR + "Abel_Pacheco\t1\t2\t3\t4\n", "Line 2 of .*expected a name and two numbers"),
        (PAIR + "Abel_Pacheco\t1\tAbel_Pacheco\t4\n", "Line 2 of .*two different names"),
        (PAIR + "Abel_Pacheco\t0\t4\n", "Line 2 of .*images are numbered from 1"),
        (PAIR + "Abel_Pacheco\t-1\t4\n", "Line 2 of .*images are numbered from 1"),
        (PAIR + "Abel_Pacheco\tone\t4\n", "Line 2 of .*images are numbered from 1"),
        (PAIR + "Abel_Pacheco\t1\t99999999999999\n", "Line 2 of .*images are numbered from 1"),
        (PAIR + "Abel_Pacheco\t1\t5\n", "Line 2 of .*there is no file .*Abel_Pacheco_0005.jpg"),
        (PAIR + "../Abel_Pacheco\t1\t4\n", "Line 2 of .*expected a path inside"),
        (PAIR + "x" * 9999 + "\t1\t4\n", "Line 2 of .*there is no file"),
        (PAIR + "\0\t1\t4\n", "Line 2 of .*expected a path inside"),
    ],
)
def test_bad_lists_are_named_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, text=text))


def _survives(root, content):
    (root / "pairs.txt").write_bytes(content)
    try:
        read(root)
    except ValueError as error:
        assert "pairs" in str(error)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_lists_end_in_plain_words(tmp_path, damages, data):
    if not (tmp_path / "pairs.txt").exists():
        write(tmp_path)
    _survives(tmp_path, data.draw(damages)(LFW.encode()))


@pytest.mark.slow
def test_damaged_lists_end_in_plain_words_in_many_cases(tmp_path, damaged):
    write(tmp_path)
    for seed in range(20_000):
        _survives(tmp_path, damaged(LFW.encode(), seed))
