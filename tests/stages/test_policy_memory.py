"""The memory that a run is told of before anything is compiled, against the compiler's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.rewards.reference_bank import build_reference_bank
from rlsyn_jax.rl.memory import memory_need
from rlsyn_jax.stages import device_checks
from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.stages.latent_space import image_shape
from rlsyn_jax.stages.policy import predicted_memory
from rlsyn_jax.stages.reinforce import assemble_policy
from rlsyn_jax.training.meshes import make_mesh

CLASSES, IMAGES, FEATURES = 16, 3, 64


def predicted_over_compiled(fields, *, devices=1, fsdp=1):
    """Compiles the iteration of some fields for a mesh, with features that are one product."""
    config = default_config()
    config.update_from_flattened_dict(fields)
    mesh = make_mesh(fsdp, devices=jax.devices()[:devices])
    random = np.random.default_rng(0)
    real = random.normal(size=(IMAGES * CLASSES, FEATURES)).astype(np.float32)
    bank = build_reference_bank(real, np.arange(IMAGES * CLASSES) % CLASSES, CLASSES)
    projection = random.normal(size=(np.prod(image_shape(config)), FEATURES))

    def embed(_, images):
        features = images.reshape(len(images), -1) @ jnp.asarray(projection, jnp.float32)
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    policy = assemble_policy(config, mesh, init_params(config, CLASSES, seed=0), embed, {}, bank)
    program = policy.iteration.lower(policy.state, *policy.inputs).compile()
    predicted = predicted_memory(config, CLASSES, (IMAGES, FEATURES), mesh)
    assert predicted.arguments == pytest.approx(memory_need(program).arguments, rel=0.02)
    return predicted.peak / memory_need(program).peak


def test_the_default_iteration_is_predicted():
    assert predicted_over_compiled({}) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"reinforce.trainable": "all"},
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
    ratio = predicted_over_compiled(fields, devices=devices, fsdp=fsdp)
    assert ratio == pytest.approx(1, abs=0.15)


def test_an_iteration_that_cannot_fit_is_refused_before_any_stage(tmp_path, program, monkeypatch):
    monkeypatch.setattr(device_checks, "available_bytes", lambda devices: 2**10)
    config = program.config()
    with pytest.raises(ConfigError, match="would need about .* config.reinforce.micro_batch"):
        device_checks.check_devices(config, tmp_path, ["reinforce"])
    monkeypatch.setattr(device_checks, "available_bytes", lambda devices: None)
    device_checks.check_devices(config, tmp_path, ["reinforce"])
