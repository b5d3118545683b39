"""How much longer does a recogniser's step take with dynamic selection?

    python experiments/benchmarks/dynamic_selection.py

One step on random images, by turns: plain (2 real and 2 synthetic images of 12 identities), and
with selection, which keeps 2 of 4 synthetic candidates for the same refined batch, by the exact
virtual step and by its first order, where the classifier moves or all parameters do.

The last line is JSON: exact_over_plain_step and jvp_over_plain_step are ratios of times where the
classifier moves; exact_all_over_plain_step and jvp_all_over_plain_step where all parameters do, as
they do by default in configs; the ones in _flops are the compiled programs' operations by XLA's
count, which no other work on the machine disturbs; spread is the largest over the smallest plain
time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.models.resnet import SmallResNet
from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    Objective,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
)
from rlsyn_jax.selection.dynamic_selection import DynamicSelection
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.optimizers import make_optimizer, make_schedule

IDENTITIES, IMAGES = 24, 8
SELECTIONS = {
    "exact": DynamicSelection(method="exact"),
    "jvp": DynamicSelection(method="jvp"),
    "exact_all": DynamicSelection(method="exact", parameters="all"),
    "jvp_all": DynamicSelection(method="jvp", parameters="all"),
}


def main() -> None:
    """Measures all kinds of step and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--width", type=int, default=24, help="of the network")
    parser.add_argument("--identities", type=int, default=12, help="of a batch")
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--repeats", type=int, default=15, help="turns")
    arguments = parser.parse_args()
    rate = {"learning_rate": 1e-3, "warmup_steps": 5, "total_steps": 1000, "decay": "cosine"}
    model = SmallResNet(width=arguments.width)
    optimizer = make_optimizer(**rate, weight_decay=5e-4)
    shape = arguments.size, arguments.size, 3
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IDENTITIES * IMAGES, *shape), np.uint8)
    labels = np.repeat(np.arange(IDENTITIES), IMAGES)
    pool = ImagePool(jnp.asarray(images), make_identity_table(labels, IDENTITIES))
    candidates = jnp.arange(IDENTITIES)

    programs, states, flops = {}, {}, {}
    for name, selection in {"plain": None, **SELECTIONS}.items():
        step = make_train_step(
            model,
            optimizer,
            make_mesh(),
            objective=Objective(),
            mixture=Mixture(real=2, candidates=2 if selection is None else 4, kept=2),
            identities_per_batch=arguments.identities,
            augment=lambda key, images: images,
            schedule=make_schedule(**rate),
            selection=selection,
        )
        variables = init_recognizer(model, jax.random.key(0), shape, IDENTITIES)
        state = create_recognizer_state(variables, optimizer, jax.random.key(1))
        program = step.lower(state, pool, pool, candidates).compile()
        flops[name] = program.cost_analysis()["flops"]
        programs[name], states[name] = program, state

    def turn(name: str) -> float:
        state = states[name]
        started = time.perf_counter()
        for _ in range(arguments.steps):
            state, _ = programs[name](state, pool, pool, candidates)
        jax.block_until_ready(state.params)
        states[name] = state
        return (time.perf_counter() - started) / arguments.steps

    for name in programs:
        turn(name)
    times = {name: [] for name in programs}
    for _ in range(arguments.repeats):
        for name in programs:
            times[name].append(turn(name))
    result = {"plain_seconds": round(statistics.median(times["plain"]), 4)}
    for name in SELECTIONS:
        ratios = [own / plain for own, plain in zip(times[name], times["plain"])]
        result[f"{name}_over_plain_step"] = round(statistics.median(ratios), 3)
        result[f"{name}_over_plain_flops"] = round(flops[name] / flops["plain"], 3)
    result["spread"] = round(max(times["plain"]) / min(times["plain"]), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
