"""The best of many cold-start samples: how many, which, and by which scores."""

import json
import types

import numpy as np
import pytest

from rlsyn_jax.config import default_config
from rlsyn_jax.stages.best_of import (
    candidates_per_image,
    choose_best,
    combined_rewards,
    make_best_of_draw,
)


def write_curves(workdir, iterations):
    (workdir / "reinforce").mkdir()
    lines = [json.dumps({"kind": "scalars", "step": step}) for step in range(iterations + 1)]
    (workdir / "reinforce" / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("iterations", "fields", "expected"),
    [
        # 64 samples of 4 guided steps, and 2 steps with a backward pass: 64 * (4 + 4) * 2 passes an
        # iteration, beside 20 people * 12 images * 20 guided steps: 1 + 20,480 / 9,600.
        (20, {}, 3),
        (10, {}, 2),
        (0, {}, 1),
        # Weights take another pass backwards: 1 + 20 * 64 * (4 + 6) * 2 / 9,600 = 3.67.
        (20, {"reinforce.trainable": "all"}, 4),
        # The divergence takes one of the cold start.
        (20, {"reinforce.kl_weight": 0.1}, 4),
        (20, {"synthesize.guidance_scale": 1.0}, 5),
        (20, {"synthesize.best_of": 7}, 7),
        # Reinforcement's own candidates are paid for as well.
        (20, {"synthesize.candidates": 4}, 6),
        (0, {"synthesize.candidates": 4}, 4),
    ],
)
def test_as_many_passes_as_reinforcement_took(tmp_path, iterations, fields, expected):
    config = default_config()
    config.update_from_flattened_dict(fields)
    write_curves(tmp_path, iterations)
    assert candidates_per_image(config, tmp_path, num_classes=20) == expected


def test_the_best_are_kept_and_near_copies_come_last():
    random = np.random.default_rng(0)
    scores, near = random.normal(size=(4, 9)), random.random((4, 9)) < 0.4
    near[3] = True
    near[3, :2] = False
    found = choose_best(scores, near, 3)
    for row in range(4):
        order = sorted(range(9), key=lambda place: (near[row, place], -scores[row, place]))
        assert found[row].tolist() == order[:3]


@pytest.mark.parametrize("scope", ["identity", "batch", "running"])
def test_rewards_are_weighed_in_their_deviations(scope):
    config = default_config()
    config.reinforce.normalise_over = scope
    random = np.random.default_rng(1)
    raw = {
        name: random.normal(size=(3, 40)).astype(np.float32) * scale
        for name, scale in {"semantic": 1.0, "coverage": 0.01, "richness": 20.0}.items()
    }
    axis = 1 if scope == "identity" else None
    expected = sum(
        config.rewards[name].weight
        * (values - values.mean(axis, keepdims=True))
        / values.std(axis, keepdims=True)
        for name, values in raw.items()
    )
    np.testing.assert_allclose(combined_rewards(config, raw), expected, rtol=1e-3, atol=1e-3)


def test_each_person_gets_the_best_of_candidates_of_their_own():
    config = default_config()
    config.synthesize.images = 2
    config.rewards = {name: config.rewards[name] for name in ("semantic",)}
    worth = np.random.default_rng(2).permutation(5 * 2 * 4)  # Of each number that may be drawn.

    def sample(numbers, classes):
        # Numbers of the cold start's first draws, then of its second, and so on.
        assert (numbers // 2 % 5 == classes).all()
        return np.asarray(numbers, np.uint8).reshape(-1, 1, 1, 1)

    def nearest_real(images):
        near = images.reshape(-1) % 7 == 0
        return np.where(near, 0.1, 0.9), near

    scores = types.SimpleNamespace(
        nearest_real=nearest_real,
        rewards=lambda images, people: {
            "semantic": worth[images.reshape(len(people), -1)].astype(np.float32)
        },
    )
    draw = make_best_of_draw(config, sample, scores, num_classes=5, candidates=4)
    images, numbers, distances, near = draw(np.array([3, 4, 0]))
    assert (images.reshape(-1) == numbers).all() and (distances > 0.5).all() and not near.any()
    for person, kept in zip((3, 4, 0), numbers.reshape(3, 2)):
        own = [n for n in range(40) if n // 2 % 5 == person and n % 7]
        assert kept.tolist() == sorted(own, key=lambda n: -worth[n])[:2]
