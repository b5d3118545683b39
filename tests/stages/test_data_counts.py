"""People and images counted without reading one, against the data sets as they are read."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.config import ConfigError
from rlsyn_jax.stages.data_counts import count_general, count_target
from rlsyn_jax.stages.inputs import load_general, load_target, train_labels


def people(folder, images_of_each):
    for person, number in enumerate(images_of_each):
        (folder / f"person {person}").mkdir(parents=True)
        for image in range(number):
            Image.new("RGB", (16, 16), (20 * person, image, 0)).save(
                folder / f"person {person}" / f"{image}.png"
            )
    return {"source": "folder", "path": str(folder), "num_identities": 0}


@pytest.mark.parametrize("train_images", [0, 3])
@pytest.mark.parametrize("source", ["procedural", "folder", "first of a folder"])
def test_the_counts_are_those_of_the_data(program, tmp_path, source, train_images):
    data = {}
    if source != "procedural":
        data = people(tmp_path / "set", [5, 1, 5, 5, 5, 5, 5]) | {"min_images": 2}
    if source == "first of a folder":
        data["num_identities"] = 4
    config = program.config(data=data, split={"train_images": train_images})
    dataset, splits = load_target(config, tmp_path)
    _, labels = train_labels(dataset, splits)
    expected = len(splits.train_identities), np.bincount(labels).max()
    assert count_target(config) == expected
    assert count_general(config) == load_general(config, tmp_path).num_identities


def test_published_splits_hold_out_others_than_those_who_train():
    for file, people in (("market1501", 751), ("cuhk03", 767)):
        path = Path(__file__).parents[2] / "configs" / f"{file}.py"
        config = runpy.run_path(str(path))["get_config"]()
        num_classes, images = count_target(config)
        assert num_classes == people and images > 1


def test_what_cannot_be_counted_is_told(program, tmp_path):
    config = program.config(data={"source": "folder", "path": str(tmp_path / "absent")})
    with pytest.raises(ConfigError, match="config.data.path is .*absent', which is not a folder"):
        count_target(config)
    data = people(tmp_path / "set", [5, 3, 3, 1])
    for fields, left in (
        ({"min_images": 6}, 0),
        ({"min_images": 4}, 1),
        ({"num_identities": 1}, 1),
    ):
        config = program.config(data=data | fields)
        with pytest.raises(ConfigError, match=f"config.data: {left} identities of .* are left"):
            count_target(config)
    config = program.config(general_data={"source": "tfds:lfw", "num_identities": 0})
    with pytest.raises(ConfigError, match="config.general_data.num_identities is 0 .*tfds:lfw"):
        count_general(config)
    config.general_data.num_identities = 70
    assert count_general(config) == 70
