"""The memory that a run is told of before anything is compiled, against the compiler's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.models.autoencoder_kl import AutoencoderKL
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rl.memory import memory_need
from rlsyn_jax.stages import device_checks
from rlsyn_jax.stages.assembled_policy import assemble_policy
from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.stages.latent_space import (
    image_shape,
    open_latent_space,
    sample_shape,
    shared_by_devices,
)
from rlsyn_jax.stages.plan_text import describe
from rlsyn_jax.stages.policy import predicted_memory
from rlsyn_jax.stages.training_starts import group_by_class
from rlsyn_jax.training.checkpoints import CheckpointStore, restore_params
from rlsyn_jax.training.meshes import make_mesh

CLASSES, IMAGES, FEATURES = 16, 3, 64


AUTOENCODER = {
    "block_out_channels": [16, 32, 64],
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "latent_channels": 4,
}
LATENTS = {
    "generator.clip_denoised": False,
    "generator.patch_size": 2,
    "generator.depth": 2,
    "generator.width": 32,
    "reinforce.micro_batch": 8,
}


def write_autoencoder(folder):
    images = jnp.zeros((1, 8, 8, 3))
    params = jax.jit(AutoencoderKL(**AUTOENCODER).init)(jax.random.key(0), images)["params"]
    record = {"network": "AutoencoderKL", "autoencoder": AUTOENCODER}
    with CheckpointStore(folder) as store:
        store.save(1, {"params": params}, config=record, iterator_state=None)
    return str(folder)


def predicted_over_compiled(fields, *, devices=1, fsdp=1):
    """Compiles the iteration of some fields for a mesh, with features that are one product."""
    config = default_config()
    config.update_from_flattened_dict(fields)
    mesh = make_mesh(fsdp, devices=jax.devices()[:devices])
    random = np.random.default_rng(0)
    real = random.normal(size=(IMAGES * CLASSES, FEATURES)).astype(np.float32)
    bank = build_reference_bank(real, np.arange(IMAGES * CLASSES) % CLASSES, CLASSES)
    projection = random.normal(size=(np.prod(image_shape(config)), FEATURES))

    space = open_latent_space(config, for_rewards=True)
    decode = shared_by_devices(space, mesh)

    def embed(params, samples):
        images = decode(params, samples)
        features = images.reshape(len(images), -1) @ jnp.asarray(projection, jnp.float32)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    cold_start = init_params(config, CLASSES, seed=0)
    starts = None
    if config.synthesize.strength < 1:
        images = random.normal(size=(IMAGES * CLASSES, *sample_shape(config))).astype(np.float32)
        starts = group_by_class(images, np.arange(IMAGES * CLASSES) % CLASSES, CLASSES)
    policy = assemble_policy(config, mesh, cold_start, embed, space.params, bank, starts)
    program = policy.iteration.lower(policy.state, *policy.inputs).compile()
    predicted = predicted_memory(config, CLASSES, (IMAGES, FEATURES), mesh)
    assert predicted.arguments == pytest.approx(memory_need(program).arguments, rel=0.02)
    return predicted.peak / memory_need(program).peak


@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_the_default_iteration_is_predicted(strength):
    ratio = predicted_over_compiled({"synthesize.strength": strength})
    assert ratio == pytest.approx(1, abs=0.15)


def test_the_decoder_and_decoding_count(tmp_path):
    config = default_config()
    path = write_autoencoder(tmp_path)
    config.update_from_flattened_dict({**LATENTS, "autoencoder.path": path, "image.size": 64})
    mesh = make_mesh(devices=jax.devices()[:1])

    def predicted(batch_size):
        config.autoencoder.batch_size = batch_size
        return predicted_memory(config, CLASSES, (IMAGES, FEATURES), mesh)

    decoder = {n: restore_params(path)[n] for n in ("decoder", "post_quant_conv")}
    number = sum(leaf.nbytes for leaf in jax.tree.leaves(decoder))
    assert predicted(1).decoder == number
    # Of each image, the finest resolution's 3 x 32 + 16 channels.
    more = predicted(64).activations - predicted(32).activations
    assert more == 32 * 4 * 64 * 64 * (3 * 32 + 16)
    assert re.search(rf"^decoder .* {number / 2**20:.1f}$", describe(config), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"image.size": 64},
        {"image.size": 64, "autoencoder.batch_size": 64},
        {"image.size": 64, "autoencoder.tile_size": 8},
        {"image.size": 128, "reinforce.samples": 3},
    ],
)
def test_decoding_for_the_rewards_is_predicted(tmp_path, fields):
    # Few transitions at once, so that nothing else is the largest.
    fields = {**LATENTS, "autoencoder.path": write_autoencoder(tmp_path), **fields}
    assert predicted_over_compiled(fields) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"reinforce.trainable": "all"},
        {"generator.scan_layers": True},
        {"generator.scan_layers": True, "remat": "blocks", "generator.depth": 8},
        {"generator.scan_layers": True, "remat": "products", "reinforce.trainable": "all"},
        {"reinforce.trainable": "all", "generator.patch_size": 2, "reinforce.micro_batch": 8},
        {"reinforce.trainable": "lora", "reinforce.samples": 32, "reinforce.micro_batch": 8},
        {"generator.patch_size": 8, "reinforce.samples": 32, "reinforce.kl_weight": 0.1},
        {
            "reinforce.trainable": "all",
            "reinforce.guidance_scale": 2.0,
            "reinforce.num_steps": 20,
            "reinforce.trained_steps": "all",
            "reinforce.minibatches": 2,
        },
        {
            "generator.width": 384,
            "generator.depth": 12,
            "generator.num_heads": 6,
            "reinforce.trainable": "all",
            "reinforce.samples": 4,
        },
        {"reinforce.algorithm": "pathwise"},
        {
            "reinforce.algorithm": "pathwise",
            "reinforce.unconditional": "detached",
            "reinforce.trainable": "all",
        },
        {
            "reinforce.algorithm": "pathwise",
            "reinforce.trainable": "lora",
            "reinforce.samples": 16,
            "reinforce.num_steps": 12,
        },
        {
            "reinforce.algorithm": "dpok",
            "reinforce.value_steps": 2,
            "reinforce.trained_steps": "all",
            "reinforce.micro_batch": 8,
        },
    ],
)
def test_other_iterations_are_predicted(fields):
    assert predicted_over_compiled(fields) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(4, 1), (4, 4)])
def test_a_device_s_share_is_predicted(devices, fsdp):
    fields = {"reinforce.trainable": "all", "reinforce.samples": 16, "generator.width": 256}
    fields["synthesize.strength"] = 0.7
    ratio = predicted_over_compiled(fields, devices=devices, fsdp=fsdp)
    assert ratio == pytest.approx(1, abs=0.15)


def test_an_iteration_that_cannot_fit_is_refused_before_any_stage(tmp_path, program, monkeypatch):
    monkeypatch.setattr(device_checks, "available_bytes", lambda devices: 2**10)
    config = program.config()
    with pytest.raises(ConfigError, match="would need about .* config.reinforce.micro_batch"):
        device_checks.check_devices(config, tmp_path, ["reinforce"])
    monkeypatch.setattr(device_checks, "available_bytes", lambda devices: None)
    device_checks.check_devices(config, tmp_path, ["reinforce"])


def unable(embeddings, bank):
    raise TypeError("it takes something else")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (f"{__name__}:unable", "config.rewards.semantic .*unable.*: it takes something else"),
        (f"{__name__}:missing", "config.rewards: reward .* has no function 'missing'"),
    ],
)
def test_a_reward_that_does_not_work_is_told_before_any_stage(tmp_path, program, function, said):
    config = program.config()
    config.rewards.semantic.function = function
    with pytest.raises(ConfigError, match=said):
        device_checks.check_devices(config, tmp_path, ["pretrain", "reinforce"])
    device_checks.check_devices(config, tmp_path, ["pretrain"])
