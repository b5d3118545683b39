"""DiT-XL/2 at full size on this machine: imported, run forward, and one cold-start step.

    python experiments/benchmarks/full_size.py [--dtype bfloat16]

Makes a state dict of the published checkpoint's names and shapes with random numbers, turns it into
parameters, replaces the class table for new identities, runs one forward pass at 256 tokens (a
latent of 32 x 32 places) and one training step of the class rows alone, and ends with one line of
JSON: seconds of each, and the process's largest memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.config import default_config
from rlsyn_jax.models.dit import dit_config
from rlsyn_jax.models.import_weights import dit_from_torch
from rlsyn_jax.models.torch_conversion import torch_shape
from rlsyn_jax.models.torch_names import dit_sources
from rlsyn_jax.stages.adapt import with_new_classes
from rlsyn_jax.stages.generator import (
    alpha_bars,
    build_generator,
    denoising_optimizer,
    in_layout,
)
from rlsyn_jax.training.denoising import make_denoising_step
from rlsyn_jax.training.meshes import make_mesh, replicated
from rlsyn_jax.training.train_state import create_train_state
from rlsyn_jax.training.trainable import merge, split

CLASSES, IDENTITIES, SIDE, CHANNELS, BATCH = 1000, 751, 32, 4, 2


def make_config(dtype: str) -> ConfigDict:
    """Returns the run's configuration: DiT-XL/2 with its learned variance."""
    config = default_config()
    config.generator.update(dit_config("DiT-XL/2"))
    config.generator.update({"learn_sigma": True, "scan_layers": True, "dtype": dtype})
    config.generator.update({"schedule": "linear", "prediction_type": "epsilon"})
    config.generator.clip_denoised = False
    config.remat = "blocks"
    return config


def published_state_dict(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns random tensors of the published checkpoint's names and shapes."""
    shallow = config.copy_and_resolve_references()
    shallow.generator.update({"scan_layers": False})
    model = build_generator(shallow, CLASSES)
    x, label = jnp.zeros((1, SIDE, SIDE, CHANNELS)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, label, label)["params"]
    flat = {
        "/".join(key.key for key in path): value.shape
        for path, value in jax.tree_util.tree_flatten_with_path(shapes)[0]
    }
    random = np.random.default_rng(0)
    tensors = {}
    for path, names in dit_sources(config.generator.depth, "original").items():
        shape = torch_shape(path, flat[path])
        rows = shape[0] // len(names)
        for name in names:
            tensors[name] = 0.02 * random.standard_normal((rows, *shape[1:]), np.float32)
    return tensors


def main() -> None:
    """Runs every step once and prints its price."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    config = make_config(parser.parse_args().dtype)
    seconds, mesh = {}, make_mesh()

    def timed(name, function, *inputs):
        print(name, file=sys.stderr)
        started = time.perf_counter()
        result = jax.block_until_ready(function(*inputs))
        seconds[name] = round(time.perf_counter() - started, 1)
        return result

    tensors = published_state_dict(config)
    params = timed("import", dit_from_torch, tensors)
    del tensors
    count = sum(value.size for value in jax.tree.leaves(params))
    params = with_new_classes(in_layout(config, params), IDENTITIES, "zero", jax.random.key(0))
    trained, frozen = jax.device_put(split(params, "class_embedding"), replicated(mesh))
    del params
    model = build_generator(config, IDENTITIES)

    def apply(params, x, timesteps, labels):
        return model.apply({"params": params}, x, timesteps, labels)

    x = jax.random.normal(jax.random.key(1), (BATCH, SIDE, SIDE, CHANNELS))
    labels = jnp.arange(BATCH)
    forward = jax.jit(lambda trained, frozen: apply(merge(trained, frozen), x, labels, labels))
    timed("forward_compile_and_run", forward, trained, frozen)
    output = timed("forward", forward, trained, frozen)
    assert output.shape == (BATCH, SIDE, SIDE, 2 * CHANNELS) and jnp.isfinite(output).all()

    optimizer = denoising_optimizer(config.adapt, total_steps=10)
    key = jax.device_put(jax.random.key(2), replicated(mesh))
    state = create_train_state(trained, optimizer, key, mesh)
    step = make_denoising_step(
        apply,
        optimizer,
        alpha_bars=jnp.asarray(alpha_bars(config), jnp.float32),
        num_classes=IDENTITIES,
        prediction_type="epsilon",
        learn_sigma=True,
        class_dropout=0.1,
        weighting="uniform",
        min_snr_gamma=5.0,
        ema_decay=0.999,
        prepare=lambda keys, batch: batch,
    )
    state, _ = timed("training_step_compile_and_run", step, state, frozen, x, labels)
    state, metrics = timed("training_step", step, state, frozen, x, labels)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["gradient_norm"]) > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"model": "DiT-XL/2", "parameters": count, "dtype": config.generator.dtype}
    result |= {"batch": BATCH, "tokens": (SIDE // config.generator.patch_size) ** 2}
    result |= {f"{name}_seconds": value for name, value in seconds.items()}
    print(json.dumps(result | {"peak_gib": round(peak / 2**30, 2)}))


if __name__ == "__main__":
    main()
