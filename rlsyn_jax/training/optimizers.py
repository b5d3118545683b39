"""Optimisers and learning-rate schedules by name, all from optax."""

from __future__ import annotations

import optax

DECAYS = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "sgd")


def make_schedule(
    *, learning_rate: float, warmup_steps: int, total_steps: int, decay: str
) -> optax.Schedule:
    """Returns a linear warm-up to learning_rate, then the named decay to 0 at total_steps.

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
    weight_decay: float = 0.0,
    gradient_clip: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    name: str = "adamw",
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """Returns clip by global norm, then AdamW or SGD with momentum.

    Args:
        learning_rate: peak rate.
        warmup_steps, total_steps, decay: see make_schedule.
        weight_decay: decoupled for AdamW, added to the gradient for SGD.
        gradient_clip: largest global norm; 0 = none.
        b1, b2: AdamW's moments.
        name: "adamw" or "sgd".
        momentum: of SGD.

    Raises:
        ValueError: unknown optimiser or decay.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r}; it must be one of {OPTIMIZERS}")
    schedule = make_schedule(
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        decay=decay,
    )
    clip = [optax.clip_by_global_norm(gradient_clip)] if gradient_clip else []
    if name == "adamw":
        return optax.chain(*clip, optax.adamw(schedule, b1, b2, weight_decay=weight_decay))
    return optax.chain(
        *clip, optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )
