"""Speed of the generator at size: over diffusers in PyTorch, of latent caching, of compiling.

    pip install -e '.[bench]'
    python experiments/benchmarks/generator.py --shape S    (width 384, 12 blocks; or B: DiT-B)

Everything is measured by turns in one run, on one device, and ends with one line of JSON:
- forward_speed_over_diffusers, training_speed_over_diffusers: seconds of diffusers'
  DiTTransformer2DModel of equal shapes (64 tokens: 32 x 32 latents of 4 channels in patches of 4)
  over ours, for a forward pass, and for a forward and backward pass with Adam's update of all
  weights; with --compile, PyTorch's by torch.compile.
- latent_cache_over_encoder_forward: images a second of encoding a data set to disk (reading, both
  views, half precision, writing) over those of the encoder's forward pass alone on such batches,
  for Stable Diffusion's encoder layout at a quarter of its width.
- compile_time_ratio_deep_to_shallow: seconds to compile a training step of 28 blocks over those of
  6, both scanned; scan_over_unrolled_step is what scanning costs a step of 6 blocks, which keeps
  what a scan must keep of a block, all its activations; scan_products_over_unrolled_step, when it
  keeps the results of products with weights alone (config.remat=products).
All are medians of ratios of neighbouring measurements; speeds above 1 say that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsyn_jax.data.identity_dataset import to_device_range
from rlsyn_jax.data.latent_cache import encode_dataset
from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.models.dit import DIT_SIZES, DiT

SHAPES = {"S": DIT_SIZES["DiT-S"], "B": DIT_SIZES["DiT-B"]}
SIDE, CHANNELS, PATCH, CLASSES = 32, 4, 4, 1000
LEARNING_RATE = 1e-4
ENCODED, IMAGE_SIDE, ENCODER_BATCH = 48, 64, 8


def seconds_of(function: Callable, *inputs) -> float:
    """Returns the wall-clock seconds of a call, its results finished."""
    started = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - started


def make_ours(model: DiT, batch: int) -> tuple[Callable, Callable]:
    """Returns functions that run one forward pass, and one training step, and return seconds."""
    x = jax.random.normal(jax.random.key(0), (batch, SIDE, SIDE, CHANNELS))
    timesteps = labels = jnp.arange(batch)
    params = jax.jit(model.init)(jax.random.key(1), x, timesteps, labels)["params"]
    optimizer = optax.adam(LEARNING_RATE)
    held = {"state": (params, jax.jit(optimizer.init)(params))}

    def apply(params):
        return model.apply({"params": params}, x, timesteps, labels)

    forward = jax.jit(apply)

    def update(state):
        params, opt_state = state
        gradients = jax.grad(lambda p: jnp.mean((apply(p)[..., :CHANNELS] - x) ** 2))(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(update, donate_argnums=0)

    def train() -> float:
        started = time.perf_counter()
        held["state"] = jax.block_until_ready(step(held["state"]))
        return time.perf_counter() - started

    return lambda: seconds_of(forward, held["state"][0]), train


def make_diffusers(shape: dict, batch: int, compile_model: bool) -> tuple[Callable, Callable]:
    """Returns the same two of diffusers' network in PyTorch."""
    import torch
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=shape["num_heads"],
        attention_head_dim=shape["width"] // shape["num_heads"],
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=shape["depth"],
        sample_size=SIDE,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
    ).train()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    network = torch.compile(model) if compile_model else model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    x = torch.randn(batch, CHANNELS, SIDE, SIDE)
    timesteps = labels = torch.arange(batch)

    def forward() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            network(x, timestep=timesteps, class_labels=labels)
        return time.perf_counter() - started

    def train() -> float:
        started = time.perf_counter()
        output = network(x, timestep=timesteps, class_labels=labels).sample[:, :CHANNELS]
        ((output - x) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return forward, train


def make_latents() -> tuple[Callable, Callable]:
    """Returns seconds an image of caching latents, and of the encoder's forward pass alone."""
    model = AutoencoderKL(block_out_channels=(32, 64, 128, 128))
    images = np.random.default_rng(0).integers(
        0, 256, (ENCODED, IMAGE_SIDE, IMAGE_SIDE, 3), "uint8"
    )
    batch = to_device_range(jnp.asarray(images[:ENCODER_BATCH]))
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    forward = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))
    encode = jax.jit(lambda x: forward(params, to_device_range(x)))

    def cached() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            encode_dataset(
                images,
                folder,
                encode=encode,
                latent_shape=(IMAGE_SIDE // 8, IMAGE_SIDE // 8, 4),
                made_from={},
                mirrored=True,
                batch_size=ENCODER_BATCH,
                shard_images=ENCODED // 2,
            )
            return (time.perf_counter() - started) / (2 * ENCODED)

    def alone() -> float:
        calls = 2 * ENCODED // ENCODER_BATCH
        return sum(seconds_of(forward, params, batch) for _ in range(calls)) / (2 * ENCODED)

    return cached, alone


def compile_seconds(depth: int) -> float:
    """Returns the seconds of compiling the gradient of a scanned generator of some depth."""
    model = DiT(num_classes=10, width=192, depth=depth, num_heads=6, scan_layers=True)
    x, labels = jnp.zeros((4, SIDE, SIDE, CHANNELS)), jnp.zeros(4, jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), x, labels, labels)["params"]

    # A function of its own each time, so that nothing is taken from a cache.
    def loss(params):
        return jnp.mean(model.apply({"params": params}, x, labels, labels) ** 2)

    lowered = jax.jit(jax.grad(loss)).lower(params)
    started = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - started


