"""What few held-out people, and people without synthetic images, make of recognisers' stages."""

import json

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.config import ConfigError
from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.stages import pretrain, recognition_measures, recognize, synthetic_measures
from rlsyn_jax.stages.inputs import load_target
from rlsyn_jax.stages.trained_rewards import check_spread


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.05, 1), (0.2, 2)])
def test_one_unseen_person_gives_no_pairs(program, tmp_path, fraction, held_out):
    config = program.config(split={"held_out_fraction": fraction})
    dataset, splits = load_target(config, tmp_path)
    assert len(splits.open_identities) == held_out
    for pairs in (recognition_measures._folds, recognition_measures._pairs):
        found = pairs(config, dataset, splits)
        assert (found is None) == (held_out < 2)


def test_who_has_no_synthetic_image_is_found():
    real = np.array([2, 0, 1, 1, 3, 0])
    places = recognize._places_of_lacking(np.array([0, 0, 3]), real)
    assert places.tolist() == [0, 2, 3]
    assert recognize._places_of_lacking(np.array([3, 2, 1, 0]), real).size == 0
    # Of a set without any image nobody's stand in.
    assert recognize._places_of_lacking(np.zeros(0, int), real).size == 0


def test_neighbours_are_looked_for_once_a_group_and_among_so_many(program, monkeypatch):
    config = program.config()
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 10)
    real, fake = (random.normal(size=(120, 4)) + people[:, None] for _ in range(2))
    calls = []

    def counted(*sets, **options):
        calls.append(tuple(len(each) for each in sets))
        return original(*sets, **options)

    original = synthetic_measures.precision_recall_density_coverage
    monkeypatch.setattr(synthetic_measures, "precision_recall_density_coverage", counted)
    whole = synthetic_measures._fidelity(config, real, people, fake, people)
    assert len(calls) == 11 and calls[0] == (120, 120)
    number = config.evaluate.num_neighbors
    expected = original(real, fake, num_neighbors=number)
    for name in ("precision", "recall", "density", "coverage"):
        assert whole[name]["mean"] == getattr(expected, name)
    monkeypatch.setattr(synthetic_measures, "NEIGHBOR_IMAGES", 60)
    calls.clear()
    some = synthetic_measures._fidelity(config, real, people, fake, people)
    assert calls[0] == (60, 60)
    assert some["frechet_distance"] == whole["frechet_distance"]


def test_too_few_people_or_images_are_left_blank(program):
    config = program.config()
    random = np.random.default_rng(0)

    def measured(*people):
        real, fake = (random.normal(size=(len(each), 4)) for each in people)
        return synthetic_measures._fidelity(config, real, people[0], fake, people[1])

    three_each = np.repeat(np.arange(4), 3)
    assert None not in measured(three_each, three_each).values()
    one_of_a_person = np.array([0, 1])
    for real, fake in (
        (one_of_a_person, three_each),
        (three_each, one_of_a_person),
        (three_each[:3], three_each),
        (three_each, three_each + 4),
    ):
        assert set(measured(real, fake).values()) == {None}


def test_one_image_to_measure_by_is_told_before_anything_trains(program, tmp_path):
    for person, number in enumerate((2, 1, 1, 1)):
        (tmp_path / "set" / str(person)).mkdir(parents=True)
        for image in range(number):
            Image.new("RGB", (16, 16)).save(tmp_path / "set" / str(person) / f"{image}.png")
    data = {"source": "folder", "path": str(tmp_path / "set"), "num_identities": 0}
    config = program.config(data=data, split={"held_out_fraction": 0.0, "closed_images": 1})
    with pytest.raises(ConfigError, match="only one image .*config.split.closed_images"):
        load_target(config, tmp_path / "run")
    Image.new("RGB", (16, 16)).save(tmp_path / "set" / "1" / "1.png")
    assert len(load_target(config, tmp_path / "run")[1].closed_query) == 2


@pytest.mark.slow
def test_two_people_with_an_image_each_to_measure_by_give_a_report(program, tmp_path):
    fields = {"data.num_identities": 4, "data.images_per_identity": 3, "split.closed_images": 1}
    program.run(tmp_path, fields=fields)
    found = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert found["synthetic"]["reinforced"]["frechet_distance"] is None
    assert (tmp_path / "report" / "report.html").stat().st_size > 0


STAGES = "--stages=pretrain,adapt,reinforce,synthesize"


@pytest.mark.slow
def test_people_whose_samples_are_all_near_copies_still_train(program, tmp_path, monkeypatch):
    program.run(tmp_path, STAGES)

    def without_the_first(folder):
        found, columns = load_synthetic(folder)
        return found.subset(np.flatnonzero(found.identities)), columns

    def look_at(config, workdir, record, seed, arm, step, pools, others, mesh):
        seen[arm] = (recognize._real_pool(pools, arm), recognize._synthetic_pool(pools, arm))

    seen = {}
    monkeypatch.setattr(recognize, "load_synthetic", without_the_first)
    monkeypatch.setattr(recognize, "_train", look_at)
    arms = ("real", "real_reinforced", "real_reinforced_selected", "synthetic_only")
    recognize.run(program.config(recognize={"arms": arms}), tmp_path)
    real, nothing = seen["real"]
    assert nothing is None
    for arm in arms[1:3]:
        images, table = seen[arm][1].images, seen[arm][1].table
        own = images[table.indices[0][: table.counts[0]]]
        np.testing.assert_array_equal(own, real.images[real.table.indices[0][: len(own)]])
        assert len(own) == real.table.counts[0] > 0
    assert seen["synthetic_only"][1].table.counts[0] == 0
    for _, pool in [seen[arm] for arm in arms[1:]]:
        assert (pool.table.counts[1:] == 3).all()


@pytest.mark.slow
def test_a_set_of_near_copies_alone_is_told(program, tmp_path):
    # So near to training images that all samples are copies.
    fields = {f"synthesize.{kind}_copy_quantile": 1.0 for kind in ("near", "pixel")}
    process = program.start(tmp_path, STAGES, fields=fields | {"synthesize.strength": 0.1})
    assert "were near copies of real ones; lower config.synthesize" in program.log_of(process)
    assert process.returncode == 1


def test_richness_needs_somebody_with_two_images(program, tmp_path):
    config = program.config(split={"train_images": 1})
    with pytest.raises(ConfigError, match="config.rewards.richness.weight to 0"):
        pretrain.run(config, tmp_path)
    assert not (tmp_path / "pretrain" / "model").exists()
    config.rewards.richness.weight = 0.0
    check_spread(config, np.arange(5))
    check_spread(program.config(), np.array([3, 0, 3]))
