"""What one reinforcement-learning iteration costs, over its own passes and over PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/rl_iteration.py --small
    python experiments/benchmarks/rl_iteration.py --large

Runs three things by turns on the same shapes, all weights trained, and ends with one line of JSON:
- our iteration: rollout, reward, advantages, clipped importance ratio, Adam;
- the passes it cannot do without: the rollout's forward passes and the trained steps' forward and
  backward passes, each as a compiled program that is called alone;
- the same iteration in PyTorch, as ddpo-pytorch does it, on diffusers' DiTTransformer2DModel of
  equal shapes: batched, without reading from the device inside, by torch.compile with --compile.
  Its blocks each embed timestep and label by themselves; ours also keeps an average of the weights.

iteration_over_own_passes = ours / passes; speed_over_torch = PyTorch / ours, above 1 where ours is
faster; both are medians of ratios of neighbouring measurements. peak_mib is the compiler's, and
predicted_over_measured_memory compares with it what a run is told before anything is compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlsyn_jax.config import default_config
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rl.memory import memory_need
from rlsyn_jax.stages.assembled_policy import assemble_policy
from rlsyn_jax.stages.generator import build_generator, init_params
from rlsyn_jax.stages.policy import policy_steps, predicted_memory
from rlsyn_jax.training.meshes import make_mesh

SHAPES = {
    "small": {"width": 192, "depth": 6, "num_heads": 6},
    "large": {"width": 384, "depth": 12, "num_heads": 6},
}
SIZE, PATCH, CLASSES, FEATURES = 32, 4, 8, 64
IDENTITIES, GROUP, STEPS, TRAINED = 4, 4, 6, 3
BATCH = IDENTITIES * GROUP
IMAGE = (SIZE, SIZE, 3)
LEARNING_RATE, CLIP_RANGE = 1e-5, 1e-3


def make_projection() -> np.ndarray:
    """Returns the reward's feature map, [pixels, FEATURES], the same on both sides."""
    return np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, FEATURES)).astype(np.float32)


def make_config(shape: dict) -> ConfigDict:
    """Returns the run's configuration: the sizes above, one reward, all weights trained."""
    config = default_config()
    config.image.size = SIZE
    config.generator.update(shape)
    config.generator.patch_size = PATCH
    config.generator.schedule = "linear"
    config.generator.prediction_type = "epsilon"
    config.generator.clip_denoised = False
    config.reinforce.identities, config.reinforce.samples = IDENTITIES, GROUP
    config.reinforce.num_steps, config.reinforce.num_trained_steps = STEPS, TRAINED
    config.reinforce.deterministic_elsewhere = False
    config.reinforce.clip_range = CLIP_RANGE
    config.reinforce.squash = "none"
    config.reinforce.guidance_scale = 1.0
    config.reinforce.trainable = "all"
    config.reinforce.learning_rate, config.reinforce.decay = LEARNING_RATE, "constant"
    config.rewards.coverage.weight = config.rewards.richness.weight = 0.0
    return config


def make_ours(shape: dict, mesh: Mesh) -> tuple[Callable, Callable, int, int]:
    """Returns (seconds of an iteration, of its passes alone, measured and predicted peak bytes)."""
    config = make_config(shape)
    model, params = build_generator(config, CLASSES), init_params(config, CLASSES, seed=0)
    x, labels = jnp.zeros((BATCH, *IMAGE)), jnp.zeros(BATCH, jnp.int32)
    projection = jnp.asarray(make_projection())

    def embed(_, images):
        features = images.reshape(len(images), -1) @ projection
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    real = np.random.default_rng(1).normal(size=(3 * CLASSES, FEATURES)).astype(np.float32)
    bank = build_reference_bank(real, np.arange(3 * CLASSES) % CLASSES, CLASSES)

    def apply(params, x, t, y):
        return model.apply({"params": params}, x, t, y)

    policy = assemble_policy(config, mesh, params, embed, {}, bank)
    program = policy.iteration.lower(policy.state, *policy.inputs).compile()
    forward = jax.jit(apply)
    backward = jax.jit(jax.grad(lambda *inputs: jnp.mean(apply(*inputs) ** 2)))
    held = {"state": policy.state}

    def whole() -> float:
        started = time.perf_counter()
        held["state"], metrics = program(held["state"], *policy.inputs)
        jax.block_until_ready((held["state"].params, metrics))
        return time.perf_counter() - started

    def passes() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            jax.block_until_ready(forward(params, x, labels, labels))
        for _ in range(TRAINED):
            jax.block_until_ready(backward(params, x, labels, labels))
        return time.perf_counter() - started

    predicted = predicted_memory(config, CLASSES, (3, FEATURES), mesh).peak
    return whole, passes, memory_need(program).peak, predicted


