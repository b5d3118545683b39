"""Is it faster to train the seeds of a recogniser one after the other, or all in one program?

    python experiments/benchmarks/recognizer_seeds.py

Trains the same seeds both ways, by turns, on random images of the quickstart's sizes, and ends with
one line of JSON: vectorised_over_sequential is a ratio of times, below 1 where one program wins.
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
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.optimizers import make_optimizer, make_schedule

IDENTITIES, IMAGES, SIZE = 24, 8, 32


def main() -> None:
    """Measures both ways and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rate = {"learning_rate": 1e-3, "warmup_steps": 5, "total_steps": 1000, "decay": "cosine"}
    model, optimizer = SmallResNet(), make_optimizer(**rate, weight_decay=5e-4)
    step = make_train_step(
        model,
        optimizer,
        make_mesh(),
        objective=Objective(),
        mixture=Mixture(real=2, candidates=2, kept=2),
        identities_per_batch=12,
        augment=lambda key, images: images,
        schedule=make_schedule(**rate),
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IDENTITIES * IMAGES, SIZE, SIZE, 3), np.uint8)
    labels = np.repeat(np.arange(IDENTITIES), IMAGES)
    pool = ImagePool(jnp.asarray(images), make_identity_table(labels, IDENTITIES))
    candidates = jnp.arange(IDENTITIES)

    def fresh(seed: int):
        init_key, train_key = jax.random.split(jax.random.key(seed))
        variables = init_recognizer(model, init_key, (SIZE, SIZE, 3), IDENTITIES)
        return create_recognizer_state(variables, optimizer, train_key)

    together = jax.jit(
        jax.vmap(step, in_axes=(0, None, None, None), axis_size=arguments.seeds), donate_argnums=0
    )

    def one_after_the_other() -> float:
        states = [fresh(seed) for seed in range(arguments.seeds)]
        started = time.perf_counter()
        for state in states:
            for _ in range(arguments.steps):
                state, _ = step(state, pool, pool, candidates)
            jax.block_until_ready(state.params)
        return time.perf_counter() - started

    def all_at_once() -> float:
        states = jax.tree.map(
            lambda *values: jnp.stack(values), *[fresh(seed) for seed in range(arguments.seeds)]
        )
        started = time.perf_counter()
        for _ in range(arguments.steps):
            states, _ = together(states, pool, pool, candidates)
        jax.block_until_ready(states.params)
        return time.perf_counter() - started

    one_after_the_other(), all_at_once()  # Compiles.
    pairs = [(one_after_the_other(), all_at_once()) for _ in range(arguments.repeats)]
    sequential, vectorised = (statistics.median(times) for times in zip(*pairs))
    result = {
        "sequential_seconds": round(sequential, 2),
        "vectorised_seconds": round(vectorised, 2),
        "vectorised_over_sequential": round(vectorised / sequential, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
