"""The study's data sets from files laid out as their makers have them."""

import numpy as np
import pytest
import study_data
from PIL import Image

from rlsyn_jax.data.folder import read_folder


def draw(path, size, value=0, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_characters_are_identities_and_drawers_their_images(tmp_path):
    source = tmp_path / "images_background_small1"
    for character in (1, 2):
        for drawer in (1, 20):
            name = f"Greek/character{character:02d}/03{character:02d}_{drawer:02d}.png"
            draw(source / name, (105, 105), character - 1, "1")
    study_data.main([str(tmp_path / "data"), f"--omniglot-small1={source}"])
    found = read_folder(tmp_path / "data/omniglot/small1", image_size=24, channels=1)
    assert found.identity_names == ("Greek-01", "Greek-02")
    names = [f"Greek-{n}/{drawer}.png" for n in ("01", "02") for drawer in ("01", "20")]
    assert list(found.file_names) == names
    assert [image.max() for image in found.images] == [0, 0, 255, 255]


def test_nobody_is_in_general_and_target(tmp_path):
    source = tmp_path / "lfw"
    counts = {"Ann": 3, "Bob": 4, "Cid": 25, "Dee": 1}
    for name, count in counts.items():
        for number in range(count):
            path = source / name / f"{name}_{number + 1:04d}.jpg"
            draw(path, (250, 250), number)
            Image.fromarray(np.pad(np.full((144, 144), 200, np.uint8), ((46, 60), (53, 53)))).save(
                path, quality=100
            )
    study_data.main([str(tmp_path), f"--lfw={source}"])
    names = ("lfw_general", "lfw_target")
    sets = [read_folder(tmp_path / name, image_size=96, channels=1) for name in names]
    assert [list(each.identity_names) for each in sets] == [["Ann", "Dee"], ["Bob", "Cid"]]
    assert np.bincount(sets[1].identities).tolist() == [4, 20]
    # The face alone, without what lies around it.
    assert min(each.images.min() for each in sets) > 190


def test_what_is_there_is_left_and_what_is_wrong_is_told(tmp_path, capsys):
    draw(tmp_path / "orl" / "s1" / "1.pgm", (92, 112))
    for _ in range(2):
        study_data.main([str(tmp_path / "data"), f"--orl={tmp_path / 'orl'}"])
    assert "orl_faces: 1\n" in (said := capsys.readouterr().out)
    assert "orl_faces: was there already" in said
    with pytest.raises(SystemExit, match="has no image where one is expected"):
        study_data.main([str(tmp_path / "data"), f"--omniglot-small2={tmp_path / 'orl'}"])
    assert not (tmp_path / "data" / "omniglot" / "small2").exists()
