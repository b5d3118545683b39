"""Published verification sets by name: what is not there, or known, is told before it is read."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.pairs_file import RACES
from rlsyn_jax.data.verification_sources import (
    check_verification_source,
    read_verification_source,
)

OPTIONS = {"image_size": 4, "channels": 3, "resize": "stretch"}


@pytest.fixture(name="root")
def published_files(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(content, "PNG")
    (tmp_path / "agedb_30.bin").write_bytes(
        pickle.dumps(([content.getvalue()] * 4, [True, False]), protocol=2)
    )
    for place, race in enumerate(RACES):
        for person in ("m.1", "m.2"):
            folder = tmp_path / "data" / race / person
            folder.mkdir(parents=True)
            for number in (1, 2):
                file = folder / f"{person}_{number:04d}.jpg"
                Image.new("RGB", (4, 4), (40 * place,) * 3).save(file)
        (tmp_path / "txts" / race).mkdir(parents=True)
        lines = "1\t1\nm.1\t1\t2\nm.1\t1\tm.2\t1\n"
        (tmp_path / "txts" / race / f"{race}_pairs.txt").write_text(lines)
    return tmp_path


def test_every_kind_is_read(root):
    pairs = f"pairs:{root / 'txts/Asian/Asian_pairs.txt'}:{root / 'data/Asian'}"
    expected = {
        str(root / "agedb_30.bin"): [("agedb_30", "")],
        pairs: [("Asian_pairs", "")],
        f"rfw:{root}": [(f"RFW {race}", race) for race in RACES],
    }
    for source, names in expected.items():
        counts = check_verification_source(source)
        assert list(counts.values()) == [(2, 2 if source.endswith(".bin") else 1) for _ in names]
        found = list(read_verification_source(source, **OPTIONS))
        assert [(each.name, group) for each, group in found] == names
        assert all(each.is_same.tolist() == [True, False] for each, _ in found)
    shades = [np.median(each.images) for each, _ in found]
    np.testing.assert_allclose(shades, [0, 40, 80, 120], atol=2)


@pytest.mark.parametrize("source", ["lfw", "rfw:", "pairs:list.txt", "pairs::x", "tar:x.tar", ""])
def test_other_forms_are_not_known(source):

    def reading(each):
        return list(read_verification_source(each, **OPTIONS))

    for read in (check_verification_source, reading):
        with pytest.raises(ValueError, match="expected FILE.bin, pairs:.*:FOLDER or rfw:FOLDER"):
            read(source)


def test_what_is_missing_is_named(root):
    with pytest.raises(ValueError, match="no .*lfw.bin"):
        check_verification_source(str(root / "lfw.bin"))
    (root / "txts/Indian/Indian_pairs.txt").unlink()
    with pytest.raises(ValueError, match="is not there: no .*Indian_pairs.txt"):
        check_verification_source(f"rfw:{root}")
    with pytest.raises(ValueError, match="no .*African.*no .*Indian"):
        check_verification_source(f"rfw:{root / 'data'}")
    lists = root / "txts/Asian/Asian_pairs.txt"
    lists.write_text("1\t1\nm.1\t1\t2\nm.1\t1\tm.2\t7\n")
    with pytest.raises(ValueError, match="Line 3 of .*m.2_0007.jpg"):
        check_verification_source(f"pairs:{lists}:{root / 'data/Asian'}")
    (root / "agedb_30.bin").write_bytes(pickle.dumps(([b"a"] * 3, [True]), protocol=2))
    with pytest.raises(ValueError, match="3 images and 1 truth values"):
        check_verification_source(str(root / "agedb_30.bin"))
    lists.write_text("1\t5\nm.1\t1\t2\n")
    with pytest.raises(ValueError, match="cut off"):
        check_verification_source(f"pairs:{lists}:{root / 'data/Asian'}")
