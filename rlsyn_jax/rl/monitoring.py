"""What goes wrong in reinforcement without stopping it, in words: collapse, reward hacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def collapse_warning(spread: float, real_spread: float, share: float) -> str | None:
    """Returns a sentence where samples of a person lie much closer together than real images do.

    Args:
        spread: total variance of a person's samples, in the reward's features.
        real_spread: of a person's real images; 0 where no person has two.
        share: of real_spread, below which samples have collapsed.
    """
    if spread >= share * real_spread:
        return None
    return (
        f"the samples of a person have collapsed: their spread is {spread:.3f}, less than "
        f"{share:.0%} of that of real images, {real_spread:.3f}. Raise the weight of the coverage "
        "or richness reward, or lower the learning rate"
    )


def total_reward(
    fixed: Mapping[str, float],
    first: Mapping[str, float],
    weights: Mapping[str, float],
    *,
    in_deviations: bool,
) -> float:
    """Returns the weighted change of the rewards since the first measurement.

    Args:
        fixed: "fixed/NAME", the rewards of samples with fixed noise, now.
        first: the same at the start, with their deviations "fixed_std/NAME".
        weights: name -> weight.
        in_deviations: each change is over the deviation, at the start, of what trains, as the
            algorithms weigh rewards that compare samples; else as it is, as "pathwise" does.
    """
    return sum(
        weight
        * (fixed[f"fixed/{name}"] - first[f"fixed/{name}"])
        / (max(first[f"fixed_std/{name}"], 1e-6) if in_deviations else 1)
        for name, weight in weights.items()
    )


def hacking_warning(
    history: Sequence[Mapping[str, float]], measure: str, tolerance: float
) -> str | None:
    """Returns a sentence where the held-out measure fell while the reward went on rising.

    Args:
        history: one record a measurement, oldest first, with "step", "reward/total" and "held_out/"
            + measure.
        measure: name of the held-out measure.
        tolerance: fall from its best value that is taken for noise.
    """
    best = max(history, key=lambda record: record[f"held_out/{measure}"])
    now = history[-1]
    fall = best[f"held_out/{measure}"] - now[f"held_out/{measure}"]
    rise = now["reward/total"] - best["reward/total"]
    if fall <= tolerance or rise <= 0:
        return None
    return (
        f"the reward is being gamed: since iteration {best['step']} held-out {measure} fell from "
        f"{best[f'held_out/{measure}']:.3f} to {now[f'held_out/{measure}']:.3f} while reward/total "
        f"rose by {rise:.3g}. Use fewer iterations, a lower learning_rate, a "
        "kl_weight where the algorithm has one, or config.reinforce.keep='best'"
    )


def best_step(history: Sequence[Mapping[str, float]], measure: str) -> int:
    """Returns the step of the first record whose held-out measure is highest."""
    return int(max(history, key=lambda record: record[f"held_out/{measure}"])["step"])
