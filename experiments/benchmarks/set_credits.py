"""What leave-one-out credits of the set-level rewards cost, in time and in memory.

    python experiments/benchmarks/set_credits.py

For growing numbers B of samples and N of references of one identity, by turns in one run: coverage
and richness with a leave-one-out credit for every sample, the same as one number for the set, and,
where it is affordable, the credit by taking every sample out. Ends with one line of JSON:
credits_over_set_reward is a ratio of times at the largest size, removal_over_credits at the
largest size that was removed from; kib_per_vector is the compiler's temporary memory over B + N,
which stays what it is where memory is linear.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.rewards.coverage import distributional_coverage
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rewards.richness import expression_richness
from rlsyn_jax.rl.memory import memory_need

WIDTH = 128
SIZES = ((64, 64), (256, 1024), (1024, 4096), (4096, 16384))
REMOVED = 256  # Samples, at most, that are taken out one by one.


def both_rewards(embeddings, bank, credit):
    """Returns coverage plus richness, [1, B]."""
    coverage = distributional_coverage(embeddings, bank, sigma=0.7, alpha=0.5, credit=credit)
    return coverage + expression_richness(embeddings, bank, expansion=0.1, tau=1.0, credit=credit)


@jax.jit
def by_removal(embeddings, bank):
    """Returns the same credits by computing the set's reward without each sample."""
    group = embeddings.shape[1]
    whole = both_rewards(embeddings, bank, "broadcast")[0, 0]

    def without(number):
        kept = jnp.arange(group - 1)
        kept = jnp.where(kept >= number, kept + 1, kept)
        return both_rewards(embeddings[:, kept], bank, "broadcast")[0, 0]

    return group * (whole - jax.lax.map(without, jnp.arange(group)))


def main() -> None:
    """Measures all sizes and prints a row of JSON for each, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    random = np.random.default_rng(0)
    summary = {}
    for samples, references in SIZES:
        vectors = random.normal(size=(samples + references, WIDTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        embeddings = jnp.asarray(vectors[None, :samples])
        bank = build_reference_bank(vectors[samples:], np.zeros(references, int), 1)
        sides = {
            credit: jax.jit(functools.partial(both_rewards, credit=credit))
            .lower(embeddings, bank)
            .compile()
            for credit in ("leave_one_out", "broadcast")
        }
        need = memory_need(sides["leave_one_out"]).temporaries
        if samples <= REMOVED:
            sides["removal"] = by_removal
        seconds = {name: [] for name in sides}
        results = {name: side(embeddings, bank) for name, side in sides.items()}
        for _ in range(repeats):
            for name, side in sides.items():
                started = time.perf_counter()
                jax.block_until_ready(side(embeddings, bank))
                seconds[name].append(time.perf_counter() - started)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        row = {"samples": samples, "references": references}
        row |= {f"{name}_milliseconds": round(1e3 * value, 2) for name, value in median.items()}
        row["kib_per_vector"] = round(need / 2**10 / (samples + references), 2)
        if "removal" in sides:
            difference = jnp.abs(results["removal"] - results["leave_one_out"][0]).max()
            row["largest_difference"] = float(difference)
            summary["removal_over_credits"] = round(median["removal"] / median["leave_one_out"], 1)
        print(json.dumps(row))
    summary["credits_over_set_reward"] = round(median["leave_one_out"] / median["broadcast"], 3)
    print(json.dumps(summary | {"kib_per_vector": row["kib_per_vector"]}))


if __name__ == "__main__":
    main()
