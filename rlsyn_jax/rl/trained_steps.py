"""Which denoising steps of a rollout the policy update trains.

Steps without noise, or with less than a floor, have no density and never train. Of the others all,
an evenly spaced fraction, the noisiest, a random few or a sliding window do. Steps count from the
noisiest, 0, to the last.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

CHOICES = ("all", "fraction", "noisiest", "random", "window")


def steps_with_noise(sigmas: np.ndarray, floor: float) -> np.ndarray:
    """Returns the steps, int [n] ascending, whose deviation is above 0 and at least the floor.

    Args:
        sigmas: float [S], deviations of the rollout's steps, in units of the image's [-1, 1].
        floor: least deviation of a step that may train, at least 0.
    """
    sigmas = np.asarray(sigmas, np.float64)
    return np.flatnonzero((sigmas > 0) & (sigmas >= floor))


def make_step_choice(
    choice: str,
    candidates: np.ndarray,
    *,
    count: int,
    fraction: float,
    window_iterations: int,
) -> tuple[int, Callable[[jax.Array, jax.Array], jax.Array]]:
    """Returns how many steps train, and which they are in each iteration.

    Args:
        choice: "all"; "fraction" (evenly spaced over the candidates, the noisiest among them);
            "noisiest" (the first count); "random" (count of them, drawn anew every iteration);
            "window" (count in a row, one step further from the noisiest every window_iterations
            iterations, and from the start again past the end; MixGRPO, 2507.21802).
        candidates: int [n], ascending, from `steps_with_noise`.
        count: steps of noisiest, random and window, 1..n.
        fraction: share of the candidates of "fraction", in (0, 1].
        window_iterations: iterations a window stays, at least 1.

    Returns:
        (K, function): the function maps a typed key and the iteration's number (int32, from 0) to
        int32 [K], ascending; it can be traced.

    Raises:
        ValueError: unknown choice, no candidate, or count or fraction out of range.
    """
    if choice not in CHOICES:
        raise ValueError(f"the choice of trained steps is {choice!r}; it must be one of {CHOICES}")
    total = len(candidates)
    if not total:
        raise ValueError("no step of the rollout has noise above the floor, so none can train")
    if choice in ("noisiest", "random", "window") and not 1 <= count <= total:
        raise ValueError(
            f"{count} steps are to train and {total} of the rollout have noise above the floor; "
            f"give 1 to {total}"
        )
    if choice == "fraction" and not 0 < fraction <= 1:
        raise ValueError(f"the trained fraction is {fraction}; it must be in (0, 1]")
    candidates = jnp.asarray(candidates, jnp.int32)
    if choice == "random":

        def draw(key, iteration):
            del iteration
            places = jax.random.choice(key, total, (count,), replace=False)
            return candidates[jnp.sort(places)]

        return count, draw
    if choice == "window":

        def slide(key, iteration):
            del key
            start = (iteration // window_iterations) % (total - count + 1)
            return jax.lax.dynamic_slice(candidates, (start,), (count,))

        return count, slide
    if choice == "all":
        fixed = candidates
    elif choice == "noisiest":
        fixed = candidates[:count]
    else:
        number = max(1, round(fraction * total))
        fixed = candidates[np.arange(number) * total // number]
    return len(fixed), lambda key, iteration: fixed
