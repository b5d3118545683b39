"""From raw rewards to advantages: normalise each by itself, weigh, add, squash and clip."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

SCOPES = ("batch", "identity", "running")
SQUASHES = ("tanh", "none")
BASELINES = ("mean", "leave_one_out")
# A deviation below this share of the mean is rounding.
_ROUNDING = 1e-6


@flax.struct.dataclass
class RunningStatistics:
    """Exponentially weighted mean and variance of each reward over iterations.

    Attributes:
        count: int32, iterations seen.
        mean, variance: name -> float32 scalar.
    """

    count: jax.Array
    mean: dict[str, jax.Array]
    variance: dict[str, jax.Array]


def initial_statistics(names: list[str]) -> RunningStatistics:
    """Returns the statistics before any iteration."""
    return RunningStatistics(
        count=jnp.int32(0),
        mean={name: jnp.float32(0) for name in sorted(names)},
        variance={name: jnp.float32(0) for name in sorted(names)},
    )


def update_statistics(
    statistics: RunningStatistics, raw: dict[str, jax.Array], momentum: float
) -> RunningStatistics:
    """Takes one iteration's rewards into the running mean and variance.

    Iteration t enters with weight (1 - m) / (1 - m^t), so the first counts in full.

    Args:
        statistics: of the iterations before.
        raw: name -> float [i, g].
        momentum: m in [0, 1).
    """
    count = statistics.count + 1
    weight = (1 - momentum) / (1 - jnp.float32(momentum) ** count)
    # Rounding would leave a trace of the squared distance from the initial mean, 0.
    weight = jnp.where(count == 1, 1.0, weight)
    mean, variance = {}, {}
    for name, values in raw.items():
        values = values.astype(jnp.float32)
        shift = values.mean() - statistics.mean[name]
        mean[name] = statistics.mean[name] + weight * shift
        before = (1 - weight) * (statistics.variance[name] + weight * shift**2)
        variance[name] = before + weight * values.var()
    return RunningStatistics(count, mean, variance)


def combine_rewards(
    raw: dict[str, jax.Array],
    weights: dict[str, float],
    *,
    scope: str = "batch",
    squash: str = "tanh",
    clip: float,
    baseline: str = "mean",
    deviation_floor: float = 0.0,
    epsilon: float = 1e-6,
    statistics: RunningStatistics | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalises and combines rewards; equations (10) and (11) of Jia et al., 2604.07884.

    Each reward becomes (R - mean) / (deviation + epsilon), equation (10). The weighted sum goes
    through tanh, equation (11), or stays as it is, and is clipped last. All means run over the
    whole batch or whole groups, on however many devices these lie.

    Args:
        raw: name -> float [i, g], g samples of each of i identities.
        weights: name -> weight, of the same names.
        scope: what mean and deviation are taken over: "batch" (all samples, equation (10)),
            "identity" (the samples of one identity) or "running" (`statistics`).
        squash: "tanh" or "none".
        clip: largest magnitude of an advantage, above 0.
        baseline: "mean", or "leave_one_out": the mean of the others, so that a sample's own reward
            is not in what it is compared with (not for scope "running").
        deviation_floor: an identity's deviation counts as at least this share of the batch's, at
            least 0; it keeps a reward that hardly varies within an identity from full weight.
        epsilon: added to the deviation, above 0.
        statistics: of this and earlier iterations, for scope "running".

    Returns:
        Advantages float32 [i, g] in [-clip, clip], and scalars: "reward/NAME" and
        "reward_std/NAME" (mean and deviation of the raw reward over the batch), "share/NAME" (of
        the reward in the sum of all normalised rewards' magnitudes), "zero_spread/NAME" (share of
        the groups that are constant; they add exactly 0, but by running statistics, where they do
        so only if they always were), "advantage/mean" and "advantage/spread".

    Raises:
        ValueError: if there is no reward, names or shapes do not match, an option is unknown or out
            of range, or a group of one is to be normalised by itself.
    """
    _check(raw, weights, scope, squash, clip, baseline, deviation_floor, epsilon)
    if scope == "running" and statistics is None:
        raise ValueError("scope 'running' needs the running statistics")
    axes = (1,) if scope == "identity" else (0, 1)
    terms, diagnostics = {}, {}
    for name in sorted(raw):
        values = raw[name].astype(jnp.float32)
        constant = _is_constant(values, axes)
        silent = constant
        if scope == "running":
            centred = values - statistics.mean[name]
            deviation = jnp.sqrt(statistics.variance[name])
            # A reward that all samples share is told apart from those of earlier iterations.
            silent = constant & (deviation <= _ROUNDING * jnp.abs(statistics.mean[name]))
        else:
            centred, deviation = _centred(values, axes)
            if scope == "identity" and deviation_floor:
                deviation = jnp.maximum(deviation, deviation_floor * values.std())
            if baseline == "leave_one_out":
                group = values.size if scope == "batch" else values.shape[1]
                centred = centred * group / (group - 1)
        normalised = jnp.where(silent, 0, centred / (deviation + epsilon))
        terms[name] = weights[name] * normalised
        diagnostics[f"reward/{name}"] = values.mean()
        diagnostics[f"reward_std/{name}"] = values.std()
        diagnostics[f"zero_spread/{name}"] = constant.mean(dtype=jnp.float32)
    magnitudes = {name: jnp.abs(term).mean() for name, term in terms.items()}
    whole = jnp.maximum(sum(magnitudes.values()), 1e-12)
    diagnostics |= {f"share/{name}": value / whole for name, value in magnitudes.items()}
    total = sum(terms.values())
    if squash == "tanh":
        total = jnp.tanh(total)
    advantages = jnp.clip(total, -clip, clip)
    diagnostics["advantage/mean"] = advantages.mean()
    diagnostics["advantage/spread"] = advantages.std()
    return advantages, diagnostics


