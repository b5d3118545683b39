"""A whole run on a data set in Market-1501's layout is measured on its query and gallery."""

import json

import pytest
from PIL import Image

from rlsyn_jax.data.exports import export_into_market1501
from rlsyn_jax.data.market1501 import read_market1501
from rlsyn_jax.data.procedural import make_procedural_dataset

pytestmark = pytest.mark.slow


def test_a_run_on_market1501s_layout(program, tmp_path):
    dataset, _ = make_procedural_dataset(
        num_identities=12, images_per_identity=6, image_size=16, seed=0, identity_offset=0, name="p"
    )
    for place, (image, person) in enumerate(zip(dataset.images, dataset.identities + 1)):
        number = place % 6
        folder = "bounding_box_train"
        if person > 8:
            folder = "query" if number < 2 else "bounding_box_test"
            person = 0 if person == 12 and number >= 2 else person
        if folder == "query" and person == 12:
            continue
        (tmp_path / "market" / folder).mkdir(parents=True, exist_ok=True)
        name = f"{person:04d}_c{1 + number % 3}s1_{place:06d}_00.png"
        Image.fromarray(image).save(tmp_path / "market" / folder / name)
    fields = {
        "data.source": "market1501",
        "data.path": str(tmp_path / "market"),
        "data.num_identities": 0,
        "evaluate.verification_pairs": 20,
    }
    program.run(tmp_path / "run", fields=fields)
    results = json.loads((tmp_path / "run" / "evaluate" / "metrics.json").read_text())
    assert results["protocol"]["train_identities"] == 8
    assert results["protocol"]["held_out_queries"] == 6
    assert results["protocol"]["held_out_identities"] == 3
    for figures in results["arms"].values():
        assert 0 <= figures["open_map"]["mean"] <= 1
    synthetic = tmp_path / "run" / "synthesize" / "reinforced"
    number = export_into_market1501(synthetic, tmp_path / "market", tmp_path / "augmented")
    augmented = read_market1501(tmp_path / "augmented", image_size=16, channels=3)
    assert (augmented.subsets == 0).sum() == 8 * 6 + number > 8 * 6
