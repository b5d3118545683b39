"""Recognisers on published verification sets: one accuracy a set, and spreads of groups."""

import io
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.data.pairs_file import RACES
from rlsyn_jax.evaluation.verification import ten_fold_accuracy
from rlsyn_jax.recognition.embedding import embed_images
from rlsyn_jax.recognition.networks import build_network
from rlsyn_jax.recognition.recognizer import init_recognizer
from rlsyn_jax.stages import verification_sets
from rlsyn_jax.stages.extractors import Extractor
from rlsyn_jax.stages.verification_panel import verification_panel
from rlsyn_jax.stages.verification_sets import check_verification_sets, measure_verification_sets

ARMS = ("real", "real_reinforced")
PAIRS = 20


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A .bin of random images, and RFW with the same pairs for all, but of one group inverted."""
    root = tmp_path_factory.mktemp("published")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (PAIRS, 2, 8, 8, 3), np.uint8)
    images[::2, 1] = np.clip(images[::2, 0] + random.normal(0, 60, (PAIRS // 2, 8, 8, 3)), 0, 255)
    encoded = []
    for pixels in images.reshape(-1, 8, 8, 3):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        encoded.append(content.getvalue())
    content = pickle.dumps((encoded, [True, False] * (PAIRS // 2)), protocol=2)
    (root / "lfw.bin").write_bytes(content)
    for race in RACES:
        (root / "txts" / race).mkdir(parents=True)
        lines = []
        for pair, (first, second) in enumerate(images):
            # Image numbers are those of the pair; a genuine pair is of one folder.
            people = [f"p{pair}", f"p{pair}" if pair % 2 == 0 else f"q{pair}"]
            for number, (person, pixels) in enumerate(zip(people, (first, second)), start=1):
                folder = root / "data" / race / person
                folder.mkdir(parents=True, exist_ok=True)
                shown = pixels if race != "Indian" else random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(shown).save(folder / f"{person}_{number:04d}.png")
            same = people[0] == people[1]
            lines.append(f"p{pair}\t1\t2" if same else f"p{pair}\t1\tq{pair}\t2")
        (root / "txts" / race / f"{race}_pairs.txt").write_text("\n".join(lines))
    return root, images


@pytest.fixture(name="recognizers")
def recognizers_of_two_arms(monkeypatch):
    network = build_network("small_resnet", image_size=(8, 8), width=4)
    made = {}

    def load(config, workdir, seed, arm):
        key = jax.random.key(10 * ARMS.index(arm) + seed)
        if (arm, seed) not in made:
            made[arm, seed] = Extractor(network, init_recognizer(network, key, (8, 8, 3), 3))
        return made[arm, seed]

    monkeypatch.setattr(verification_sets, "load_recognizer", load)
    return load


def config_of(**changes):
    config = default_config()
    config.image.size, config.image.resize = 8, "stretch"
    config.evaluate.bootstrap_resamples = 50
    config.update_from_flattened_dict(changes)
    return config


def test_accuracies_are_those_of_embeddings_with_the_mirror(published, recognizers, tmp_path):
    root, images = published
    sources = (str(root / "lfw.bin"), f"rfw:{root}")
    found = measure_verification_sets(config_of(), tmp_path, sources=sources, arms=ARMS, seeds=2)
    assert list(found["sets"]) == ["lfw", *(f"RFW {race}" for race in RACES)]
    is_same = np.arange(PAIRS) % 2 == 0
    expected = {}
    for arm in ARMS:
        for seed in range(2):
            network = recognizers(None, None, seed, arm)
            first, second = (
                embed_images(network.model, network.variables, each, with_mirror=True)
                for each in (images[:, 0], images[:, 1])
            )
            accuracy = ten_fold_accuracy(first, second, is_same).accuracy_mean
            expected.setdefault(arm, []).append(accuracy)
    measured = found["sets"]["lfw"]
    for arm in ARMS:
        assert measured["arms"][arm]["seeds"] == pytest.approx(expected[arm])
        assert measured["arms"][arm]["mean"] == pytest.approx(np.mean(expected[arm]))
    change = np.mean(expected["real_reinforced"]) - np.mean(expected["real"])
    assert measured["differences"]["real_reinforced"]["mean"] == pytest.approx(change)
    assert measured["pairs"] == PAIRS and measured["folds"] == 10
    # The same images in three groups, noise in the fourth.
    groups = found["groups"][f"rfw:{root}"]["arms"]["real"]
    accuracies = groups["own_threshold"]["accuracies"]
    assert accuracies["African"] == accuracies["Asian"] == accuracies["Caucasian"]
    assert accuracies["African"] == pytest.approx(np.mean(expected["real"]))
    assert accuracies["Indian"] < accuracies["African"]
    gap = groups["own_threshold"]["gap"]["mean"]
    assert gap == pytest.approx(accuracies["African"] - accuracies["Indian"])
    panel = verification_panel(found)
    assert panel["verification_tables"][0]["titles"][0] == "lfw"
    cells = panel["group_tables"][0]["rows"][0]["cells"]
    assert cells[0]["value"] == f"{100 * accuracies['African']:.1f}"


def test_no_sets_are_no_figures(tmp_path):
    found = measure_verification_sets(config_of(), tmp_path, sources=(), arms=(), seeds=2)
    assert found == {"sets": {}, "groups": {}}
    assert verification_panel(found) == {"verification_tables": [], "group_tables": []}


def test_sets_that_are_not_there_are_named_by_their_field(published):
    root, _ = published
    check_verification_sets(config_of(**{"evaluate.verification_sets": (f"rfw:{root}",)}))
    with pytest.raises(ConfigError, match="config.evaluate.verification_sets: .*cfp_fp.bin"):
        check_verification_sets(config_of(**{"evaluate.verification_sets": ("cfp_fp.bin",)}))
    with pytest.raises(ConfigError, match="evaluate.verification_sets"):
        validate(config_of(**{"evaluate.verification_sets": (1,)}))
