"""Optimisers and learning-rate schedules by name, all from optax."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

DECAYS = ("constant", "linear", "cosine", "step")
OPTIMIZERS = ("adamw", "muon", "adam", "sgd")


def make_schedule(
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    decay: str,
    decay_at: Sequence[float] = (),
) -> optax.Schedule:
    """Returns a linear warm-up to learning_rate, then the named decay.

    Args:
        learning_rate: peak rate.
        warmup_steps: of the warm-up.
        total_steps: where "linear" and "cosine" reach 0.
        decay: "constant", "linear", "cosine" or "step".
        decay_at: shares of total_steps, in (0, 1), at which "step" divides the rate by 10.

    Raises:
        ValueError: unknown decay.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay is {decay!r}; it must be one of {DECAYS}")
    rest = max(total_steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest),
        "step": optax.piecewise_constant_schedule(
            learning_rate, {round(share * total_steps) - warmup_steps: 0.1 for share in decay_at}
        ),
    }[decay]
    if warmup_steps == 0:
        return after
    # The first update already moves: the ramp starts one step above zero.
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    decay: str = "constant",
    decay_at: Sequence[float] = (),
    weight_decay: float = 0.0,
    gradient_clip: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    name: str = "adamw",
    momentum: float = 0.9,
    matrix_learning_rate: float = 0.02,
) -> optax.GradientTransformation:
    """Returns clip by global norm, then AdamW, Muon, Adam or SGD with momentum.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) moves the matrices inside
    a transformer's blocks by the nearest orthogonal matrix to their averaged gradient; AdamW with
    Nesterov's momentum does the rest.

    Args:
        learning_rate: peak rate; of Muon, that of its AdamW.
        warmup_steps, total_steps, decay, decay_at: see make_schedule.
        weight_decay: decoupled for AdamW and Muon, added to the gradient for Adam and SGD.
        gradient_clip: largest global norm; 0 = none.
        b1, b2: moments of AdamW and Adam.
        name: "adamw", "muon", "adam" or "sgd".
        momentum: of SGD.
        matrix_learning_rate: peak rate of Muon's matrices.

    Raises:
        ValueError: unknown optimiser or decay.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}; it must be one of {OPTIMIZERS}")
    make = functools.partial(
        make_schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        decay=decay,
        decay_at=decay_at,
    )
    schedule = make(learning_rate=learning_rate)
    clip = [optax.clip_by_global_norm(gradient_clip)] if gradient_clip else []
    if name == "adamw":
        return optax.chain(*clip, optax.adamw(schedule, b1, b2, weight_decay=weight_decay))
    if name == "muon":
        matrices = muon(
            make(learning_rate=matrix_learning_rate),
            weight_decay=weight_decay,
            adam_b1=b1,
            adam_b2=b2,
            adam_weight_decay=weight_decay,
            adam_learning_rate=schedule,
            muon_weight_dimension_numbers=block_matrices,
        )
        return optax.chain(*clip, matrices)
    last = optax.adam(schedule, b1, b2) if name == "adam" else optax.sgd(schedule, momentum)
    return optax.chain(*clip, optax.add_decayed_weights(weight_decay), last)


def block_matrices(params: Any) -> Any:
    """Returns which parameters Muon moves: the matrices inside "blocks_N" or stacked "blocks".

    Args:
        params: nested dict of arrays.

    Returns:
        The same tree of MuonDimensionNumbers, or None where AdamW serves.
    """

    def chosen(path, value):
        names = [str(getattr(part, "key", "")) for part in path]
        if "blocks" in names and value.ndim == 3:  # [layers, in, out]
            return MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        inside = any(name.startswith("blocks_") for name in names)
        return MuonDimensionNumbers() if inside and value.ndim == 2 else None

    return jax.tree_util.tree_map_with_path(chosen, params)