def make_torch(shape: dict, compile_model: bool) -> Callable:
    """Returns a function that runs one iteration in PyTorch and returns its seconds."""
    import torch
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=shape["num_heads"],
        attention_head_dim=shape["width"] // shape["num_heads"],
        in_channels=3,
        out_channels=3,
        num_layers=shape["depth"],
        sample_size=SIZE,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
    ).train()
    # Labels are dropped by the training of the prior, never by a policy.
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    network = torch.compile(model) if compile_model else model
    plan = policy_steps(make_config(shape))[0]
    rows = [{name: float(value[i]) for name, value in plan._asdict().items()} for i in range(STEPS)]
    projection = torch.from_numpy(make_projection())
    centres = torch.nn.functional.normalize(torch.randn(CLASSES, FEATURES), dim=-1)

    def gaussian(x, labels, row):
        timesteps = torch.full((BATCH,), int(row["timesteps"]))
        epsilon = network(x, timestep=timesteps, class_labels=labels).sample
        alpha = row["alpha_bar"]
        clean = (x - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
        return row["image_weight"] * clean + row["noise_weight"] * epsilon

    def log_prob(sample, mean, sigma):
        constant = np.log(sigma) + 0.5 * np.log(2 * np.pi)
        return (-((sample - mean) ** 2) / (2 * sigma**2) - constant).mean(dim=(1, 2, 3))

    def whole() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            labels = torch.randperm(CLASSES)[:IDENTITIES].repeat_interleave(GROUP)
            x = torch.randn(BATCH, 3, SIZE, SIZE)
            kept = []
            for number, row in enumerate(rows):
                mean = gaussian(x, labels, row)
                after = mean + row["sigma"] * torch.randn_like(mean)
                if number < TRAINED:
                    kept.append((x, after, log_prob(after, mean, row["sigma"]), row))
                x = after
            features = x.clamp(-1, 1).flatten(1) @ projection
            features = torch.nn.functional.normalize(features, dim=-1)
            reward = (features * centres[labels]).sum(dim=-1).reshape(IDENTITIES, GROUP)
            deviation = reward.std(dim=1, keepdim=True, correction=0)
            advantages = (reward - reward.mean(dim=1, keepdim=True)) / (deviation + 1e-6)
            advantages = advantages.clamp(-5, 5).flatten()
        for x, after, old, row in kept:
            ratio = (log_prob(after, gaussian(x, labels, row), row["sigma"]) - old).exp()
            clipped = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
            loss = torch.maximum(-advantages * ratio, -advantages * clipped).mean() / TRAINED
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return whole


def main() -> None:
    """Measures all sides by turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--small", dest="size", action="store_const", const="small")
    size.add_argument("--large", dest="size", action="store_const", const="large")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--without_torch", action="store_true")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.size]
    ours, passes, peak, predicted = make_ours(shape, make_mesh(devices=jax.devices()[:1]))
    sides = {"iteration": ours, "passes": passes}
    if not arguments.without_torch:
        sides["torch"] = make_torch(shape, arguments.compile)
    for side in sides.values():
        side()  # Compiles.
    seconds = {name: [] for name in sides}
    for _ in range(arguments.repeats):
        for name, side in sides.items():
            seconds[name].append(side())

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other])
        return round(statistics.median(a / b for a, b in pairs), 3)

    result = {"shape": arguments.size, "peak_mib": round(peak / 2**20, 1)}
    result["predicted_over_measured_memory"] = round(predicted / peak, 3)
    result |= {f"{n}_seconds": round(statistics.median(t), 3) for n, t in seconds.items()}
    result["iteration_over_own_passes"] = ratio("iteration", "passes")
    if "torch" in sides:
        result["torch_compiled"] = arguments.compile
        result["speed_over_torch"] = ratio("torch", "iteration")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
