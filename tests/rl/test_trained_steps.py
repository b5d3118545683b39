"""Which steps may train, and which of them do in an iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.rl.trained_steps import CHOICES, make_step_choice, steps_with_noise

CANDIDATES = np.array([0, 1, 2, 4, 5, 6, 7, 9])
OPTIONS = {"count": 3, "fraction": 0.5, "window_iterations": 2}


def choose(choice, candidates=CANDIDATES, **options):
    number, function = make_step_choice(choice, candidates, **{**OPTIONS, **options})
    compiled = jax.jit(function)

    def run(iteration, seed=0):
        steps = compiled(jax.random.fold_in(jax.random.key(seed), iteration), jnp.int32(iteration))
        assert steps.dtype == jnp.int32 and steps.shape == (number,)
        assert (np.diff(steps) > 0).all() and set(steps.tolist()) <= set(candidates.tolist())
        return steps.tolist()

    return run


def test_steps_without_noise_or_below_the_floor_never_train():
    sigmas = np.array([0.5, 0.3, 0.01, 0.2, 0.009, 0.0])
    assert steps_with_noise(sigmas, 0.01).tolist() == [0, 1, 2, 3]
    assert steps_with_noise(sigmas, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert steps_with_noise(sigmas, 0.6).tolist() == []


def test_all_and_noisiest():
    assert choose("all")(4) == CANDIDATES.tolist()
    assert choose("noisiest")(4) == [0, 1, 2]
    assert choose("noisiest", count=8)(4) == CANDIDATES.tolist()


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (1.0, CANDIDATES.tolist()),
        (0.5, [0, 2, 5, 7]),
        (0.4, [0, 2, 6]),
        (0.25, [0, 5]),
        (0.01, [0]),
    ],
)
def test_a_fraction_is_spread_evenly_from_the_noisiest(fraction, expected):
    assert choose("fraction", fraction=fraction)(3) == expected


def test_random_steps_are_drawn_anew_and_all_alike():
    run = choose("random")
    drawn = [run(iteration) for iteration in range(400)]
    assert drawn[:20] == [run(iteration) for iteration in range(20)]
    assert drawn[:20] != [run(iteration, seed=1) for iteration in range(20)]
    shares = np.bincount(np.concatenate(drawn), minlength=10)[CANDIDATES] / 400
    np.testing.assert_allclose(shares, 3 / 8, atol=0.08)
    assert choose("random", count=8)(0) == CANDIDATES.tolist()


def test_a_window_slides_to_the_last_step_and_starts_again():
    run = choose("window")
    windows = [CANDIDATES[start : start + 3].tolist() for start in range(6)]
    expected = [window for window in windows for _ in range(2)]
    assert [run(iteration) for iteration in range(14)] == expected + [windows[0]] * 2
    stays = choose("window", count=8, window_iterations=1)
    assert stays(0) == stays(5) == CANDIDATES.tolist()


@pytest.mark.parametrize("choice", CHOICES)
def test_one_candidate_is_enough(choice):
    assert choose(choice, np.array([3]), count=1)(7) == [3]


@pytest.mark.parametrize(
    ("choice", "options", "message"),
    [
        ("some", {}, "'some'; it must be one of"),
        ("noisiest", {"count": 9}, "9 steps are to train and 8 .* give 1 to 8"),
        ("random", {"count": 0}, "0 steps are to train"),
        ("window", {"count": 9}, "give 1 to 8"),
        ("fraction", {"fraction": 0.0}, r"fraction is 0.0; it must be in \(0, 1\]"),
        ("fraction", {"fraction": 1.2}, "fraction is 1.2"),
        ("all", {"candidates": np.array([], int)}, "none can train"),
    ],
)
def test_mistakes_are_told(choice, options, message):
    with pytest.raises(ValueError, match=message):
        choose(choice, **options)
