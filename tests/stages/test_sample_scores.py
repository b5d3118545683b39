"""Which samples are near copies of training images, by the judge and by pixels."""

import numpy as np
import pytest

from rlsyn_jax.config import default_config
from rlsyn_jax.data.splits import split_dataset
from rlsyn_jax.stages import sample_scores
from rlsyn_jax.stages.inputs import train_labels


@pytest.fixture(name="scores_of")
def make_scores(drawn_dataset, tmp_path, monkeypatch):
    """A function (threshold, pixel threshold) -> scores, and the training images."""
    dataset = drawn_dataset(4, channels=1)
    splits = split_dataset(
        dataset,
        held_out_fraction=0.3,
        train_images_per_identity=2,
        closed_images_per_identity=1,
        seed=0,
    )
    # A judge that sees an image's left half.
    monkeypatch.setattr(sample_scores, "load_extractor", lambda *_: None)
    monkeypatch.setattr(
        sample_scores,
        "embed_images",
        lambda _, images: images[:, :, :4].reshape(len(images), -1).astype(np.float32),
    )
    images, _ = train_labels(dataset, splits)
    train = np.asarray(images[:])

    def scores(threshold, pixel_threshold):
        enrolled = train[:, :, :4].reshape(len(train), -1).astype(np.float32)
        return sample_scores.SampleScores(
            default_config(),
            tmp_path,
            dataset,
            splits,
            judge=None,
            enrolled=enrolled,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
        )

    return scores, train


@pytest.mark.parametrize(
    ("threshold", "pixel_threshold", "expected"),
    [
        (1e-3, 0.0, [True, True, False, False]),
        (0.0, 0.05, [True, False, True, False]),
        (1e-3, 0.05, [True, True, True, False]),
        (0.0, 0.02, [True, False, False, False]),
    ],
)
def test_near_copies_are_told_by_the_judge_or_by_pixels(
    scores_of, threshold, pixel_threshold, expected
):
    scores, train = scores_of
    random = np.random.default_rng(1)
    copy, half, lighter = train[3], train[3].copy(), train[3].astype(int)
    half[:, 4:] = random.integers(0, 256, (8, 4, 1))  # As the judge sees it, a copy.
    lighter = np.clip(lighter + random.choice([-9, 9], lighter.shape), 0, 255).astype(np.uint8)
    other = random.integers(0, 256, (8, 8, 1), np.uint8)
    images = np.stack([copy, half, lighter, other])
    distances, near = scores(threshold, pixel_threshold).nearest_real(images)
    assert distances[0] == pytest.approx(0, abs=1e-6) and distances[3] > 0.05
    assert near.tolist() == expected
