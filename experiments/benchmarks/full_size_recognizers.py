"""A recogniser of record at full size on this machine: some training steps of the recipe's batch.

    python experiments/benchmarks/full_size_recognizers.py market1501 [--steps 2]
    python experiments/benchmarks/full_size_recognizers.py casia_dit_xl2 --batch 64

Takes network, loss, optimiser and sizes from the config of that name: bag of tricks' ResNet-50 at
256 x 128 with 751 people and batches of 16 x 4, or CosFace on an IResNet-50 at 112 x 112 with
10,572 people. Images are random. Ends with one line of JSON: seconds to compile and run the first
step, seconds a step, and the process's largest memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import runpy
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.recognition.identity_sampler import make_identity_table
from rlsyn_jax.recognition.objective import Objective
from rlsyn_jax.recognition.recognizer import (
    ImagePool,
    Mixture,
    create_recognizer_state,
    init_recognizer,
    make_train_step,
)
from rlsyn_jax.stages.networks import recognizer_network
from rlsyn_jax.training.meshes import make_mesh
from rlsyn_jax.training.optimizers import make_optimizer

CONFIGS = Path(__file__).parents[2] / "configs"


def main() -> None:
    """Trains the steps and prints their price."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", choices=("market1501", "casia_dit_xl2"))
    parser.add_argument("--steps", type=int, default=2, help="after the first")
    parser.add_argument("--batch", type=int, default=0, help="images; 0 = the recipe's")
    arguments = parser.parse_args()
    config = runpy.run_path(str(CONFIGS / f"{arguments.config}.py"))["get_config"]()
    recognize, people = config.recognize, config.data.num_identities
    images_each = recognize.images_per_identity
    in_batch = arguments.batch // images_each or recognize.identities_per_batch
    model = recognizer_network(config)
    shape = (*model.image_size, 3)
    optimizer = make_optimizer(
        learning_rate=recognize.learning_rate,
        warmup_steps=0,
        total_steps=recognize.steps,
        name=recognize.optimizer,
        weight_decay=recognize.weight_decay,
    )
    step = make_train_step(
        model,
        optimizer,
        make_mesh(),
        objective=Objective(
            loss=recognize.loss,
            label_smoothing=recognize.label_smoothing,
            triplet_margin=recognize.triplet_margin,
            cosface_scale=recognize.cosface_scale,
            cosface_margin=recognize.cosface_margin,
        ),
        mixture=Mixture(real=images_each),
        identities_per_batch=in_batch,
        augment=lambda key, images: images,
        schedule=lambda step: recognize.learning_rate,
    )
    variables = init_recognizer(model, jax.random.key(0), shape, people)
    parameters = sum(value.size for value in jax.tree.leaves(variables["params"]))
    state = create_recognizer_state(variables, optimizer, jax.random.key(1))
    del variables
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (in_batch * images_each, *shape), np.uint8)
    labels = np.repeat(np.arange(in_batch), images_each)
    pool = ImagePool(jnp.asarray(images), make_identity_table(labels, people))
    candidates, seconds = jnp.arange(in_batch), []
    for _ in range(1 + arguments.steps):
        started = time.perf_counter()
        state, metrics = step(state, pool, None, candidates)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - started)
        print(f"loss {loss:.4f}, {seconds[-1]:.1f} s", file=sys.stderr)
        assert np.isfinite(loss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"network": recognize.network, "loss": recognize.loss, "people": people}
    result |= {"parameters": parameters, "image": list(shape), "batch": len(labels)}
    result["compile_and_first_step_seconds"] = round(seconds[0], 1)
    result["step_seconds"] = round(float(np.median(seconds[1:])), 1) if arguments.steps else None
    print(json.dumps(result | {"peak_gib": round(peak / 2**30, 2)}))


if __name__ == "__main__":
    main()