def main() -> None:
    """Measures all sides by turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the other network")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    ours = DiT(num_classes=CLASSES, patch_size=PATCH, learn_sigma=True, **shape)
    sides = dict(zip(("forward", "training"), make_ours(ours, arguments.batch)))
    theirs = make_diffusers(shape, arguments.batch, arguments.compile)
    sides |= dict(zip(("diffusers_forward", "diffusers_training"), theirs))
    sides |= dict(zip(("latent_cache", "encoder_forward"), make_latents()))
    shallow = {"num_classes": CLASSES, "patch_size": PATCH, "width": 384, "depth": 6}
    for name, scan, remat in (
        ("scanned", True, "none"),
        ("scanned_products", True, "products"),
        ("unrolled", False, "none"),
    ):
        model = DiT(num_heads=6, scan_layers=scan, remat=remat, **shallow)
        sides[f"{name}_training"] = make_ours(model, arguments.batch)[1]
    sides["compile_deep"] = lambda: compile_seconds(28)
    sides["compile_shallow"] = lambda: compile_seconds(6)
    for side in sides.values():
        side()  # Compiles, and warms up.
    seconds = {name: [] for name in sides}
    for number in range(arguments.repeats):
        print(f"round {number + 1} of {arguments.repeats}", file=sys.stderr)
        for name, side in sides.items():
            seconds[name].append(side())

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other])
        return round(statistics.median(a / b for a, b in pairs), 3)

    result = {"shape": arguments.shape, "batch": arguments.batch}
    result |= {f"{n}_seconds": round(statistics.median(t), 4) for n, t in seconds.items()}
    result["torch_compiled"] = arguments.compile
    result["forward_speed_over_diffusers"] = ratio("diffusers_forward", "forward")
    result["training_speed_over_diffusers"] = ratio("diffusers_training", "training")
    result["latent_cache_over_encoder_forward"] = ratio("encoder_forward", "latent_cache")
    result["compile_time_ratio_deep_to_shallow"] = ratio("compile_deep", "compile_shallow")
    result["scan_over_unrolled_step"] = ratio("scanned_training", "unrolled_training")
    result["scan_products_over_unrolled_step"] = ratio(
        "scanned_products_training", "unrolled_training"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
