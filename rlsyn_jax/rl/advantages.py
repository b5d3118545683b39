"""Turn raw rewards into advantages: normalise each reward, weigh, add, squash and clip."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SCOPES = ("batch", "identity")
SQUASHES = ("tanh", "none")


def combine_rewards(
    raw: dict[str, jax.Array],
    weights: dict[str, float],
    *,
    scope: str = "batch",
    squash: str = "tanh",
    clip: float,
    epsilon: float = 1e-6,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalises and combines rewards; equations (10) and (11) of Jia et al., 2604.07884.

    Each reward becomes (R - mean) / (deviation + epsilon), equation (10). The weighted sum goes
    through tanh, equation (11), or stays as it is, and is clipped last.

    Args:
        raw: name -> float [i, g], g samples of each of i identities.
        weights: name -> weight, of the same names.
        scope: what mean and deviation are taken over: "batch" (all samples, equation (10)) or
            "identity" (the samples of one identity).
        squash: "tanh" or "none".
        clip: largest magnitude of an advantage, above 0.
        epsilon: added to the deviation, above 0.

    Returns:
        Advantages float32 [i, g] in [-clip, clip], and scalars: "reward/NAME" and
        "reward_std/NAME" (mean and deviation of the raw reward over the batch),
        "advantage/mean" and "advantage/spread" (mean and deviation of the advantages).
        A reward that is constant within the scope adds exactly 0.

    Raises:
        ValueError: if there is no reward, names or shapes do not match, or an option is unknown
            or out of range.
    """
    if not raw or set(raw) != set(weights):
        raise ValueError(
            f"rewards and weights must have the same names, at least one; got rewards "
            f"{sorted(raw)} and weights {sorted(weights)}"
        )
    shapes = {name: jnp.shape(values) for name, values in raw.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"rewards must share one shape [identities, samples], got {shapes}")
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
    if squash not in SQUASHES:
        raise ValueError(f"squash must be one of {SQUASHES}, got {squash!r}")
    if not clip > 0 or not epsilon > 0:
        raise ValueError(f"clip and epsilon must be above 0, got {clip} and {epsilon}")
    axes = (0, 1) if scope == "batch" else (1,)
    total = jnp.float32(0)
    diagnostics = {}
    for name in sorted(raw):
        values = raw[name].astype(jnp.float32)
        total = total + weights[name] * _normalise(values, axes, epsilon)
        diagnostics[f"reward/{name}"] = values.mean()
        diagnostics[f"reward_std/{name}"] = values.std()
    if squash == "tanh":
        total = jnp.tanh(total)
    advantages = jnp.clip(total, -clip, clip)
    diagnostics["advantage/mean"] = advantages.mean()
    diagnostics["advantage/spread"] = advantages.std()
    return advantages, diagnostics


def _normalise(values: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Equation (10) over some axes; 0 where the values differ by no more than rounding."""
    highest = values.max(axis=axes, keepdims=True)
    lowest = values.min(axis=axes, keepdims=True)
    magnitude = jnp.maximum(jnp.abs(highest), jnp.abs(lowest))
    constant = highest - lowest <= 8 * jnp.finfo(jnp.float32).eps * magnitude
    # Subtracting the lowest value first keeps the digits of small differences of large values.
    above = values - lowest
    centred = above - above.mean(axis=axes, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=axes, keepdims=True))
    return jnp.where(constant, 0, centred / (deviation + epsilon))