def _check(raw, weights, scope, squash, clip, baseline, deviation_floor, epsilon) -> None:
    if not raw or set(raw) != set(weights):
        raise ValueError(
            f"rewards and weights must have the same names, at least one; got rewards "
            f"{sorted(raw)} and weights {sorted(weights)}"
        )
    shapes = {name: jnp.shape(values) for name, values in raw.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"rewards must share one shape [identities, samples], got {shapes}")
    for name, value, choices in (
        ("scope", scope, SCOPES),
        ("squash", squash, SQUASHES),
        ("baseline", baseline, BASELINES),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    if not clip > 0 or not epsilon > 0 or not deviation_floor >= 0:
        raise ValueError(
            f"clip and epsilon must be above 0 and deviation_floor at least 0, got {clip}, "
            f"{epsilon} and {deviation_floor}"
        )
    identities, group = next(iter(shapes.values()))
    if scope == "identity" and group < 2:
        raise ValueError(
            "rewards cannot be normalised within identities of one sample; give each identity at "
            "least 2 samples, or normalise over the batch"
        )
    if baseline == "leave_one_out" and (scope == "running" or identities * group < 2):
        raise ValueError(
            "a leave-one-out baseline needs at least 2 samples in what is normalised over, the "
            "batch or an identity"
        )


def _is_constant(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Whether the values over some axes differ by no more than rounding."""
    highest = values.max(axis=axes, keepdims=True)
    lowest = values.min(axis=axes, keepdims=True)
    magnitude = jnp.maximum(jnp.abs(highest), jnp.abs(lowest))
    return highest - lowest <= 8 * jnp.finfo(jnp.float32).eps * magnitude


def _centred(values: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns values less their mean, and their deviation, over some axes."""
    # Subtracting the lowest value first keeps the digits of small differences of large values.
    above = values - values.min(axis=axes, keepdims=True)
    centred = above - above.mean(axis=axes, keepdims=True)
    return centred, jnp.sqrt(jnp.mean(centred**2, axis=axes, keepdims=True))
